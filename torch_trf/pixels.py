"""Pixels: features and labels on one grid, checked; which of them count, and which a sample draws."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from ._checks import require_at_least, require_choice, require_ignore_index
from ._ops import FEATURE_TYPES, LARGEST_INT64, Size

GridName = Literal["features", "labels"]
Pool = Literal["dataset", "image"]
T = TypeVar("T")

MOST_PREFIX_TOKENS = 5  # class token and registers before those of the image
LARGEST_PATCH = 32  # that a token is of
# Of patches that leave a rest: as models that cut it off have them, and as models that fill it up.
CUT_PATCHES, FILLED_PATCHES = (4, 8, 14, 16, 32), (4, 8, 16, 32)
MOST_CLASSES = 65_536  # that the largest label is taken for
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

    @classmethod
    def of(
        cls,
        features: Float[Tensor, "..."],
        labels: Integer[Tensor, "..."],
        logits: Float[Tensor, "..."] | None = None,
        *,
        stream: int = 0,
        offset: int = 0,
    ) -> "Pixels":
        """Pixels as somebody gives them, in rows or images, checked; what the package makes itself is trusted.

        Raises:
            ValueError: as `as_images`.
        """
        images, classes = as_images(features, labels)
        scores = images if logits is features else None if logits is None else as_images(logits, labels)[0]
        return cls(images, classes, scores, stream, offset)

    def to(self, device: torch.device | str | None) -> "Pixels":
        """These pixels on `device`; where they are if it is None."""
        if device is None:
            return self
        return self._map(lambda tensor: tensor.to(device))

    def rows(self, rows: slice) -> "Pixels":
        """These rows of every image."""
        return self._map(lambda tensor: tensor[..., rows, :])

    def split(self, images: int) -> "list[Pixels]":
        """Batches of so many images, the last of what is left."""
        starts = range(0, len(self.labels), images)
        return [self._map(itemgetter(slice(start, start + images))) for start in starts]

    @staticmethod
    def join(batches: "list[Pixels]") -> "Pixels":
        """The images of all batches."""
        first = batches[0]
        if len(batches) == 1:
            return first
        name = f"{first.name} to {batches[-1].name}" if first.name else ""
        features = torch.cat([batch.features for batch in batches])
        logits = [batch.logits for batch in batches if batch.logits is not None]
        if all(batch.logits is batch.features for batch in batches):
            joined: Tensor | None = features
        else:
            joined = torch.cat(logits) if len(logits) == len(batches) else None
        return Pixels(features, torch.cat([batch.labels for batch in batches]), joined, name=name)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Pixels":
        """The same function of each tensor."""
        features = function(self.features)
        if self.logits is self.features:
            logits: Tensor | None = features
        else:
            logits = None if self.logits is None else function(self.logits)
        return replace(self, features=features, labels=function(self.labels), logits=logits)

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Puts the name of this batch before the message of a ValueError that leaves the block."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}" if self.name else str(error)) from error


def as_images(
    features: Float[Tensor, "N D"] | Float[Tensor, "B D H W"], labels: Integer[Tensor, "..."]
) -> tuple[Float[Tensor, "B D H W"], Integer[Tensor, "B H W"]]:
    """Features and labels as images on one grid, checked and detached from autograd; nothing is copied.

    Args:
        features: `[N, D]`, seen as one image of one row, or `[B, D, H, W]`.
        labels: `[N]` or `[B, H, W]`.

    Raises:
        ValueError: what is no tensor, features that are not floating point of 16 to 64 bits, labels that are not
            integers, shapes that do not belong together, no pixel at all, or tensors on different devices.

    Example:
        >>> features, labels = as_images(torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64))
        >>> features.shape, labels.shape
        (torch.Size([1, 3, 1, 6]), torch.Size([1, 1, 6]))
    """
    require_tensors(features=features, labels=labels)
    shapes = f"features {list(features.shape)} and labels {list(labels.shape)}"
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, not {features.dtype}")
    if features.dtype not in FEATURE_TYPES:
        raise ValueError(f"features must be float64, float32, float16 or bfloat16, not {features.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if features.device != labels.device:
        raise ValueError(f"features are on {features.device}, labels on {labels.device}: put them on one device")
    if features.dim() not in (2, 4):
        raise ValueError(f"{shapes}: expected [N, D] with [N], or [B, D, H, W] with [B, H, W]")
    if labels.numel() == 0 or features.numel() == 0:
        raise ValueError(f"{shapes} hold no pixel")
    if labels.shape != features.shape[:1] + features.shape[2:]:
        raise ValueError(f"{shapes} do not lie on one grid: expected [N, D] with [N], or [B, D, H, W] with [B, H, W]")
    if labels.dtype not in (torch.int64, torch.int32, torch.uint8):
        labels = labels.to(torch.int64)
    if features.dim() == 2:
        features, labels = features.mT[None, :, None, :], labels[None, None, :]
    return features.detach(), labels


def require_tensors(**values: object) -> None:
    """Raises where a value is no tensor.

    Raises:
        ValueError: with its name and type, and how to make a tensor of it.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor, not {type(value).__name__}: give torch.as_tensor({name})")


