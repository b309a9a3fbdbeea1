"""Cells of a grid, and windows of them: the sum of every window, merged one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_trf import metrics
from torch_trf.statistics import JointMass, LogLikelihood, Moments

from ..helpers import assert_same, log_likelihood, random_images

CLASSES = 3


def cells_of(statistic, features, labels, **options):
    return statistic.from_pixels(features, labels, num_classes=CLASSES, **options)


def at(statistic, row, column):
    """The entries at these places of the grid, of every image."""
    return statistic[(slice(None),) * (len(statistic.batch_shape) - 2) + (row, column)]


def places(statistic):
    """Every place of the grid."""
    return torch.cartesian_prod(*map(torch.arange, statistic.batch_shape[-2:])).tolist()


def window_at(i, j, size, step):
    """The rows and columns of window (i, j)."""
    return slice(i * step[0], i * step[0] + size[0]), slice(j * step[1], j * step[1] + size[1])


SIDES = st.tuples(st.integers(1, 7), st.integers(1, 7))


@pytest.mark.parametrize("pool_batch", [True, False], ids=["dataset", "image"])
@pytest.mark.parametrize("statistic", [Moments, JointMass])
@settings(max_examples=20)
@given(grid=SIDES, size=SIDES, step=SIDES)
def test_windows_merge_their_entries(statistic, pool_batch, grid, size, step, device):
    size = tuple(map(min, size, grid))
    features, labels = random_images(2, 2, *grid, classes=CLASSES, dtype=torch.float64, device=device)
    cells = cells_of(statistic, features, labels, cell=(1, 1), pool_batch=pool_batch)
    windows = cells.windows(size, step)
    assert windows.batch_shape[-2:] == tuple((g - s) // t + 1 for g, s, t in zip(grid, size, step, strict=True))
    for i, j in places(windows):
        assert_same(at(windows, i, j), at(cells, *window_at(i, j, size, step)).sum(-2, -1))


@pytest.mark.parametrize("statistic", [Moments, JointMass])
@pytest.mark.parametrize("pool_batch", [True, False], ids=["dataset", "image"])
@pytest.mark.parametrize("cell", [(1, 1), (2, 3), (4, 5), (9, 11)])
def test_cells_are_the_pixels_cut_out(statistic, pool_batch, cell, device):
    features, labels = random_images(2, 3, 9, 11, classes=CLASSES, dtype=torch.float64, device=device)
    cells = cells_of(statistic, features, labels, cell=cell, pool_batch=pool_batch)
    assert cells.batch_shape[-2:] == (9 // cell[0], 11 // cell[1])
    for i, j in places(cells):
        part = (..., *window_at(i, j, cell, cell))
        assert_same(at(cells, i, j), cells_of(statistic, features[part], labels[part], pool_batch=pool_batch))


@pytest.mark.parametrize("pool_batch", [True, False], ids=["dataset", "image"])
@pytest.mark.parametrize(
    ("patch_size", "stride"), [((4, 5), None), ((4, 5), (2, 3)), ((2, 2), (3, 5)), ((9, 11), None)]
)
def test_log_likelihood_of_patches_is_that_of_the_pixels_cut_out(patch_size, stride, pool_batch, device):
    logits, labels = random_images(2, 3, 9, 11, classes=CLASSES, dtype=torch.float64, device=device)
    options = {"pool_batch": pool_batch}
    stride = stride or patch_size
    cells = cells_of(JointMass, logits, labels, cell=(1, 1), **options)
    found = LogLikelihood.from_pixels(
        logits, labels, joint_mass=cells.windows(patch_size, stride), patch_size=patch_size, stride=stride, **options
    )
    for i, j in places(found):
        part = (..., *window_at(i, j, patch_size, stride))
        assert_same(at(found, i, j), log_likelihood(logits[part], labels[part], num_classes=CLASSES, **options))


@pytest.mark.parametrize("value", [0.1, 1000.3])
def test_windows_of_constant_features_have_no_scatter(value, device):
    features, labels = random_images(1, 3, 8, 10, classes=CLASSES, device=device)
    features[:], labels[..., :3, :4] = value, 255  # some cells are empty
    windows = cells_of(Moments, features, labels, cell=(1, 2)).windows((3, 2), (2, 1))
    assert not windows.offset_gram.any()
    assert not windows.scatter.any()
    score = metrics.hscore(windows)
    assert (score[windows.count > 0] == 0).all()


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
    left, right = (cells_of(Moments, features, y, cell=(4, 3)) for y in (empty_right, empty_left))
    merged, whole = left + right, cells_of(Moments, features, labels, cell=(4, 3))
    assert_same(merged, whole, rtol=0, atol=0)
    assert_same(right + left, whole, rtol=0, atol=0)
