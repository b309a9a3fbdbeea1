"""Whether a transform keeps all of an image in view, as reading features at the places of labels takes for granted."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor, nn

from .._errors import in_a_line
from ..pixels import size_of

DARK, LIGHT = 0.2, 0.7  # of the range of an image, so that what inverts or clips bright values tells them apart, too
REPEATS = 8  # a flip of one image in two shows in all but one of 256 tries
LEAST_CONTRAST = 0.05  # of the largest one in an image
MOST_MOVED = 1.5  # pixels, of the coarser grid: what interpolation may do
MOST_BLURRED = 1 / 32  # of an image


def require_whole_view(transform: Callable[[Tensor], Any], like: Shaped[Tensor, "C H W"]) -> str | None:
    """Raises where a transform crops, pads, flips or turns images, or does not do the same every time.

    It is tried on images of four fields, dark and light, which meet at a row and a column. Where they meet afterwards
    tells where the row and the column went, whatever the transform does with colors.

    Args:
        transform: of an image.
        like: an image that it would be given, for the size, the channels and the type.

    Returns:
        In words, why nothing can be told; None where all is well.

    Raises:
        ValueError: with the names of its steps and what they do.
    """
    name = f"transform {_name(transform)}"
    try:
        with torch.random.fork_rng(devices=[]):
            fault = _randomness(transform, like) or _movement(transform, like)
    except Exception as error:  # a transform may be anybody's
        unknown = "whether it keeps all of an image in view is not known, and it must"
        return f"{name} cannot be tried on images of four fields ({in_a_line(error)}): {unknown}"
    if fault is not None:
        raise ValueError(f"{name} {fault}")
    return None


def _name(transform: Callable[[Tensor], Any]) -> str:
    steps = getattr(transform, "transforms", [transform])
    return ", ".join(type(step).__name__ for step in steps if not isinstance(step, nn.Identity))


def _randomness(transform: Callable[[Tensor], Any], like: Shaped[Tensor, "C H W"]) -> str | None:
    """What is random in a transform, in words."""
    place = like.shape[1] // 4, like.shape[2] // 3
    first, *others = (_seen(transform, like, *place) for _ in range(REPEATS + 1))
    if all(torch.equal(first, other) for other in others):
        return None
    return "does not do the same with an image every time, as for training: it must leave nothing to chance"


def _movement(transform: Callable[[Tensor], Any], like: Shaped[Tensor, "C H W"]) -> str | None:
    """What a transform moves, in words."""
    size = size_of(like)
    for dim, lines in enumerate(("rows", "columns")):
        center, length = size[1 - dim] // 2, size[dim]

        def fields(end: int, dim: int = dim, center: int = center) -> Float64[Tensor, "c h w"]:
            return _seen(transform, like, *((end, center) if dim == 0 else (center, end)))

        none = fields(0)
        contrast = _along(fields(length) - none, dim)
        if not contrast.any():
            raise ValueError("it gives the same whatever the image")
        scale = len(contrast) / length
        for end in (length // 4, length - length // 4):
            changed = _along(fields(end) - none, dim) / contrast
            changed = changed.where(contrast > LEAST_CONTRAST * contrast.max(), 0)
            expected = (end * scale - torch.arange(len(contrast), device=contrast.device)).clamp(0, 1)
            wrong = changed - expected
            most_moved = MOST_MOVED * max(1, scale)
            if wrong.sum().abs() > most_moved or wrong.abs().sum() > most_moved + MOST_BLURRED * len(contrast):
                filled = (changed > 0.5).nonzero().flatten().tolist()
                found = f"{filled[0]} to {filled[-1] + 1}" if filled else "none"
                moved = f"{lines} 0 to {end} of {length} come to lie at {found} of {len(contrast)}"
                return (
                    f"moves images against their labels: {moved}, not 0 to {expected.sum():.0f}. It must keep all of an"
                    " image in view: resize, and do not crop, pad, flip or turn"
                )
    return None


def _seen(
    transform: Callable[[Tensor], Any], like: Shaped[Tensor, "C H W"], row: int, column: int
) -> Float64[Tensor, "c h w"]:
    """What a transform makes of an image whose four fields meet at a row and a column."""
    height, width = size_of(like)
    rows, columns = (torch.arange(size, device=like.device) for size in (height, width))
    is_light = (rows.unsqueeze(1) < row) ^ (columns < column)
    white = 1 if like.is_floating_point() or like.dtype == torch.bool else torch.iinfo(like.dtype).max
    fields = torch.where(is_light, LIGHT * white, DARK * white).round(decimals=1).to(like.dtype)
    return transform(fields.expand(like.shape).contiguous()).to(torch.float64).nan_to_num()


def _along(difference: Float64[Tensor, "c h w"], dim: int) -> Float64[Tensor, "length"]:
    """How large it is at each row, or at each column."""
    return difference.abs().sum((0, 2 - dim))
