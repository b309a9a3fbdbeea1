"""LogME: You et al., ICML 2021, equations 1 to 3, by the fixed point of You et al., JMLR 2022, algorithm 3."""

import numpy as np

EPSILON = 1e-5  # added to ‖m‖² and to the residual, in the fixed point and in the evidence


def logme(features, labels, absent_classes="skip"):
    classes = range(labels.max() + 1) if absent_classes == "include" else np.unique(labels)
    return np.mean([evidence(features, (labels == k).astype(float)) for k in classes]) / len(labels)


def evidence(features, y):
    count, channels = features.shape
    gram, identity = features.T @ features, np.eye(channels)
    alpha = beta = 1.0
    for _ in range(100):
        ratio = alpha / beta
        precision = alpha * identity + beta * gram  # A
        m = beta * np.linalg.solve(precision, features.T @ y)
        gamma = np.trace(beta * np.linalg.solve(precision, gram))
        mean_square = m @ m + EPSILON
        residual = ((y - features @ m) ** 2).sum() + EPSILON
        alpha, beta = gamma / mean_square, (count - gamma) / residual
        if abs(alpha / beta - ratio) <= 1e-3 * ratio:
            break
    return (
        count / 2 * np.log(beta / (2 * np.pi))
        + channels / 2 * np.log(alpha)
        - np.linalg.slogdet(alpha * identity + beta * gram).logabsdet / 2
        - beta / 2 * residual
        - alpha / 2 * mean_square
    )
