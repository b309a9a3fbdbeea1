"""Agreement of two lists of numbers: Kendall 1945, Spearman 1904, Vigna 2015, in loops over models and pairs."""

from itertools import combinations
from math import sqrt

import numpy as np


def pearson(x, y):
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return covariance / sqrt(sum((a - x_mean) ** 2 for a in x) * sum((b - y_mean) ** 2 for b in y))


def spearman(x, y):
    return pearson(mean_ranks(x), mean_ranks(y))


def mean_ranks(x):
    """From 1 for the least; equals share the mean of their places."""
    places = {value: [place for place, other in enumerate(sorted(x), 1) if other == value] for value in x}
    return [sum(places[value]) / len(places[value]) for value in x]


def kendall(x, y):
    """Tau-b: concordant less discordant pairs over the geometric mean of the pairs that are not tied in x and in y."""
    difference = untied_x = untied_y = 0
    for i, j in combinations(range(len(x)), 2):
        difference += sign(x[i] - x[j]) * sign(y[i] - y[j])
        untied_x += x[i] != x[j]
        untied_y += y[i] != y[j]
    return difference / sqrt(untied_x * untied_y)


def weighted_kendall(x, y):
    """Vigna's tau with additive hyperbolic weights, the mean of both rankings."""
    return (weighted_by_ranks(x, y, places(x, y)) + weighted_by_ranks(x, y, places(y, x))) / 2


def places(by, ties):
    """From 0 for the largest; equals by `ties`."""
    order = sorted(range(len(by)), key=lambda i: (by[i], ties[i]), reverse=True)
    return {model: place for place, model in enumerate(order)}


def weighted_by_ranks(x, y, rank):
    def inner(a, b):
        total = 0.0
        for i, j in combinations(range(len(a)), 2):
            weight = 1 / (rank[i] + 1) + 1 / (rank[j] + 1)
            total += sign(a[i] - a[j]) * sign(b[i] - b[j]) * weight
        return total

    return inner(x, y) / sqrt(inner(x, x) * inner(y, y))


def regret(scores, accuracies, top):
    """Of models of equal score, the worst are chosen first."""
    pairs = sorted(zip(scores, accuracies, strict=True), key=lambda pair: (-pair[0], pair[1]))
    return max(accuracies) - max(accuracy for _, accuracy in pairs[:top])


def sign(x):
    return (x > 0) - (x < 0)


def measures(scores, accuracies, top):
    """All of these; NaN where all scores or all accuracies are equal."""
    undefined = len(set(scores)) == 1 or len(set(accuracies)) == 1
    coefficients = [
        np.nan if undefined else coefficient(scores, accuracies)
        for coefficient in (spearman, weighted_kendall, kendall, pearson)
    ]
    return [*coefficients, regret(scores, accuracies, 1), regret(scores, accuracies, top)]
