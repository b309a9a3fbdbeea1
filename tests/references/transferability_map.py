"""Maps: Tan et al., ICIP 2023: every patch is cut out of the images and scored on its own."""

from itertools import product

import numpy as np


def positions(images, patch_size, stride):
    """Where patches begin: rows, columns."""
    return [range(0, images.shape[axis + 2] - patch_size[axis] + 1, stride[axis]) for axis in (0, 1)]


def at_the_same_place(index, starts, source_starts):
    """Where the source patch begins that belongs to a target patch, along an axis; Python rounds halves to even."""
    return source_starts[min(round(index * len(source_starts) / len(starts)), len(source_starts) - 1)]


def cut_out(images, labels, top, left, patch_size, ignore_index):
    """Features and labels of the labeled pixels of a patch, of all images."""
    rows, columns = slice(top, top + patch_size[0]), slice(left, left + patch_size[1])
    labeled = labels[:, rows, columns] != ignore_index
    return np.moveaxis(images, 1, -1)[:, rows, columns][labeled], labels[:, rows, columns][labeled]


def transferability_map(
    metric, images, labels, patch_size, stride, pool, *, source=None, ignore_index=255, min_pixels=5
):
    """Values, NaN where a patch has fewer than `min_pixels` labeled pixels, and the number of those.

    Of `source` images and labels, the metric is given the patch at the same place as `source`; the side with fewer
    pixels counts.
    """
    groups = [slice(None)] if pool == "dataset" else [slice(k, k + 1) for k in range(len(images))]
    tops, lefts = positions(images, patch_size, stride)
    values = np.full((len(groups), len(tops), len(lefts)), np.nan)
    count = np.zeros(values.shape, int)
    for (g, group), (i, top), (j, left) in product(enumerate(groups), enumerate(tops), enumerate(lefts)):
        patch, other = cut_out(images[group], labels[group], top, left, patch_size, ignore_index), {}
        if source is not None:
            source_tops, source_lefts = positions(source[0], patch_size, stride)
            place = at_the_same_place(i, tops, source_tops), at_the_same_place(j, lefts, source_lefts)
            other["source"] = cut_out(*source, *place, patch_size, ignore_index)
        count[g, i, j] = min(len(y) for _, y in (patch, *other.values()))
        if count[g, i, j] >= min_pixels:
            values[g, i, j] = metric(*patch, **other)
    return (values[0], count[0]) if pool == "dataset" else (values, count)
