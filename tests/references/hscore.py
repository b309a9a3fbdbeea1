"""H-score: Bao et al., ICIP 2019, definition 2, of channels of variance 1: the score itself depends on no scale."""

import numpy as np


def hscore(features, labels, rcond=1e-5):
    deviation = features.std(0)
    features = features / np.where(deviation > 0, deviation, 1)
    covariance = np.atleast_2d(np.cov(features, rowvar=False))
    between = np.atleast_2d(np.cov(class_means(features, labels), rowvar=False))
    return np.trace(np.linalg.pinv(covariance, rcond=rcond, hermitian=True) @ between)


def class_means(features, labels):
    """E[f | y] of every pixel: the mean feature of its class."""
    return np.stack([features[labels == y].mean(0) for y in labels])
