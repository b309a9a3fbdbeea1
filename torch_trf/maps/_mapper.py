"""How maps are made: strip by strip, in bounded memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor
from tqdm import tqdm

from .._ops import Size, patches
from ..functional import count_classes
from ..metrics._checks import require_finite
from ..metrics._hscore import RCOND
from ..pixels import Pixels, as_images
from ..score import Batches
from ..statistics import Faults, Statistic
from ..statistics._faults import checked_classes
from ..table import METRICS, MapMetricName, statistic
from ..transport import JointLabelMass, SolverOptions, couple
from ._grid import Grid, pair
from ._reader import Reader, gathered
from ._score_map import MIN_PIXELS, ScoreMap

# Adding to the statistics of many patches costs as much as reading images, so as many images of a stream are gathered
# before as have so many times the numbers that the statistics have.
GATHERED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapper(SolverOptions):
    """Maps a metric over images, patch by patch.

    Beside these, it takes the options of the solver of OTCE and JC-OTCE, `transport.SolverOptions`.

    Args:
        metric: which metric, by name; any but knn.
        patch_size: height and width of a patch in pixels, as in [8, 16], or one number for both.
        num_classes: K, number of target classes.
        stride: rows and columns from one patch to the next, or one number for both; the size of a patch by default.
            Patches larger than the stride overlap: LogME, both H-scores and NCE then share their sums, LEEP looks at a
            pixel again for every patch that holds it.
        pool: "dataset" for one map, of each position over all images; "image" for a map of every image.
        ignore_index: label of the pixels to leave out.
        min_pixels: patches with fewer labeled pixels are not valid.
        fill_value: the value of patches that are not valid.
        softmax: whether to read the softmax of the features instead of the features (all metrics but LEEP and NCE).
        absent_classes: whether LogME leaves out classes without pixels ("skip") or, as published code does, averages
            them in, up to the largest class of a patch ("include").
        rcond: the H-score drops directions whose variance is at most this times the largest.
        num_source_classes: number of source classes, for OTCE and JC-OTCE.
        device: where to compute; where the pixels are by default.
        progress: whether to show a progress bar.

    Raises:
        ValueError: an unknown metric or one without a map, or options that make no sense.

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
    min_pixels: int = MIN_PIXELS
    fill_value: float = math.nan
    softmax: bool = False
    absent_classes: Literal["skip", "include"] = "skip"
    rcond: float = RCOND
    num_source_classes: int | None = None
    device: torch.device | str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        SolverOptions.__post_init__(self)
        if self.metric == "knn":
            raise ValueError("metric: 'knn' has no map: the pixels of a patch are alike, whatever the features")
        for option, known in (
            ("metric", get_args(MapMetricName)),
            ("pool", ("dataset", "image")),
            ("absent_classes", ("skip", "include")),
        ):
            if getattr(self, option) not in known:
                raise ValueError(f"{option}: {getattr(self, option)!r} is none of {', '.join(known)}")
        for option in ("num_classes", "min_pixels", "num_source_classes"):
            if (value := getattr(self, option)) is not None and value < 1:
                raise ValueError(f"{option} must be at least 1, not {value}")
        for option in ("patch_size", "stride"):
            value = getattr(self, option)
            if isinstance(value, tuple) and len(value) != 2:
                raise ValueError(f"{option} must be height and width, or one number for both, not {value}")
            if value is not None and min(pair(value)) < 1:
                raise ValueError(f"{option} must be at least 1 pixel, not {value}")
        if self.softmax and METRICS[self.metric].reads == "logits":
            raise ValueError(f"{self.metric} reads class scores and takes their softmax itself: leave out softmax")

    def __call__(self, target: Batches, source: Batches | None = None) -> ScoreMap:
        """The map of images of one size.

        Args:
            target: a `FeatureFolder`, or batches of pixels as for `Scorer`. Memory is bounded by the size of the map:
                where the statistics of all patches together would take more, the pixels are read several times, some
                rows at a time. LEEP reads them twice. An iterator, which can be read once, serves every metric but
                LEEP, and is held to no bound. OTCE and JC-OTCE hold all pixels of some patches.
            source: the same of the source data set, seen through the same model, for OTCE and JC-OTCE; images of one
                size, which need not be that of the target. Patch (i, j) of the target's H' x W' is coupled with patch
                (round(i H'' / H'), round(j W'' / W')) of the source's H'' x W'', halves to even, and no further than
                the last one; all source images together. It may be read many times: an iterator is held in memory.

        Raises:
            ValueError: bad pixels between the first and the last patch (the message names the batch), images of
                different sizes or channels, a patch that does not fit into them, logits or a source that is missing, an
                iterator for LEEP, or batches that cannot be read again where they must be.
            ConvergenceError: strict, and a coupling that did not converge.
        """
        table = METRICS[self.metric]
        if "log_likelihood" in table.statistics and self.pool == "dataset" and isinstance(target, Iterator):
            raise ValueError(f"{self.metric} looks at every pixel twice: give batches that can be read again")
        reader = Reader(target)
        other, images = None, 1  # the source and its grid
        if table.gamma is not None:
            if source is None:
                raise ValueError(f"{self.metric} compares two data sets: a source is needed beside the target")
            if self.num_source_classes is None:
                raise ValueError(f"{self.metric} needs num_source_classes")
            source_reader = Reader(list(source) if isinstance(source, Iterator) else source)
            images = max(source_reader.images(), 1 if self.pool == "image" else reader.images())
            other = source_reader, self.grid(source_reader.sized())
        grid = self.grid(reader.sized(), images)
        if self.pool == "image":
            bar = tqdm(reader, self.metric, total=reader.length, unit="batch", disable=not self.progress)
            groups = (group for pixels in bar for group in grid.groups(pixels))
            maps = [self._map(Reader([group]), grid, other) for group in groups]
            values, count = torch.cat([made[0] for made in maps]), torch.cat([made[1] for made in maps])
            couplings = [made[2] for made in maps if made[2] is not None]
            coupling = JointLabelMass.cat(couplings, 0) if couplings else None
        else:
            values, count, coupling = self._map(reader, grid, other)
        return self._score_map(values, count, coupling, grid)

    def grid(self, pixels: Pixels, images: int = 1) -> Grid:
        """How images as large as these are cut; `images` are coupled at a time, on the side that has more.

        Raises:
            ValueError: a patch that does not fit.
        """
        patches = self.patch_size, self.stride
        return Grid.of(pixels, METRICS[self.metric], *patches, self.num_classes, self.device, images)

    def cells(self, pixels: Pixels, grid: Grid) -> Statistic:
        """What a batch tells of every cell of the grid; those of several batches add up, for `of_cells`.

        Raises:
            ValueError: as for a call.
        """
        every_row = grid.rows(0, grid.shape[0])
        return self._look(self.statistic_name, Reader([pixels]), every_row, grid, tqdm(disable=True), cell=grid.cell)

    def of_cells(self, cells: Any, grid: Grid) -> ScoreMap:
        """The map of a metric that looks at a pixel once, from what is known of every cell.

        Raises:
            ValueError: bad pixels.
        """
        cells.faults.check(self.num_classes, self.ignore_index)
        known: Any = cells.windows(grid.window, grid.step)
        return self._score_map(METRICS[self.metric].function(known, self), known.count, None, grid)

    def _score_map(self, values: Tensor, count: Tensor, coupling: JointLabelMass | None, grid: Grid) -> ScoreMap:
        valid = count >= self.min_pixels
        require_finite(values[valid])
        return ScoreMap(
            values=values.where(valid, self.fill_value),
            valid=valid,
            count=count,
            metric=self.metric,
            unit=METRICS[self.metric].unit,
            patch_size=grid.patch_size,
            stride=grid.stride,
            image_size=grid.image_size,
            coupling=coupling,
        )

    def _map(
        self, reader: Reader, grid: Grid, source: tuple[Reader, Grid] | None
    ) -> tuple[Tensor, Tensor, JointLabelMass | None]:
        """Values, counts and couplings, strip by strip."""
        table, rows = METRICS[self.metric], grid.strips(reader)
        values, counts, couplings = [], [], []
        if source is not None:
            for strip in rows:
                coupling, count = self._couple(reader, grid, strip, *source)
                couplings.append(coupling)
                values.append(table.function(coupling, self))
                counts.append(count)
            return torch.cat(values, -2), torch.cat(counts, -2), JointLabelMass.cat(couplings, counts[0].dim() - 2)
        faults = []
        total = None if reader.length is None else reader.length * len(rows) * len(table.statistics)
        shown = self.progress and self.pool == "dataset"
        with tqdm(total=total, desc=self.metric, unit="batch", disable=not shown) as bar:
            for strip in rows:
                known, met = self._sum(reader, grid, strip, bar)
                values.append(table.function(known, self))
                counts.append(known.count)
                faults.append(met)
        Faults.stack(faults).check(self.num_classes, self.ignore_index)  # on a GPU nothing was raised before
        return torch.cat(values, -2), torch.cat(counts, -2), None

    def _sum(self, reader: Reader, grid: Grid, strip: slice, bar: Any) -> tuple[Any, Faults]:
        """The statistic of every patch of a strip: cells, windows of cells, a second look where there is one."""
        cells = self._look(self.statistic_name, reader, strip, grid, bar, cell=grid.cell)
        known = cells.windows(grid.window, grid.step)
        for name in METRICS[self.metric].statistics[1:]:
            options = {"joint_mass": known, "patch_size": grid.patch_size, "stride": grid.stride}
            known = self._look(name, reader, strip, grid, bar, **options)
        return known, cells.faults.sum()

    @property
    def statistic_name(self) -> str:
        """What must be known of every cell."""
        name = METRICS[self.metric].statistics[0]
        return f"softmax_{name}" if self.softmax else name

    def _look(self, name: str, reader: Reader, rows: slice, grid: Grid, bar: Any, **options: Any) -> Any:
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
        for group in gathered(grid.read(reader, rows), GATHERED * grid.numbers(rows)):
            try:
                built = build(Pixels.join(group))
            except ValueError:
                for pixels in group:  # which of them it was
                    build(pixels)
                raise
            merged = built if merged is None else merged + built
            bar.update(len(group))
        return merged

    def _couple(
        self, reader: Reader, grid: Grid, strip: slice, source: Reader, source_grid: Grid
    ) -> tuple[JointLabelMass, Int64[Tensor, "*batch rows columns"]]:
        """Couplings of the patches of a strip, and how many pixels they have on the side that has fewer."""
        first = strip.start // grid.stride[0]
        features, labels = self._patches(reader, grid, strip, self.num_classes, pool=self.pool == "dataset")
        rows = _correspondence(grid.shape[0], source_grid.shape[0])[first : first + labels.shape[-3]]
        columns = _correspondence(grid.shape[1], source_grid.shape[1])
        source_rows = source_grid.rows(int(rows[0]), int(rows[-1]) + 1)
        source_features, source_labels = (
            tensor[rows - rows[0]][:, columns]
            for tensor in self._patches(source, source_grid, source_rows, self.num_source_classes or 0, pool=True)
        )
        if source_labels.device != labels.device:
            devices = f"source pixels are on {source_labels.device}, target pixels on {labels.device}"
            raise ValueError(f"{devices}: put them on one device, or say which device")
        count = torch.minimum((labels >= 0).sum(-1), (source_labels >= 0).sum(-1))
        coupling = couple(
            source_features,
            source_labels,
            features,
            labels.masked_fill((count < self.min_pixels).unsqueeze(-1), -1),
            num_classes=self.num_classes,
            num_source_classes=self.num_source_classes or 0,
            gamma=METRICS[self.metric].gamma or 1.0,
            progress=self.progress and self.pool == "dataset",
            **self.solver_options(),
        )
        return coupling, count

    def _patches(
        self, reader: Reader, grid: Grid, rows: slice, num_classes: int, *, pool: bool
    ) -> tuple[Float[Tensor, "*batch rows columns pixels D"], Int64[Tensor, "*batch rows columns pixels"]]:
        """Features and classes of the pixels of every patch, -1 where a pixel is left out."""
        images, classes = [], []
        for pixels in (pixels.to(self.device) for pixels in grid.read(reader, rows)):
            with pixels.named_errors():
                classes.append(checked_classes(pixels.labels, num_classes, self.ignore_index, pixels.features))
            images.append(pixels.features.softmax(1, torch.float64) if self.softmax else pixels.features)
        tensors = torch.cat(images), torch.cat(classes).unsqueeze(1)
        features, labels = (patches(tensor, grid.patch_size, grid.stride, pool) for tensor in tensors)
        return features.movedim(0, -1), labels[0]


