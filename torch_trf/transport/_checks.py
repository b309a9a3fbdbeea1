"""What couplings are given, checked at the border."""

import torch
from torch import Tensor


def check_pixels(features: Tensor, labels: Tensor, num_classes: int | None, side: str) -> int:
    """The number of classes of one side: as given, or the largest label plus one; waits for the device.

    Raises:
        ValueError: shapes or devices that do not belong together, no pixel at all, labels that are no integers or
            outside the classes, or features of labeled pixels that are NaN or infinite.
    """
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


def check_sides(source_features: Tensor, target_features: Tensor) -> None:
    """Raises where the sides do not fit together.

    Raises:
        ValueError: leading dimensions, channels or devices that differ.
    """
    if source_features.shape[:-2] != target_features.shape[:-2]:
        source, target = list(source_features.shape[:-2]), list(target_features.shape[:-2])
        raise ValueError(f"the source has leading dimensions {source}, the target {target}: they must be the same")
    if source_features.shape[-1] != target_features.shape[-1]:
        raise ValueError(
            f"source features of {source_features.shape[-1]} channels, target features of {target_features.shape[-1]}:"
            " both data sets must be seen through the same model"
        )
    if source_features.device != target_features.device:
        devices = f"source features are on {source_features.device}, target features on {target_features.device}"
        raise ValueError(f"{devices}: put them on one device")


def check_label_cost(label_cost: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Raises where labels cannot cost this.

    Raises:
        ValueError: another shape or device, or values that are negative, NaN or infinite.
    """
    if label_cost.device != device:
        raise ValueError(f"label_cost is on {label_cost.device}, the pixels on {device}: put them on one device")
    if label_cost.shape != torch.Size(shape):
        raise ValueError(f"label_cost {list(label_cost.shape)} must be {list(shape)}: target classes, source classes")
    if not (label_cost.isfinite() & (label_cost >= 0)).all():
        values = f"{float(label_cost.min()):g} to {float(label_cost.max()):g}"
        raise ValueError(f"label_cost must be finite and at least 0, not {values}")
