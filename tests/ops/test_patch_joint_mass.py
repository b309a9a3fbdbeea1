"""Joint mass of every cell: the kernel agrees with the reference on whatever it takes."""

from functools import partial

import pytest
import torch

from torch_trf._ops import patch_joint_mass
from torch_trf._ops._patch_joint_mass import patch_joint_mass_reference

from ..helpers import (
    DTYPES,
    IGNORED,
    LABEL_DTYPES,
    LAYOUTS,
    assert_close,
    assert_matches_reference,
    assert_same_bits,
    every_pool,
    faulty_images,
)

CLASSES = 4
SHAPES = {  # B, Z, H, W and the cell
    "one pixel": (1, 1, 1, 1, 1, 1),
    "whole image": (2, 19, 5, 6, 5, 6),
    "cells": (2, 3, 8, 12, 4, 4),
    "cells of a pixel": (2, 3, 5, 140, 1, 1),
    "remainder": (3, 5, 7, 9, 2, 4),
    "wider than high": (1, 40, 3, 300, 1, 150),
    "many source classes": (1, 150, 4, 6, 2, 3),
    "several chunks": (2, 3, 130, 129, 130, 129),
}
assert_matches = partial(assert_matches_reference, patch_joint_mass, patch_joint_mass_reference)
both_masses = pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])


@both_masses
@every_pool
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_cells(shape, pool_batch, hard, device):
    *size, height, width = shape
    assert_matches(*faulty_images(*size, device=device), CLASSES, height, width, pool_batch, IGNORED, hard)


@both_masses
@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype, label_dtype, hard, device):
    images = faulty_images(2, 5, 11, 9, dtype=dtype, label_dtype=label_dtype, device=device)
    assert_matches(*images, CLASSES, 5, 4, False, IGNORED, hard)


@both_masses
@every_pool
@pytest.mark.parametrize("lay_out", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(lay_out, pool_batch, hard, device):
    logits, labels = faulty_images(3, 4, 6, 8, device=device)
    assert_matches(lay_out(logits), lay_out(labels), CLASSES, 3, 4, pool_batch, IGNORED, hard)


@both_masses
def test_mass_is_the_number_of_pixels_that_count(hard, device):
    logits, labels = faulty_images(3, 5, 6, 8, device=device)
    counts = ((labels >= 0) & (labels < CLASSES) & logits.isfinite().all(1)).double()
    cells = counts.unfold(1, 3, 3).unfold(2, 4, 4).sum((-1, -2))
    actual = patch_joint_mass(logits, labels, CLASSES, 3, 4, False, IGNORED, hard)
    assert_close(actual.mass.sum((-1, -2)), cells)


@both_masses
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_logit_that_is_not_finite_leaves_its_pixel_out(value, hard, device):
    logits, labels = torch.zeros(1, 3, 1, 4, device=device), torch.zeros(1, 1, 4, dtype=torch.int64, device=device)
    logits[0, 1, 0, 2] = value
    actual = patch_joint_mass(logits, labels, 1, 1, 2, True, IGNORED, hard)
    assert actual.mass.sum((-1, -2)).tolist() == [[2, 1]]
    assert actual.faults[..., 3].tolist() == [[0, 1]]


@pytest.mark.parametrize("scale", [30.0, 1e3, 1e30])
def test_large_logits_neither_overflow_nor_vanish(scale, device):
    logits, labels = faulty_images(2, 5, 6, 8, dtype=torch.float64, device=device)
    assert_matches(scale * logits, labels, CLASSES, 3, 4, True, IGNORED, False)


def test_prediction_of_equal_scores_is_the_lowest_class(device):
    logits, labels = torch.zeros(1, 3, 1, 1, device=device), torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
    assert patch_joint_mass(logits, labels, 1, 1, 1, True, IGNORED, True).mass.flatten().tolist() == [1, 0, 0]


@both_masses
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("shape", [(2, 5, 150, 149, 150, 149), (2, 3, 64, 64, 8, 8)], ids=["chunks", "cells"])
def test_same_bits_on_any_number_of_threads(shape, hard, device):
    *size, height, width = shape
    images = faulty_images(*size, device=device)
    assert_same_bits(lambda: patch_joint_mass(*images, CLASSES, height, width, True, IGNORED, hard))
