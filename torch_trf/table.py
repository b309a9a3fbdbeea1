"""The table of metrics that scores, maps and front ends read, and the statistics that it names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from . import metrics as functions
from .pixels import Pixels
from .statistics import JointMass, LogLikelihood, Moments, PixelSample, Statistic
from .transport import JC_GAMMA

MapMetricName = Literal["leep", "logme", "hscore", "regularized_hscore", "nce", "otce", "jc_otce"]
MetricName = Literal[MapMetricName, "knn"]  # the pixels of a patch are alike, whatever the features: no map
FeatureMetricName = Literal["logme", "hscore", "regularized_hscore", "otce", "jc_otce", "knn"]

COUPLED = ("source_sample", "feature_sample")
STATISTICS: dict[str, type[Statistic]] = {
    "moments": Moments,
    "softmax_moments": Moments,  # of the softmax of the features
    "soft_mass": JointMass,
    "hard_mass": JointMass,
    "log_likelihood": LogLikelihood,
    "feature_sample": PixelSample,
    "logit_sample": PixelSample,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the table.

    Attributes:
        statistics: what must be known of the pixels, in the order in which it can be known; the score is computed from
            the last one, or from a coupling of both samples.
        reads: which of a batch's tensors they are built from.
        function: the score of a statistic, given the options of whoever asks (a `Scorer` or a `Mapper`).
        unit: of the score.
        by_class: what `function` is the mean of, over the classes that are not NaN, of a metric that is such a mean.
        gamma: share of the features in the ground cost, of a metric that couples source and target pixels.
    """

    statistics: tuple[str, ...]
    reads: Literal["features", "logits"]
    function: Callable[[Any, Any], Tensor]
    unit: str
    by_class: Callable[[Any, Any], Tensor] | None = None
    gamma: float | None = None

    @property
    def draws(self) -> bool:
        """Whether the metric is of a sample of pixels, however many there are."""
        return "feature_sample" in self.statistics

    def read(self, pixels: Pixels) -> Tensor:
        """The tensor of a batch that the metric reads.

        Raises:
            ValueError: class scores that are missing.
        """
        return class_scores(pixels) if self.reads == "logits" else pixels.features


METRICS: dict[str, Metric] = {
    "leep": Metric(("soft_mass", "log_likelihood"), "logits", lambda x, _: functions.leep(x), "nats"),
    "logme": Metric(
        ("moments",),
        "features",
        lambda x, options: functions.logme(x, absent_classes=options.absent_classes),
        "nats",
        by_class=lambda x, options: functions.logme_by_class(x, absent_classes=options.absent_classes),
    ),
    "hscore": Metric(
        ("moments",), "features", lambda x, options: functions.hscore(x, rcond=options.rcond), "directions"
    ),
    "regularized_hscore": Metric(("moments",), "features", lambda x, _: functions.regularized_hscore(x), "directions"),
    "nce": Metric(("hard_mass",), "logits", lambda x, _: functions.nce(x), "nats"),
    "otce": Metric(COUPLED, "features", lambda x, _: functions.otce(x), "nats", gamma=1.0),
    "jc_otce": Metric(COUPLED, "features", lambda x, _: functions.otce(x), "nats", gamma=JC_GAMMA),
    "knn": Metric(
        ("feature_sample",), "features", lambda x, options: functions.knn(x, neighbors=options.neighbors), "share"
    ),
}


def statistic(name: str, pixels: Pixels, *, num_classes: int, **options: Any) -> Moments | JointMass | LogLikelihood:
    """A statistic of the table, from pixels.

    Args:
        name: "moments", "softmax_moments" (of the softmax of the features), "soft_mass", "hard_mass" or
            "log_likelihood".
        pixels: a batch.
        num_classes: K.
        **options: of the statistic's `from_pixels`.

    Raises:
        ValueError: as `from_pixels`, or logits that are missing.
    """
    if name == "moments":
        return Moments.from_pixels(pixels.features, pixels.labels, num_classes=num_classes, **options)
    if name == "softmax_moments":
        softmax = pixels.features.softmax(1, torch.float64)
        return Moments.from_pixels(softmax, pixels.labels, num_classes=num_classes, **options)
    logits = class_scores(pixels)
    if name == "log_likelihood":
        return LogLikelihood.from_pixels(logits, pixels.labels, **options)
    hard = name == "hard_mass"
    return JointMass.from_pixels(logits, pixels.labels, num_classes=num_classes, hard=hard, **options)


def class_scores(pixels: Pixels) -> Tensor:
    """The source model's class scores.

    Raises:
        ValueError: a batch without them.
    """
    if pixels.logits is None:
        raise ValueError(
            "leep and nce read the source model's class scores: give logits beside features and labels (or, to a live"
            " metric, features_are_logits=True where the features are class scores)"
        )
    return pixels.logits
