"""Metrics: a file for each, gathered here into the table that scores, maps and front ends read."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._class_path import ClassPath, instantiate
from ._coupled import CoupledMetric
from ._look import Look, TensorName
from ._metric import TransferabilityMetric

MetricLike = TransferabilityMetric | ClassPath
DEFAULT_METRICS = ("logme", "hscore")


def _gathered() -> dict[str, TransferabilityMetric]:
    """The metrics that the files of this package define, by name, with their default options."""
    metrics = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for member in vars(importlib.import_module(module.name)).values():
            if isinstance(member, type) and issubclass(member, TransferabilityMetric) and hasattr(member, "name"):
                metrics[member.name] = member()
    return metrics


METRICS: dict[str, TransferabilityMetric] = _gathered()

globals().update({type(metric).__name__: type(metric) for metric in METRICS.values()})
if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...  # the classes of the metrics


def as_metric(metric: MetricLike) -> TransferabilityMetric:
    """A metric by its name, by the path of its class, or as it is.

    Args:
        metric: a name of `METRICS`, the dotted path of a class, `{"class_path": ..., "init_args": {...}}` with either,
            or a metric.

    Raises:
        ValueError: an unknown name, a path that leads nowhere, options that the metric does not have, or a metric whose
            looks read different tensors.

    Example:
        >>> as_metric("leep")
        LEEP()
        >>> as_metric({"class_path": "logme", "init_args": {"absent_classes": "include"}})
        LogME(absent_classes='include', softmax=False)
    """
    if not isinstance(metric, TransferabilityMetric):
        try:
            names = {name: type(each) for name, each in METRICS.items()}
            made: TransferabilityMetric = instantiate(metric, names, kinds=(TransferabilityMetric,))
        except ValueError as error:
            raise ValueError(f"metric: {error}") from error
        metric = made
    if len({look.reads for look in metric.looks}) != 1:
        raise ValueError(f"metric: the looks of {metric.name} must all read features, or all logits")
    if metric.needs_source != isinstance(metric, CoupledMetric):
        raise ValueError(f"metric: {metric.name} needs a source, which is what a CoupledMetric has")
    return metric


def as_metrics(metrics: MetricLike | Sequence[MetricLike]) -> tuple[TransferabilityMetric, ...]:
    """Several metrics, each as for `as_metric`; a single one is one of one.

    Raises:
        ValueError: as `as_metric`, no metric, two of one name, or two that call different statistics by one name.

    Example:
        >>> as_metrics("nce"), as_metrics(["nce", "leep"])
        ((NCE(),), (NCE(), LEEP()))
    """
    if isinstance(metrics, type):
        raise ValueError(f"metrics: {metrics.__name__} is a class: give an object, {metrics.__name__}()")
    several = [metrics] if isinstance(metrics, str | dict | TransferabilityMetric) else metrics
    if not isinstance(several, Sequence):
        raise ValueError(f"metrics: {metrics!r} is neither a metric nor several")
    objects = tuple(map(as_metric, several))
    names = [metric.name for metric in objects]
    if not names:
        raise ValueError(f"no metric asked for; known are {', '.join(METRICS)}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two metrics are called {twice[0]!r}")
    looks: dict[str, tuple[Look, ...]] = {}
    for metric in objects:
        for depth, name in enumerate(metric.look_names, 1):
            if looks.setdefault(name, metric.looks[:depth]) != metric.looks[:depth]:
                raise ValueError(f"{metric.name}: two statistics that are not the same are called {name!r}")
    return objects


__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "CoupledMetric",
    "Look",
    "MetricLike",
    "TensorName",
    "TransferabilityMetric",
    "as_metric",
    "as_metrics",
]
__all__ += [type(metric).__name__ for metric in METRICS.values()]
