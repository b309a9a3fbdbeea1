"""The op `torch_trf::patch_moments`: its schema, its Python reference, and the compiled kernels when they are there.

The op always exists. Its schema and its reference are defined here; the compiled libraries beside this file register
kernels for CPU and CUDA tensors, and those outrank the reference.
"""

import functools
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

LEAST_INT64, LARGEST_INT64 = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max

_loaded: set[str] = set()


class PatchMoments(NamedTuple):
    """What `patch_moments` returns; the leading dimensions are those of the patches.

    Sums run over the pixels x of a patch that count: labelled with a class, every channel finite. All but the counts
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
    """Counts, class sums, Gram matrix, third and fourth moments of the labelled pixels of every cell of a grid.

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
        The moments of every patch, in float64. The same input gives the same bits. There is no backward.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or a cell that does not fit into the image.

    Example:
        >>> features = torch.tensor([1.0, 3.0, 4.0]).reshape(1, 1, 1, 3)
        >>> moments = patch_moments(features, torch.tensor([[[0, 0, 1]]]), 2, 1, 3, True, 255)
        >>> moments.origin.item(), moments.class_count.tolist(), moments.class_sum.flatten().tolist()
        (1.0, [[[2, 1]]], [2.0, 3.0])
    """
    if features.shape[:1] + features.shape[2:] != labels.shape:
        raise ValueError(
            f"features {list(features.shape)} must be [B, D, H, W] and labels {list(labels.shape)} [B, H, W]"
        )
    if features.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"features must be float64, float32, float16 or bfloat16, not {features.dtype}")
    if labels.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise ValueError(f"labels must be int64, int32 or uint8, not {labels.dtype}")
    if features.device != labels.device:
        raise ValueError(f"features are on {features.device}, labels on {labels.device}: put them on one device")
    if num_classes < 1:
        raise ValueError(f"num_classes must be positive, not {num_classes}")
    height, width = labels.shape[1:]
    if not (0 < cell_height <= height and 0 < cell_width <= width):
        raise ValueError(f"a cell of {cell_height} x {cell_width} pixels does not fit into {height} x {width} pixels")
    if features.is_cuda and not has_extension("cuda") and os.environ.get("TORCH_TRF_NO_EXT") != "1":
        _warn_of_reference("torch_trf was built without CUDA kernels")
    outputs = torch.ops.torch_trf.patch_moments(
        features, labels, num_classes, cell_height, cell_width, pool_batch, ignore_index
    )
    return PatchMoments(*outputs)


torch.library.define(
    "torch_trf::patch_moments",
    "(Tensor features, Tensor labels, int num_classes, int cell_height, int cell_width, bool pool_batch,"
    " int ignore_index) -> (Tensor origin, Tensor class_count, Tensor class_sum, Tensor gram, Tensor third_moment,"
    " Tensor fourth_moment, Tensor faults)",
)


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
    if pool_batch and len(features) == 0:  # no image pools to the same as an image without labels
        features = features.new_zeros(1, *features.shape[1:])
        labels = labels.new_zeros(1, *labels.shape[1:])
        ignore_index = 0
    x = _cells(features.to(torch.float64), cell_height, cell_width, pool_batch).movedim(0, -1)
    label = _cells(labels.to(torch.int64).unsqueeze(1), cell_height, cell_width, pool_batch).squeeze(0)
    labelled = label != ignore_index
    is_class = labelled & (label >= 0) & (label < num_classes)
    is_bad = labelled & ~is_class

    candidate = is_class & x.isfinite().all(-1)
    first = candidate.to(torch.uint8).argmax(-1, keepdim=True).unsqueeze(-1)
    origin = x.take_along_dim(first, -2).squeeze(-2).masked_fill(~candidate.any(-1, keepdim=True), 0)
    x = (x - origin.unsqueeze(-2)).masked_fill(~is_class.unsqueeze(-1), 0)
    square = x.square().sum(-1)
    counts = is_class & square.isfinite()
    x = x.masked_fill(~counts.unsqueeze(-1), 0)
    square = square.masked_fill(~counts, 0)

    one_hot = (label.unsqueeze(-1) == torch.arange(num_classes, device=label.device)) & counts.unsqueeze(-1)
    faults = [
        is_bad.sum(-1),
        label.masked_fill(~is_bad, LARGEST_INT64).amin(-1),
        label.masked_fill(~is_bad, LEAST_INT64).amax(-1),
        (is_class & ~counts).sum(-1),
    ]
    return (
        origin,
        one_hot.sum(-2),
        one_hot.to(x.dtype).mT @ x,
        x.mT @ x,
        (square.unsqueeze(-1) * x).sum(-2),
        square.square().sum(-1),
        torch.stack(faults, -1),
    )


def _cells(images: Tensor, cell_height: int, cell_width: int, pool_batch: bool) -> Tensor:
    """`[B, C, H, W]` to `[C, H', W', pixels]` where the batch is pooled, else `[C, B, H', W', pixels]`."""
    batch, channels, height, width = images.shape
    rows, columns = height // cell_height, width // cell_width
    images = images[:, :, : rows * cell_height, : columns * cell_width]
    images = images.reshape(batch, channels, rows, cell_height, columns, cell_width)
    if pool_batch:
        return images.permute(1, 2, 4, 0, 3, 5).flatten(3)
    return images.permute(1, 0, 2, 4, 3, 5).flatten(4)


@torch.library.register_fake("torch_trf::patch_moments")
def _fake(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    cell_height: int,
    cell_width: int,
    pool_batch: bool,
    ignore_index: int,
) -> tuple[Tensor, ...]:
    batch, channels, height, width = features.shape
    patches = [height // cell_height, width // cell_width]
    if not pool_batch:
        patches.insert(0, batch)

    def real(*size: int | torch.SymInt) -> Tensor:
        return features.new_empty(*patches, *size, dtype=torch.float64)

    def integer(*size: int | torch.SymInt) -> Tensor:
        return features.new_empty(*patches, *size, dtype=torch.int64)

    return (
        real(channels),
        integer(num_classes),
        real(num_classes, channels),
        real(channels, channels),
        real(channels),
        real(),
        integer(4),
    )


def _no_backward(context: object, *gradients: Tensor) -> None:
    raise RuntimeError("torch_trf::patch_moments has no backward: give it features.detach()")


torch.library.impl("torch_trf::patch_moments", "CompositeExplicitAutograd", patch_moments_reference)
torch.library.register_autograd("torch_trf::patch_moments", _no_backward)


@functools.cache
def _warn_of_reference(why: str) -> None:
    warnings.warn(
        f"{why}. CUDA tensors take the slow reference. To build the kernels for this PyTorch, run in torch_trf's source"
        " folder, with a CUDA toolkit of the same major version: pip install --no-build-isolation --no-deps"
        " --force-reinstall .",
        stacklevel=3,
    )


def _load_extension() -> None:
    folder = Path(__file__).parent
    wanted = os.environ.get("TORCH_TRF_NO_EXT") != "1"
    if wanted and (folder / "_C.abi3.so").exists():
        torch.ops.load_library(folder / "_C.abi3.so")
        _loaded.add("cpu")
    if wanted and torch.version.cuda and (folder / "_C_cuda.abi3.so").exists():
        try:
            torch.ops.load_library(folder / "_C_cuda.abi3.so")
            _loaded.add("cuda")
        except OSError as error:
            _warn_of_reference(f"torch_trf's CUDA kernels do not load with CUDA {torch.version.cuda}: {error}")
    if os.environ.get("TORCH_TRF_REQUIRE_EXT") == "1":
        missing = {"cpu", "cuda"} - _loaded if torch.cuda.is_available() else {"cpu"} - _loaded
        if missing:
            raise ImportError(f"TORCH_TRF_REQUIRE_EXT=1, but the kernels for {missing} are not loaded from {folder}")


def has_extension(device: str = "cpu") -> bool:
    """Whether the compiled kernels for `device` ("cpu" or "cuda") are loaded; without them the reference runs.

    Example:
        >>> isinstance(has_extension(), bool)
        True
    """
    return device in _loaded


_load_extension()
