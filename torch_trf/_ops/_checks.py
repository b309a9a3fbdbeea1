"""What the ops take: the one place in Python where their tensors are checked, for kernels and references alike."""

import torch
from torch import Tensor

from ._patches import Size, patch_shape

FEATURE_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LABEL_TYPES = (torch.int64, torch.int32, torch.uint8)


def check_pixels(
    features: Tensor, labels: Tensor, num_classes: int, patch: Size, stride: Size, pool_batch: bool
) -> list[int]:
    """The `patch_shape` of features `[B, D, H, W]` and labels `[B, H, W]`, if they are what the ops over patches take.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, no channel, no class, or what `patch_shape` refuses.
    """
    if features.shape[:1] + features.shape[2:] != labels.shape or features.dim() != 4:
        raise ValueError(
            f"features {list(features.shape)} must be [B, D, H, W] and labels {list(labels.shape)} [B, H, W]"
        )
    if features.shape[1] == 0:
        raise ValueError(f"features {list(features.shape)} have no channel")
    if features.dtype not in FEATURE_TYPES:
        raise ValueError(f"features must be float64, float32, float16 or bfloat16, not {features.dtype}")
    if labels.dtype not in LABEL_TYPES:
        raise ValueError(f"labels must be int64, int32 or uint8, not {labels.dtype}")
    if features.device != labels.device:
        raise ValueError(f"features are on {features.device}, labels on {labels.device}: put them on one device")
    if num_classes < 1:
        raise ValueError(f"num_classes must be positive, not {num_classes}")
    return patch_shape(labels, patch, stride, pool_batch)


def check_tensor(
    name: str, tensor: Tensor, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float64
) -> None:
    """Raises where a tensor beside others is not of this shape and dtype on their device.

    Raises:
        ValueError: it is not.
    """
    if tensor.shape != shape or tensor.dtype != dtype or tensor.device != device:
        raise ValueError(
            f"{name} must be {dtype} {list(shape)} on {device}, not {tensor.dtype} {list(tensor.shape)} on"
            f" {tensor.device}"
        )
