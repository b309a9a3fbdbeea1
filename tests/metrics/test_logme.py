"""LogME against the evidence of every class, solved directly, and known answers."""

import math

import pytest
import torch

from torch_trf.metrics import LogME
from torch_trf.statistics import Moments

from .. import references
from ..helpers import arrays, assert_close, nest, random_pixels
from ..references.logme import evidence

EPSILON = 1e-5


def logme(features, labels, num_classes, **options):
    return LogME(**options).score(Moments.from_pixels(features, labels, num_classes=num_classes))


@pytest.mark.parametrize("absent_classes", ["skip", "include"])
def test_matches_evidence(pixels, absent_classes):
    expected = references.logme(*arrays(*pixels), absent_classes)
    assert_close(logme(*pixels, num_classes=7, absent_classes=absent_classes), expected, rtol=1e-7)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_pixels_than_channels(count, device):
    pixels = random_pixels(count, 12, 2, device=device)
    assert_close(logme(*pixels, num_classes=2), references.logme(*arrays(*pixels)), rtol=1e-7)


def test_absent_classes_count_only_where_they_are_included(device):
    features, labels = random_pixels(60, 4, 3, device=device)
    scores = {
        option: [
            logme(features, labels.where(labels < 2, largest), num_classes=19, absent_classes=option).item()
            for largest in (2, 5, 18)
        ]
        for option in ("skip", "include")
    }
    assert scores["skip"] == pytest.approx([scores["include"][0]] * 3, rel=1e-12)
    assert scores["include"][0] < scores["include"][1] < scores["include"][2]


@pytest.mark.parametrize("absent_classes", ["skip", "include"])
def test_classes_beyond_the_largest_label_never_count(absent_classes, device):
    pixels = random_pixels(60, 4, 3, device=device)
    scores = [logme(*pixels, num_classes=k, absent_classes=absent_classes) for k in (3, 19)]
    assert_close(*scores, rtol=1e-12)


def test_zero_features_leave_noise_alone(device):
    labels = torch.tensor([0, 0, 0, 1], device=device)
    expected = sum(math.log(4 / (2 * math.pi * (n + EPSILON))) / 2 - 0.5 for n in (3, 1)) / 2
    assert_close(logme(torch.zeros(4, 3, device=device), labels, num_classes=2), expected)


def test_a_direction_without_features_changes_nothing(pixels):
    features, labels = pixels
    padded = torch.nn.functional.pad(features, (0, 2))
    assert_close(logme(padded, labels, num_classes=7), logme(features, labels, num_classes=7))


def test_better_features_score_higher(device):
    features, labels = random_pixels(300, 6, 3, device=device)
    one_hot = torch.nn.functional.one_hot(labels, 3).to(features.dtype)
    scores = [logme(x, labels, num_classes=3).item() for x in (features[torch.randperm(300)], features, one_hot)]
    assert scores == sorted(scores)


@pytest.mark.parametrize(("count", "channels"), [(3, 8), (1, 4), (4, 4)])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_finite_with_fewer_pixels_than_channels_at_any_scale(count, channels, scale, device):
    features = scale * torch.randn(count, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(count) % 2
    assert logme(features.to(device), labels.to(device), num_classes=2).isfinite()


def test_by_class_is_the_evidence_for_each_class(pixels):
    features, labels = arrays(*pixels)
    moments = Moments.from_pixels(*pixels, num_classes=9)
    evidences = LogME().by_class(moments)
    assert (evidences.shape, evidences.dtype) == ((9,), torch.float64)
    for k, value in enumerate(evidences):
        if (labels == k).any():
            expected = evidence(features, (labels == k).astype(float)) / len(labels)
            assert_close(value, expected, rtol=1e-7)
        else:
            assert value.isnan()
    assert_close(evidences.nanmean(), LogME().score(moments), rtol=1e-12)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_by_class_along_leading_dimensions(batch, device):
    entries = [
        Moments.from_pixels(*random_pixels(30, 4, 3, seed=i, device=device), num_classes=4)
        for i in range(torch.Size(batch).numel())
    ]
    evidences = LogME().by_class(nest(entries, batch))
    assert evidences.shape == (*batch, 4)
    alone = torch.stack([LogME().by_class(entry) for entry in entries])
    assert_close(evidences.flatten(0, -2) if batch else evidences[None], alone, equal_nan=True)


def test_by_class_of_no_pixel_is_nan(device):
    features, labels = torch.ones(3, 2, device=device), torch.full((3,), 255, device=device)
    assert LogME().by_class(Moments.from_pixels(features, labels, num_classes=2)).isnan().all()


def test_by_class_tells_which_class_features_tell(device):
    labels = torch.arange(90, device=device) % 3
    noise = 0.3 * torch.randn(90, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = torch.cat([(labels == 2).double()[:, None], noise.to(device)], 1)
    evidences = LogME().by_class(Moments.from_pixels(features, labels, num_classes=3))
    assert evidences.argmax() == 2