def _correspondence(count: int, source_count: int) -> Int64[Tensor, "{count}"]:
    """Which of the source's patches, along an axis, belongs to each of the target's."""
    index = torch.arange(count, dtype=torch.float64) * source_count / count
    return index.round().to(torch.int64).clamp(max=source_count - 1)  # halves go to even numbers


def transferability_map(
    metric: str,
    features: Float[Tensor, "B D H W"],
    labels: Integer[Tensor, "B H W"],
    source_features: Float[Tensor, "B2 D H2 W2"] | None = None,
    source_labels: Integer[Tensor, "B2 H2 W2"] | None = None,
    *,
    patch_size: int | Size,
    stride: int | Size | None = None,
    pool: Literal["dataset", "image"] = "dataset",
    num_classes: int | None = None,
    ignore_index: int = 255,
    min_pixels: int = MIN_PIXELS,
    fill_value: float = math.nan,
    absent_classes: Literal["skip", "include"] = "skip",
    rcond: float = RCOND,
    num_source_classes: int | None = None,
    **solver_options: Any,
) -> ScoreMap:
    """Where in the images a source model transfers well: a metric, patch by patch.

    Args:
        metric: "leep", "nce", "logme", "hscore", "regularized_hscore", "otce" or "jc_otce".
        features: `[B, D, H, W]`, on the CPU or a GPU; for LEEP and NCE the source model's class scores before softmax.
        labels: `[B, H, W]`, target classes.
        source_features: `[B2, D, H2, W2]`, of the source data set, for OTCE and JC-OTCE. Each target patch is coupled
            with the source patch at the same place (`Mapper`), of all source images together.
        source_labels: `[B2, H2, W2]`, source classes.
        patch_size: height and width of a patch in pixels; one number for both.
        stride: rows and columns from one patch to the next; the size of a patch by default. 1 gives a value for
            every pixel at which a whole patch begins.
        pool: "dataset" for one map, of each position over all images; "image" for a map of every image.
        num_classes: K; the largest label plus one by default.
        ignore_index: label of the pixels to leave out.
        min_pixels: patches with fewer labeled pixels are not valid.
        fill_value: the value of patches that are not valid.
        absent_classes: as for `metrics.logme`.
        rcond: as for `metrics.hscore`.
        num_source_classes: Z, for OTCE and JC-OTCE; the largest source label plus one by default.
        **solver_options: for OTCE and JC-OTCE, as for `transport.joint_label_mass`.

    Returns:
        The map: `values` `[H', W']` or `[B, H', W']`, where H' = (H - patch height) // row stride + 1 and W' alike.
        Rows and columns that are left at the bottom and on the right are dropped.

    Raises:
        ValueError: an unknown metric, a patch that does not fit into the images, or as `torch_trf.leep`. Patches
            without labeled pixels are no error.

    Example:
        >>> labels = torch.tensor([[[0, 0, 0, 1], [0, 0, 1, 1]]])
        >>> logits = torch.eye(2)[labels].movedim(-1, 1)
        >>> transferability_map("nce", logits, labels, patch_size=2, min_pixels=1).values.tolist()
        [[0.0, 0.0]]

    Source: Y. Tan et al., "Efficient prediction of model transferability in semantic segmentation tasks", ICIP 2023
    (maps by patch); the metrics as in `torch_trf.metrics`.
    """
    source = None
    if source_features is not None and source_labels is not None:
        num_source_classes = count_classes(source_labels, num_source_classes, ignore_index)
        source = [Pixels(*as_images(source_features, source_labels))]
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
        num_source_classes=num_source_classes,
        **solver_options,
    )
    features, labels = as_images(features, labels)
    return mapper([Pixels(features, labels, features)], source)
