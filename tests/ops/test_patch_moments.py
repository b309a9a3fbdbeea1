"""Moments of every cell: the kernel agrees with the reference on whatever it takes."""

from functools import partial

import pytest
import torch

from torch_trf._ops import patch_moments
from torch_trf._ops._patch_moments import patch_moments_reference

from ..helpers import (
    DTYPES,
    IGNORED,
    LABEL_DTYPES,
    LAYOUTS,
    assert_matches_reference,
    assert_same_bits,
    every_pool,
    faulty_images,
)

CLASSES = 4
SHAPES = {  # B, D, H, W and the cell
    "one pixel": (1, 1, 1, 1, 1, 1),
    "whole image": (2, 19, 5, 6, 5, 6),
    "cells": (2, 3, 8, 12, 4, 4),
    "cells of a pixel": (2, 3, 5, 140, 1, 1),
    "remainder": (3, 5, 7, 9, 2, 4),
    "wide": (1, 40, 3, 50, 1, 25),
    "many channels": (1, 70, 6, 8, 3, 4),
    "several tiles": (2, 2, 40, 30, 20, 30),
    "several chunks": (2, 2, 130, 129, 130, 129),
}
assert_matches = partial(assert_matches_reference, patch_moments, patch_moments_reference)


@every_pool
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_cells(shape, pool_batch, device):
    *size, height, width = shape
    assert_matches(*faulty_images(*size, device=device), CLASSES, height, width, pool_batch, IGNORED)


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype, label_dtype, device):
    images = faulty_images(2, 5, 11, 9, dtype=dtype, label_dtype=label_dtype, device=device)
    assert_matches(*images, CLASSES, 5, 4, False, IGNORED)


@every_pool
@pytest.mark.parametrize("lay_out", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(lay_out, pool_batch, device):
    features, labels = faulty_images(3, 4, 6, 8, device=device)
    assert_matches(lay_out(features), lay_out(labels), CLASSES, 3, 4, pool_batch, IGNORED)


def test_transposed_rows(device):
    features, labels = faulty_images(1, 4, 1, 300, device=device)
    rows = features[0, :, 0].T.contiguous()
    assert_matches(rows.mT[None, :, None, :], labels, CLASSES, 1, 300, True, IGNORED)


@pytest.mark.parametrize("ignore_index", [-1, 2, 10**12, IGNORED])
def test_ignore_index(ignore_index, device):
    features, labels = faulty_images(2, 3, 6, 6, device=device)
    labels[labels == IGNORED] = ignore_index
    assert_matches(features, labels, CLASSES, 3, 3, False, ignore_index)


def test_overflowing_squares_are_not_finite(device):
    features, labels = faulty_images(1, 3, 4, 4, dtype=torch.float64, device=device)
    features[0, 0, 2, 2], labels[0, 2, 2] = 1e200, 1
    assert_matches(features, labels, CLASSES, 4, 4, True, IGNORED)


@every_pool
def test_a_cell_is_an_image_of_its_own(pool_batch, device):
    features, labels = faulty_images(2, 3, 7, 9, device=device)
    cells = patch_moments(features, labels, CLASSES, 3, 4, pool_batch, IGNORED)
    part = (..., slice(3, 6), slice(4, 8))
    alone = patch_moments(features[part], labels[part], CLASSES, 3, 4, pool_batch, IGNORED)
    for found, expected in zip(cells, alone, strict=True):
        at = (1, 1) if pool_batch else (slice(None), 1, 1)
        torch.testing.assert_close(found[at], expected[(0, 0) if pool_batch else (slice(None), 0, 0)])


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("shape", [(2, 5, 150, 149, 150, 149), (2, 3, 64, 64, 8, 8)], ids=["chunks", "cells"])
def test_same_bits_on_any_number_of_threads(shape, device):
    *size, height, width = shape
    images = faulty_images(*size, device=device)
    assert_same_bits(lambda: patch_moments(*images, CLASSES, height, width, True, IGNORED))
