"""JC-OTCE: OTCE whose ground cost weighs features by gamma, and distances of labels by the rest: Tan, TNNLS 2024."""

from . import transport
from .otce import label_entropy


def jc_otce(features, labels, *, source, gamma=0.5):
    pixels, source_labels = (*source, features, labels), source[1]
    distances = transport.label_distances(*pixels, labels.max() + 1, source_labels.max() + 1)
    cost = gamma * transport.ground_cost(*pixels) + (1 - gamma) * distances[labels][:, source_labels].T
    return label_entropy(cost, labels, source_labels)
