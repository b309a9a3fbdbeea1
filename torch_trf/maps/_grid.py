"""How images are cut into patches, patches into cells, and a map into strips."""

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from .._ops import Size, patch_shape
from ..batches import Reader
from ..metrics import Look
from ..pixels import Pixels

# How many numbers are held at a time: what fits into a CPU's cache where the pixels lie in memory, and otherwise so
# many that the pixels need not be read too often.
CACHE_NUMBERS, MEMORY_NUMBERS = 2**20, 2**24


@dataclass(frozen=True, slots=True)
class Grid:
    """How images are cut into patches, patches into cells, and the map into strips."""

    image_size: Size
    patch_size: Size
    stride: Size
    look: Look
    channels: int
    entry_numbers: int  # that are held of a cell; of a patch, where the statistic holds the pixels themselves
    fits_cache: bool  # whether strips are cut so that their cells fit into the cache of a CPU

    @classmethod
    def of(
        cls,
        pixels: Pixels,
        look: Look,
        patch_size: int | Sequence[int],
        stride: int | Sequence[int] | None,
        num_classes: int,
        device: torch.device | str | None,
        images: int = 1,
    ) -> "Grid":
        """The grid of images as large as these, for a first look; `images` are held at a time where pixels are.

        Raises:
            ValueError: a patch that does not fit.
        """
        patch_size, stride = pair(patch_size), pair(stride or patch_size)
        patch_shape(pixels.labels, patch_size, stride, True)  # raises
        channels = look.read(pixels).shape[1]
        height, width = pixels.labels.shape[1:]
        numbers = look.statistic.numbers(channels, num_classes, math.prod(patch_size) * images)
        on_cpu = torch.device(device or pixels.features.device).type == "cpu"
        fits_cache = on_cpu and not look.statistic.draws
        return cls((height, width), patch_size, stride, look, channels, numbers, fits_cache)

    @property
    def shape(self) -> Size:
        """Rows and columns of patches."""
        rows, columns = (
            (size - patch) // step + 1
            for size, patch, step in zip(self.image_size, self.patch_size, self.stride, strict=True)
        )
        return rows, columns

    @property
    def cell_size(self) -> Size:
        """The largest cells of which patches and strides are made."""
        return math.gcd(self.patch_size[0], self.stride[0]), math.gcd(self.patch_size[1], self.stride[1])

    @property
    def patch_cells(self) -> Size:
        """The size of a patch in cells."""
        return self.patch_size[0] // self.cell_size[0], self.patch_size[1] // self.cell_size[1]

    @property
    def stride_cells(self) -> Size:
        """The stride in cells."""
        return self.stride[0] // self.cell_size[0], self.stride[1] // self.cell_size[1]

    @property
    def columns(self) -> int:
        """The pixel columns up to the end of the last patch."""
        return (self.shape[1] - 1) * self.stride[1] + self.patch_size[1]

    def strips(self, reader: Reader) -> list[slice]:
        """The pixel rows of strips of the map, so that the cells of a strip are few enough to be held at a time.

        Strips share the cells of patches that overlap: where a strip that fits into cache would have more of those
        than of its own, it is cut larger.
        """
        count = self.shape[0]
        if reader.once:
            rows = count
        elif self.look.statistic.draws:
            rows = max(1, MEMORY_NUMBERS // self.numbers(self.rows(0, 1)))
        else:
            row_numbers = self.numbers(slice(0, self.cell_size[0]))
            budgets = [CACHE_NUMBERS] if self.fits_cache and reader.length == 1 else []
            for budget in (*budgets, MEMORY_NUMBERS):
                rows = max(1, (budget // row_numbers - self.patch_cells[0]) // self.stride_cells[0] + 1)
                if rows * self.stride_cells[0] >= self.patch_cells[0]:
                    break
        starts = range(0, count, rows)
        return [self.rows(start, min(start + rows, count)) for start in starts]

    def rows(self, first: int, end: int) -> slice:
        """The pixel rows of some rows of patches."""
        return slice(first * self.stride[0], (end - 1) * self.stride[0] + self.patch_size[0])

    def numbers(self, rows: slice) -> int:
        """How many the cells of these pixel rows hold, or the patches."""
        if self.look.statistic.draws:
            patch_rows = (rows.stop - rows.start - self.patch_size[0]) // self.stride[0] + 1
            return patch_rows * self.shape[1] * self.entry_numbers
        cell_rows = (rows.stop - rows.start) // self.cell_size[0]
        return cell_rows * (self.columns // self.cell_size[1]) * self.entry_numbers

    def groups(self, pixels: Pixels) -> list[Pixels]:
        """So many images at a time that the cells of all of them are few enough."""
        self.check(pixels)
        budget = CACHE_NUMBERS if self.fits_cache else MEMORY_NUMBERS
        return pixels.split(max(1, budget // self.numbers(slice(0, self.image_size[0]))))

    def read(self, reader: Reader, rows: slice, look: Look) -> Iterator[Pixels]:
        """What a look reads of every batch: one tensor, these rows, the columns that patches reach."""
        for pixels in reader.rows(rows, self.check):
            tensor = look.read(pixels)[..., : self.columns]
            yield replace(pixels, features=tensor, labels=pixels.labels[..., : self.columns], logits=tensor)

    def check(self, pixels: Pixels) -> None:
        """Raises where a batch has not the size or the channels of the first."""
        shape = (self.look.read(pixels).shape[1], *pixels.labels.shape[1:])
        expected = (self.channels, *self.image_size)
        if shape != expected:
            shapes = f"{list(shape)} channels, rows and columns, the first batch {list(expected)}"
            raise ValueError(f"{pixels.name or 'a batch'} has {shapes}: a map needs images of one size")


def pair(size: int | Sequence[int]) -> Size:
    """Height and width, of which a single number is both."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    return operator.index(height), operator.index(width)
