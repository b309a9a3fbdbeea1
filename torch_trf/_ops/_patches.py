"""What the ops over patches share: which pixels count, and where a patch lies."""

import torch
from jaxtyping import Bool, Int64, Integer
from torch import Tensor

LEAST_INT64, LARGEST_INT64 = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max

Size = tuple[int, int]  # height and width, in pixels


def patch_shape(labels: Tensor, patch: Size, stride: Size, pool_batch: bool) -> list[int]:
    """`[H', W']`, or `[B, H', W']` where the batch is not pooled; the remainder at the border is dropped.

    Raises:
        ValueError: a patch that does not fit into the image, or a stride below 1.
    """
    batch, height, width = labels.shape
    if not (0 < patch[0] <= height and 0 < patch[1] <= width):
        raise ValueError(f"a patch of {patch[0]} x {patch[1]} pixels does not fit into {height} x {width} pixels")
    if min(stride) < 1:
        raise ValueError(f"the stride must be positive, not {stride[0]} x {stride[1]} pixels")
    grid = [(height - patch[0]) // stride[0] + 1, (width - patch[1]) // stride[1] + 1]
    return grid if pool_batch else [batch, *grid]


def patches(images: Tensor, patch: Size, stride: Size, pool_batch: bool) -> Tensor:
    """`[B, C, H, W]` to `[C, H', W', pixels]` where the batch is pooled, else `[C, B, H', W', pixels]`."""
    rows, columns = (min(step, size) for step, size in zip(stride, images.shape[2:], strict=True))  # as large as any
    rectangles = images.unfold(2, patch[0], rows).unfold(3, patch[1], columns)
    if pool_batch:
        return rectangles.permute(1, 2, 3, 0, 4, 5).flatten(3)
    return rectangles.transpose(0, 1).flatten(4)


def with_an_image(images: Tensor, labels: Tensor, ignore_index: int, pool_batch: bool) -> tuple[Tensor, Tensor, int]:
    """Where no image is pooled, one image of ignored pixels in its place, and the label to ignore."""
    if not pool_batch or len(images) > 0:
        return images, labels, ignore_index
    return images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1, *labels.shape[1:]), 0


def class_index(
    labels: Integer[Tensor, "*grid"], num_classes: int, ignore_index: int
) -> tuple[Int64[Tensor, "*grid"], Bool[Tensor, "*grid"]]:
    """The class of every pixel, -1 where it has none, and where a label is neither a class nor `ignore_index`.

    Example:
        >>> index, bad = class_index(torch.tensor([0, 2, 255, 7]), num_classes=3, ignore_index=255)
        >>> index.tolist(), bad.tolist()
        ([0, 2, -1, -1], [False, False, False, True])
    """
    labels = labels.to(torch.int64)
    labeled = labels != ignore_index
    is_class = labeled & (labels >= 0) & (labels < num_classes)
    return labels.masked_fill(~is_class, -1), labeled & ~is_class


def fault_columns(
    labels: Integer[Tensor, "*patches pixels"],
    bad: Bool[Tensor, "*patches pixels"],
    non_finite: Bool[Tensor, "*patches pixels"],
) -> Int64[Tensor, "*patches 4"]:
    """The number of bad labels, the least and the largest of them, and the number of pixels that are not finite."""
    labels = labels.to(torch.int64)
    columns = [
        bad.sum(-1),
        labels.masked_fill(~bad, LARGEST_INT64).amin(-1),
        labels.masked_fill(~bad, LEAST_INT64).amax(-1),
        non_finite.sum(-1),
    ]
    return torch.stack(columns, -1)
