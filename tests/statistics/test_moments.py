"""Moments against their definitions, exact far from the origin."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_trf import metrics
from torch_trf.statistics import Moments

from .. import references
from ..helpers import SIZES, arrays, assert_close, nest, random_pixels


def check_against_definitions(moments, features, labels):
    x, y = arrays(features, labels)
    count, class_sum, gram, third, fourth = references.moments(x, y, moments.num_classes)
    assert moments.class_count.tolist() == count.tolist()
    assert moments.count.item() == len(y)
    assert_close(moments.class_sum, class_sum)
    assert_close(moments.gram, gram)
    around_zero = moments.around(torch.zeros_like(moments.origin))
    assert_close(around_zero.offset_third_moment, third)
    assert_close(around_zero.offset_fourth_moment, fourth)
    assert_close(moments.mean, x.mean(0))
    assert_close(moments.class_mean, class_sum / count.clip(1)[:, None])
    centred = x - x.mean(0)
    assert_close(moments.scatter, centred.T @ centred)
    assert_close(moments.covariance, centred.T @ centred / (len(y) - 1))


def test_definitions(pixels):
    check_against_definitions(Moments.from_pixels(*pixels, num_classes=7), *pixels)


@given(size=SIZES, shift=st.floats(-100, 100), cut=st.integers(1, 39))
def test_definitions_hold_after_moving_and_merging(size, shift, cut, device):
    features, labels = random_pixels(**size, device=device)
    features += shift
    moments = Moments.from_pixels(features[:1], labels[:1], num_classes=4)
    for part in (slice(1, cut), slice(cut, None)):
        if len(labels[part]):
            moments = moments.add(features[part], labels[part], num_classes=4)
    check_against_definitions(moments.around(torch.full_like(moments.origin, 3.0)), features, labels)


@pytest.mark.parametrize("metric", [metrics.logme, metrics.hscore, metrics.regularized_hscore])
@pytest.mark.parametrize(("count", "channels"), [(400, 8), (30, 40)], ids=["many pixels", "few pixels"])
def test_float32_far_from_the_origin(metric, count, channels, device):
    features, labels = random_pixels(count, channels, 3, device=device)
    features += 1000
    scores = [
        metric(
            Moments.from_pixels(features[: count // 2].to(dtype), labels[: count // 2], num_classes=3)
            + Moments.from_pixels(features[count // 2 :].to(dtype), labels[count // 2 :], num_classes=3)
        )
        for dtype in (torch.float32, torch.float64)
    ]
    assert_close(scores[0], scores[1], rtol=1e-4, atol=0)


def test_constant_features_have_no_scatter_however_they_merge(device):
    features = torch.full((9, 2), 0.1, device=device)
    labels = torch.arange(9, device=device) % 3
    parts = [Moments.from_pixels(features[i : i + 3], labels[i : i + 3], num_classes=3) for i in (0, 3, 6)]
    for moments in (parts[0] + parts[1] + parts[2], nest(parts, (3,)).sum()):
        assert not moments.scatter.any()


def test_without_a_pixel(device):
    features, labels = torch.ones(4, 3, device=device), torch.full((4,), 255, device=device)
    moments = Moments.from_pixels(features, labels, num_classes=2)
    assert moments.count.item() == 0
    assert moments.mean.isnan().all()
    assert not moments.class_mean.any()
    assert not moments.gram.any()


def test_covariance_of_one_pixel_is_undefined(device):
    moments = Moments.from_pixels(torch.ones(1, 2, device=device), torch.tensor([0], device=device), num_classes=1)
    assert moments.covariance.isnan().all()
