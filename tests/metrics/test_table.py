"""The table of metrics: gathered from the package, by name, as objects or by class path; values with options."""

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import torch_trf
from torch_trf import Sampling, Scorer, metrics
from torch_trf.metrics import (
    DEFAULT_METRICS,
    KNN,
    METRICS,
    NCE,
    CoupledMetric,
    LogME,
    Look,
    TransferabilityMetric,
    as_metric,
    as_metrics,
)
from torch_trf.pixels import Pixels
from torch_trf.statistics import Statistic

from ..helpers import every_metric, metrics_that, random_images

FOLDER = Path(metrics.__file__).parent


def test_holds_every_metric_of_the_package_under_its_name():
    assert {"hscore", "jc_otce", "knn", "leep", "logme", "nce", "otce", "regularized_hscore"} <= set(METRICS)
    assert [metric.name for metric in METRICS.values()] == list(METRICS)
    assert set(DEFAULT_METRICS) <= set(METRICS)


@every_metric
def test_is_defined_in_the_file_of_its_name_and_exported_by_class(metric):
    kind = type(metric)
    assert kind.__module__ == f"torch_trf.metrics._{metric.name}"
    assert (FOLDER / f"_{metric.name}.py").exists()
    assert getattr(metrics, kind.__name__) is kind
    assert kind.__name__ in metrics.__all__
    assert getattr(torch_trf, metric.name) is metric


@every_metric
def test_says_what_it_is(metric):
    assert metric.unit
    assert metric.least_pixels >= 1
    assert metric.mean_over in (None, "classes", "pixels")
    assert metric.needs_source == isinstance(metric, CoupledMetric)
    first, *later = metric.looks
    assert first.given is None
    assert all(look.given and not look.statistic.draws for look in later)
    assert all(issubclass(look.statistic, Statistic) for look in metric.looks)
    assert len(set(metric.look_names)) == len(metric.looks)
    assert metric.draws == first.statistic.draws


def test_what_is_looked_at_is_told_apart():
    """One name for one statistic, however many metrics share it."""
    softened = [replace(metric, softmax=True) for metric in METRICS.values() if hasattr(metric, "softmax")]
    looks = {}
    for metric in (*METRICS.values(), *softened):
        for depth, name in enumerate(metric.look_names):
            assert looks.setdefault(name, metric.looks[: depth + 1]) == metric.looks[: depth + 1]


# Values


@every_metric
def test_is_a_value(metric):
    same = type(metric)()
    assert is_dataclass(metric)
    assert (metric, hash(metric), repr(metric)) == (same, hash(same), repr(same))
    assert len({metric, same}) == 1
    assert pickle.loads(pickle.dumps(metric)) == copy.deepcopy(metric) == metric


@every_metric
def test_repr_makes_it_again(metric):
    assert eval(repr(metric), vars(metrics)) == metric


@every_metric
def test_is_frozen(metric):
    for name in ("name", "unit", *(field.name for field in fields(metric))):
        with pytest.raises(FrozenInstanceError):
            setattr(metric, name, None)


@metrics_that(lambda metric: fields(metric))
def test_options_are_given_by_keyword(metric):
    with pytest.raises(TypeError, match="positional argument"):
        type(metric)(getattr(metric, fields(metric)[0].name))


@metrics_that(lambda metric: hasattr(metric, "softmax"))
def test_another_option_is_another_metric_of_the_same_name(metric):
    other = replace(metric, softmax=True)
    assert other != metric
    assert other.name == metric.name
    assert other.look_names != metric.look_names


# Names, objects and class paths


@every_metric
def test_is_had_by_name_as_an_object_and_by_class_path(metric):
    path = f"torch_trf.metrics.{type(metric).__name__}"
    for what in (metric.name, path, {"class_path": metric.name}, {"class_path": path, "init_args": {}}):
        assert as_metric(what) == metric
    assert as_metric(metric) is metric


def test_options_are_those_of_the_configuration():
    configured = {"class_path": "logme", "init_args": {"absent_classes": "include", "softmax": True}}
    assert as_metric(configured) == LogME(absent_classes="include", softmax=True)


class Mine(NCE):
    """A metric that the package does not have."""

    name = "mine"


def test_a_metric_of_anybody_is_taken_by_its_path():
    assert as_metric(Mine()) == Mine()
    assert as_metric(f"{__name__}.Mine").name == "mine"
    assert "mine" not in METRICS


def test_a_single_metric_is_one_of_one():
    for single in ("nce", NCE(), {"class_path": "nce"}):
        assert as_metrics(single) == (NCE(),)
    for several in (["nce", KNN(neighbors=3)], ("nce", KNN(neighbors=3))):
        assert as_metrics(several) == (NCE(), KNN(neighbors=3))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("lepe", "'lepe' is none of .*leep"),
        ("", f"'' is none of {', '.join(METRICS)}"),
        ("torch_trf.metrics.Nowhere", "has no attribute 'Nowhere'"),
        ("torch.nn.ReLU", "metric: torch.nn.ReLU makes a ReLU, not a TransferabilityMetric"),
        (
            {"class_path": "knn", "init_args": {"neighbors": 0}},
            "knn cannot be made: neighbors must be at least 1, not 0",
        ),
        ({"class_path": "nce", "init_args": {"rcond": 1}}, "nce cannot be made: TypeError: .*'rcond'"),
        ({"name": "nce"}, "neither a path nor"),
        ("torch_trf.metrics.TransferabilityMetric", "abstract"),
    ],
)
def test_what_is_no_metric_is_an_error(what, message):
    with pytest.raises(ValueError, match=message):
        as_metric(what)


