"""The table of metrics: every statistic that it names is that of the pixels."""

from typing import get_args

import pytest

from torch_trf.pixels import Pixels
from torch_trf.statistics import JointMass, LogLikelihood, Moments
from torch_trf.table import METRICS, FeatureMetricName, MapMetricName, MetricName, statistic

from .helpers import assert_same, random_images

OPTIONS = {"num_classes": 4}
STATISTICS = {
    "moments": lambda features, labels, logits: Moments.from_pixels(features, labels, **OPTIONS),
    "softmax_moments": lambda features, labels, logits: Moments.from_pixels(
        features.double().softmax(1), labels, **OPTIONS
    ),
    "soft_mass": lambda features, labels, logits: JointMass.from_pixels(logits, labels, **OPTIONS),
    "hard_mass": lambda features, labels, logits: JointMass.from_pixels(logits, labels, hard=True, **OPTIONS),
    "log_likelihood": lambda features, labels, logits: LogLikelihood.from_pixels(
        logits, labels, joint_mass=JointMass.from_pixels(logits, labels, **OPTIONS)
    ),
}


@pytest.fixture
def images(device):
    """Features, labels and logits."""
    features, labels = random_images(2, 3, 5, 7, device=device)
    return features, labels, random_images(2, 6, 5, 7, device=device)[0]


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_are_those_of_the_pixels(name, images):
    options = {"joint_mass": STATISTICS["soft_mass"](*images)} if name == "log_likelihood" else {}
    built = statistic(name, Pixels(*images), **OPTIONS, **options)
    assert_same(built, STATISTICS[name](*images), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["soft_mass", "hard_mass", "log_likelihood"])
def test_missing_class_scores_are_an_error(name, images):
    features, labels, _ = images
    with pytest.raises(ValueError, match="give logits beside features and labels"):
        statistic(name, Pixels(features, labels), **OPTIONS)


def test_names_agree():
    assert tuple(METRICS) == get_args(MetricName)
    assert {name for name in METRICS if METRICS[name].gamma is not None} == {"otce", "jc_otce"}
    assert {name for name in METRICS if METRICS[name].draws} == {"otce", "jc_otce", "knn"}
    assert set(METRICS) - set(get_args(MapMetricName)) == {"knn"}
    assert set(get_args(FeatureMetricName)) == {name for name in METRICS if METRICS[name].reads == "features"}
    samples = {"source_sample", "feature_sample"}
    assert {part for metric in METRICS.values() for part in metric.statistics} - samples <= set(STATISTICS)
