"""Moments of every cell: the kernel agrees with the reference on whatever it takes."""

from functools import partial
from pathlib import Path

import pytest
import torch

from torch_trf._ops import _patch_moments, patch_moments
from torch_trf._ops._many_channels import BLOCK_CHANNELS, FEWEST_CHANNELS, TILE_NUMBERS
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
    random_images,
    run_python,
)

CLASSES = 4
TILE = TILE_NUMBERS // FEWEST_CHANNELS  # pixels
MANY = FEWEST_CHANNELS + BLOCK_CHANNELS // 2  # channels: blocks of different size
SHAPES = {  # B, D, H, W and the cell
    "one pixel": (1, 1, 1, 1, 1, 1),
    "whole image": (2, 19, 5, 6, 5, 6),
    "cells": (2, 3, 8, 12, 4, 4),
    "cells of a pixel": (2, 3, 5, 140, 1, 1),
    "remainder": (3, 5, 7, 9, 2, 4),
    "wide": (1, 40, 3, 50, 1, 25),
    "many channels": (1, 70, 6, 8, 3, 4),
    "whole images of many channels": (3, MANY, 5, 6, 5, 6),
    "cells of many channels": (2, FEWEST_CHANNELS, 5, 6, 5, 3),
    "several products of images": (5, FEWEST_CHANNELS, 10, TILE // 25, 10, TILE // 25),
    "several products of an image": (2, FEWEST_CHANNELS, 3, TILE // 2 + 1, 3, TILE // 2 + 1),
    "several tiles": (2, 2, 40, 30, 20, 30),
    "several chunks": (2, 2, 130, 129, 130, 129),
}
every_way = pytest.mark.parametrize(("channels", "cell"), [(4, (5, 4)), (MANY, (6, 8))], ids=["cells", "many channels"])
assert_matches = partial(assert_matches_reference, patch_moments, patch_moments_reference)


@every_pool
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_cells(shape, pool_batch, device):
    *size, height, width = shape
    assert_matches(*faulty_images(*size, device=device), CLASSES, height, width, pool_batch, IGNORED)


@every_way
@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype, label_dtype, channels, cell, device):
    images = faulty_images(2, channels, 6, 8, dtype=dtype, label_dtype=label_dtype, device=device)
    assert_matches(*images, CLASSES, *cell, False, IGNORED)


@every_way
@every_pool
@pytest.mark.parametrize("lay_out", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(lay_out, pool_batch, channels, cell, device):
    features, labels = faulty_images(3, channels, 6, 8, device=device)
    assert_matches(lay_out(features), lay_out(labels), CLASSES, *cell, pool_batch, IGNORED)


@pytest.mark.parametrize("channels", [4, MANY])
def test_transposed_rows(channels, device):
    features, labels = faulty_images(1, channels, 1, 300, device=device)
    rows = features[0, :, 0].T.contiguous()
    assert_matches(rows.mT[None, :, None, :], labels, CLASSES, 1, 300, True, IGNORED)


@pytest.mark.parametrize("ignore_index", [-1, 2, 10**12, IGNORED])
def test_ignore_index(ignore_index, device):
    features, labels = faulty_images(2, 3, 6, 6, device=device)
    labels[labels == IGNORED] = ignore_index
    assert_matches(features, labels, CLASSES, 3, 3, False, ignore_index)


@pytest.mark.parametrize("channels", [3, MANY])
def test_overflowing_squares_are_not_finite(channels, device):
    features, labels = faulty_images(1, channels, 4, 4, dtype=torch.float64, device=device)
    features[0, 0, 2, 2], labels[0, 2, 2] = 1e200, 1
    assert_matches(features, labels, CLASSES, 4, 4, True, IGNORED)


@every_pool
def test_a_cell_is_an_image_of_its_own(pool_batch, device):
    features, labels = faulty_images(2, 3, 7, 9, device=device)
    cells = patch_moments(features, labels, CLASSES, 3, 4, pool_batch, IGNORED)
    part = (..., slice(3, 6), slice(4, 8))
    alone = patch_moments(features[part], labels[part], CLASSES, 3, 4, pool_batch, IGNORED)
    for actual, expected in zip(cells, alone, strict=True):
        at = (1, 1) if pool_batch else (slice(None), 1, 1)
        torch.testing.assert_close(actual[at], expected[(0, 0) if pool_batch else (slice(None), 0, 0)])


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("shape", [(2, 5, 150, 149, 150, 149), (2, 3, 64, 64, 8, 8)], ids=["chunks", "cells"])
def test_same_bits_on_any_number_of_threads(shape, device):
    *size, height, width = shape
    images = faulty_images(*size, device=device)
    assert_same_bits(lambda: patch_moments(*images, CLASSES, height, width, True, IGNORED))


@every_pool
@pytest.mark.parametrize("channels", [3, MANY])
def test_without_a_labeled_pixel_nothing_is_read(channels, pool_batch, device):
    features = torch.full((2, channels, 3, 4), torch.nan, device=device)
    labels = torch.full((2, 3, 4), IGNORED, device=device)
    moments = patch_moments(features, labels, CLASSES, 3, 4, pool_batch, IGNORED)
    assert not any(value.any() for value in moments[:-1])
    assert_matches(features, labels, CLASSES, 3, 4, pool_batch, IGNORED)


def test_whole_images_of_many_channels_on_the_cpu_need_no_kernel(monkeypatch):
    called, run = [], _patch_moments.run
    monkeypatch.setattr(_patch_moments, "run", lambda name, *arguments: called.append(name) or run(name, *arguments))
    for cell in ((3, 4), (3, 2)):
        patch_moments(*faulty_images(2, FEWEST_CHANNELS, 3, 4, device="cpu"), CLASSES, *cell, True, IGNORED)
    assert called == ["moments_of_many_channels", "patch_moments"]


@pytest.mark.usefixtures("annotations_unchecked")  # sizes are symbols while PyTorch traces
@every_pool
def test_many_channels_are_traced(pool_batch, device):
    features, labels = random_images(2, MANY, 6, 6, device=device)
    arguments = (features.nan_to_num(0), labels, CLASSES, 6, 6, pool_batch, 255)
    torch.library.opcheck(torch.ops.torch_trf.moments_of_many_channels.default, arguments)


def test_autocast_changes_no_bit(device):
    images = faulty_images(2, MANY, 9, 7, device=device)
    expected = patch_moments(*images, CLASSES, 9, 7, True, IGNORED)
    with torch.autocast(device.type, torch.bfloat16):
        actual = patch_moments(*images, CLASSES, 9, 7, True, IGNORED)
    torch.testing.assert_close(tuple(actual), tuple(expected), rtol=0, atol=0)


def test_a_second_call_gives_the_same_bits(device):
    images = faulty_images(2, MANY, 30, 29, device=device)
    first, second = (patch_moments(*images, CLASSES, 30, 29, True, IGNORED) for _ in range(2))
    torch.testing.assert_close(tuple(second), tuple(first), rtol=0, atol=0)


def test_no_gradient_flows_through_many_channels(device):
    features, labels = random_images(1, MANY, 4, 4, device=device)
    moments = patch_moments(features.requires_grad_(), labels, CLASSES, 4, 4, True, 255)
    with pytest.raises(RuntimeError, match="has no backward"):
        moments.gram.sum().backward()


@pytest.mark.slow
def test_compiles_into_one_graph():
    """In another Python: the run-time check of shapes does not compile."""
    code = f"""
import torch
from torch_trf._ops import patch_moments

compiled = torch.compile(patch_moments, fullgraph=True, backend="eager")
for channels in (3, {MANY}):
    arguments = torch.randn(2, channels, 6, 7), torch.randint(0, 4, (2, 6, 7)), 4, 6, 7, True, 255
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(compiled(*arguments), patch_moments(*arguments), rtol=1e-12, atol=1e-12)
print("the same")
"""
    result = run_python(code, folder=Path(__file__).parent)
    assert result.stdout == "the same\n", result.stderr
