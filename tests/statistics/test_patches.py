"""Cells of a grid, and patches of them: the sum of every patch, merged one by one."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_trf.metrics import HScore
from torch_trf.pixels import Pool
from torch_trf.statistics import JointMass, LogLikelihood, Moments

from ..helpers import assert_same, log_likelihood, random_images

CLASSES = 3
every_pool = pytest.mark.parametrize("pool", get_args(Pool))


def cells_of(statistic, features, labels, **options):
    return statistic.from_pixels(features, labels, num_classes=CLASSES, **options)


def at(statistic, row, column):
    """The entries at these places of the grid, of every image."""
    return statistic[(slice(None),) * (len(statistic.batch_shape) - 2) + (row, column)]


def places(statistic):
    """Every place of the grid."""
    return torch.cartesian_prod(*map(torch.arange, statistic.batch_shape[-2:])).tolist()


def patch_at(i, j, size, step):
    """The rows and columns of patch (i, j)."""
    return slice(i * step[0], i * step[0] + size[0]), slice(j * step[1], j * step[1] + size[1])


SIDES = st.tuples(st.integers(1, 7), st.integers(1, 7))


@pytest.mark.slow
@every_pool
@pytest.mark.parametrize("statistic", [Moments, JointMass])
@settings(max_examples=20)
@given(grid=SIDES, size=SIDES, step=SIDES)
def test_patches_merge_their_entries(statistic, pool, grid, size, step, device):
    size = tuple(map(min, size, grid))
    features, labels = random_images(2, 2, *grid, classes=CLASSES, dtype=torch.float64, device=device)
    cells = cells_of(statistic, features, labels, cell_size=(1, 1), pool=pool)
    patches = cells.patches(size, step)
    assert patches.batch_shape[-2:] == tuple((g - s) // t + 1 for g, s, t in zip(grid, size, step, strict=True))
    for i, j in places(patches):
        assert_same(at(patches, i, j), at(cells, *patch_at(i, j, size, step)).sum(-2, -1))


@pytest.mark.slow
@pytest.mark.parametrize("statistic", [Moments, JointMass])
@every_pool
@pytest.mark.parametrize("cell_size", [(1, 1), (2, 3), (4, 5), (9, 11)])
def test_cells_are_the_pixels_cut_out(statistic, pool, cell_size, device):
    features, labels = random_images(2, 3, 9, 11, classes=CLASSES, dtype=torch.float64, device=device)
    cells = cells_of(statistic, features, labels, cell_size=cell_size, pool=pool)
    assert cells.batch_shape[-2:] == (9 // cell_size[0], 11 // cell_size[1])
    for i, j in places(cells):
        part = (..., *patch_at(i, j, cell_size, cell_size))
        assert_same(at(cells, i, j), cells_of(statistic, features[part], labels[part], pool=pool))


@every_pool
@pytest.mark.parametrize(
    ("patch_size", "stride"), [((4, 5), None), ((4, 5), (2, 3)), ((2, 2), (3, 5)), ((9, 11), None)]
)
def test_log_likelihood_of_patches_is_that_of_the_pixels_cut_out(patch_size, stride, pool, device):
    logits, labels = random_images(2, 3, 9, 11, classes=CLASSES, dtype=torch.float64, device=device)
    options = {"pool": pool}
    stride = stride or patch_size
    cells = cells_of(JointMass, logits, labels, cell_size=(1, 1), **options)
    likelihoods = LogLikelihood.from_pixels(
        logits, labels, joint_mass=cells.patches(patch_size, stride), patch_size=patch_size, stride=stride, **options
    )
    for i, j in places(likelihoods):
        part = (..., *patch_at(i, j, patch_size, stride))
        assert_same(at(likelihoods, i, j), log_likelihood(logits[part], labels[part], num_classes=CLASSES, **options))


@pytest.mark.parametrize("value", [0.1, 1000.3])
def test_patches_of_constant_features_have_no_scatter(value, device):
    features, labels = random_images(1, 3, 8, 10, classes=CLASSES, device=device)
    features[:], labels[..., :3, :4] = value, 255  # some cells are empty
    patches = cells_of(Moments, features, labels, cell_size=(1, 2)).patches((3, 2), (2, 1))
    assert not patches.offset_gram.any()
    assert not patches.scatter.any()
    score = HScore().score(patches)
    assert (score[patches.count > 0] == 0).all()


def test_merging_with_nothing_changes_nothing(device):
    features, labels = random_images(1, 3, 4, 6, classes=CLASSES, dtype=torch.float64, device=device)
    features += 1000
    some = cells_of(Moments, features, labels)
    none = cells_of(Moments, features, torch.full_like(labels, 255))
    for merged in (some + none, none + some, some.stack([none, some, none]).sum()):
        assert torch.equal(merged.origin, some.origin)
        assert_same(merged, some, rtol=0, atol=0)
    both = none + none
    assert not any(tensor.any() for name, tensor in both.state().items() if not name.startswith("faults"))


def test_entries_with_and_without_pixels_merge_apart(device):
    features, labels = random_images(2, 3, 4, 6, classes=CLASSES, dtype=torch.float64, device=device)
    empty_left, empty_right = labels.clone(), labels.clone()
    empty_left[..., :3], empty_right[..., 3:] = 255, 255
    left, right = (cells_of(Moments, features, y, cell_size=(4, 3)) for y in (empty_right, empty_left))
    merged, whole = left + right, cells_of(Moments, features, labels, cell_size=(4, 3))
    assert_same(merged, whole, rtol=0, atol=0)
    assert_same(right + left, whole, rtol=0, atol=0)