def on_one_grid(
    features: Float[Tensor, "..."],
    labels: Integer[Tensor, "..."],
    logits: Float[Tensor, "..."] | None = None,
    *,
    grid: GridName = "features",
    stream: int = 0,
    offset: int = 0,
) -> Pixels:
    """Features, labels and logits of different strides, as a model gives them, on one grid.

    Centers of pixels lie where `interpolate(..., align_corners=False)` has them. Nothing is copied where the grids are
    equal.

    Args:
        features: `[N, D]` or `[B, D, H, W]`; tokens `[B, N, D]` of a transformer are folded (`fold_tokens`).
        labels: `[N]` or `[B, H', W']`, integer.
        logits: class scores, likewise; the very same tensor as the features where these are class scores.
        grid: "features": labels are read at the pixel nearest to the center of each feature, logits bilinearly.
            "labels": features and logits are read bilinearly at each label. The first is cheap; the second counts every
            labeled pixel, small objects with their share, and blends features across boundaries.
        stream: of the `Pixels`.
        offset: of the `Pixels`.

    Raises:
        ValueError: grids that are not each other's at an integer stride, the same along rows and columns, with sizes
            rounded down or up; or as `as_images`.

    Example:
        >>> labels = torch.arange(16).reshape(1, 4, 4)
        >>> on_one_grid(torch.zeros(1, 3, 2, 2), labels).labels.tolist()
        [[[5, 7], [13, 15]]]
        >>> on_one_grid(torch.zeros(1, 3, 2, 2), labels, grid="labels").features.shape
        torch.Size([1, 3, 4, 4])
    """
    require_choice("grid", grid, GridName)
    require_tensors(features=features, labels=labels)
    given = [features] if logits is None or logits is features else [features, logits]
    images = [tensor.detach() for tensor in given]
    if labels.dim() == 3:
        images = [fold_tokens(tensor, size_of(labels)) if tensor.dim() == 3 else tensor for tensor in images]
        for name, tensor in zip(("features", "logits"), images, strict=False):
            if tensor.dim() != 4 or len(tensor) != len(labels) or not tensor.numel() or not tensor.is_floating_point():
                as_images(tensor, labels)  # which says what is wrong
            check_stride(name, size_of(tensor), size_of(labels), "labels")
        size = size_of(images[0]) if grid == "features" else size_of(labels)
        images, labels = [bilinear(tensor, size) for tensor in images], nearest(labels, size)
    return Pixels.of(images[0], labels, None if logits is None else images[-1], stream=stream, offset=offset)


