"""Pixels: features and labels on one grid, checked; which of them count, and which a sample draws."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor

from ._ops import LARGEST_INT64

LARGEST_KEY = LARGEST_INT64  # sorts last: the key of a pixel that may not be drawn

# SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17.
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


@dataclass(frozen=True, slots=True)
class Pixels:
    """A batch of pixels as it flows through the package.

    Attributes:
        features: `[B, D, H, W]`, floating point.
        labels: `[B, H, W]`, integer, on the features' device.
        logits: `[B, Z, H, W]`, the source model's class scores; None where the model's classes are not known.
        stream: number of the file or of the process that the pixels come from. With `offset` it identifies a pixel, so
            that a sample does not depend on how the pixels were cut into batches.
        offset: number of pixels of this stream that came before.
        name: what errors call this batch.
    """

    features: Float[Tensor, "B D H W"]
    labels: Integer[Tensor, "B H W"]
    logits: Float[Tensor, "B Z H W"] | None = None
    stream: int = 0
    offset: int = 0
    name: str = ""

    def to(self, device: torch.device | str | None) -> "Pixels":
        """These pixels on `device`; where they are if it is None."""
        if device is None:
            return self
        features = self.features.to(device)
        if self.logits is self.features:
            logits: Tensor | None = features
        else:
            logits = None if self.logits is None else self.logits.to(device)
        return replace(self, features=features, labels=self.labels.to(device), logits=logits)


def as_images(
    features: Float[Tensor, "N D"] | Float[Tensor, "B D H W"], labels: Integer[Tensor, "..."]
) -> tuple[Float[Tensor, "B D H W"], Integer[Tensor, "B H W"]]:
    """Features and labels as images on one grid, checked and detached from autograd; nothing is copied.

    Args:
        features: `[N, D]`, seen as one image of one row, or `[B, D, H, W]`.
        labels: `[N]` or `[B, H, W]`.

    Raises:
        ValueError: features that are not floating point, labels that are not integers, shapes that do not belong
            together, no pixel at all, or tensors on different devices.

    Example:
        >>> features, labels = as_images(torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64))
        >>> features.shape, labels.shape
        (torch.Size([1, 3, 1, 6]), torch.Size([1, 1, 6]))
    """
    shapes = f"features {list(features.shape)} and labels {list(labels.shape)}"
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, not {features.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if features.device != labels.device:
        raise ValueError(f"features are on {features.device}, labels on {labels.device}: put them on one device")
    if features.dim() not in (2, 4):
        raise ValueError(f"{shapes}: expected [N, D] with [N], or [B, D, H, W] with [B, H, W]")
    if labels.shape != features.shape[:1] + features.shape[2:]:
        raise ValueError(f"{shapes} do not lie on one grid: expected [N, D] with [N], or [B, D, H, W] with [B, H, W]")
    if labels.numel() == 0 or features.numel() == 0:
        raise ValueError(f"{shapes} hold no pixel")
    if labels.dtype not in (torch.int64, torch.int32, torch.uint8):
        labels = labels.to(torch.int64)
    if features.dim() == 2:
        features, labels = features.mT[None, :, None, :], labels[None, None, :]
    return features.detach(), labels


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
    labelled = labels != ignore_index
    is_class = labelled & (labels >= 0) & (labels < num_classes)
    return labels.masked_fill(~is_class, -1), labelled & ~is_class


def blocks(
    features: Float[Tensor, "B D H W"], labels: Integer[Tensor, "B H W"], *more: Tensor
) -> Iterator[list[tuple[Tensor, ...]]]:
    """Groups of images, each as a list of blocks of rows and columns that fit into cache on a CPU.

    Whatever is computed for every pixel in double precision then stays in cache, and its memory is bounded. `more`
    are further `[B, ...]` tensors of the images, handed on whole with every block.
    """
    elements = 2**20 if features.device.type == "cpu" else 2**26
    channels, height, width = features.shape[1:]
    block = max(1, elements // channels)
    columns = min(width, block)
    rows = min(height, max(1, block // columns))
    images = max(1, block // (rows * columns)) if rows == height and columns == width else 1
    for i in range(0, len(features), images):
        group = slice(i, i + images)
        yield [
            (
                features[group, :, y : y + rows, x : x + columns].flatten(2),
                labels[group, y : y + rows, x : x + columns].flatten(1),
                *(tensor[group] for tensor in more),
            )
            for y in range(0, height, rows)
            for x in range(0, width, columns)
        ]


def class_probabilities(
    logits: Float[Tensor, "images Z pixels"], counts: Bool[Tensor, "images pixels"], *, hard: bool
) -> tuple[Float64[Tensor, "images Z pixels"], Bool[Tensor, "images pixels"]]:
    """The source model's prediction on every pixel, and where a pixel that counts is not finite.

    The softmax of the logits in float64, or, where `hard`, 1 for the class of largest score. Pixels that do not count
    are not read.
    """
    logits = torch.where(counts.unsqueeze(1), logits, 0).to(torch.float64, memory_format=torch.contiguous_format)
    non_finite = ~logits.sum(1).isfinite()
    if hard:
        classes = torch.arange(logits.shape[1], device=logits.device).unsqueeze(-1)
        return (logits.argmax(1, keepdim=True) == classes).to(logits.dtype), non_finite
    return logits.softmax(1), non_finite


def boundary(labels: Integer[Tensor, "B H W"], radius: int, ignore_index: int) -> Bool[Tensor, "B H W"]:
    """Where a labelled pixel of another class lies within `radius` pixels, in rows, columns and diagonals alike.

    Args:
        labels: `[B, H, W]`; ignored pixels make no boundary and lie on none.
        radius: at least 1, in pixels of this grid.
        ignore_index: label of the pixels to leave out.

    Raises:
        ValueError: a radius below 1.

    Example:
        >>> boundary(torch.tensor([[[3, 3, 3, 4, 255]]]), radius=1, ignore_index=255).tolist()
        [[[False, False, True, True, False]]]
    """
    if radius < 1:
        raise ValueError(f"the radius of a boundary must be at least 1 pixel, not {radius}")
    values = labels.to(torch.float64)
    ignored = labels == ignore_index

    def largest(values: Tensor) -> Tensor:
        values = values.masked_fill(ignored, -torch.inf).unsqueeze(1)
        return torch.nn.functional.max_pool2d(values, 2 * radius + 1, stride=1, padding=radius).squeeze(1)

    return (largest(values) != -largest(-values)) & ~ignored


def pixel_keys(
    count: int, *, seed: int, num_repeats: int, stream: int, offset: int, device: torch.device
) -> Int64[Tensor, "num_repeats count"]:
    """A uniform 64-bit key for each pixel of a stream, by hashing (seed, repeat, stream, position).

    The n pixels of smallest key are a uniform sample without replacement. The key of a pixel does not depend on the
    batch it arrives in, so neither does the sample.

    Example:
        >>> keys = pixel_keys(5, seed=0, num_repeats=1, stream=0, offset=0, device=torch.device("cpu"))
        >>> tail = pixel_keys(2, seed=0, num_repeats=1, stream=0, offset=3, device=torch.device("cpu"))
        >>> torch.equal(keys[:, 3:], tail)
        True
    """
    key = _mix(torch.arange(num_repeats, device=device) + _signed(seed * _GOLDEN_GAMMA)).unsqueeze(-1)
    key = _mix(key + _signed((stream + 1) * _GOLDEN_GAMMA))
    position = torch.arange(offset, offset + count, device=device)
    return _mix(key + position * _signed(_GOLDEN_GAMMA)).clamp(max=LARGEST_KEY - 1)


def _signed(value: int) -> int:
    """The 64 low bits of a number, as a signed integer."""
    return (value + 2**63) % 2**64 - 2**63


def _mix(key: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    for shift, factor in _MIX:
        unsigned_shift = (key >> shift) & (2 ** (64 - shift) - 1)
        key = (key ^ unsigned_shift) * _signed(factor)
    return key
