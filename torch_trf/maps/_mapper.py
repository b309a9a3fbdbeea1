"""How maps are made: strip by strip, in bounded memory."""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm

from .._checks import require_at_least, require_choice, require_finite, require_ignore_index, require_num_classes
from .._ops import Size, patches
from ..batches import Batches, Reader, accumulate, grouped
from ..metrics import CoupledMetric, Look, MetricLike, TransferabilityMetric, as_metric
from ..pixels import Pixels, Pool
from ..statistics import Faults, Statistic, checked_classes
from ..transport import Coupling, SolverLike, as_solver
from ._grid import Grid, pair
from ._score_map import MIN_PIXELS, FirstLook, ScoreMap

# Adding to the statistics of many patches costs as much as reading images, so as many images of a stream are grouped
# before as have so many times the numbers that the statistics have.
GROUPED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapper:
    """Maps a metric over images, patch by patch.

    Args:
        metric: which metric, by name, as an object or by `class_path` (`metrics.as_metric`); one that has a map.
        patch_size: height and width of a patch in pixels, as in [8, 16], or one number for both.
        num_classes: K, number of target classes.
        stride: rows and columns from one patch to the next, or one number for both; the size of a patch by default.
            Patches larger than the stride overlap: they share the sums of a first look, a second look is taken at a
            pixel for every patch that holds it.
        pool: "dataset" for one map, of each position over all images; "image" for a map of every image.
        first_look: of a metric that looks at pixels twice, as LEEP does, where the first look is taken: over all pixels
            of the data set ("dataset"), or anew in each patch ("patch"), as published. By the second, a patch inside
            one class has the best value whatever the model.
        ignore_index: label of the pixels to leave out.
        min_pixels: patches with fewer labeled pixels are not valid.
        fill_value: the value of patches that are not valid.
        num_source_classes: number of source classes, for metrics that need a source.
        solver: which couples source and target pixels: "auto", "exact", "sinkhorn", or one of `transport`.
        device: where to compute; where the pixels are by default.
        progress: whether to show a progress bar.

    Raises:
        ValueError: an unknown metric or one without a map, or options that make no sense.

    Example:
        >>> features, labels = torch.randn(2, 3, 8, 12), torch.randint(0, 2, (2, 8, 12))
        >>> Mapper(metric="logme", patch_size=4, num_classes=2)([(features, labels)]).values.shape
        torch.Size([2, 3])
    """

    metric: MetricLike
    patch_size: int | Sequence[int]
    num_classes: int
    stride: int | Sequence[int] | None = None
    pool: Pool = "dataset"
    first_look: FirstLook = "dataset"
    ignore_index: int = 255
    min_pixels: int = MIN_PIXELS
    fill_value: float = math.nan
    num_source_classes: int | None = None
    solver: SolverLike = "auto"
    device: torch.device | str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        object.__setattr__(self, "metric", as_metric(self.metric))
        object.__setattr__(self, "solver", as_solver(self.solver))
        if not self._metric.has_map:
            raise ValueError(f"metric: {self._metric.name!r} has no map")
        require_choice("pool", self.pool, Pool)
        require_choice("first_look", self.first_look, FirstLook)
        require_num_classes(self.num_classes)
        require_at_least(1, min_pixels=self.min_pixels)
        require_at_least(1, num_source_classes=self.num_source_classes)
        require_ignore_index(self.ignore_index)
        for option, value in (("patch_size", self.patch_size), ("stride", self.stride)):
            if isinstance(value, Sequence) and len(value) != 2:
                raise ValueError(f"{option} must be height and width, or one number for both, not {value}")
            if value is not None and min(pair(value)) < 1:
                raise ValueError(f"{option} must be at least 1 pixel, not {value}")

    def __call__(self, target: Batches, *, source: Batches | None = None, given: Statistic | None = None) -> ScoreMap:
        """The map of images of one size.

        Args:
            target: a `FeatureFolder`, or batches of pixels as for `Scorer`. Memory is bounded by the size of the map:
                where the statistics of all patches together would take more, the pixels are read several times, some
                rows at a time. A metric that looks at pixels twice reads them twice. An iterator, which can be read
                once, serves every other metric, and is held to no bound. Metrics that couple pixels hold all pixels of
                some patches.
            source: the same of the source data set, seen through the same model, for metrics that need a source;
                images of one size, which need not be that of the target. Patch (i, j) of the target's H' x W' is
                coupled with patch (round(i H'' / H'), round(j W'' / W')) of the source's H'' x W'', halves to even, and
                no further than the last one; all source images together. It may be read many times: an iterator is
                held in memory.
            given: of a metric that looks at pixels twice, what the first look gave of a data set, where that is known.

        Raises:
            ValueError: bad pixels between the first and the last patch, or anywhere where the data set is looked at
                first (the message names the batch), images of different sizes or channels, a patch that does not fit
                into them, logits or a source that is missing, an iterator where pixels are looked at twice, batches
                that cannot be read again where they must be, or `given` where there is no first look at a data set.
            ConvergenceError: a strict solver, and a coupling that did not converge.
        """
        if given is not None and (self.first_look != "dataset" or len(self._metric.looks) == 1):
            raise ValueError(f"given: a map of {self._metric.name} takes no first look at a data set here")
        reader = Reader(target)
        if self._reads_twice and given is None and reader.once:
            raise ValueError(f"{self._metric.name} looks at every pixel twice: give batches that can be read again")
        other, images = None, 1  # the source and its grid
        if isinstance(self._metric, CoupledMetric):
            source_reader = self._source_reader(self._metric.require_source(source))
            images = max(source_reader.images(), 1 if self.pool == "image" else reader.images())
            other = source_reader, self.grid(source_reader.first_of_one_size())
        grid = self.grid(reader.first_of_one_size(), images)
        if given is None and self._reads_twice and self.first_look == "dataset":
            given = self._of_dataset(reader)
        if self.pool == "dataset":
            return self._score_map(*self._map(reader, grid, other, given), grid)
        with closing(reader.read(self._metric.name if self.progress else "")) as batches:
            groups = (group for pixels in batches for group in grid.groups(pixels))
            maps = [self._map(Reader([group]), grid, other, given) for group in groups]
        values, counts, couplings, doubts = zip(*maps, strict=True)
        coupling = None if couplings[0] is None else Coupling.cat(couplings)
        return self._score_map(torch.cat(values), torch.cat(counts), coupling, list(chain(*doubts)), grid)

    def grid(self, pixels: Pixels, images: int = 1) -> Grid:
        """How images as large as these are cut; `images` are held at a time, on the side that has more.

        Raises:
            ValueError: a patch that does not fit.
        """
        size = self.patch_size, self.stride
        return Grid.of(pixels, self._metric.looks[0], *size, self.num_classes, self.device, images)

    def cells(self, pixels: Pixels, grid: Grid) -> Statistic:
        """What the first look at a batch tells of every cell of the grid; batches add up, for `of_cells`.

        Raises:
            ValueError: as for a call.
        """
        every_row, bar = grid.rows(0, grid.shape[0]), tqdm(disable=True)
        return self._look(grid.look, None, Reader([pixels]), every_row, grid, bar, cell_size=grid.cell_size)

    def of_cells(self, cells: Statistic, grid: Grid) -> ScoreMap:
        """The map of a metric that looks at a pixel once, from what is known of every cell.

        Raises:
            ValueError: bad pixels.
        """
        cells.faults.check(self.num_classes, self.ignore_index)
        of_patches = cells.patches(grid.patch_cells, grid.stride_cells)
        doubts = [self._metric.doubt(of_patches)]
        return self._score_map(self._metric.score(of_patches), of_patches.count, None, doubts, grid)

    @property
    def _metric(self) -> TransferabilityMetric:
        return cast(TransferabilityMetric, self.metric)

    @property
    def _reads_twice(self) -> bool:
        """Whether all pixels must be read again for a second look; those of an image that is mapped alone are held."""
        return len(self._metric.looks) > 1 and (self.pool == "dataset" or self.first_look == "dataset")

    def _source_reader(self, source: Batches) -> Reader:
        """The batches of the source data set."""
        if self.num_source_classes is None:
            raise ValueError(f"{self._metric.name} needs num_source_classes")
        return Reader(list(source) if isinstance(source, Iterator) else source)

    def _of_dataset(self, reader: Reader) -> Statistic:
        """What all looks but the last give of all pixels."""
        before: Statistic | None = None
        for look in self._metric.looks[:-1]:
            build = partial(look, before=before, num_classes=self.num_classes, ignore_index=self.ignore_index)
            with closing(reader.read("target" if self.progress else "")) as batches:
                before = accumulate(([pixels] for pixels in batches), {"": build}, self.device)[""]
            before.faults.check(self.num_classes, self.ignore_index)
        return cast(Statistic, before)

    def _score_map(
        self, values: Tensor, count: Tensor, coupling: Coupling | None, doubts: list[str | None], grid: Grid
    ) -> ScoreMap:
        valid = count >= self.min_pixels
        require_finite(values[valid], self._metric.name)
        self._metric.warn_of(*doubts)
        return ScoreMap(
            values=values.where(valid, self.fill_value),
            valid=valid,
            count=count,
            metric=self._metric,
            patch_size=grid.patch_size,
            stride=grid.stride,
            image_size=grid.image_size,
            first_look=self.first_look,
            coupling=coupling,
        )

    def _map(
        self, reader: Reader, grid: Grid, source: tuple[Reader, Grid] | None, given: Statistic | None
    ) -> tuple[Tensor, Tensor, Coupling | None, list[str | None]]:
        """Values, counts, couplings and doubts, strip by strip."""
        strips = grid.strips(reader)
        values, counts, couplings, faults, doubts = [], [], [], [], []
        looks = len(self._metric.looks) if given is None else 1
        total = None if reader.length is None else reader.length * len(strips) * looks
        shown = self._shows_strips and source is None  # coupling has bars of its own
        with tqdm(total=total, desc=self._metric.name, unit="batch", disable=not shown) as bar:
            for strip in strips:
                if source is None:
                    statistic, of_strip = self._of_patches(reader, grid, strip, given, bar)
                    values.append(self._metric.score(statistic))
                    doubts.append(self._metric.doubt(statistic))
                    counts.append(statistic.count)
                    faults.append(of_strip)
                else:
                    coupling, count = self._couple(reader, grid, strip, *source)
                    values.append(self._metric.score(coupling))
                    counts.append(count)
                    couplings.append(coupling)
        if faults:
            Faults.stack(faults).check(self.num_classes, self.ignore_index)  # on a GPU nothing was raised before
        whole = Coupling.cat(couplings, counts[0].dim() - 2) if couplings else None
        return torch.cat(values, -2), torch.cat(counts, -2), whole, doubts

    @property
    def _shows_strips(self) -> bool:
        """Whether a progress bar counts the strips; of maps of single images one counts the images."""
        return self.progress and self.pool == "dataset"

    def _of_patches(
        self, reader: Reader, grid: Grid, strip: slice, given: Statistic | None, bar: Any
    ) -> tuple[Statistic, Faults]:
        """The statistic of every patch of a strip: cells, patches of cells, further looks; and its faults."""
        first, *later = self._metric.looks
        size = {"patch_size": grid.patch_size, "stride": grid.stride}
        if given is not None:
            statistic = self._look(later[-1], given, reader, strip, grid, bar, **size)
            return statistic, statistic.faults.sum()
        cells = self._look(first, None, reader, strip, grid, bar, cell_size=grid.cell_size)
        statistic = cells.patches(grid.patch_cells, grid.stride_cells)
        for look in later:
            statistic = self._look(look, statistic, reader, strip, grid, bar, **size)
        return statistic, cells.faults.sum()

    def _look(
        self,
        look: Look,
        before: Statistic | None,
        reader: Reader,
        rows: slice,
        grid: Grid,
        bar: Any,
        **size: Size,
    ) -> Statistic:
        """A look at these rows of all batches."""
        options: dict[str, Any] = {"pool": self.pool, **size}
        build = partial(look, before=before, num_classes=self.num_classes, ignore_index=self.ignore_index, **options)

        def groups() -> Iterator[list[Pixels]]:
            for group in grouped(grid.read(reader, rows, look), GROUPED * grid.numbers(rows)):
                yield group
                bar.update(len(group))

        return accumulate(groups(), {"": build}, self.device)[""]

    def _couple(
        self, reader: Reader, grid: Grid, strip: slice, source: Reader, source_grid: Grid
    ) -> tuple[Coupling, Int64[Tensor, "*batch rows columns"]]:
        """Couplings of the patches of a strip, and how many pixels they have on the side that has fewer."""
        metric, num_source_classes = cast(CoupledMetric, self._metric), cast(int, self.num_source_classes)
        first = strip.start // grid.stride[0]
        features, labels = self._patches(reader, grid, strip, self.num_classes, pool=self.pool == "dataset")
        rows = _correspondence(grid.shape[0], source_grid.shape[0])[first : first + labels.shape[-3]]
        columns = _correspondence(grid.shape[1], source_grid.shape[1])
        source_rows = source_grid.rows(int(rows[0]), int(rows[-1]) + 1)
        source_features, source_labels = (
            tensor[rows - rows[0]][:, columns]
            for tensor in self._patches(source, source_grid, source_rows, num_source_classes, pool=True)
        )
        if source_labels.device != labels.device:
            devices = f"source pixels are on {source_labels.device}, target pixels on {labels.device}"
            raise ValueError(f"{devices}: put them on one device, or say which device")
        count = torch.minimum((labels >= 0).sum(-1), (source_labels >= 0).sum(-1))
        coupling = metric.couple_pixels(
            features,
            labels.masked_fill((count < self.min_pixels).unsqueeze(-1), -1),
            source=(source_features, source_labels),
            num_classes=self.num_classes,
            num_source_classes=num_source_classes,
            solver=self.solver,
            progress=self._shows_strips,
        )
        return coupling, count

    def _patches(
        self, reader: Reader, grid: Grid, rows: slice, num_classes: int, *, pool: bool
    ) -> tuple[Float[Tensor, "*batch rows columns pixels D"], Int64[Tensor, "*batch rows columns pixels"]]:
        """What is read of the pixels of every patch, and their classes, -1 where a pixel is left out."""
        images, classes = [], []
        for pixels in (pixels.to(self.device) for pixels in grid.read(reader, rows, grid.look)):
            with pixels.named_errors():
                classes.append(checked_classes(pixels.labels, num_classes, self.ignore_index, pixels.features))
            images.append(grid.look.softened(pixels.features))
        tensors = torch.cat(images), torch.cat(classes).unsqueeze(1)
        features, labels = (patches(tensor, grid.patch_size, grid.stride, pool) for tensor in tensors)
        return features.movedim(0, -1), labels[0]


def _correspondence(count: int, source_count: int) -> Int64[Tensor, "{count}"]:
    """Which of the source's patches, along an axis, belongs to each of the target's."""
    index = torch.arange(count, dtype=torch.float64, device="cpu") * source_count / count
    return index.round().to(torch.int64).clamp(max=source_count - 1)  # halves go to even numbers
