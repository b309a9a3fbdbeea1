"""OTCE: Tan et al., CVPR 2021, equations 1 to 5; JC-OTCE, whose ground cost weighs features by gamma: TNNLS 2024."""

import numpy as np

from . import transport


def otce(source_features, source_labels, target_features, target_labels, gamma=1.0):
    pixels = source_features, source_labels, target_features, target_labels
    classes = target_labels.max() + 1, source_labels.max() + 1
    distances = transport.label_distances(*pixels, *classes)
    cost = gamma * transport.ground_cost(*pixels) + (1 - gamma) * distances[target_labels][:, source_labels].T
    mass = transport.label_mass(transport.exact_plan(cost), source_labels, target_labels, *classes)
    score = 0.0
    for y, z in np.argwhere(mass > 1e-12):
        score += mass[y, z] * np.log(mass[y, z] / mass[:, z].sum())
    return score
