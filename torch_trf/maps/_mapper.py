"""How maps are made: strip by strip, in bounded memory."""

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from tqdm import tqdm

from .._ops import patch_shape
from ..features import FeatureFolder
from ..functional import count_classes
from ..metrics._checks import require_finite
from ..metrics._hscore import RCOND
from ..pixels import Pixels, as_images
from ..score import Batches, as_pixels
from ..statistics import Faults, Statistic
from ..table import METRICS, MapMetricName, Metric, statistic
from ._transferability_map import Size, TransferabilityMap

# How many numbers of statistics are held at a time: what fits into a CPU's cache where the pixels lie in memory, and
# otherwise so many that the pixels need not be read too often.
CACHE_NUMBERS, MEMORY_NUMBERS = 2**20, 2**24
# Adding to the statistics of many patches costs as much as reading images, so as many images of a stream are gathered
# before as have so many times the numbers that the statistics have.
GATHERED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapper:
    """Maps a metric over images, patch by patch.

    Args:
        metric: which metric, by name.
        patch_size: height and width of a patch in pixels, as in [8, 16], or one number for both.
        num_classes: K, number of target classes.
        stride: rows and columns from one patch to the next, or one number for both; the size of a patch by default.
            Patches larger than the stride overlap: LogME, both H-scores and NCE then share their sums, LEEP looks at a
            pixel again for every patch that holds it.
        pool: "dataset" for one map, of each position over all images; "image" for a map of every image.
        ignore_index: label of the pixels to leave out.
        min_pixels: patches with fewer labelled pixels are not valid.
        fill_value: the value of patches that are not valid.
        softmax: whether to read the softmax of the features instead of the features (LogME and both H-scores).
        absent_classes: whether LogME leaves out classes without pixels ("skip") or, as published code does, averages
            them in, up to the largest class of a patch ("include").
        rcond: the H-score drops directions whose variance is at most this times the largest.
        device: where to compute; where the pixels are by default.
        progress: whether to show a progress bar.

    Raises:
        ValueError: an unknown metric, or options that make no sense.

    Example:
        >>> features, labels = torch.randn(2, 3, 8, 12), torch.randint(0, 2, (2, 8, 12))
        >>> Mapper(metric="logme", patch_size=4, num_classes=2)([(features, labels)]).values.shape
        torch.Size([2, 3])
    """

    metric: str
    patch_size: int | Size
    num_classes: int
    stride: int | Size | None = None
    pool: Literal["dataset", "image"] = "dataset"
    ignore_index: int = 255
    min_pixels: int = 5
    fill_value: float = math.nan
    softmax: bool = False
    absent_classes: Literal["skip", "include"] = "skip"
    rcond: float = RCOND
    device: torch.device | str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        for option, known in (
            ("metric", get_args(MapMetricName)),
            ("pool", ("dataset", "image")),
            ("absent_classes", ("skip", "include")),
        ):
            if getattr(self, option) not in known:
                raise ValueError(f"{option}: {getattr(self, option)!r} is none of {', '.join(known)}")
        for option in ("num_classes", "min_pixels"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option} must be at least 1, not {getattr(self, option)}")
        for option in ("patch_size", "stride"):
            value = getattr(self, option)
            if isinstance(value, tuple) and len(value) != 2:
                raise ValueError(f"{option} must be height and width, or one number for both, not {value}")
            if value is not None and min(_pair(value)) < 1:
                raise ValueError(f"{option} must be at least 1 pixel, not {value}")
        if self.softmax and "moments" not in METRICS[self.metric].statistics:
            raise ValueError(f"{self.metric} reads class scores and takes their softmax itself: leave out softmax")

    def __call__(self, target: Batches) -> TransferabilityMap:
        """The map of images of one size.

        Args:
            target: a `FeatureFolder`, or batches of pixels as for `Scorer`. Memory is bounded by the size of the map:
                where the statistics of all patches together would take more, the pixels are read several times, some
                rows at a time. LEEP reads them twice. An iterator, which can be read once, serves every metric but
                LEEP, and is held to no bound.

        Raises:
            ValueError: bad pixels between the first and the last patch (the message names the batch), images of
                different sizes or channels, a patch that does not fit into them, logits that are missing, an iterator
                for LEEP, or batches that cannot be read again where they must be.
        """
        if isinstance(target, Iterator) and self.pool == "dataset" and len(METRICS[self.metric].statistics) > 1:
            raise ValueError(f"{self.metric} looks at every pixel twice: give batches that can be read again")
        source = _Source(target)
        grid = _Grid.of(source.first, self)
        if isinstance(target, FeatureFolder):
            target.image_size()  # raises where they differ
        if self.pool == "image":
            bar = tqdm(source, self.metric, total=source.length, unit="batch", disable=not self.progress)
            groups = (group for pixels in bar for group in grid.groups(pixels))
            maps = [self._map(_Source([group]), grid) for group in groups]
            values, count = (torch.cat(tensors) for tensors in zip(*maps, strict=True))
        else:
            values, count = self._map(source, grid)
        valid = count >= self.min_pixels
        require_finite(values[valid])
        return TransferabilityMap(
            values=values.where(valid, self.fill_value),
            valid=valid,
            count=count,
            metric=self.metric,
            unit=METRICS[self.metric].unit,
            patch_size=grid.patch_size,
            stride=grid.stride,
            image_size=grid.image_size,
        )

    def _map(self, source: "_Source", grid: "_Grid") -> tuple[Tensor, Tensor]:
        """Values and counts, strip by strip: cells, windows of cells, a second look where there is one, the metric."""
        table, rows = METRICS[self.metric], grid.strips(source)
        names = [f"softmax_{name}" if self.softmax else name for name in table.statistics]
        values, counts, faults = [], [], []
        total = None if source.length is None else source.length * len(rows) * len(names)
        shown = self.progress and self.pool == "dataset"
        with tqdm(total=total, desc=self.metric, unit="batch", disable=not shown) as bar:
            for strip in rows:
                cells = self._look(names[0], source, strip, grid, bar, cell=grid.cell)
                faults.append(cells.faults.sum())
                known = cells.windows(grid.window, grid.step)
                if len(names) > 1:
                    options = {"joint_mass": known, "patch_size": grid.patch_size, "stride": grid.stride}
                    known = self._look(names[1], source, strip, grid, bar, **options)
                values.append(table.function(known, self))
                counts.append(known.count)
        Faults.stack(faults).check(self.num_classes, self.ignore_index)  # on a GPU nothing was raised before
        return torch.cat(values, -2), torch.cat(counts, -2)

    def _look(self, name: str, source: "_Source", rows: slice, grid: "_Grid", bar: Any, **options: Any) -> Any:
        """A statistic of these rows of all batches."""
        options |= {
            "num_classes": self.num_classes,
            "ignore_index": self.ignore_index,
            "pool_batch": self.pool == "dataset",
        }

        def build(pixels: Pixels) -> Statistic:
            with pixels.named_errors():
                return statistic(name, pixels.to(self.device), **options)

        merged = None
        for group in _gathered(grid.read(source, rows), GATHERED * grid.numbers(rows)):
            try:
                built = build(Pixels.join(group))
            except ValueError:
                for pixels in group:  # which of them it was
                    build(pixels)
                raise
            merged = built if merged is None else merged + built
            bar.update(len(group))
        return merged


