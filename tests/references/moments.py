"""Moments of labeled pixels, one pixel at a time."""

import numpy as np


def moments(features, labels, num_classes):
    """Class counts, class sums, Σ x xᵀ, Σ ‖x‖² x and Σ ‖x‖⁴."""
    channels = features.shape[1]
    count, class_sum = np.zeros(num_classes, int), np.zeros((num_classes, channels))
    gram, third, fourth = np.zeros((channels, channels)), np.zeros(channels), 0.0
    for x, y in zip(features, labels, strict=True):
        count[y] += 1
        class_sum[y] += x
        gram += np.outer(x, x)
        third += (x @ x) * x
        fourth += (x @ x) ** 2
    return count, class_sum, gram, third, fourth
