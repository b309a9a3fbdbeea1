"""Regularized H-score: Ibrahim et al., 2021, section 4, with the shrinkage of Ledoit and Wolf, 2004, section 3."""

import numpy as np

from .hscore import class_means


def regularized_hscore(features, labels):
    count, channels = features.shape
    centered = features - features.mean(0)
    covariance = sum(np.outer(x, x) for x in centered) / count  # S
    target = np.trace(covariance) / channels * np.eye(channels)  # m I
    delta = ((covariance - target) ** 2).sum() / channels  # d²
    beta = sum(((np.outer(x, x) - covariance) ** 2).sum() / channels for x in centered) / count**2  # b̄²
    shrinkage = min(beta, delta) / delta if delta > 0 else 0.0
    shrunk = (1 - shrinkage) * covariance + shrinkage * target
    between = np.atleast_2d(np.cov(class_means(features, labels), rowvar=False))
    return (1 - shrinkage) * np.trace(np.linalg.solve(shrunk, between))