@dataclass(frozen=True, slots=True)
class _Grid:
    """How images are cut into patches, patches into cells, and the map into strips."""

    image_size: Size
    patch_size: Size
    stride: Size
    metric: Metric
    channels: int
    cell_numbers: int  # in the statistic of a cell
    on_cpu: bool

    @classmethod
    def of(cls, pixels: Pixels, mapper: Mapper) -> "_Grid":
        patch_size, stride = _pair(mapper.patch_size), _pair(mapper.stride or mapper.patch_size)
        patch_shape(pixels.labels, patch_size, stride, True)  # raises where no patch fits
        metric = METRICS[mapper.metric]
        channels = metric.read(pixels).shape[1]
        cell_numbers = channels * (mapper.num_classes if metric.reads == "logits" else channels + mapper.num_classes)
        device = torch.device(mapper.device or pixels.features.device)
        height, width = pixels.labels.shape[1:]
        return cls((height, width), patch_size, stride, metric, channels, cell_numbers, device.type == "cpu")

    @property
    def cell(self) -> Size:
        """The largest cells of which patches and strides are made."""
        return math.gcd(self.patch_size[0], self.stride[0]), math.gcd(self.patch_size[1], self.stride[1])

    @property
    def window(self) -> Size:
        """The size of a patch in cells."""
        return self.patch_size[0] // self.cell[0], self.patch_size[1] // self.cell[1]

    @property
    def step(self) -> Size:
        """The stride in cells."""
        return self.stride[0] // self.cell[0], self.stride[1] // self.cell[1]

    @property
    def columns(self) -> int:
        """The pixel columns up to the end of the last patch."""
        count = (self.image_size[1] - self.patch_size[1]) // self.stride[1] + 1
        return (count - 1) * self.stride[1] + self.patch_size[1]

    def strips(self, source: "_Source") -> list[slice]:
        """The pixel rows of strips of the map, so that the cells of a strip are few enough to be held at a time.

        Strips share the cells of patches that overlap: where a strip that fits into cache would have more of those
        than of its own, it is cut larger.
        """
        count = (self.image_size[0] - self.patch_size[0]) // self.stride[0] + 1
        row_numbers = self.numbers(slice(0, self.cell[0]))
        if source.once:
            rows = count
        else:
            budgets = [CACHE_NUMBERS] if self.on_cpu and source.length == 1 else []
            for budget in (*budgets, MEMORY_NUMBERS):
                rows = max(1, (budget // row_numbers - self.window[0]) // self.step[0] + 1)
                if rows * self.step[0] >= self.window[0]:
                    break
        starts = range(0, count, rows)
        ends = (min(start + rows, count) - 1 for start in starts)
        return [
            slice(start * self.stride[0], end * self.stride[0] + self.patch_size[0])
            for start, end in zip(starts, ends, strict=True)
        ]

    def numbers(self, rows: slice) -> int:
        """How many the cells of these pixel rows hold."""
        return (rows.stop - rows.start) // self.cell[0] * (self.columns // self.cell[1]) * self.cell_numbers

    def groups(self, pixels: Pixels) -> list[Pixels]:
        """So many images at a time that the cells of all of them are few enough."""
        self.check(pixels)
        budget = CACHE_NUMBERS if self.on_cpu else MEMORY_NUMBERS
        return pixels.split(max(1, budget // self.numbers(slice(0, self.image_size[0]))))

    def read(self, source: "_Source", rows: slice) -> Iterator[Pixels]:
        """What the metric reads of every batch: one tensor, these rows, the columns that patches reach."""
        for pixels in source.rows(rows, self.check):
            read = self.metric.read(pixels)[..., : self.columns]
            yield replace(pixels, features=read, labels=pixels.labels[..., : self.columns], logits=read)

    def check(self, pixels: Pixels) -> None:
        """Raises where a batch has not the size or the channels of the first."""
        found = (self.metric.read(pixels).shape[1], *pixels.labels.shape[1:])
        expected = (self.channels, *self.image_size)
        if found != expected:
            shapes = f"{list(found)} channels, rows and columns, the first batch {list(expected)}"
            raise ValueError(f"{pixels.name or 'a batch'} has {shapes}: a map needs images of one size")


class _Source:
    """The batches of a data set, pass after pass; the first goes on where the look at the first batch left off."""

    def __init__(self, target: Batches) -> None:
        self._target, stream = target, as_pixels(target)
        first = next(stream, None)
        if first is None:
            raise ValueError("no batch of pixels: the data set is empty")
        self.first, self.once = first, isinstance(target, Iterator)
        self._stream: Iterator[Pixels] | None = chain([first], stream)
        self._images: int | None = None
        self.length: int | None = None
        with suppress(TypeError):  # a stream may have `__len__` and no length
            self.length = len(target)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Pixels]:
        stream, self._stream = self._stream or as_pixels(self._target), None
        images = 0
        for pixels in stream:
            images += len(pixels.labels)
            yield pixels
        if self._images not in (None, images):
            counts = f"{self._images} images at first and {images} when they were read again"
            raise ValueError(f"the batches held {counts}: give batches that can be read again")
        self._images = images

    def rows(self, rows: slice, check: Callable[[Pixels], None]) -> Iterator[Pixels]:
        """These rows of every batch; of files no others are read."""
        if isinstance(self._target, FeatureFolder):  # which knows that its files are alike
            yield from self._target.rows(rows)
        else:
            for pixels in self:
                check(pixels)
                yield pixels.rows(rows)


def transferability_map(
    metric: str,
    features: Float[Tensor, "B D H W"],
    labels: Integer[Tensor, "B H W"],
    *,
    patch_size: int | Size,
    stride: int | Size | None = None,
    pool: Literal["dataset", "image"] = "dataset",
    num_classes: int | None = None,
    ignore_index: int = 255,
    min_pixels: int = 5,
    fill_value: float = math.nan,
    absent_classes: Literal["skip", "include"] = "skip",
    rcond: float = RCOND,
) -> TransferabilityMap:
    """Where in the images a source model transfers well: a metric, patch by patch.

    Args:
        metric: "leep", "nce", "logme", "hscore" or "regularized_hscore".
        features: `[B, D, H, W]`, on the CPU or a GPU; for LEEP and NCE the source model's class scores before softmax.
        labels: `[B, H, W]`, target classes.
        patch_size: height and width of a patch in pixels; one number for both.
        stride: rows and columns from one patch to the next; the size of a patch by default. 1 gives a value for
            every pixel at which a whole patch begins.
        pool: "dataset" for one map, of each position over all images; "image" for a map of every image.
        num_classes: K; the largest label plus one by default.
        ignore_index: label of the pixels to leave out.
        min_pixels: patches with fewer labelled pixels are not valid.
        fill_value: the value of patches that are not valid.
        absent_classes: as for `metrics.logme`.
        rcond: as for `metrics.hscore`.

    Returns:
        The map: `values` `[H', W']` or `[B, H', W']`, where H' = (H - patch height) // row stride + 1 and W' alike.
        Rows and columns that are left at the bottom and on the right are dropped.

    Raises:
        ValueError: an unknown metric, a patch that does not fit into the images, or as `torch_trf.leep`. Patches
            without labelled pixels are no error.

    Example:
        >>> labels = torch.tensor([[[0, 0, 0, 1], [0, 0, 1, 1]]])
        >>> logits = torch.eye(2)[labels].movedim(-1, 1)
        >>> transferability_map("nce", logits, labels, patch_size=2, min_pixels=1).values.tolist()
        [[0.0, 0.0]]

    Source: Y. Tan et al., "Efficient prediction of model transferability in semantic segmentation tasks", ICIP 2023
    (maps by patch); the metrics as in `torch_trf.metrics`.
    """
    mapper = Mapper(
        metric=metric,
        patch_size=patch_size,
        num_classes=count_classes(labels, num_classes, ignore_index),
        stride=stride,
        pool=pool,
        ignore_index=ignore_index,
        min_pixels=min_pixels,
        fill_value=fill_value,
        absent_classes=absent_classes,
        rcond=rcond,
    )
    features, labels = as_images(features, labels)
    return mapper([Pixels(features, labels, features)])


def _pair(size: int | Size) -> Size:
    height, width = size if isinstance(size, tuple) else (size, size)
    return operator.index(height), operator.index(width)


def _gathered(stream: Iterator[Pixels], most: int) -> Iterator[list[Pixels]]:
    """Groups of batches of at most so many numbers of features, or of a single batch."""
    group: list[Pixels] = []
    numbers = 0
    for pixels in stream:
        numbers += pixels.features.numel()
        if group and numbers > most:
            yield group
            group, numbers = [], pixels.features.numel()
        group.append(pixels)
    if group:
        yield group
