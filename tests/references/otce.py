"""OTCE: Tan et al., CVPR 2021, equations 1 to 5."""

import numpy as np

from . import transport


def otce(features, labels, *, source):
    return label_entropy(transport.ground_cost(*source, features, labels), labels, source[1])


def label_entropy(cost, labels, source_labels):
    """-H(Y | Z) of the optimal coupling for a ground cost of source and target pixels."""
    classes = labels.max() + 1, source_labels.max() + 1
    mass = transport.label_mass(transport.exact_plan(cost), source_labels, labels, *classes)
    score = 0.0
    for y, z in np.argwhere(mass > 1e-12):
        score += mass[y, z] * np.log(mass[y, z] / mass[:, z].sum())
    return score
