"""Moments against their definitions, exact far from the origin."""

from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_trf._ops._many_channels import FEWEST_CHANNELS
from torch_trf._ops._patch_moments import patch_moments_reference
from torch_trf.pixels import as_images
from torch_trf.statistics import Faults, Moments

from .. import references
from ..helpers import SIZES, arrays, assert_close, metrics_that, nest, random_pixels

MANY = FEWEST_CHANNELS + 4
every_metric = metrics_that(lambda metric: metric.looks[0].statistic is Moments)


def network_features(count, channels, *, condition, offset, device):
    """Features as a network gives them, `[N, D]` in float32, and labels: correlated, rectified, some channels dead.

    The directions that were mixed have variances from 1 down to 1 / condition; the mean lies `offset` deviations away.
    """
    features, labels = random_pixels(count, channels, 5, device="cpu")
    generator = torch.Generator().manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64)).Q
    features = features * torch.logspace(0, -0.5, channels, base=condition, dtype=torch.float64) @ mixing
    features = features.relu() * (torch.arange(channels) % 20 > 0)
    return (features + offset * features.std()).to(device, torch.float32), labels.to(device)


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
    centered = x - x.mean(0)
    assert_close(moments.scatter, centered.T @ centered)
    assert_close(moments.covariance, centered.T @ centered / (len(y) - 1))


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


@every_metric
@pytest.mark.parametrize(
    ("count", "channels"),
    [(400, 8), (30, 40), (400, MANY), (90, MANY)],
    ids=["many pixels", "few pixels", "many channels", "many channels, few pixels"],
)
def test_float32_far_from_the_origin(metric, count, channels, device):
    features, labels = random_pixels(count, channels, 3, device=device)
    features += 1000
    scores = [
        metric.score(
            Moments.from_pixels(features[: count // 2].to(dtype), labels[: count // 2], num_classes=3)
            + Moments.from_pixels(features[count // 2 :].to(dtype), labels[count // 2 :], num_classes=3)
        )
        for dtype in (torch.float32, torch.float64)
    ]
    assert_close(scores[0], scores[1], rtol=1e-4, atol=0)


@every_metric
@pytest.mark.parametrize("offset", [0, 1e3])
@pytest.mark.parametrize("count", [MANY // 2, MANY, 3 * MANY], ids=["few pixels", "as many as channels", "many pixels"])
def test_scores_of_ill_conditioned_channels(metric, count, offset, device):
    features, labels = network_features(count, MANY, condition=1e6, offset=offset, device=device)
    *sums, faults = patch_moments_reference(*as_images(features.double(), labels), 5, 1, count, True, 255)
    expected = metric.score(Moments(*sums, faults=Faults.from_columns(faults))).squeeze()
    assert_close(metric.score(Moments.from_pixels(features, labels, num_classes=5)), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("offset", [0, 1e3])
def test_many_channels_merge_as_if_read_at_once(offset, device):
    features, labels = network_features(600, MANY, condition=1e4, offset=offset, device=device)
    labels[:50] = 255
    batches = zip(features.split(50), labels.split(50), strict=True)
    parts = [Moments.from_pixels(*batch, num_classes=5) for batch in batches]
    whole = Moments.from_pixels(features, labels, num_classes=5)
    for merged in (reduce(add, parts), nest(parts, (12,)).sum()):
        torch.testing.assert_close(merged.state(), whole.state(), rtol=1e-10, atol=1e-9)


def test_merging_leaves_its_parts_as_they_were(device):
    features, labels = random_pixels(40, 3, 2, device=device)
    parts = [Moments.from_pixels(features[half], labels[half], num_classes=2) for half in (slice(20), slice(20, 40))]
    before = [{name: value.clone() for name, value in part.state().items()} for part in parts]
    assert parts[0] + parts[1] is not parts[1]
    for part, state in zip(parts, before, strict=True):
        torch.testing.assert_close(part.state(), state, rtol=0, atol=0)


@pytest.mark.parametrize("channels", [2, MANY])
def test_constant_features_have_no_scatter_however_they_merge(channels, device):
    features = torch.full((9, channels), 0.1, device=device)
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


# What rounding leaves


def test_spread_is_zero_where_rounding_alone_is_left(device):
    features, labels = random_pixels(50, 3, 2, device=device)
    features[:, 1] = 1000.3
    moments = Moments.from_pixels(features, labels, num_classes=2)
    for same in (moments, moments.around(torch.zeros_like(moments.origin)), moments.centered):
        assert_close(same.spread, ((features - features.mean(0)).square().sum(0).sqrt() * (features[0] != 1000.3)))


def test_mean_square_is_that_of_each_channel(device):
    features, labels = random_pixels(50, 3, 2, device=device)
    assert_close(Moments.from_pixels(features, labels, num_classes=2).mean_square, features.square().mean(0))


@pytest.mark.parametrize(("factor", "expected"), [(1.0, False), (100.0, False), (1e6, True), (1e12, True)])
@pytest.mark.parametrize("place", [0, 7])
def test_one_pixel_that_outweighs_all_others_is_noticed(factor, expected, place, device):
    features, labels = random_pixels(50, 3, 2, device=device)
    features[place] *= factor
    assert Moments.from_pixels(features, labels, num_classes=2).is_of_one_pixel.item() is expected


def test_features_too_small_to_square_are_noticed(device):
    features, labels = random_pixels(50, 3, 2, device=device)
    features[:, 0], features[:, 1] = 0, 1e-160 * features[:, 1]
    moments = Moments.from_pixels(features, labels, num_classes=2)
    assert moments.vanishing().startswith("channel 1 varies by less than 1e-145")
    assert moments.vanishing(together=True) is None
    tiny = Moments.from_pixels(1e-80 * features, labels, num_classes=2)
    assert tiny.vanishing(power=4, together=True).startswith("every channel varies by less than 3e-73")
