"""OTCE: Tan et al., CVPR 2021, equations 1 to 5, by assignment of copies.

Every pixel is repeated until both sides hold equally many, which makes the coupling an assignment.
"""

from math import lcm

import numpy as np
from scipy.optimize import linear_sum_assignment

from .nce import nce


def otce(source_features, source_labels, target_features, target_labels):
    copies = lcm(len(source_labels), len(target_labels))
    source, target = (np.repeat(np.arange(n), copies // n) for n in (len(source_labels), len(target_labels)))
    cost = [[((x - other) ** 2).sum() for other in target_features[target]] for x in source_features[source]]
    row, column = linear_sum_assignment(np.array(cost))
    return nce(source_labels[source[row]].tolist(), target_labels[target[column]].tolist())
