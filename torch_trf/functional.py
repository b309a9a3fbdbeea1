"""One score from tensors: each metric as a function of features, or logits, and labels.

Every function takes pixels as rows, `[N, D]` with `[N]`, or as images, `[B, D, H, W]` with `[B, H, W]`, on the CPU or a
GPU, and returns a float64 0-d tensor on the same device, without gradient. The formulas and their sources stand with
the metrics themselves, in `torch_trf.metrics`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from . import metrics
from .metrics._checks import require_finite, require_pixels
from .metrics._hscore import RCOND
from .metrics._knn import NEIGHBORS, require_neighbors
from .pixels import as_images
from .statistics import JointMass, LogLikelihood, Moments, PixelSample
from .statistics._faults import checked_classes
from .transport import JC_GAMMA, JointLabelMass, couple


def leep(
    logits: Float[Tensor, "..."],
    labels: Integer[Tensor, "..."],
    *,
    num_classes: int | None = None,
    ignore_index: int = 255,
) -> Float64[Tensor, ""]:
    """LEEP of a source model's predictions on labeled target pixels, in nats a pixel (`metrics.leep`).

    Args:
        logits: `[N, Z]` or `[B, Z, H, W]`, the source model's class scores before softmax. Of probabilities, pass the
            logarithm.
        labels: `[N]` or `[B, H, W]`, target classes.
        num_classes: K; the largest label plus one by default.
        ignore_index: label of the pixels to leave out.

    Returns:
        0-d, in `[-ln K, 0]`; higher is better.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, labels outside `[0, K)`, features that are NaN or
            infinite, or no labeled pixel.

    Example:
        >>> round(torch_trf.leep(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])).item(), 4)
        -0.0002
    """
    num_classes = count_classes(labels, num_classes, ignore_index)
    joint_mass = JointMass.from_pixels(logits, labels, num_classes=num_classes, ignore_index=ignore_index)
    log_likelihood = LogLikelihood.from_pixels(logits, labels, joint_mass=joint_mass, ignore_index=ignore_index)
    require_pixels(log_likelihood, num_classes=num_classes, ignore_index=ignore_index)
    return require_finite(metrics.leep(log_likelihood))


def nce(
    logits: Float[Tensor, "..."],
    labels: Integer[Tensor, "..."],
    *,
    num_classes: int | None = None,
    ignore_index: int = 255,
) -> Float64[Tensor, ""]:
    """NCE of a source model's hard predictions on labeled target pixels, in nats (`metrics.nce`).

    Args:
        logits: `[N, Z]` or `[B, Z, H, W]`, class scores of the source model; the largest of a pixel is its prediction.
        labels: `[N]` or `[B, H, W]`, target classes.
        num_classes: K; the largest label plus one by default.
        ignore_index: label of the pixels to leave out.

    Returns:
        0-d, in `[-ln K, 0]`; higher is better.

    Raises:
        ValueError: as `leep`.

    Example:
        >>> torch_trf.nce(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])).item()
        0.0
    """
    num_classes = count_classes(labels, num_classes, ignore_index)
    joint_mass = JointMass.from_pixels(logits, labels, num_classes=num_classes, ignore_index=ignore_index, hard=True)
    require_pixels(joint_mass, num_classes=num_classes, ignore_index=ignore_index)
    return require_finite(metrics.nce(joint_mass))


def logme(
    features: Float[Tensor, "..."],
    labels: Integer[Tensor, "..."],
    *,
    num_classes: int | None = None,
    ignore_index: int = 255,
    absent_classes: Literal["skip", "include"] = "skip",
) -> Float64[Tensor, ""]:
    """LogME of labeled target features, in nats a pixel (`metrics.logme`).

    Args:
        features: `[N, D]` or `[B, D, H, W]`, from any layer.
        labels: `[N]` or `[B, H, W]`, target classes.
        num_classes: K; the largest label plus one by default.
        ignore_index: label of the pixels to leave out.
        absent_classes: whether classes without pixels are left out of the mean or, as in published code, averaged in.

    Returns:
        0-d, unbounded; higher is better.

    Raises:
        ValueError: as `leep`.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> round(torch_trf.logme(features, torch.tensor([0, 0, 1, 1])).item(), 3)
        -0.144
    """
    moments = _moments(features, labels, num_classes, ignore_index)
    return require_finite(metrics.logme(moments, absent_classes=absent_classes))


def hscore(
    features: Float[Tensor, "..."],
    labels: Integer[Tensor, "..."],
    *,
    num_classes: int | None = None,
    ignore_index: int = 255,
    rcond: float = RCOND,
) -> Float64[Tensor, ""]:
    """H-score of labeled target features, in number of directions (`metrics.hscore`).

    Args:
        features: `[N, D]` or `[B, D, H, W]`, from any layer. Published code takes the softmax of logits.
        labels: `[N]` or `[B, H, W]`, target classes.
        num_classes: K; the largest label plus one by default.
        ignore_index: label of the pixels to leave out.
        rcond: directions whose variance is at most this times the largest are dropped.

    Returns:
        0-d, in `[0, min(D, K - 1)]`; higher is better.

    Raises:
        ValueError: as `leep`.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> round(torch_trf.hscore(features, torch.tensor([0, 0, 1, 1])).item(), 3)
        0.988
    """
    moments = _moments(features, labels, num_classes, ignore_index)
    return require_finite(metrics.hscore(moments, rcond=rcond))


def regularized_hscore(
    features: Float[Tensor, "..."],
    labels: Integer[Tensor, "..."],
    *,
    num_classes: int | None = None,
    ignore_index: int = 255,
) -> Float64[Tensor, ""]:
    """H-score of labeled target features with a shrunk covariance (`metrics.regularized_hscore`).

    Args:
        features: `[N, D]` or `[B, D, H, W]`, from any layer.
        labels: `[N]` or `[B, H, W]`, target classes.
        num_classes: K; the largest label plus one by default.
        ignore_index: label of the pixels to leave out.

    Returns:
        0-d, at least 0; higher is better.

    Raises:
        ValueError: as `leep`.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> round(torch_trf.regularized_hscore(features, torch.tensor([0, 0, 1, 1])).item(), 3)
        1.301
    """
    moments = _moments(features, labels, num_classes, ignore_index)
    return require_finite(metrics.regularized_hscore(moments))


def knn(
    features: Float[Tensor, "..."],
    labels: Integer[Tensor, "..."],
    *,
    num_classes: int | None = None,
    ignore_index: int = 255,
    neighbors: int = NEIGHBORS,
) -> Float64[Tensor, ""]:
    """Leave-one-out accuracy of a k-nearest-neighbor classifier of labeled target features (`metrics.knn`).

    Of all given pixels, in time that grows with the square of their number: on two cores 10,000 of 256 channels take
    about two seconds. Draw a sample first (`PixelSample`, or a `Scorer`) where there are many more.

    Args:
        features: `[N, D]` or `[B, D, H, W]`, from any layer.
        labels: `[N]` or `[B, H, W]`, target classes.
        num_classes: K; the largest label plus one by default.
        ignore_index: label of the pixels to leave out.
        neighbors: k, the number of nearest pixels that vote for the class of a pixel.

    Returns:
        0-d, the share of pixels classified rightly, in `[0, 1]`; higher is better.

    Raises:
        ValueError: as `leep`, a single labeled pixel, or less than one neighbor.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> torch_trf.knn(features, torch.tensor([0, 0, 1, 1]), neighbors=1).item()
        1.0
    """
    num_classes = count_classes(labels, num_classes, ignore_index)
    size = max(labels.numel(), 1)  # as_images says what is wrong without any
    sample = PixelSample.from_pixels(features, labels, size=size, num_classes=num_classes, ignore_index=ignore_index)[0]
    require_pixels(sample, num_classes=num_classes, ignore_index=ignore_index)
    require_neighbors(sample)
    return require_finite(metrics.knn(sample, neighbors=neighbors))


@dataclass(frozen=True, slots=True, eq=False)
class OTCEResult:
    """An OTCE or JC-OTCE with what it rests on.

    Attributes:
        score: 0-d, in `[-ln K, 0]`; higher is better.
        coupling: label mass, cost and diagnostics of the coupling that it was computed from.
    """

    score: Float64[Tensor, ""]
    coupling: JointLabelMass


def otce(
    source_features: Float[Tensor, "..."],
    source_labels: Integer[Tensor, "..."],
    target_features: Float[Tensor, "..."],
    target_labels: Integer[Tensor, "..."],
    **options: Any,
) -> Float64[Tensor, ""]:
    """OTCE between labeled source and target pixels seen through one model, in nats (`metrics.otce`).

    The optimal coupling of all given pixels: on two cores, exactly, 2,000 a side take about a second and 10,000 about
    ten. Draw a sample first (`PixelSample`, or a `Scorer`) where there are many more.

    Args:
        source_features: `[N, D]` or `[B, D, H, W]`.
        source_labels: `[N]` or `[B, H, W]`, source classes.
        target_features: `[M, D]` or `[B', D, H', W']`.
        target_labels: `[M]` or `[B', H', W']`, target classes.
        **options: of `otce_result`, gamma aside.

    Returns:
        0-d, in `[-ln K, 0]`; higher is better.

    Raises:
        ValueError: as `leep`, or source and target features of different D.
        ConvergenceError: as `transport.joint_label_mass`.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> torch_trf.otce(x, y, x + 1, y).item()
        0.0
    """
    return otce_result(source_features, source_labels, target_features, target_labels, gamma=1.0, **options).score


def jc_otce(
    source_features: Float[Tensor, "..."],
    source_labels: Integer[Tensor, "..."],
    target_features: Float[Tensor, "..."],
    target_labels: Integer[Tensor, "..."],
    *,
    gamma: float = JC_GAMMA,
    **options: Any,
) -> Float64[Tensor, ""]:
    """JC-OTCE: OTCE with the distances of the labels in the ground cost, in nats (`transport.couple`).

    Args:
        source_features: as for `otce`.
        source_labels: as for `otce`.
        target_features: as for `otce`.
        target_labels: as for `otce`.
        gamma: share of the features in the ground cost, above 0 and at most 1.
        **options: of `otce_result`.

    Returns:
        0-d, in `[-ln K, 0]`; higher is better.

    Raises:
        ValueError: as `otce`, or gamma out of its range.
        ConvergenceError: as `transport.joint_label_mass`.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> torch_trf.jc_otce(x, y, x + 1, y).item()
        0.0
    """
    return otce_result(source_features, source_labels, target_features, target_labels, gamma=gamma, **options).score


def otce_result(
    source_features: Float[Tensor, "..."],
    source_labels: Integer[Tensor, "..."],
    target_features: Float[Tensor, "..."],
    target_labels: Integer[Tensor, "..."],
    *,
    gamma: float = 1.0,
    num_classes: int | None = None,
    num_source_classes: int | None = None,
    ignore_index: int = 255,
    **solver_options: Any,
) -> OTCEResult:
    """OTCE with the cost of the coupling that it was computed from, and how far that can be trusted.

    Args:
        source_features: as for `otce`.
        source_labels: as for `otce`.
        target_features: as for `otce`.
        target_labels: as for `otce`.
        gamma: share of the features in the ground cost; 1 gives OTCE, less JC-OTCE.
        num_classes: K, number of target classes; the largest target label plus one by default.
        num_source_classes: Z, number of source classes; the largest source label plus one by default.
        ignore_index: label of the pixels to leave out, on both sides.
        **solver_options: solver ("auto", "exact" or "sinkhorn"), epsilon, relative_epsilon, tolerance, max_iterations,
            strict and progress, as for `transport.joint_label_mass`.

    Raises:
        ValueError: as `otce`.
        ConvergenceError: as `transport.joint_label_mass`.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> found = torch_trf.otce_result(x, y, x + 1, y).coupling
        >>> found.solver, round(found.cost.item(), 9)
        ('exact', 1.0)
    """
    num_classes = count_classes(target_labels, num_classes, ignore_index)
    num_source_classes = count_classes(source_labels, num_source_classes, ignore_index)
    coupling = couple(
        *_pixels(source_features, source_labels, num_source_classes, ignore_index),
        *_pixels(target_features, target_labels, num_classes, ignore_index),
        gamma=gamma,
        num_classes=num_classes,
        num_source_classes=num_source_classes,
        **solver_options,
    )
    return OTCEResult(require_finite(metrics.otce(coupling)), coupling)


def count_classes(labels: Tensor, num_classes: int | None, ignore_index: int) -> int:
    """The number of classes: as given, or the largest label plus one."""
    if num_classes is not None:
        return num_classes
    if labels.numel() == 0:
        return 1  # as_images says what is wrong
    labels = labels.to(torch.int64)
    return max(int(labels.where(labels != ignore_index, 0).max()) + 1, 1)


def _moments(features: Tensor, labels: Tensor, num_classes: int | None, ignore_index: int) -> Moments:
    num_classes = count_classes(labels, num_classes, ignore_index)
    moments = Moments.from_pixels(features, labels, num_classes=num_classes, ignore_index=ignore_index)
    require_pixels(moments, num_classes=num_classes, ignore_index=ignore_index)
    return moments


def _pixels(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Rows of features with their class, -1 where a pixel is left out."""
    features, labels = as_images(features, labels)
    classes = checked_classes(labels, num_classes, ignore_index, features)
    if (classes < 0).all():
        raise ValueError(f"no labeled pixel: every label is ignore_index={ignore_index}")
    return features.movedim(1, -1).flatten(0, -2), classes.flatten()
