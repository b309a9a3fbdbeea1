"""Pixels that should not be there."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from .._collectives import reduced
from .._ops import LARGEST_INT64, LEAST_INT64, class_index, fault_columns
from ._class_scores import DOUBTS, NOTHING, look_of_class_scores
from ._mergeable import Mergeable


@dataclass(frozen=True, slots=True, eq=False)
class Faults(Mergeable):
    """Labels outside the classes and pixels that are not finite, counted on the device where they were met.

    Beside them, what class scores look like, which may be another thing.

    Nothing can raise on a GPU without waiting for it, so statistics carry their faults until somebody asks for a
    score: `check` raises then. On the CPU every `from_pixels` checks at once.
    """

    bad_labels: Int64[Tensor, "*batch"]
    least_bad_label: Int64[Tensor, "*batch"]
    largest_bad_label: Int64[Tensor, "*batch"]
    non_finite: Int64[Tensor, "*batch"]
    class_scores: Int64[Tensor, "*batch"]

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""
        return self.bad_labels.shape

    @classmethod
    def none(cls) -> "Faults":
        """No fault."""
        zero = torch.zeros((), dtype=torch.int64, device="cpu")
        return cls(zero, zero + LARGEST_INT64, zero + LEAST_INT64, zero, zero + NOTHING)

    @classmethod
    def from_pixels(
        cls,
        labels: Integer[Tensor, "*batch pixels"],
        bad: Bool[Tensor, "*batch pixels"],
        non_finite: Bool[Tensor, "..."],
    ) -> "Faults":
        """The faults of pixels with these labels, where labels are bad and where features are not finite."""
        return cls.from_columns(fault_columns(labels, bad, non_finite))

    @classmethod
    def from_columns(cls, columns: Int64[Tensor, "*batch 4"]) -> "Faults":
        """The faults that an op over patches gives, in the order of the fields."""
        nothing = columns.new_full((), NOTHING).expand(columns.shape[:-1])
        return cls(*(*columns.unbind(-1), nothing))

    def with_class_scores(self, images: Float[Tensor, "B Z H W"]) -> "Faults":
        """These faults, and what the class scores of the same pixels look like; waits for nothing."""
        return replace(self, class_scores=look_of_class_scores(images).expand(self.batch_shape))

    def _pool(self) -> "Faults":
        return type(self)(
            self.bad_labels.sum(0),
            self.least_bad_label.amin(0),
            self.largest_bad_label.amax(0),
            self.non_finite.sum(0),
            self.class_scores.amax(0),
        )

    def all_reduce(self, group: Any = None) -> "Faults":
        """The faults that all ranks met."""
        return type(self)(
            reduced(self.bad_labels, "SUM", group),
            reduced(self.least_bad_label, "MIN", group),
            reduced(self.largest_bad_label, "MAX", group),
            reduced(self.non_finite, "SUM", group),
            reduced(self.class_scores, "MAX", group),
        )

    def nothing(self, device: torch.device) -> "Faults":
        """No fault, of these shapes."""
        return self.none()._map(lambda value: value.to(device).expand(self.batch_shape).clone())

    def check(self, num_classes: int, ignore_index: int) -> None:
        """Raises if there is a fault in any entry, and warns of class scores that look wrong; waits for the device.

        Raises:
            ValueError: with the labels that are no class and how many pixels carry them, or with the number of pixels
                whose features are NaN or infinite.
        """
        self._raise(num_classes, ignore_index)
        if (doubt := int(self.sum().class_scores)) in DOUBTS:
            warnings.warn(DOUBTS[doubt], stacklevel=3)

    def _raise(self, num_classes: int, ignore_index: int) -> None:
        total = self.sum()
        if bad := int(total.bad_labels):
            least, largest = int(total.least_bad_label), int(total.largest_bad_label)
            labels = f"label {least}" if least == largest else f"labels from {least} to {largest}"
            raise ValueError(
                f"{labels} on {bad:,} pixels: outside [0, {num_classes}) and not ignore_index={ignore_index}"
            )
        if non_finite := int(total.non_finite):
            raise ValueError(f"features of {non_finite:,} labeled pixels are NaN or infinite")

    def check_on_cpu(self, num_classes: int, ignore_index: int) -> None:
        """Raises as `check` where it costs nothing; on other devices, and in compiled code, it is left for later."""
        if self.bad_labels.device.type == "cpu" and not torch.compiler.is_compiling():
            self._raise(num_classes, ignore_index)


def checked_classes(
    labels: Integer[Tensor, "B H W"],
    num_classes: int,
    ignore_index: int,
    features: Float[Tensor, "B D H W"] | None = None,
) -> Int64[Tensor, "B H W"]:
    """The class of every pixel, -1 where it has none; waits for the device.

    Raises:
        ValueError: as `Faults.check`.
    """
    index, bad = class_index(labels, num_classes, ignore_index)
    non_finite = torch.zeros_like(bad) if features is None else ~features.isfinite().all(1) & (index >= 0)
    faults = Faults.from_pixels(labels.flatten(), bad.flatten(), non_finite.flatten())
    faults.check(num_classes, ignore_index)
    return index
