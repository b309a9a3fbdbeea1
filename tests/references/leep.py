"""LEEP: Nguyen et al., ICML 2020, equations 1 and 2."""

import numpy as np


def leep(logits, labels):
    theta = []
    for row in logits:
        exponential = np.exp(row - row.max())
        theta.append(exponential / exponential.sum())
    joint, source = {}, np.zeros(logits.shape[1])
    for prediction, y in zip(theta, labels, strict=True):  # equation 1
        joint[y] = joint.get(y, 0) + prediction / len(labels)
        source += prediction / len(labels)
    total = 0.0
    for prediction, y in zip(theta, labels, strict=True):  # equation 2
        total += np.log(sum(joint[y][z] / source[z] * prediction[z] for z in range(len(source)) if source[z] > 0))
    return total / len(labels)