def test_no_metric_and_two_of_one_name_are_errors():
    with pytest.raises(ValueError, match=f"no metric asked for; known are {', '.join(METRICS)}"):
        as_metrics([])
    with pytest.raises(ValueError, match="two metrics are called 'logme'"):
        as_metrics(["logme", "nce", LogME(absent_classes="include")])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.LogME(absent_classes="both"), "absent_classes: 'both' is none of skip, include"),
        (lambda: metrics.KNN(neighbors=0), "neighbors must be at least 1, not 0"),
        (lambda: metrics.JCOTCE(gamma=0.0), "gamma must be above 0 and at most 1, not 0.0"),
        (lambda: metrics.JCOTCE(gamma=1.5), "gamma must be above 0 and at most 1, not 1.5"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_options_that_make_no_sense_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Looks


@metrics_that(lambda metric: metric.looks[0].reads == "logits")
def test_missing_class_scores_are_an_error(metric, device):
    pixels = Pixels(*random_images(2, 3, 5, 7, device=device))
    with pytest.raises(ValueError, match="give logits beside features and labels"):
        metric.looks[0](pixels, num_classes=4, ignore_index=255)


@every_metric
def test_a_look_is_the_statistic_of_what_it_reads(metric, device):
    features, labels = random_images(2, 3, 5, 7, device=device)
    logits = random_images(2, 6, 5, 7, device=device)[0]
    statistic = None
    for look in metric.looks:
        tensor = {"features": features, "logits": logits}[look.reads]
        context = {look.given: statistic} if look.given else {"num_classes": 4}
        expected = look.statistic.from_pixels(tensor, labels, **look.options, **context)
        statistic = look(Pixels(features, labels, logits), statistic, num_classes=4, ignore_index=255)
        assert type(statistic) is look.statistic
        for name, value in statistic.state().items():
            assert value.equal(expected.state()[name])


def test_scores_by_class_are_of_metrics_that_are_means_over_classes():
    for metric in METRICS.values():
        if metric.mean_over != "classes":
            with pytest.raises(NotImplementedError, match=f"{metric.name} is no mean over classes"):
                metric.by_class(None)


def _sums(name, power):
    """A statistic of this name, and a metric on it: the mean of a power of the features."""

    @dataclass(frozen=True, slots=True, eq=False)
    class Sums(Statistic):
        total: torch.Tensor
        pixels: torch.Tensor

        @classmethod
        def from_images(cls, images, labels, **options):
            features, one_hot, faults = cls.cells(images, labels, **options)
            return cls((features**power).sum((-2, -1)), one_hot.sum((-2, -1)), faults=faults)

        @property
        def batch_shape(self):
            return self.total.shape

        @property
        def count(self):
            return self.pixels.to(torch.int64)

        @classmethod
        def numbers(cls, channels, num_classes, pixels):
            return 2

    @dataclass(frozen=True, kw_only=True)
    class Mean(TransferabilityMetric):
        unit: ClassVar = "none"
        mean_over: ClassVar = "pixels"

        @property
        def looks(self):
            return (Look(Sums),)

        def score(self, sums):
            return sums.total / sums.pixels

    Mean.name = name
    return Mean()


def test_statistics_of_one_name_that_are_not_the_same_are_an_error():
    with pytest.raises(
        ValueError, match=r"other: two statistics that are not the same are called '.*Sums\(features\)'"
    ):
        as_metrics([_sums("one", 1), _sums("other", 2)])


def test_a_statistic_of_ones_own_may_be_called_as_one_of_the_package(device):
    own = _sums("own", 2)
    own.looks[0].statistic.__name__ = "Moments"
    features, labels = random_images(2, 3, 8, 8, device=device, dtype=torch.float64)
    scores = Scorer(metrics=[own, "logme"], num_classes=4)([(features, labels)])
    assert scores["own"].score == pytest.approx(own(features, labels).item(), rel=1e-12)
    assert scores["logme"].score == pytest.approx(LogME()(features, labels).item(), rel=1e-12)


def test_a_mean_over_pixels_with_a_single_look_has_scores_by_class(device):
    features, labels = random_images(2, 3, 8, 8, device=device, dtype=torch.float64)
    score = Scorer(metrics=_sums("mean", 1), num_classes=4, sampling=Sampling(num_pixels=60))([(features, labels)])[
        "mean"
    ]
    pixels = Pixels.of(features, labels)
    (sample,) = Sampling(num_pixels=60).draw(pixels.features, pixels, num_classes=4)
    for k, value in enumerate(score.by_class):
        assert value == pytest.approx(sample.features[sample.labels == k].sum(-1).mean().item(), rel=1e-9)


def test_a_source_without_couplings_is_an_error():
    @dataclass(frozen=True, kw_only=True)
    class Needy(LogME):
        needs_source: ClassVar = True

    with pytest.raises(ValueError, match="logme needs a source, which is what a CoupledMetric has"):
        as_metric(Needy())


@pytest.mark.usefixtures("annotations_unchecked")
def test_a_class_instead_of_an_object_is_an_error():
    with pytest.raises(ValueError, match=r"metrics: LogME is a class: give an object, LogME\(\)"):
        as_metrics(LogME)
