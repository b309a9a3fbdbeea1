"""What every metric does where there is little to measure."""

import pytest
import torch

from torch_trf.metrics import METRICS, NCE, HScore, RegularizedHScore
from torch_trf.statistics import JointMass, Moments

from ..helpers import assert_close, every_metric, random_pixels, score_of_pixels


@every_metric
def test_no_pixel_is_nan(metric, device):
    features, labels = torch.ones(3, 2, device=device), torch.full((3,), 255, device=device)
    assert score_of_pixels(metric, features, labels, num_classes=2).isnan()


@every_metric
@pytest.mark.parametrize("number", [0, 3])
def test_one_class_is_within_the_bounds_of_one_class_whatever_its_number(metric, number, device):
    features, labels = random_pixels(30, 4, 1, device=device)
    score = score_of_pixels(metric, features, labels + number, num_classes=5)
    low, high = metric.bounds(1, 4)
    assert low - 1e-12 <= score.item() <= high + 1e-12
    assert_close(score, score_of_pixels(metric, features, labels, num_classes=1))


@pytest.mark.parametrize("name", ["leep", "nce", "hscore", "regularized_hscore", "otce", "jc_otce"])
@pytest.mark.parametrize("number", [0, 3])
def test_one_class_is_zero_whatever_its_number(name, number, device):
    features, labels = random_pixels(30, 4, 1, device=device)
    assert_close(score_of_pixels(METRICS[name], features, labels + number, num_classes=5), 0, atol=1e-12)


@pytest.mark.parametrize("metric", [HScore(), RegularizedHScore()], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, 1000.3])
def test_constant_features_explain_nothing(metric, value, device):
    labels = torch.arange(30, device=device) % 3
    moments = Moments.from_pixels(torch.full((30, 4), value, device=device), labels, num_classes=3)
    assert metric.score(moments).item() == 0


@every_metric
def test_as_few_pixels_as_it_needs_are_finite(metric, device):
    features, labels = random_pixels(metric.least_pixels, 4, 1, device=device)
    assert score_of_pixels(metric, features, labels, num_classes=1).isfinite()


@every_metric
def test_features_of_ignored_pixels_do_not_count(metric, device):
    features, labels = random_pixels(30, 4, 3, device=device)
    labels[::3] = 255
    scores = []
    for value in (torch.nan, torch.inf, 7.0):
        features[::3] = value
        scores.append(score_of_pixels(metric, features, labels, num_classes=3).item())
    assert scores[0] == scores[1] == scores[2]
    counted = labels != 255
    assert_close(score_of_pixels(metric, features[counted], labels[counted], num_classes=3), scores[0])


@every_metric
def test_fewer_pixels_than_channels_is_finite(metric, device):
    assert score_of_pixels(metric, *random_pixels(5, 50, 3, device=device), num_classes=3).isfinite()


@every_metric
def test_lies_within_its_bounds(metric, pixels):
    tensor, labels = pixels
    low, high = metric.bounds(int(labels.max()) + 1, tensor.shape[1])
    assert low <= high
    assert low - 1e-9 <= score_of_pixels(metric, tensor, labels, num_classes=7).item() <= high + 1e-9


@every_metric
@pytest.mark.filterwarnings("ignore:the features of all .* pixels are equal")
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3])
def test_lies_within_its_bounds_at_any_scale(metric, scale, device):
    tensor, labels = random_pixels(60, 4, 3, device=device)
    low, high = metric.bounds(3, 4)
    assert low - 1e-9 <= score_of_pixels(metric, scale * tensor, labels, num_classes=3).item() <= high + 1e-9


def test_joint_mass_without_mass_in_a_class_is_skipped(device):
    logits, labels = random_pixels(30, 4, 3, device=device)
    scores = [NCE().score(JointMass.from_pixels(logits, labels, num_classes=k, hard=True)) for k in (3, 19)]
    assert_close(*scores)
