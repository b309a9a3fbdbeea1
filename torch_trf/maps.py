"""Transferability maps: a metric, patch by patch, over statistics that are not merged."""

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor
from tqdm import tqdm

from ._ops import class_index, patch_shape
from .features import FeatureFolder
from .files import whole_file
from .functional import count_classes
from .metrics._checks import require_finite
from .metrics._hscore import RCOND
from .pixels import Pixels, as_images
from .score import Batches, as_pixels
from .statistics import Faults, Statistic
from .table import METRICS, MapMetricName, class_scores, statistic

Size = tuple[int, int]  # height and width, in pixels

# How many numbers of statistics are held at a time: what fits into a CPU's cache where the pixels lie in memory, and
# otherwise so many that the pixels need not be read too often.
CACHE_NUMBERS, MEMORY_NUMBERS = 2**20, 2**24
# Adding to the statistics of many patches costs as much as reading images, so as many images of a stream are gathered
# before as have so many times the numbers that the statistics have.
GATHERED = 4


@dataclass(frozen=True, slots=True, eq=False)
class TransferabilityMap:
    """A metric's value in every patch.

    Attributes:
        values: `[H', W']`, or `[B, H', W']` with a map for every image; higher is better.
        valid: where a patch has enough labelled pixels; elsewhere `values` holds the fill value.
        count: number of labelled pixels of every patch.
        metric: its name.
        unit: of the values.
        patch_size: height and width of a patch, in pixels.
        stride: rows and columns from one patch to the next. Patch (i, j) begins at row i * stride[0] and column
            j * stride[1].
        image_size: height and width of the images. H' = (H - patch height) // row stride + 1, and W' alike: what is
            left at the bottom and on the right belongs to no patch.
    """

    values: Float64[Tensor, "*batch rows columns"]
    valid: Bool[Tensor, "*batch rows columns"]
    count: Int64[Tensor, "*batch rows columns"]
    metric: str
    unit: str
    patch_size: Size
    stride: Size
    image_size: Size

    def exp(self) -> "TransferabilityMap":
        """The exponential of every valid value: of LEEP a mean likelihood, in [0, 1], as published maps hold it."""
        values = torch.where(self.valid, self.values.exp(), self.values)
        return replace(self, values=values, metric=f"exp({self.metric})", unit="likelihood")

    def upsample(self) -> Float64[Tensor, "*batch H W"]:
        """The map at the resolution of the pixels.

        Every pixel has the mean over the valid patches that hold it; NaN where there is none.

        Example:
            >>> labels = torch.tensor([[[0, 0, 1, 1, 1]]])
            >>> options = {"patch_size": (1, 2), "num_classes": 2, "min_pixels": 1}
            >>> transferability_map("nce", torch.eye(2)[labels].movedim(-1, 1), labels, **options).upsample().tolist()
            [[0.0, 0.0, 0.0, 0.0, nan]]
        """
        weight = self.valid.to(torch.float64)
        total, weight = self._spread(torch.where(self.valid, self.values, 0)), self._spread(weight)
        # A pixel without a patch has exactly no weight: sums of zeros.
        mean = torch.where(weight > 0, total / weight, torch.nan)
        height, width = self.image_size
        rest = (0, width - mean.shape[-1], 0, height - mean.shape[-2])
        return torch.nn.functional.pad(mean, rest, value=torch.nan)

    def class_mean(
        self, labels: Integer[Tensor, "images H W"], *, num_classes: int, ignore_index: int = 255
    ) -> Float64[Tensor, "*batch K"]:
        """The mean over the pixels of each class, at the resolution of the pixels.

        Args:
            labels: `[B, H, W]` of the images that were mapped.
            num_classes: K.
            ignore_index: label of the pixels to leave out.

        Returns:
            `[K]`, over all images, or `[B, K]` of a map for every image. NaN for a class without a pixel in a valid
            patch.

        Raises:
            ValueError: labels of another size than the images, or outside `[0, K)`.

        Example:
            >>> labels = torch.tensor([[[0, 0, 1, 1]]])
            >>> made = transferability_map("nce", torch.randn(1, 3, 1, 4), labels, patch_size=1, min_pixels=1)
            >>> made.class_mean(labels, num_classes=2).tolist()
            [0.0, 0.0]
        """
        pooled = self.values.dim() == 2
        if labels.shape[1:] != self.image_size or not (pooled or len(labels) == len(self.values)):
            raise ValueError(f"labels {list(labels.shape)} for a map of {self._describe()}")
        index, bad = class_index(labels, num_classes, ignore_index)
        Faults.from_pixels(labels.flatten(1), bad.flatten(1), torch.zeros_like(bad).flatten(1)).check(
            num_classes, ignore_index
        )
        pixels = self.upsample().expand(labels.shape)
        index = torch.where(pixels.isnan(), -1, index)
        index, pixels = (tensor.reshape(1 if pooled else len(labels), -1) for tensor in (index, pixels))
        sums = pixels.new_zeros(len(index), num_classes + 1)  # the first place for pixels that do not count
        total = sums.scatter_add(1, index + 1, pixels.nan_to_num(0))[:, 1:]
        count = sums.scatter_add(1, index + 1, torch.ones_like(pixels))[:, 1:]
        return (total / count)[0] if pooled else total / count

    def save(self, path: str | Path) -> None:
        """Writes the values to a .npy file, as float32; the whole file or nothing.

        Raises:
            ValueError: another suffix.
        """
        if Path(path).suffix != ".npy":
            raise ValueError(f"{path} must end in .npy")
        with whole_file(Path(path)) as temporary:
            np.save(temporary, self.values.cpu().numpy().astype(np.float32))

    def _spread(self, values: Tensor) -> Tensor:
        """At every pixel that lies between the first and the last patch the sum over the patches that hold it."""
        spread = values.reshape(-1, 1, *values.shape[-2:])
        for axis in range(2):
            size, stride = [1, 1], [1, 1]
            size[axis], stride[axis] = self.patch_size[axis], self.stride[axis]
            spread = torch.nn.functional.conv_transpose2d(spread, spread.new_ones(1, 1, *size), stride=stride)
        return spread.reshape(*values.shape[:-2], *spread.shape[-2:])

    def _describe(self) -> str:
        images = "" if self.values.dim() == 2 else f"{len(self.values)} images of "
        return f"{images}{self.image_size[0]} x {self.image_size[1]} pixels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapper:
    """Maps a metric over images, patch by patch.

    Args:
        metric: which metric, by name.
        patch_size: height and width of a patch in pixels; one number for both.
        num_classes: K, number of target classes.
        stride: rows and columns from one patch to the next; the size of a patch by default. Patches larger than the
            stride overlap: LogME, both H-scores and NCE then share their sums, LEEP looks at a pixel again for every
            patch that holds it.
        pool: "dataset" for one map, of each position over all images; "image" for a map of every image.
        ignore_index: label of the pixels to leave out.
        min_pixels: patches with fewer labelled pixels are not valid.
        fill_value: what they hold.
        softmax: whether to read the softmax of the features instead of the features (LogME and both H-scores).
        absent_classes: as for `metrics.logme`.
        rcond: as for `metrics.hscore`.
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
            if (value := getattr(self, option)) is not None and min(_pair(value)) < 1:
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
            ValueError: bad pixels (the message names the batch), images of different sizes, a patch that does not fit
                into them, logits that are missing, or an iterator for LEEP.
        """
        once = isinstance(target, Iterator)
        if once and self.pool == "dataset" and len(METRICS[self.metric].statistics) > 1:
            raise ValueError(f"{self.metric} looks at every pixel twice: give batches that can be read again")
        stream = as_pixels(target)
        first = next(stream, None)
        if first is None:
            raise ValueError("no batch of pixels: the data set is empty")
        grid = _Grid.of(first, self)
        batches = chain([first], stream) if once else target
        if self.pool == "image":
            bar = tqdm(as_pixels(batches), self.metric, total=_length(target), unit="batch", disable=not self.progress)
            maps = [self._map([group], grid) for pixels in bar for group in grid.groups(pixels)]
            values, count = (torch.cat(tensors) for tensors in zip(*maps, strict=True))
        else:
            if isinstance(target, FeatureFolder):
                target.check_sizes(grid.image_size)
            values, count = self._map(batches, grid)
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

    def _map(self, batches: Batches, grid: "_Grid") -> tuple[Tensor, Tensor]:
        """Values and counts, strip by strip: cells, windows of cells, a second look where there is one, the metric."""
        table, rows = METRICS[self.metric], grid.strips(batches)
        names = [f"softmax_{name}" if self.softmax else name for name in table.statistics]
        values, counts, faults = [], [], []
        length = _length(batches)
        total = None if length is None else length * len(rows) * len(names)
        shown = self.progress and self.pool == "dataset"
        with tqdm(total=total, desc=self.metric, unit="batch", disable=not shown) as bar:
            for strip in rows:
                cells = self._look(names[0], batches, strip, grid, bar, cell=grid.cell)
                faults.append(cells.faults.sum())
                known = cells.windows(grid.window, grid.step)
                if len(names) > 1:
                    options = {"joint_mass": known, "patch_size": grid.patch_size, "stride": grid.stride}
                    known = self._look(names[1], batches, strip, grid, bar, **options)
                values.append(table.function(known, self))
                counts.append(known.count)
        Faults.stack(faults).check(self.num_classes, self.ignore_index)  # on a GPU nothing was raised before
        return torch.cat(values, -2), torch.cat(counts, -2)

    def _look(self, name: str, batches: Batches, rows: slice, grid: "_Grid", bar: Any, **options: Any) -> Any:
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
        for group in _gathered(grid.read(batches, rows), GATHERED * grid.numbers(rows)):
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
    cell_numbers: int  # in the statistic of a cell
    on_cpu: bool

    @classmethod
    def of(cls, pixels: Pixels, mapper: Mapper) -> "_Grid":
        patch_size, stride = _pair(mapper.patch_size), _pair(mapper.stride or mapper.patch_size)
        patch_shape(pixels.labels, patch_size, stride, True)  # raises where no patch fits
        if METRICS[mapper.metric].reads == "logits":
            cell_numbers = mapper.num_classes * class_scores(pixels).shape[1]
        else:
            channels = pixels.features.shape[1]
            cell_numbers = channels * (channels + mapper.num_classes)
        device = torch.device(mapper.device or pixels.features.device)
        height, width = pixels.labels.shape[1:]
        return cls((height, width), patch_size, stride, cell_numbers, device.type == "cpu")

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

    def strips(self, batches: Batches) -> list[slice]:
        """The pixel rows of strips of the map, so that the cells of a strip are few enough to be held at a time.

        Strips share the cells of patches that overlap: where a strip that fits into cache would have more of those
        than of its own, it is cut larger.
        """
        count = (self.image_size[0] - self.patch_size[0]) // self.stride[0] + 1
        row_numbers = self.numbers(slice(0, self.cell[0]))
        if isinstance(batches, Iterator):
            rows = count
        else:
            budgets = [CACHE_NUMBERS] if self.on_cpu and _length(batches) == 1 else []
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
        return (rows.stop - rows.start) // self.cell[0] * (self.image_size[1] // self.cell[1]) * self.cell_numbers

    def groups(self, pixels: Pixels) -> list[Pixels]:
        """So many images at a time that the cells of all of them are few enough."""
        self.check(pixels)
        budget = CACHE_NUMBERS if self.on_cpu else MEMORY_NUMBERS
        return pixels.split(max(1, budget // self.numbers(slice(0, self.image_size[0]))))

    def read(self, batches: Batches, rows: slice) -> Iterator[Pixels]:
        """These rows of every batch."""
        if isinstance(batches, FeatureFolder):
            yield from batches.rows(rows)
        else:
            for pixels in as_pixels(batches):
                self.check(pixels)
                yield pixels.rows(rows)

    def check(self, pixels: Pixels) -> None:
        """Raises where a batch does not have the size of the first."""
        if pixels.labels.shape[1:] != self.image_size:
            sizes = f"{list(pixels.labels.shape[1:])} pixels, the first batch {list(self.image_size)}"
            raise ValueError(f"{pixels.name or 'a batch'} has {sizes}: a map needs images of one size")


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
        fill_value: what they hold.
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
    return (size, size) if isinstance(size, int) else size


def _length(batches: Batches) -> int | None:
    return len(batches) if isinstance(batches, Sized) else None


def _gathered(stream: Iterator[Pixels], most: int) -> Iterator[list[Pixels]]:
    """Groups of batches of at most so many numbers of features, or of a single batch."""
    group: list[Pixels] = []
    for pixels in stream:
        if group and sum(member.features.numel() for member in (*group, pixels)) > most:
            yield group
            group = []
        group.append(pixels)
    yield group
