"""Moments of whole images with many channels on the CPU, by the matrix products of PyTorch's library."""

import torch
from torch import Tensor

from ._patches import class_index, fault_columns

# Measured on two cores. The library is faster than the kernel from 200 channels on, and from 256 on even where the
# kernel has an image for each core. Larger tiles leave the cache, shorter products are slow; blocks of fewer rows are
# slow to multiply, and of larger ones more is computed twice.
FEWEST_CHANNELS = 256
TILE_NUMBERS = 1 << 20  # features converted to float64 at a time, 8 MB, ...
TILE_PIXELS = 512  # ... but no fewer pixels than these
BLOCK_CHANNELS = 128


def has_many_channels(features: Tensor, labels: Tensor, cell: tuple[int, int]) -> bool:
    """Whether `moments_of_many_channels` gives the moments of these cells, and faster than the kernel."""
    whole = len(labels) > 0 and cell == labels.shape[1:]
    return whole and features.device.type == "cpu" and features.shape[1] >= FEWEST_CHANNELS


def moments_of_many_channels(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    cell_height: int,
    cell_width: int,
    pool_batch: bool,
    ignore_index: int,
) -> tuple[Tensor, ...]:
    """What `patch_moments` gives where a cell is a whole image.

    The products are of float64 numbers, too. In float32 they would take half the time, but LogME needs every digit
    where there are few pixels: a Gram matrix of fewer pixels than channels has directions without features, and what
    rounding leaves there counts as evidence.
    """
    batch, channels = features.shape[:2]
    images = batch if pool_batch else 1
    gram = features.new_empty(batch // images, channels, channels, dtype=torch.float64)
    entries = zip(features.flatten(2).split(images), labels.flatten(1).split(images), gram, strict=True)
    others = [_moments(*entry, num_classes, ignore_index) for entry in entries]
    origin, class_count, class_sum, third, fourth, faults = map(torch.stack, zip(*others, strict=True))
    moments = (origin, class_count, class_sum, gram, third, fourth, faults)
    grid = [1, 1] if pool_batch else [batch, 1, 1]
    return tuple(value.reshape(*grid, *value.shape[1:]) for value in moments)


def _moments(x: Tensor, label: Tensor, gram: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, ...]:
    """The moments of features `[B, D, pixels]` with labels `[B, pixels]` as one entry; the Gram matrix in `gram`."""
    index, bad = class_index(label, num_classes, ignore_index)
    origin = _first(x, (index >= 0) & x.amax(1).isfinite() & x.amin(1).isfinite()).to(torch.float64)
    classes = torch.arange(num_classes, device=x.device).unsqueeze(-1)
    class_count = index.new_zeros(num_classes)
    sums = gram.new_zeros(num_classes + 1, gram.shape[-1])  # over each class, and weighted by the squared norm
    fourth = gram.new_zeros(())
    non_finite = []
    tiles = (_tiles(images, max(TILE_PIXELS, TILE_NUMBERS // len(gram))) for images in (x, index.unsqueeze(1)))
    for number, (part, part_index) in enumerate(zip(*tiles, strict=True)):
        y, square = _around(part, origin)
        is_class = part_index.squeeze(0) >= 0
        counts = is_class & square.isfinite()
        non_finite.append(is_class & ~counts)
        square = square.masked_fill(~counts, 0)
        members = (part_index == classes) & counts
        class_count += members.sum(-1)
        fourth += square.square().sum()
        _add_products(gram, y.masked_fill_(~counts, 0), first=number == 0)
        sums.addmm_(torch.cat([members.to(y.dtype), square.unsqueeze(0)]), y.T)
    for start in range(BLOCK_CHANNELS, len(gram), BLOCK_CHANNELS):
        end = start + BLOCK_CHANNELS
        gram[:start, start:end] = gram[start:end, :start].T
    faults = fault_columns(label.flatten(), bad.flatten(), torch.cat(non_finite))
    return origin, class_count, sums[:-1], sums[-1], fourth, faults


def _first(x: Tensor, candidate: Tensor) -> Tensor:
    """Features of the first pixel of `[B, D, pixels]` that is a candidate; 0 where none is."""
    first = candidate.flatten().to(torch.uint8).argmax().reshape(1)
    pixel = x.index_select(2, first % x.shape[2]).index_select(0, first // x.shape[2])
    return pixel.flatten().masked_fill(~candidate.any(), 0)


def _tiles(images: Tensor, most_pixels: int) -> list[Tensor]:
    """`[B, C, pixels]` cut into `[C, pixels]`: several images or an even part of one, at most `most_pixels`."""
    pixels = images.shape[-1]
    parts = -(-pixels // most_pixels)
    return [
        part.transpose(0, 1).flatten(1)
        for group in images.split(max(1, most_pixels // pixels))
        for part in group.split(-(-pixels // parts), -1)
    ]


def _around(x: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Features `[D, pixels]` around the origin in float64, and their squared norms."""
    y = torch.empty_like(x, dtype=torch.float64)
    square = y.new_zeros(y.shape[1])
    for rows, block, shift in zip(*(t.split(BLOCK_CHANNELS) for t in (y, x, origin.unsqueeze(-1))), strict=True):
        square += rows.copy_(block).sub_(shift).square().sum(0)
    return y, square


def _add_products(gram: Tensor, y: Tensor, first: bool) -> None:
    """Adds `y yᵀ` to the blocks of `gram` on and below the diagonal, or writes it there if it is the first."""
    for start in range(0, len(y), BLOCK_CHANNELS):
        end = start + BLOCK_CHANNELS
        gram[start:end, :end].addmm_(y[start:end], y[:end].T, beta=0 if first else 1)
