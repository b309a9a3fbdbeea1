"""LEEP's second look: patches that overlap, touch or leave gaps; the kernel agrees with the reference."""

import pytest
import torch

from torch_trf._ops import patch_log_likelihood, patch_shape
from torch_trf._ops._patch_log_likelihood import patch_log_likelihood_reference

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
PATCHES = {  # B, Z, H, W, the patch and the stride
    "one pixel": (1, 1, 1, 1, (1, 1), (1, 1)),
    "whole image": (2, 19, 5, 6, (5, 6), (5, 6)),
    "side by side": (2, 3, 8, 12, (4, 4), (4, 4)),
    "overlapping": (2, 3, 9, 12, (6, 4), (2, 3)),
    "every pixel": (2, 3, 8, 12, (3, 5), (1, 1)),
    "gaps": (3, 5, 9, 11, (2, 3), (5, 4)),
    "overlapping in height, gaps in width": (1, 3, 9, 20, (5, 2), (1, 7)),
    "wider than a span": (1, 3, 5, 300, (2, 200), (1, 30)),
    "many source classes": (1, 150, 4, 6, (2, 3), (2, 3)),
    "several chunks": (2, 3, 131, 129, (130, 129), (1, 129)),
}


def arguments(logits, labels, patch, stride, pool_batch):
    """Those of the op, with a random p(y|z) for every patch, 0 for one of the classes."""
    grid = patch_shape(labels, patch, stride, pool_batch)
    mass = torch.rand(*grid, CLASSES, logits.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target_given_source = (mass / mass.sum(-2, keepdim=True)).to(logits.device)
    return logits, labels, target_given_source, *patch, *stride, pool_batch, IGNORED


def assert_matches(*options):
    assert_matches_reference(patch_log_likelihood, patch_log_likelihood_reference, *arguments(*options))


@every_pool
@pytest.mark.parametrize("shape", PATCHES.values(), ids=PATCHES.keys())
def test_shapes_and_patches(shape, pool_batch, device):
    *size, patch, stride = shape
    assert_matches(*faulty_images(*size, device=device), patch, stride, pool_batch)


@pytest.mark.parametrize("label_dtype", LABEL_DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype, label_dtype, device):
    images = faulty_images(2, 5, 11, 9, dtype=dtype, label_dtype=label_dtype, device=device)
    assert_matches(*images, (5, 4), (3, 2), False)


@every_pool
@pytest.mark.parametrize("lay_out", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(lay_out, pool_batch, device):
    logits, labels = faulty_images(3, 4, 6, 8, device=device)
    assert_matches(lay_out(logits), lay_out(labels), (3, 4), (1, 2), pool_batch)


def test_target_given_source_may_be_expanded(device):
    images = faulty_images(2, 5, 6, 8, device=device)
    logits, labels, target_given_source, *grid = arguments(*images, (3, 4), (1, 2), True)
    expanded = patch_log_likelihood(logits, labels, target_given_source[:1, :1].expand_as(target_given_source), *grid)
    copied = target_given_source[:1, :1].expand_as(target_given_source).contiguous()
    torch.testing.assert_close(expanded, patch_log_likelihood(logits, labels, copied, *grid), rtol=0, atol=0)


def test_certainty_is_exactly_zero(device):
    """A likelihood of 1, which rounding may lift above 1, has a logarithm of 0 and no more."""
    logits, labels = faulty_images(2, 7, 6, 8, classes=1, device=device)
    ones = torch.ones(2, 2, 1, 7, dtype=torch.float64, device=device)
    actual = patch_log_likelihood(logits, labels, ones, 3, 4, 3, 4, True, IGNORED)
    assert (actual.total <= 0).all()
    assert_close(actual.total, torch.zeros(2, 2))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_logit_that_is_not_finite_counts_in_every_patch_that_holds_it(value, device):
    logits, labels = torch.zeros(1, 3, 1, 5, device=device), torch.zeros(1, 1, 5, dtype=torch.int64, device=device)
    logits[0, 1, 0, 2] = value
    ones = torch.ones(1, 4, 1, 3, dtype=torch.float64, device=device)
    actual = patch_log_likelihood(logits, labels, ones, 1, 2, 1, 1, True, IGNORED)
    assert actual.pixel_count.tolist() == [[2, 1, 1, 2]]
    assert actual.faults[..., 3].tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:1], r"target_given_source must be .* \[2, 3, 4, 5\] on .*, not .* \[1, 3, 4, 5\]"),
        (lambda p: p[..., :4], r"not torch.float64 \[2, 3, 4, 4\]"),
        (lambda p: p.float(), r"must be torch.float64 .*, not torch.float32"),
    ],
    ids=["patches", "source classes", "float32"],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_target_given_source_that_does_not_fit_is_an_error(change, message, device):
    images = faulty_images(2, 5, 6, 8, device=device)
    logits, labels, target_given_source, *grid = arguments(*images, (3, 4), (2, 2), True)
    with pytest.raises(ValueError, match=message):
        patch_log_likelihood(logits, labels, change(target_given_source), *grid)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    "shape",
    [(2, 5, 150, 149, (150, 149), (1, 1)), (2, 3, 64, 64, (8, 8), (4, 4))],
    ids=["chunks", "patches"],
)
def test_same_bits_on_any_number_of_threads(shape, device):
    *size, patch, stride = shape
    given = arguments(*faulty_images(*size, device=device), patch, stride, True)
    assert_same_bits(lambda: patch_log_likelihood(*given))
