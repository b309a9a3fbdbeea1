"""OTCE against an assignment of copies, and known answers."""

import math

import pytest
import torch

from torch_trf import metrics
from torch_trf.statistics import PixelSample

from .. import references
from ..helpers import arrays, assert_close, nest, random_pixels


def whole(features, labels):
    return PixelSample.from_pixels(features, labels, size=len(labels), num_classes=4)[0]


def otce(source, target):
    return metrics.otce(whole(*source), whole(*target), num_classes=4, num_source_classes=4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("source_count", "target_count"), [(1, 1), (1, 7), (24, 24), (8, 12), (40, 20)])
def test_matches_assignment(source_count, target_count, dtype, device):
    source = random_pixels(source_count, 3, 4, seed=1, dtype=dtype, device=device)
    target = random_pixels(target_count, 3, 3, seed=2, dtype=dtype, device=device)
    assert_close(otce(source, target), references.otce(*arrays(*source, *target)))


@pytest.mark.parametrize(
    ("source_labels", "target_labels", "expected"),
    [
        ([0, 1, 2, 3], [3, 2, 1, 0], 0),  # one to one
        ([0, 0, 0, 0], [0, 1, 2, 3], -math.log(4)),  # one source class
        ([0, 1, 2, 3], [1, 1, 1, 1], 0),  # one target class
        ([0, 0, 1, 1], [0, 1, 2, 2], -math.log(2) / 2),
    ],
)
def test_known_answers_where_pixels_lie_on_each_other(source_labels, target_labels, expected, device):
    features = torch.tensor([[0.0], [10.0], [20.0], [30.0]], device=device)
    source, target = ((features, torch.tensor(labels, device=device)) for labels in (source_labels, target_labels))
    assert_close(otce(source, target), expected)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_leading_dimensions_are_independent(batch, device):
    entries = range(torch.Size(batch).numel())
    sources, targets = ([random_pixels(20, 3, 3, seed=i + s, device=device) for i in entries] for s in (0, 10))
    score = metrics.otce(
        *(nest([whole(*pixels) for pixels in side], batch) for side in (sources, targets)),
        num_classes=4,
        num_source_classes=4,
    )
    expected = torch.stack([otce(*pair) for pair in zip(sources, targets, strict=True)]).reshape(batch)
    assert_close(score, expected)


@pytest.mark.parametrize("empty", ["source", "target"])
def test_empty_sample_is_nan(empty, device):
    pixels = random_pixels(5, 3, 3, device=device)
    ignored = pixels[0], torch.full_like(pixels[1], 255)
    assert otce(*((ignored, pixels) if empty == "source" else (pixels, ignored))).isnan()


def test_different_channels_are_an_error(device):
    with pytest.raises(ValueError, match="source features of 3 channels, target features of 2"):
        otce(random_pixels(5, 3, 2, device=device), random_pixels(5, 2, 2, device=device))
