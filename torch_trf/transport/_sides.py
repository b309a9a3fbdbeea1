"""The pixels of both sides, checked at the border."""

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from ..statistics import JointMass


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Target and source pixels that belong together; a negative label stands for no pixel."""

    features: Float[Tensor, "*batch M D"]
    labels: Integer[Tensor, "*batch M"]
    source_features: Float[Tensor, "*batch N D"]
    source_labels: Integer[Tensor, "*batch N"]
    num_classes: int
    num_source_classes: int

    @classmethod
    def of(
        cls,
        features: Tensor,
        labels: Tensor,
        source: tuple[Tensor, Tensor],
        num_classes: int | None,
        num_source_classes: int | None,
    ) -> "Sides":
        """Checked pixels, the source's with the target's leading dimensions; waits for the device.

        Raises:
            ValueError: shapes or devices that do not belong together, no pixel at all, labels that are no integers or
                outside the classes, or features of labeled pixels that are NaN or infinite.
        """
        num_classes = _checked_classes(features, labels, num_classes, "target")
        num_source_classes = _checked_classes(*source, num_source_classes, "source")
        JointMass.require_fits(num_source_classes, num_classes)
        return cls.joined(features, labels, source, num_classes, num_source_classes)

    @classmethod
    def joined(
        cls,
        features: Tensor,
        labels: Tensor,
        source: tuple[Tensor, Tensor],
        num_classes: int,
        num_source_classes: int,
    ) -> "Sides":
        """Pixels that were checked, each side by itself; no value is looked at.

        Raises:
            ValueError: sides that do not belong together.
        """
        _check_model(features, source[0])
        return cls(features, labels, *_broadcast(*source, labels.shape[:-1]), num_classes, num_source_classes)

    @property
    def device(self) -> torch.device:
        """Where the pixels lie."""
        return self.features.device

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the label mass, `[*batch, K, Z]`."""
        return (*self.labels.shape[:-1], self.num_classes, self.num_source_classes)

    def warn_of_equal_features(self) -> None:
        """Warns where the features of a side are all equal, in each problem, and so tell nothing of the labels."""
        sides = {"target": (self.features, self.labels), "source": (self.source_features, self.source_labels)}
        equal = [name for name, (features, labels) in sides.items() if _are_equal(features, labels >= 0)]
        if equal:
            warnings.warn(
                f"the features of all {' and all '.join(equal)} pixels are equal: every coupling costs the same, so"
                " each pixel is coupled with all alike, and the score tells nothing of the model. Did a layer die?",
                stacklevel=4,
            )

    def check_label_cost(self, label_cost: Tensor) -> None:
        """Raises where labels cannot cost this.

        Raises:
            ValueError: another shape or device, or values that are negative, NaN or infinite.
        """
        if label_cost.device != self.device:
            devices = f"label_cost is on {label_cost.device}, the pixels on {self.device}"
            raise ValueError(f"{devices}: put them on one device")
        if label_cost.shape != torch.Size(self.shape):
            shapes = f"label_cost {list(label_cost.shape)} must be {list(self.shape)}"
            raise ValueError(f"{shapes}: target classes, source classes")
        if not (label_cost.isfinite() & (label_cost >= 0)).all():
            values = f"{float(label_cost.min()):g} to {float(label_cost.max()):g}"
            raise ValueError(f"label_cost must be finite and at least 0, not {values}")


def _are_equal(features: Tensor, is_pixel: Tensor) -> bool:
    """Whether there are several pixels in a problem, and in none of them do pixels differ."""
    first = is_pixel.to(torch.uint8).argmax(-1, keepdim=True).unsqueeze(-1)
    differs = (features != features.take_along_dim(first, -2)).any(-1) & is_pixel
    return bool((is_pixel.sum(-1) > 1).any() & ~differs.any())


def _checked_classes(features: Tensor, labels: Tensor, num_classes: int | None, side: str) -> int:
    """The number of classes of one side: as given, or the largest label plus one."""
    shapes = f"{side} features {list(features.shape)} and labels {list(labels.shape)}"
    if features.dim() < 2 or features.shape[:-1] != labels.shape:
        raise ValueError(f"{shapes}: expected [..., pixels, channels] and [..., pixels]")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{side} labels must be integers, not {labels.dtype}")
    if features.device != labels.device:
        raise ValueError(f"{side} features are on {features.device}, labels on {labels.device}: put them on one device")
    if features.numel() == 0:
        raise ValueError(f"{shapes} hold no pixel")
    largest = int(labels.to(torch.int64).max())
    if num_classes is not None and largest >= num_classes:
        raise ValueError(f"{side} label {largest} is outside [0, {num_classes})")
    if bad := int((~features.isfinite().all(-1) & (labels >= 0)).sum()):
        raise ValueError(f"{side} features of {bad:,} labeled pixels are NaN or infinite")
    return max(largest + 1, 1) if num_classes is None else num_classes


def _check_model(features: Tensor, source_features: Tensor) -> None:
    """Raises where the features cannot be those of one model, on one device."""
    if source_features.shape[-1] != features.shape[-1]:
        raise ValueError(
            f"source features of {source_features.shape[-1]} channels, target features of {features.shape[-1]}:"
            " both data sets must be seen through the same model"
        )
    if source_features.device != features.device:
        devices = f"source features are on {source_features.device}, target features on {features.device}"
        raise ValueError(f"{devices}: put them on one device")


def _broadcast(features: Tensor, labels: Tensor, batch: torch.Size) -> tuple[Tensor, Tensor]:
    """The source's pixels, with the target's leading dimensions."""
    try:
        return features.expand(*batch, *features.shape[-2:]), labels.expand(*batch, labels.shape[-1])
    except RuntimeError as error:
        leading = f"leading dimensions {list(labels.shape[:-1])} of the source"
        raise ValueError(f"{leading} do not broadcast to those of the target, {list(batch)}") from error