def fold_tokens(tokens: Float[Tensor, "B N D"], image_size: Size) -> Float[Tensor, "B D H W"]:
    """Tokens of a transformer as an image, at the stride that fits their number.

    Args:
        tokens: row by row; up to 5 before them (class token, registers) are left out, as few as possible where square
            patches of at most 32 x 32 pixels cut the image without a rest. Patches that leave a rest are of 4, 8, 14,
            16 or 32 pixels.
        image_size: height and width of the image that the tokens are of, or of its labels.

    Raises:
        ValueError: a number of tokens that fits no stride, as of queries, or several where patches leave a rest.

    Example:
        >>> fold_tokens(torch.zeros(1, 1 + 4 * 8, 3), (64, 128)).shape
        torch.Size([1, 3, 4, 8])
    """
    count = tokens.shape[1]

    def fitting(grids: Iterable[Size]) -> set[Size]:
        return {grid for grid in grids if 0 <= count - math.prod(grid) <= MOST_PREFIX_TOKENS and min(grid) > 0}

    height, width = image_size
    patches = range(1, LARGEST_PATCH + 1)
    exact = fitting((height // patch, width // patch) for patch in patches if height % patch == width % patch == 0)
    cut = [_strided(image_size, patch)[0] for patch in CUT_PATCHES]
    filled = [_strided(image_size, patch)[1] for patch in FILLED_PATCHES]
    grids = exact or fitting([*cut, *filled])
    if len(grids) != 1 and not exact:
        several = "several grids" if grids else "no grid"
        tokens_fit = f"{count} tokens fit {several} over {height} x {width} pixels"
        raise ValueError(f"{tokens_fit}, in patches of a transformer; queries and masked tokens are no image")
    rows, columns = max(grids, key=math.prod)
    return tokens[:, count - rows * columns :].mT.unflatten(-1, (rows, columns))


def pools_images(pool: Pool) -> bool:
    """Whether all images make one entry.

    Raises:
        ValueError: neither "dataset" nor "image".
    """
    require_choice("pool", pool, Pool)
    return pool == "dataset"


def class_scores(features: T, logits: T | None, features_are_logits: bool) -> T | None:
    """The class scores among features and logits, or the layers that give them; None where there are none.

    Raises:
        ValueError: logits beside features that are class scores.
    """
    if features_are_logits and logits is not None:
        raise ValueError("features_are_logits=True: the features are the class scores, and others were given")
    return features if features_are_logits else logits


def count_classes(labels: Integer[Tensor, "..."], num_classes: int | None, ignore_index: int) -> int:
    """The number of classes: as given, or the largest label plus one; waits for the device.

    Raises:
        ValueError: a number of classes or a label to ignore that is no whole number, or as `classes_up_to`.
    """
    require_ignore_index(ignore_index)
    if num_classes is not None:
        require_at_least(1, num_classes=num_classes)
        return num_classes
    return classes_up_to(int(labels.where(labels != ignore_index, 0).max()))


def classes_up_to(label: int) -> int:
    """The number of classes where this is the largest label.

    Raises:
        ValueError: a label so large that it is hardly the number of a class.

    Example:
        >>> classes_up_to(18), classes_up_to(-1)
        (19, 1)
    """
    if label >= MOST_CLASSES:
        raise ValueError(
            f"label {label} is the largest, too large to be the number of a class: give ignore_index={label} where it"
            " marks pixels to leave out, otherwise num_classes"
        )
    return max(label + 1, 1)


def size_of(images: Tensor) -> Size:
    """Height and width."""
    return images.shape[-2], images.shape[-1]


def _strided(size: Size, stride: int) -> tuple[Size, Size]:
    """The sizes of a grid of that stride, rounded down or up."""
    return (size[0] // stride, size[1] // stride), (-(-size[0] // stride), -(-size[1] // stride))


def check_stride(name: str, size: Size, other_size: Size, other: str) -> None:
    """Raises where neither of two grids is the other at an integer stride."""
    small, large = sorted((size, other_size))
    if not any(small in _strided(large, stride) for stride in range(1, max(large) + 1)):
        grids = f"{name} on {size[0]} x {size[1]} and {other} on {other_size[0]} x {other_size[1]} pixels"
        raise ValueError(f"{grids} cannot be brought onto one grid: neither is the other at an integer stride")


def bilinear(images: Float[Tensor, "B D H W"], size: Size) -> Float[Tensor, "B D H2 W2"]:
    """Images read bilinearly on another grid over the same picture."""
    if size_of(images) == size:
        return images
    return torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)


def nearest(labels: Integer[Tensor, "B H W"], size: Size) -> Integer[Tensor, "B H2 W2"]:
    """Labels at the pixel nearest to the center of each place of another grid."""
    for dim, new in zip((1, 2), size, strict=True):
        old = labels.shape[dim]
        if new != old:
            center = (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
            labels = labels.index_select(dim, center)
    return labels


def boundary(labels: Integer[Tensor, "B H W"], radius: int, ignore_index: int) -> Bool[Tensor, "B H W"]:
    """Where a labeled pixel of another class lies within `radius` pixels, in rows, columns and diagonals alike.

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
