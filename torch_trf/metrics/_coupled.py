"""Metrics that compare target pixels with source pixels, coupled by optimal transport."""

import math
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from .._checks import require_finite
from ..pixels import as_images, count_classes
from ..statistics import JointMass, PixelSample, checked_classes
from ..transport import Coupling, Sides, SolverLike, as_solver, couple_sides_jointly
from ._look import Look
from ._metric import TransferabilityMetric
from ._nce import negative_conditional_entropy

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CoupledMetric(TransferabilityMetric):
    """A metric whose score is that of a `transport.Coupling` of target and source pixels, seen through one model.

    Args:
        softmax: whether to read the softmax of the features instead of the features.
    """

    needs_source: ClassVar = True

    softmax: bool = False

    @property
    def looks(self) -> tuple[Look, ...]:
        """The target pixels; those of the source are drawn alike."""
        return (Look(PixelSample, softmax=self.softmax),)

    @property
    def has_map(self) -> bool:
        """A patch of the target is coupled with the patch of the source at the same place."""
        return True

    @property
    def gamma(self) -> float:
        """Share of the features in the ground cost; the rest is that of the distances of labels."""
        return 1.0

    def couple_pixels(
        self,
        features: Float[Tensor, "*batch M D"],
        labels: Int64[Tensor, "*batch M"],
        *,
        source: tuple[Float[Tensor, "*source_batch N D"], Int64[Tensor, "*source_batch N"]],
        num_classes: int,
        num_source_classes: int,
        solver: SolverLike = "auto",
        progress: bool = False,
    ) -> Coupling:
        """The coupling that the score is of.

        The pixels were checked, features are what `looks` reads, and negative labels stand for no pixel.
        """
        JointMass.require_fits(num_source_classes, num_classes)
        sides = Sides.joined(features, labels, source, num_classes, num_source_classes)
        return couple_sides_jointly(sides, gamma=self.gamma, solver=as_solver(solver), progress=progress)

    def require_source(self, source: T | None) -> T:
        """The source, which must be there.

        Raises:
            ValueError: None.
        """
        if source is None:
            raise ValueError(f"{self.name} compares two data sets: a source is needed beside the target")
        return source

    def score(self, coupling: Coupling) -> Float64[Tensor, "*batch"]:
        """How well the source label tells the target label once their pixels are coupled, in nats."""
        return negative_conditional_entropy(coupling.joint_mass)

    def bounds(self, num_classes: int, channels: int) -> tuple[float, float]:
        """`[-ln K, 0]`."""
        return -math.log(num_classes), 0.0

    def couple(
        self,
        features: Float[Tensor, "..."],
        labels: Integer[Tensor, "..."],
        /,
        *,
        source: tuple[Float[Tensor, "..."], Integer[Tensor, "..."]],
        num_classes: int | None = None,
        num_source_classes: int | None = None,
        ignore_index: int = 255,
        solver: SolverLike = "auto",
    ) -> Coupling:
        """The coupling of all given pixels, with its cost and how far it can be trusted.

        On two cores, exactly, 2,000 pixels a side take about a second and 10,000 about ten. A `Scorer` draws a sample
        where there are many more.

        Args:
            features: `[M, D]` or `[B, D, H, W]`, of target pixels.
            labels: `[M]` or `[B, H, W]`, target classes.
            source: features and labels of source pixels, likewise, seen through the same model.
            num_classes: K, number of target classes; the largest target label plus one by default.
            num_source_classes: Z, number of source classes; the largest source label plus one by default.
            ignore_index: label of the pixels to leave out, on both sides.
            solver: "auto", "exact", "sinkhorn", or one of `transport`, as `transport.Sinkhorn(epsilon=0.01)`.

        Raises:
            ValueError: as for a call.
            ConvergenceError: a strict solver, and a coupling that did not converge.

        Example:
            >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
            >>> coupling = torch_trf.otce.couple(x + 1, y, source=(x, y))
            >>> coupling.solver, round(coupling.cost.item(), 9)
            ('exact', 1.0)
        """
        target_rows, target_labels, num_classes = self._rows(features, labels, num_classes, ignore_index)
        source_rows, source_labels, num_source_classes = self._rows(*source, num_source_classes, ignore_index)
        return self.couple_pixels(
            target_rows,
            target_labels,
            source=(source_rows, source_labels),
            num_classes=num_classes,
            num_source_classes=num_source_classes,
            solver=solver,
        )

    def __call__(  # type: ignore[override]  # of two data sets
        self,
        features: Float[Tensor, "..."],
        labels: Integer[Tensor, "..."],
        /,
        *,
        source: tuple[Float[Tensor, "..."], Integer[Tensor, "..."]],
        num_classes: int | None = None,
        num_source_classes: int | None = None,
        ignore_index: int = 255,
        solver: SolverLike = "auto",
    ) -> Float64[Tensor, ""]:
        """The score of all given pixels; arguments as for `couple`.

        Returns:
            0-d, on the features' device; higher is better.

        Raises:
            ValueError: shapes, dtypes or devices that do not fit, labels outside the classes, features that are NaN or
                infinite, a side without a labeled pixel, or sides of different D.
            ConvergenceError: as `couple`.

        Example:
            >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
            >>> torch_trf.otce(x + 1, y, source=(x, y)).item()
            0.0
        """
        coupling = self.couple(
            features,
            labels,
            source=source,
            num_classes=num_classes,
            num_source_classes=num_source_classes,
            ignore_index=ignore_index,
            solver=solver,
        )
        return require_finite(self.score(coupling), self.name)

    def _rows(
        self, features: Tensor, labels: Tensor, num_classes: int | None, ignore_index: int
    ) -> tuple[Tensor, Tensor, int]:
        """Rows of what the metric reads with their class, -1 where a pixel is left out, and the number of classes."""
        images, labels = as_images(features, labels)
        num_classes = count_classes(labels, num_classes, ignore_index)
        classes = checked_classes(labels, num_classes, ignore_index, images)
        if (classes < 0).all():
            raise ValueError(f"no labeled pixel: every label is ignore_index={ignore_index}")
        return self.looks[0].softened(images).movedim(1, -1).flatten(0, -2), classes.flatten(), num_classes
