"""Optimal transport between pixels of equal weight, over all pairs.

The exact coupling by assignment of copies: every pixel is repeated until both sides hold equally many. The entropic one
by Sinkhorn's algorithm (Cuturi, NeurIPS 2013), one logarithm at a time. Couplings from plans by Altschuler et al.,
NeurIPS 2017, algorithm 2. Label distances and the cost of JC-OTCE: Tan et al., TNNLS 2024.
"""

from math import lcm

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp


def ground_cost(source_features, source_labels, target_features, target_labels, label_cost=None):
    cost = np.zeros((len(source_features), len(target_features)))
    for i, x in enumerate(source_features):
        for j, other in enumerate(target_features):
            cost[i, j] = ((x - other) ** 2).sum()
            if label_cost is not None:
                cost[i, j] += label_cost[target_labels[j], source_labels[i]]
    return cost


def exact_plan(cost):
    copies = lcm(*cost.shape)
    source, target = (np.repeat(np.arange(n), copies // n) for n in cost.shape)
    row, column = linear_sum_assignment(cost[source][:, target])
    plan = np.zeros(cost.shape)
    np.add.at(plan, (source[row], target[column]), 1 / copies)
    return plan


def plan_of(cost, epsilon, target_potential):
    """The entropic plan of a target potential, whose rows sum to the weights of the source pixels."""
    exponent = (target_potential - cost) / epsilon
    return np.exp(exponent - logsumexp(exponent, axis=1, keepdims=True)) / len(cost)


def sinkhorn_plan(cost, epsilon):
    potential, error = np.zeros(cost.shape[1]), np.inf
    while error > 1e-12:
        columns = plan_of(cost, epsilon, potential).sum(0) * cost.shape[1]
        potential = potential - epsilon * np.log(columns)
        error = abs(columns - 1).mean()
    return plan_of(cost, epsilon, potential)


def marginal_error(plan):
    return sum(abs(plan.sum(axis) - 1 / plan.shape[1 - axis]).sum() for axis in (0, 1))


def rounded(plan):
    rows, columns = (1 / n for n in plan.shape)
    plan = plan * np.minimum(rows / plan.sum(1), 1)[:, None]
    plan = plan * np.minimum(columns / plan.sum(0), 1)
    missing_rows, missing_columns = rows - plan.sum(1), columns - plan.sum(0)
    return plan + np.outer(missing_rows, missing_columns) / max(missing_rows.sum(), np.finfo(float).tiny)


def label_mass(plan, source_labels, target_labels, num_classes, num_source_classes):
    mass = np.zeros((num_classes, num_source_classes))
    for i, z in enumerate(source_labels):
        for j, y in enumerate(target_labels):
            mass[y, z] += plan[i, j]
    return mass


def label_distances(source_features, source_labels, target_features, target_labels, num_classes, num_source_classes):
    distances = np.zeros((num_classes, num_source_classes))
    for y in set(target_labels):
        for z in set(source_labels):
            source, target = source_labels == z, target_labels == y
            cost = ground_cost(source_features[source], None, target_features[target], None)
            distances[y, z] = (exact_plan(cost) * cost).sum()
    return distances
