"""What every metric does where there is little to measure."""

import pytest
import torch

from torch_trf import metrics
from torch_trf.statistics import JointMass, Moments

from ..helpers import METRICS, assert_close, random_pixels

every_metric = pytest.mark.parametrize(("build", "metric"), METRICS.values(), ids=METRICS.keys())


@every_metric
def test_no_pixel_is_nan(build, metric, device):
    features, labels = torch.ones(3, 2, device=device), torch.full((3,), 255, device=device)
    assert metric(build(features, labels, num_classes=2)).isnan()


@pytest.mark.parametrize("name", ["leep", "nce", "hscore", "regularized_hscore"])
@pytest.mark.parametrize("number", [0, 3])
def test_one_class_is_zero_whatever_its_number(name, number, device):
    build, metric = METRICS[name]
    features, labels = random_pixels(30, 4, 1, device=device)
    assert_close(metric(build(features, labels + number, num_classes=5)), 0, atol=1e-12)


@pytest.mark.parametrize("metric", [metrics.hscore, metrics.regularized_hscore])
@pytest.mark.parametrize("value", [0.0, 0.1, 1000.3])
def test_constant_features_explain_nothing(metric, value, device):
    labels = torch.arange(30, device=device) % 3
    moments = Moments.from_pixels(torch.full((30, 4), value, device=device), labels, num_classes=3)
    assert metric(moments).item() == 0


@every_metric
def test_one_pixel_is_finite(build, metric, device):
    features, labels = random_pixels(1, 4, 1, device=device)
    assert metric(build(features, labels, num_classes=1)).isfinite()


@every_metric
def test_features_of_ignored_pixels_do_not_count(build, metric, device):
    features, labels = random_pixels(30, 4, 3, device=device)
    labels[::3] = 255
    scores = []
    for value in (torch.nan, torch.inf, 7.0):
        features[::3] = value
        scores.append(metric(build(features, labels, num_classes=3)).item())
    assert scores[0] == scores[1] == scores[2]


@every_metric
def test_fewer_pixels_than_channels_is_finite(build, metric, device):
    assert metric(build(*random_pixels(5, 50, 3, device=device), num_classes=3)).isfinite()


def test_joint_mass_without_mass_in_a_class_is_skipped(device):
    logits, labels = random_pixels(30, 4, 3, device=device)
    scores = [metrics.nce(JointMass.from_pixels(logits, labels, num_classes=k, hard=True)) for k in (3, 19)]
    assert_close(*scores)
