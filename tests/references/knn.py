"""Leave-one-out accuracy of nearest neighbors: ties at the border all vote, winners of a tied vote share the pixel."""

import numpy as np


def knn(features, labels, neighbors=5):
    right = 0.0
    for i in range(len(labels)):
        others = np.arange(len(labels)) != i
        distances = np.sqrt(((features[others] - features[i]) ** 2).sum(1))
        border = np.sort(distances)[:neighbors][-1]
        classes, votes = np.unique(labels[others][distances <= border], return_counts=True)
        winners = classes[votes == votes.max()]
        right += (labels[i] in winners) / len(winners)
    return right / len(labels)
