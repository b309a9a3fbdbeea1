"""NCE: Tran et al., ICCV 2019, section 4."""

from collections import Counter

import numpy as np


def nce(source_labels, target_labels):
    joint = Counter(zip(source_labels, target_labels, strict=True))
    source = Counter(source_labels)
    return sum(n / len(source_labels) * np.log(n / source[z]) for (z, _), n in joint.items())
