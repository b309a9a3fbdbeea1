"""The op `torch_trf::patch_moments`: counts, class sums, Gram matrix, third and fourth moments of every cell."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from ._checks import check_pixels
from ._many_channels import has_many_channels, moments_of_many_channels
from ._patches import class_index, fault_columns, patch_shape, patches, with_an_image
from ._registration import define, run


class PatchMoments(NamedTuple):
    """What `patch_moments` returns; the leading dimensions are those of the patches.

    Sums run over the pixels x of a patch that count: labeled with a class, every channel finite. All but the counts
    are float64 and taken around `origin`.
    """

    origin: Float64[Tensor, "*patches D"]  # o: the first pixel that counts; 0 where none does
    class_count: Int64[Tensor, "*patches K"]
    class_sum: Float64[Tensor, "*patches K D"]  # Σ_{y=k} (x - o)
    gram: Float64[Tensor, "*patches D D"]  # Σ (x - o)(x - o)ᵀ
    third_moment: Float64[Tensor, "*patches D"]  # Σ ‖x - o‖² (x - o)
    fourth_moment: Float64[Tensor, "*patches"]  # Σ ‖x - o‖⁴
    faults: Int64[Tensor, "*patches 4"]  # bad labels: how many, least, largest; pixels that are not finite


def patch_moments(
    features: Float[Tensor, "B D H W"],
    labels: Integer[Tensor, "B H W"],
    num_classes: int,
    cell_height: int,
    cell_width: int,
    pool_batch: bool,
    ignore_index: int,
) -> PatchMoments:
    """Counts, class sums, Gram matrix, third and fourth moments of the labeled pixels of every cell of a grid.

    Args:
        features: `[B, D, H, W]`, float64, float32, float16 or bfloat16, any strides.
        labels: `[B, H, W]`, int64, int32 or uint8, any strides, on the features' device.
        num_classes: K. Labels outside `[0, K)` other than `ignore_index` are counted as faults and left out.
        cell_height: height of a cell in pixels; rows that do not fill a cell are dropped at the bottom.
        cell_width: width of a cell in pixels; columns that do not fill a cell are dropped on the right.
        pool_batch: whether a patch is a cell pooled over the batch (leading dimensions `[H', W']`) or a cell of one
            image (`[B, H', W']`), where H' = H // cell_height and W' = W // cell_width.
        ignore_index: label of the pixels to leave out; their features are never read.

    Returns:
        The moments of every patch, summed in float64 whatever the features' type and however many channels there are.
        The same input gives the same bits; where cells are whole images of many channels on the CPU, which go through
        the matrix products of PyTorch's library, on the same number of threads. There is no backward.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a cell that does not fit into the image.

    Example:
        >>> features = torch.tensor([1.0, 3.0, 4.0]).reshape(1, 1, 1, 3)
        >>> moments = patch_moments(features, torch.tensor([[[0, 0, 1]]]), 2, 1, 3, True, 255)
        >>> moments.origin.item(), moments.class_count.tolist(), moments.class_sum.flatten().tolist()
        (1.0, [[[2, 1]]], [2.0, 3.0])
    """
    cell = (cell_height, cell_width)
    check_pixels(features, labels, num_classes, cell, cell, pool_batch)
    name = "moments_of_many_channels" if has_many_channels(features, labels, cell) else "patch_moments"
    arguments = (features, labels, num_classes, cell_height, cell_width, pool_batch, ignore_index)
    return PatchMoments(*run(name, *arguments))


def patch_moments_reference(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    cell_height: int,
    cell_width: int,
    pool_batch: bool,
    ignore_index: int,
) -> tuple[Tensor, ...]:
    """The op in plain PyTorch: what every kernel must agree with, and what runs where there is none."""
    features, labels, ignore_index = with_an_image(features, labels, ignore_index, pool_batch)
    cell = (cell_height, cell_width)
    x = patches(features.to(torch.float64), cell, cell, pool_batch).movedim(0, -1)
    label = patches(labels.unsqueeze(1), cell, cell, pool_batch).squeeze(0)
    index, bad = class_index(label, num_classes, ignore_index)
    is_class = index >= 0

    candidate = is_class & x.isfinite().all(-1)
    first = candidate.to(torch.uint8).argmax(-1, keepdim=True).unsqueeze(-1)
    origin = x.take_along_dim(first, -2).squeeze(-2).masked_fill(~candidate.any(-1, keepdim=True), 0)
    x = (x - origin.unsqueeze(-2)).masked_fill(~is_class.unsqueeze(-1), 0)
    square = x.square().sum(-1)
    counts = is_class & square.isfinite()
    x = x.masked_fill(~counts.unsqueeze(-1), 0)
    square = square.masked_fill(~counts, 0)
    one_hot = (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)) & counts.unsqueeze(-1)
    return (
        origin,
        one_hot.sum(-2),
        one_hot.to(x.dtype).mT @ x,
        x.mT @ x,
        (square.unsqueeze(-1) * x).sum(-2),
        square.square().sum(-1),
        fault_columns(label, bad, is_class & ~counts),
    )


def _shapes(
    features: Tensor, labels: Tensor, num_classes: int, cell_height: int, cell_width: int, pool_batch: bool, *_: object
) -> tuple[Tensor, ...]:
    cell, channels = (cell_height, cell_width), features.shape[1]
    grid = patch_shape(labels, cell, cell, pool_batch)

    def real(*size: int | torch.SymInt) -> Tensor:
        return features.new_empty(*grid, *size, dtype=torch.float64)

    def integer(*size: int | torch.SymInt) -> Tensor:
        return features.new_empty(*grid, *size, dtype=torch.int64)

    return (
        real(channels),
        integer(num_classes),
        real(num_classes, channels),
        real(channels, channels),
        real(channels),
        real(),
        integer(4),
    )


SCHEMA = (
    "(Tensor features, Tensor labels, int num_classes, int cell_height, int cell_width, bool pool_batch,"
    " int ignore_index) -> (Tensor origin, Tensor class_count, Tensor class_sum, Tensor gram, Tensor third_moment,"
    " Tensor fourth_moment, Tensor faults)"
)
define("patch_moments", SCHEMA, patch_moments_reference, _shapes)
define("moments_of_many_channels", SCHEMA, moments_of_many_channels, _shapes)
