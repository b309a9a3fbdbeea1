"""NCE: Tran et al., ICCV 2019, section 4."""

from collections import Counter

import numpy as np


def nce(logits, labels):
    predictions = logits.argmax(1).tolist()
    joint = Counter(zip(predictions, labels.tolist(), strict=True))
    source = Counter(predictions)
    return sum(n / len(labels) * np.log(n / source[z]) for (z, _), n in joint.items())
