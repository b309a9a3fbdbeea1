"""Maps: Tan et al., ICIP 2023: every patch is cut out of the images and scored on its own."""

from itertools import product

import numpy as np


def transferability_map(metric, images, labels, patch_size, stride, pool, *, ignore_index=255, min_pixels=5):
    """Values, NaN where a patch has fewer than `min_pixels` labelled pixels, and the number of those."""
    groups = [slice(None)] if pool == "dataset" else [slice(k, k + 1) for k in range(len(images))]
    tops, lefts = (range(0, images.shape[axis + 2] - patch_size[axis] + 1, stride[axis]) for axis in (0, 1))
    values = np.full((len(groups), len(tops), len(lefts)), np.nan)
    count = np.zeros(values.shape, int)
    for (g, group), (i, top), (j, left) in product(enumerate(groups), enumerate(tops), enumerate(lefts)):
        rows, columns = slice(top, top + patch_size[0]), slice(left, left + patch_size[1])
        labelled = labels[group, rows, columns] != ignore_index
        count[g, i, j] = labelled.sum()
        if count[g, i, j] >= min_pixels:
            pixels = np.moveaxis(images, 1, -1)[group, rows, columns][labelled]
            values[g, i, j] = metric(pixels, labels[group, rows, columns][labelled])
    return (values[0], count[0]) if pool == "dataset" else (values, count)
