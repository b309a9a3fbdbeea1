"""Pixels cut into cells, for statistics without a kernel of their own."""

from typing import get_args

import pytest
import torch

from torch_trf.pixels import Pool
from torch_trf.statistics import Moments, Statistic

from ..helpers import IGNORED, LABEL_DTYPES, LAYOUTS, assert_close, faulty_images, random_images

CLASSES = 4
every_pool = pytest.mark.parametrize("pool", get_args(Pool))
every_cell_size = pytest.mark.parametrize("cell_size", [None, (1, 1), (2, 3), (4, 5), (9, 11)])


def cut(features, labels, **options):
    """Features, one-hot classes and faults of every cell."""
    return Statistic.cells(features, labels, **{"num_classes": CLASSES} | options)


@every_pool
@every_cell_size
def test_their_sums_are_those_of_the_moments_of_cells(cell_size, pool, device):
    pixels = random_images(2, 3, 9, 11, device=device)
    features, one_hot, faults = cut(*pixels, pool=pool, cell_size=cell_size)
    moments = Moments.from_images(*pixels, num_classes=CLASSES, pool=pool, cell_size=cell_size)
    assert features.dtype == one_hot.dtype == torch.float64
    assert features.shape[:-2] == one_hot.shape[:-2] == moments.batch_shape == faults.batch_shape
    assert torch.equal(one_hot.sum(-2).long(), moments.class_count)
    assert_close(one_hot.mT @ features, moments.class_sum)
    assert_close(features.mT @ features, moments.gram)


@every_pool
def test_a_cell_holds_its_pixels_one_by_one(pool, device):
    images, labels = random_images(2, 3, 4, 6, device=device)
    features, one_hot, _ = cut(images, labels, pool=pool, cell_size=(2, 3))
    groups = [slice(None)] if pool == "dataset" else [slice(k, k + 1) for k in range(2)]
    for g, group in enumerate(groups):
        cell = features if pool == "dataset" else features[g]
        rows = images[group, :, 2:4, 3:6].movedim(1, -1).reshape(-1, 3).double()
        classes = labels[group, 2:4, 3:6].reshape(-1)
        assert torch.equal(cell[1, 1], rows.where((classes != 255).unsqueeze(-1), 0))
        expected = (classes.unsqueeze(-1) == torch.arange(CLASSES, device=device)).double()
        assert torch.equal((one_hot if pool == "dataset" else one_hot[g])[1, 1], expected)


@every_pool
@every_cell_size
def test_counts_the_faults_that_moments_count(cell_size, pool, device, monkeypatch):
    monkeypatch.setattr("torch_trf.statistics.Faults.check_on_cpu", lambda *arguments: None)
    options = {"num_classes": CLASSES, "ignore_index": IGNORED, "pool": pool, "cell_size": cell_size}
    pixels = faulty_images(2, 3, 9, 11, device=device)
    faults, expected = cut(*pixels, **options)[-1], Moments.from_images(*pixels, **options).faults
    torch.testing.assert_close(faults.state(), expected.state(), rtol=0, atol=0)
    assert faults.sum().bad_labels > 0
    assert faults.sum().non_finite > 0


def test_faults_raise_at_once_on_the_cpu():
    features, labels = random_images(1, 3, 4, 5, device="cpu")
    with pytest.raises(ValueError, match=r"label 9 on 1 pixels: outside \[0, 4\) and not ignore_index=255"):
        cut(features, labels.index_fill(2, torch.tensor([0]), 255).index_put((torch.tensor(0),) * 3, torch.tensor(9)))
    with pytest.raises(ValueError, match="labeled pixels are NaN or infinite"):
        cut(torch.full_like(features, torch.inf), labels)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("label_dtype", LABEL_DTYPES, ids=str)
def test_layouts_and_dtypes_of_labels_change_nothing(layout, label_dtype, device):
    features, labels = random_images(1, 3, 4, 6, device=device)
    expected = cut(features, labels, cell_size=(2, 2))
    actual = cut(layout(features), labels.to(label_dtype), cell_size=(2, 2))
    for tensor, other in zip(actual[:2], expected[:2], strict=True):
        assert torch.equal(tensor, other)


@pytest.mark.parametrize("cell_size", [(5, 2), (2, 7), (0, 1)], ids=str)
def test_a_cell_that_does_not_fit_is_an_error(cell_size, device):
    with pytest.raises(ValueError, match=f"{cell_size[0]} x {cell_size[1]}"):
        cut(*random_images(1, 3, 4, 6, device=device), cell_size=cell_size)
