"""What a metric is: an object that says what it must know of the pixels, and how that makes a score."""

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from .._checks import require_finite, require_types
from ..pixels import Pixels, count_classes
from ..statistics import NOT_DRAWN, PixelSample, Statistic
from ._look import Look, TensorName


@dataclass(frozen=True, kw_only=True)
class TransferabilityMetric(ABC):
    """How well a source model transfers to labeled target pixels; higher is better.

    A metric is a value: a frozen dataclass whose fields are its options. Scores, maps, live scores, rankings and the
    command line take any metric by this interface, and those of this package by their names, too.

    Attributes:
        name: what scores are called by.
        unit: of the score.
        needs_source: whether it compares target pixels with source pixels, as every `CoupledMetric` does.
        is_log_likelihood: whether the exponential of the score is a mean likelihood, in [0, 1].
        least_pixels: how many labeled pixels a score needs.
        mean_over: what the score is a mean of, which gives scores by class: over "classes", those of `by_class`; over
            "pixels", the score of the pixels of each class alone; None of neither.

    Example:
        >>> metric = torch_trf.metrics.LogME(absent_classes="include")
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> round(metric(features, labels).item(), 3)  # of tensors
        -0.144
        >>> round(metric.score(Moments.from_pixels(features, labels, num_classes=2)).item(), 3)  # of a statistic
        -0.144
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    needs_source: ClassVar[bool] = False
    is_log_likelihood: ClassVar[bool] = False
    least_pixels: ClassVar[int] = 1
    mean_over: ClassVar[Literal["classes", "pixels"] | None] = None

    def __post_init__(self) -> None:
        """Checks the options."""
        require_types(self)

    @property
    @abstractmethod
    def looks(self) -> tuple[Look, ...]:
        """What must be known of the pixels, in order; each further look is given what the one before it gave.

        All looks read the same tensor.
        """

    @abstractmethod
    def score(self, statistic: Any) -> Float64[Tensor, "*batch"]:
        """The score of what the last look gave, one for each leading index; NaN without a pixel.

        Every reduction names its dimensions from the right: the same lines then give a score and a map.
        """

    def by_class(self, statistic: Any) -> Float64[Tensor, "*batch K"]:
        """Per-class scores, for a metric that is a mean over classes; NaN for a class that does not count."""
        raise NotImplementedError(f"{self.name} is no mean over classes")

    def standard_error(self, statistic: Any, population: Int64[Tensor, "*batch"]) -> Float64[Tensor, "*batch"] | None:
        """The standard error of a score whose last look was at a uniform sample of a population of pixels.

        None for a metric that does not tell.
        """
        return None

    def doubt(self, statistic: Any) -> str | None:
        """Why a score of this statistic may be wrong, though it is a number; None where nothing speaks against it."""
        return None

    def warn_of(self, *doubts: str | None) -> None:
        """Warns of the first of these doubts, where there is one."""
        for doubt in filter(None, doubts):
            warnings.warn(f"{self.name}: {doubt}", stacklevel=3)
            break

    def bounds(self, num_classes: int, channels: int) -> tuple[float, float]:
        """Between which numbers every score lies; no bounds by default."""
        return -math.inf, math.inf

    @property
    def reads(self) -> TensorName:
        """Which tensor of a batch it looks at."""
        return self.looks[0].reads

    @property
    def draws(self) -> bool:
        """Whether it is always of a sample of pixels, because a look holds the pixels themselves."""
        return self.looks[0].statistic.draws

    @property
    def has_map(self) -> bool:
        """Whether patches of images have scores; not by default where they would be of a few pixels themselves."""
        return not self.draws

    @property
    def look_names(self) -> tuple[str, ...]:
        """What is looked at, told apart from what any other metric looks at."""
        names = [str(look) for look in self.looks]
        return tuple(" then ".join(names[: depth + 1]) for depth in range(len(names)))

    def __call__(
        self,
        tensor: Float[Tensor, "..."],
        labels: Integer[Tensor, "..."],
        /,
        *,
        num_classes: int | None = None,
        ignore_index: int = 255,
    ) -> Float64[Tensor, ""]:
        """The score of all given pixels, in rows or images, on the CPU or a GPU, without gradient.

        Args:
            tensor: what the metric reads: features of any layer, or the source model's class scores before softmax,
                `[N, C]` or `[B, C, H, W]`.
            labels: `[N]` or `[B, H, W]`, target classes.
            num_classes: K; the largest label plus one by default.
            ignore_index: label of the pixels to leave out.

        Returns:
            0-d, on the tensor's device; higher is better.

        Raises:
            ValueError: shapes, dtypes or devices that do not fit, labels outside `[0, K)`, features that are NaN or
                infinite, or fewer labeled pixels than the metric needs.

        Example:
            >>> round(torch_trf.leep(torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])).item(), 4)
            -0.0002
        """
        pixels = Pixels.of(tensor, labels, tensor)
        num_classes = count_classes(pixels.labels, num_classes, ignore_index)
        statistic: Statistic | None = None
        for look in self.looks:
            statistic = look(pixels, statistic, num_classes=num_classes, ignore_index=ignore_index)
            statistic.require_pixels(num_classes, ignore_index)
        self.require_enough(statistic)
        score = require_finite(self.score(statistic), self.name)
        self.warn_of(self.doubt(statistic))
        return score.reshape(())

    def by_class_at_sample(
        self, sample: PixelSample, before: Statistic | None, *, num_classes: int
    ) -> Float64[Tensor, "R {num_classes}"]:
        """The score of the drawn pixels of each class alone, for a metric that is a mean over pixels.

        Args:
            sample: `[R]`.
            before: what the look before the last gave of all drawn pixels, `[R]`; None of a single look.
            num_classes: K.

        Returns:
            NaN for a class without a pixel.
        """
        scores = []
        for k in range(num_classes):
            alone = replace(sample, labels=sample.labels.where(sample.labels == k, NOT_DRAWN))
            scores.append(self.score(self.looks[-1].at_sample(alone, before, num_classes=num_classes)))
        return torch.stack(scores, -1)

    def require_enough(self, statistic: Any) -> None:
        """Raises where an entry has fewer labeled pixels than the score needs; waits for the device.

        Raises:
            ValueError: with how many there are.
        """
        least = int(statistic.count.min())
        if least < self.least_pixels:
            raise ValueError(f"{self.name} needs at least {self.least_pixels} labeled pixels, not {least}")
