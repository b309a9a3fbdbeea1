"""Scores and maps as metrics of torchmetrics: fed batch by batch, merged over ranks, saved with a checkpoint."""

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor, nn
from torchmetrics import Metric

from .._collectives import failing_together, gathered_objects, options_of, rank, require_agreement
from .._digest import digest, of_tensor
from .._errors import in_a_line
from .._meeting import meet, tell_failure
from .._ops import Size
from ..batches import Source, holds_nothing
from ..maps import MIN_PIXELS, Mapper, ScoreMap
from ..metrics import DEFAULT_METRICS, MetricLike, as_metric
from ..pixels import GridName, Pixels, class_scores, on_one_grid
from ..sampling import Sampling
from ..score import SOURCE_SAMPLE, Scorer
from ..statistics import PixelSample, Running, Statistic, all_reduce
from ..transport import SolverLike
from .hooks import FeatureTap, Layer, tap

NUMBERS = ("pixels", "height", "width")  # pixels so far, which number those to come, and the size of an image
RESTORED = "restored"  # what the names of restored statistics in a checkpoint begin with


class LiveMetric(Metric):
    """What scores and maps of live features share: statistics, by name, that grow with every batch.

    The statistics take their shapes from the first batch, so they are kept beside the states of torchmetrics and not
    among them. What was restored from a checkpoint is kept apart, by a digest: of ranks that restored the same, one
    counts it.

    Args:
        num_classes: K, number of target classes.
        features_are_logits: whether the features are the source model's class scores, too.
        grid: on which grid features and labels meet, as for `pixels.on_one_grid`.
        **options: of `torchmetrics.Metric`.

    Raises:
        ValueError: an option that neither the class nor `torchmetrics.Metric` has.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, *, num_classes: int, features_are_logits: bool, grid: GridName, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValueError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from error
        self.num_classes = num_classes
        self.features_are_logits = features_are_logits
        self.grid = grid
        self._running: dict[str, Running] = {}
        self._restored: dict[str, dict[str, Statistic]] = {}
        self._numbers: dict[str, int] = {}
        self._numbers_kept: dict[str, int] = {}
        self._is_persistent = False
        self._has_failed = False

    def update(
        self,
        features: Float[Tensor, "..."],
        labels: Integer[Tensor, "..."],
        logits: Float[Tensor, "..."] | None = None,
    ) -> None:
        """Adds a batch; on a GPU nothing waits for it. A batch of no image adds nothing.

        Args:
            features: `[N, D]`, `[B, D, H, W]` or, of a transformer, `[B, N, D]`.
            labels: `[N]` or `[B, H', W']`, target classes, on the features' device.
            logits: class scores of the source model, on a grid of their own or the same, for metrics that read them.

        Raises:
            ValueError: as `pixels.on_one_grid` and `Scorer`, or logits beside features that are class scores. On a GPU
                it is `compute` that raises for labels outside the classes and features that are NaN or infinite.
        """
        try:
            if not holds_nothing(features, labels):
                self._add(features, labels, class_scores(features, logits, self.features_are_logits))
        except Exception as error:
            tell_failure(in_a_line(error))
            self._has_failed = True
            raise
        if self._has_failed:
            tell_failure("")
            self._has_failed = False

    def _add(self, features: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        """Adds a batch of features, labels and class scores."""
        with torch.autocast(features.device.type, enabled=False):
            pixels = on_one_grid(
                features,
                labels,
                scores,
                grid=self.grid,
                stream=rank(),
                offset=self._numbers.get("pixels", 0),
            )
            statistics = self._statistics(pixels)
            for restored in self._restored.values():
                for name, statistic in restored.items():
                    statistic.require_alike(statistics[name])
            self._running = {
                name: self._running.get(name, Running()) + statistic for name, statistic in statistics.items()
            }
        images, height, width = pixels.labels.shape
        seen = self._numbers.get("pixels", 0) + images * height * width
        self._numbers = dict(zip(NUMBERS, (seen, height, width), strict=True))

    @abstractmethod
    def _statistics(self, pixels: Pixels) -> dict[str, Statistic]:
        """The statistics of a batch, by name."""

    @abstractmethod
    def _statistic_types(self) -> dict[str, type[Statistic]]:
        """Which kind of statistic `_statistics` gives under each name."""

    def _check_numbers(self, numbers: Sequence[dict[str, int]]) -> None:
        """Raises where pixels of such numbers cannot be merged; empty ones are of no pixel."""

    def _options(self) -> dict[str, str]:
        """What all ranks must have been told alike, by name."""
        return {"class": type(self).__name__, "features_are_logits": str(self.features_are_logits), "grid": self.grid}

    def _sums(self, restored: Iterable[str]) -> dict[str, Statistic]:
        """The statistics of the batches that were met here and of what was restored from these origins, by name."""
        sums: dict[str, Running] = defaultdict(Running)
        for statistics in (self._restored[origin] for origin in restored):
            for name, statistic in statistics.items():
                sums[name] += statistic
        for name, running in self._running.items():
            sums[name] += running.total
        return {name: running.total for name, running in sums.items()}

    def _totals(self) -> dict[str, Statistic]:
        """The statistics of all batches, by name."""
        totals = self._sums(self._restored)
        if not totals:
            raise ValueError(f"{type(self).__name__} has seen no pixel: update it before it is computed")
        return totals

    @contextmanager
    def attach(self, model: nn.Module, layer: Layer, logits_layer: Layer | None = None) -> "Iterator[LiveFeatures]":
        """Reads what a model gives at a layer, for the length of a block.

        Args:
            model: as for `hooks.FeatureTap`.
            layer: whose features to read; a name or a module, as for `hooks.FeatureTap`.
            logits_layer: which gives class scores, for metrics that read them.

        Raises:
            ValueError: as `hooks.FeatureTap`.
        """
        layers = [layer] if logits_layer is None else [layer, logits_layer]
        with tap(model, *layers) as features:
            yield LiveFeatures(self, features, layers)

    def reset(self) -> None:
        """Forgets all pixels."""
        super().reset()
        self._running, self._restored, self._numbers = {}, {}, dict(self._numbers_kept)

    def forward(self, *pixels: Any, **named_pixels: Any) -> Any:
        """Adds a batch, and gives what `compute` gives of this batch alone."""
        before = dict(self.__dict__)
        self._numbers_kept = self._numbers  # torchmetrics sets the batch apart by a reset; its pixels keep their places
        try:
            return super().forward(*pixels, **named_pixels)
        except Exception:
            has_failed = self._has_failed
            self.__dict__.update(before)  # a batch that is refused leaves no trace
            self._has_failed = has_failed
            raise
        finally:
            self._numbers_kept = {}

    # How torchmetrics copies, merges, synchronizes, moves and saves states, here for statistics.

    @property
    def metric_state(self) -> dict[str, Any]:
        """The statistics, which never change in place, and the numbers that go with them."""
        return {name: dict(getattr(self, name)) for name in ("_running", "_restored", "_numbers")}

    def _copy_state_dict(self) -> dict[str, Any]:
        return self.metric_state

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        if self.metric_state.keys() != incoming_state.keys():
            raise TypeError(
                f"{type(self).__name__} merges with its like alone; torchmetrics.wrappers.Running and whatever else"
                " copies states tensor by tensor does not see what it has met: reset it, or make one for each window"
            )
        self._check_numbers([self._numbers, incoming_state["_numbers"]])
        for name, running in incoming_state["_running"].items():
            self._running[name] = running + self._running[name].total if name in self._running else running
        self._restored = incoming_state["_restored"] | self._restored
        self._numbers = _largest([self._numbers, incoming_state["_numbers"]])
        self._computed, self._update_count = None, max(self._update_count, 1)

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        group = process_group or self.process_group
        meet(group)
        told = gathered_objects((self._options(), self._numbers, list(self._restored)), group)
        options, numbers, restored = zip(*told, strict=True)
        require_agreement(dict(enumerate(options)))
        self._check_numbers(numbers)
        counted_before = set(chain.from_iterable(restored[: rank(group)]))
        totals = self._sums(origin for origin in self._restored if origin not in counted_before)
        self._running = {name: Running((merged,)) for name, merged in all_reduce(totals, group).items()}
        self._restored, self._numbers = {}, _largest(numbers)

    @contextmanager
    def sync_context(self, *syncing: Any, **named: Any) -> Iterator[None]:
        """As of torchmetrics; what cannot be computed leaves each rank with its own statistics, too."""
        try:
            with super().sync_context(*syncing, **named):
                yield
        except BaseException:
            if self._is_synced:
                self.unsync()
            raise

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        self._computed = self._forward_cache = None
        super()._apply(fn, exclude_state)

        def moved(statistic: Statistic) -> Statistic:
            return statistic.to(fn(torch.zeros(1, device=statistic.device)).device)  # and never in another precision

        self._running = {name: Running((moved(running.total),)) for name, running in self._running.items()}
        self._restored = {
            origin: {name: moved(statistic) for name, statistic in statistics.items()}
            for origin, statistics in self._restored.items()
        }
        return self

    def persistent(self, mode: bool = False) -> None:
        """Chooses whether `state_dict` holds the statistics; as for every metric, it does not unless asked to."""
        self._is_persistent = mode

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._is_persistent:
            numbers = {name: self._numbers.get(name, 0) for name in NUMBERS} | {"num_classes": self.num_classes}
            numbers["rank"] = -1 if self._is_synced else rank()  # whose pixels these are: -1 for those of all ranks
            destination.update({f"{prefix}{name}": torch.tensor(n, device="cpu") for name, n in numbers.items()})
            here = {name: running.total for name, running in self._running.items()}
            restored = {f"{RESTORED}.{origin}.": statistics for origin, statistics in self._restored.items()}
            for start, statistics in ({"": here} | restored).items():
                for name, statistic in statistics.items():
                    fields = statistic.state()
                    destination.update({f"{prefix}{start}{name}.{field}": tensor for field, tensor in fields.items()})

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str], *errors: Any
    ) -> None:
        numbers = {name: int(state_dict.pop(f"{prefix}{name}", -1)) for name in (*NUMBERS, "num_classes")}
        if any(number >= 0 for number in numbers.values()):
            self.reset()  # what was computed, too
            missing.extend(f"{prefix}{name}" for name, number in numbers.items() if number < 0)
            classes = numbers.pop("num_classes")
            if classes not in (-1, self.num_classes):
                raise ValueError(f"statistics of {classes} classes, not of num_classes={self.num_classes}")
        saver = int(state_dict.pop(f"{prefix}rank", -1))
        if numbers["pixels"] > 0:
            self._numbers, self._update_count = numbers, 1
            begin = f"{prefix}{RESTORED}."
            origins = {key.removeprefix(begin).partition(".")[0] for key in state_dict if key.startswith(begin)}
            for start, origin in {prefix: "", **{f"{begin}{origin}.": origin for origin in sorted(origins)}}.items():
                fields = {name: _taken(state_dict, f"{start}{name}.") for name in self._statistic_types()}
                if any(fields.values()) or not origins:
                    self._restored[origin or _origin(saver, fields)] = {
                        name: self._statistic_types()[name].from_state(
                            {field: tensor.to(self.device) for field, tensor in state.items()}
                        )
                        for name, state in fields.items()
                        if state
                    }
                    missing.extend(f"{start}{name}" for name, state in fields.items() if not state)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *errors)


class LiveFeatures:
    """What a model gives while a metric is attached to it; `update` says which labels belong to the last pass."""

    def __init__(self, metric: LiveMetric, features: FeatureTap, layers: list[Layer]) -> None:
        self._metric, self._features, self._layers = metric, features, layers

    def update(self, labels: Integer[Tensor, "B H W"]) -> None:
        """Updates the metric with what the last forward pass gave, which is not kept.

        Args:
            labels: `[B, H, W]` of the images that the model has seen, at their resolution or any integer stride, on
                the model's device.

        Raises:
            ValueError: no forward pass since the last update; or as the metric's `update`.
        """
        taken = {layer: self._features.take(layer) for layer in dict.fromkeys(self._layers)}
        features, *logits = (taken[layer] for layer in self._layers)
        self._metric.update(features, labels, *logits)


class TransferabilityScore(LiveMetric):
    """Scores of a source model on target pixels, as a metric of torchmetrics.

    Every metric is exact in one pass, but one that looks at pixels twice, such as LEEP: its second look is at a uniform
    sample of `stream_pixels` pixels (all of them, where there are no more). Merged over ranks by `torch.distributed`,
    with nothing gathered but samples. Samples tell pixels apart by rank and place, so do not merge metrics of one
    process that sample (`merge_state`).

    Args:
        metrics: as for `Scorer`. Of a single one that stands without a list, `compute` and `forward` give the score and
            no dictionary, as `LightningModule.log` and the wrappers of torchmetrics need it: `BootStrapper`,
            `MetricTracker`, `MinMaxMetric`.
        num_classes: K, number of target classes.
        num_source_classes: as for `Scorer`.
        ignore_index: label of the pixels to leave out.
        sampling: as for `Scorer`.
        solver: as for `Scorer`.
        stream_pixels: as for `Scorer`.
        num_features: D, number of channels of the features; that of the first batch by default.
        source: for metrics that need a source, the source data set seen through the same model: batches as for
            `Scorer`, which are read anew at every `compute` and `forward`, or a `PixelSample`; the same on every rank.
        features_are_logits: whether the features are the source model's class scores, for metrics that read these.
        grid: where features and labels meet: "features" or "labels", as for `pixels.on_one_grid`.
        progress: whether `compute` shows progress bars.
        **options: of `torchmetrics.Metric`.

    Raises:
        ValueError: as `Scorer`, an option that nobody has, or a metric that compares two data sets without a source
            that can be read again.

    Example:
        >>> from torch_trf.integrations.torchmetrics import TransferabilityScore
        >>> metric = TransferabilityScore(metrics=("logme", "leep"), num_classes=3, features_are_logits=True)
        >>> for _ in range(2):
        ...     metric.update(torch.randn(2, 5, 8, 8), torch.randint(0, 3, (2, 16, 16)))
        >>> sorted(metric.compute())
        ['leep', 'logme']
        >>> metric = TransferabilityScore("logme", num_classes=3)
        >>> metric.update(torch.randn(2, 5, 8, 8), torch.randint(0, 3, (2, 16, 16)))
        >>> metric.compute().shape
        torch.Size([])
    """

    def __init__(
        self,
        metrics: MetricLike | Sequence[MetricLike] = DEFAULT_METRICS,
        *,
        num_classes: int,
        num_source_classes: int | None = None,
        ignore_index: int = 255,
        sampling: Sampling = Sampling(),
        solver: SolverLike = "auto",
        stream_pixels: int = 100_000,
        num_features: int | None = None,
        source: Source | None = None,
        features_are_logits: bool = False,
        grid: GridName = "features",
        progress: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, features_are_logits=features_are_logits, grid=grid, **options)
        self.scorer = Scorer(
            metrics=metrics,
            num_classes=num_classes,
            num_source_classes=num_source_classes,
            ignore_index=ignore_index,
            sampling=sampling,
            solver=solver,
            stream_pixels=stream_pixels,
            progress=progress,
        )
        self._is_single = isinstance(metrics, str) or not isinstance(metrics, Sequence)
        self.num_features = num_features
        self.source = source
        if self.scorer.coupled and (source is None or isinstance(source, Iterator)):
            given = "none" if source is None else "an iterator, which can be read once"
            raise ValueError(
                f"{self.scorer.coupled[0].name} compares two data sets: it needs a source, and was given {given}"
            )

    def _statistics(self, pixels: Pixels) -> dict[str, Statistic]:
        if self.num_features not in (None, channels := pixels.features.shape[1]):
            raise ValueError(f"features of {channels} channels, not of num_features={self.num_features}")
        return self.scorer.statistics(pixels)

    def _statistic_types(self) -> dict[str, type[Statistic]]:
        return self.scorer.statistic_types()

    def _options(self) -> dict[str, str]:
        return super()._options() | self.scorer.options

    def _source_sample(self, source: Source) -> PixelSample:
        """The drawn source pixels; while ranks are merged, all must have drawn the same."""
        if not self._is_synced:
            return self.scorer.source_sample(source)
        with failing_together(self.process_group):
            sample = self.scorer.source_sample(source)
        drawn = digest(chain.from_iterable(of_tensor(tensor.cpu()) for tensor in (sample.key, sample.labels)))
        told = gathered_objects({"source, whose pixels must come in one order": drawn}, self.process_group)
        require_agreement(dict(enumerate(told)))
        return sample

    def compute(self) -> Float64[Tensor, ""] | dict[str, Float64[Tensor, ""]]:
        """The scores of all pixels since the last reset, by name: 0-d, higher is better.

        Raises:
            ValueError: no pixel, pixels that are bad, or ranks that were told to do different things.
            ConvergenceError: as `Scorer`.
            RuntimeError: a rank that ended, or failed.
        """
        totals = self._totals()
        device = next(iter(totals.values())).device
        with torch.autocast(device.type, enabled=False):
            if self.source is not None and self.scorer.coupled:
                totals[SOURCE_SAMPLE] = self._source_sample(self.source)
            self.scorer.warn_if_fewer(totals)
            scores = self.scorer.scores(totals)
        values = {name: torch.tensor(s.score, dtype=torch.float64, device=device) for name, s in scores.items()}
        return next(iter(values.values())) if self._is_single else values

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws one result of `compute`, or a list of them, by torchmetrics."""
        return self._plot(val, ax)


class TransferabilityMap(LiveMetric):
    """A map of a source model on target images of one size, pooled over the images, as a metric of torchmetrics.

    Args:
        metric: as for `Mapper`; one that looks at a pixel once and needs no source.
        patch_size: height and width of a patch, in pixels of the grid on which features and labels meet.
        num_classes: K, number of target classes.
        stride: as for `Mapper`.
        ignore_index: label of the pixels to leave out.
        min_pixels: as for `Mapper`.
        fill_value: as for `Mapper`.
        features_are_logits: as for `TransferabilityScore`.
        grid: as for `TransferabilityScore`; with "labels" a patch is of pixels of the labels.
        **options: of `torchmetrics.Metric`.

    Raises:
        ValueError: as `Mapper`, an option that nobody has, or a metric that looks at pixels twice or at two data sets.

    Example:
        >>> from torch_trf.integrations.torchmetrics import TransferabilityMap
        >>> metric = TransferabilityMap("logme", patch_size=4, num_classes=3)
        >>> for _ in range(2):
        ...     metric.update(torch.randn(2, 5, 8, 12), torch.randint(0, 3, (2, 16, 24)))
        >>> metric.compute().values.shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        metric: MetricLike,
        *,
        patch_size: int | Size,
        num_classes: int,
        stride: int | Size | None = None,
        ignore_index: int = 255,
        min_pixels: int = MIN_PIXELS,
        fill_value: float = math.nan,
        features_are_logits: bool = False,
        grid: GridName = "features",
        **options: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, features_are_logits=features_are_logits, grid=grid, **options)
        metric = as_metric(metric)
        self.mapper = Mapper(
            metric=metric,
            patch_size=patch_size,
            num_classes=num_classes,
            stride=stride,
            ignore_index=ignore_index,
            min_pixels=min_pixels,
            fill_value=fill_value,
        )
        if metric.needs_source or len(metric.looks) > 1:
            raise ValueError(f"{metric.name} looks at pixels twice or at two data sets: map it by torch_trf.Mapper")
        (self.look,) = metric.looks

    def _statistics(self, pixels: Pixels) -> dict[str, Statistic]:
        height, width = pixels.labels.shape[1:]
        self._check_numbers([self._numbers, {"height": height, "width": width}])
        return {str(self.look): self.mapper.cells(pixels, self.mapper.grid(pixels))}

    def _statistic_types(self) -> dict[str, type[Statistic]]:
        return {str(self.look): self.look.statistic}

    def _options(self) -> dict[str, str]:
        return super()._options() | options_of(self.mapper, but=("device", "progress"))

    def compute(self) -> ScoreMap:
        """The map of all images since the last reset.

        Raises:
            ValueError: no pixel, or pixels that are bad.
        """
        (cells,) = self._totals().values()
        shape = self._numbers["height"], self._numbers["width"]
        like = torch.empty(1, cells.channels or 0, *shape, device="meta")  # a rank may have met no image itself
        grid = self.mapper.grid(Pixels(like, torch.empty(1, *shape, dtype=torch.int64, device="meta"), like))
        with torch.autocast(cells.device.type, enabled=False):
            return self.mapper.of_cells(cells, grid)

    def _check_numbers(self, numbers: Sequence[dict[str, int]]) -> None:
        sizes = [(each["height"], each["width"]) for each in numbers if each]
        for height, width in sizes:
            if (height, width) != sizes[0]:
                sizes_differ = f"images of {height} x {width} pixels, those before had {sizes[0][0]} x {sizes[0][1]}"
                raise ValueError(f"{sizes_differ}: a map needs images of one size")

    def _wrap_compute(self, compute: Callable[[], ScoreMap]) -> Callable[[], ScoreMap]:
        # torchmetrics copies the tensors that it finds in a result; a map is frozen, and it does not look into this.
        wrapped = super()._wrap_compute(lambda: partial(_same, compute()))
        return lambda: wrapped()()


def _taken(state_dict: dict[str, Any], start: str) -> dict[str, Tensor]:
    """The values whose names begin so, by the rest of their names; they are no longer in the dictionary."""
    return {name.removeprefix(start): state_dict.pop(name) for name in list(state_dict) if name.startswith(start)}


def _origin(saver: int, fields: dict[str, dict[str, Tensor]]) -> str:
    """Tells what one rank has saved from what others have."""
    tensors = [tensor for state in fields.values() for _, tensor in sorted(state.items())]
    return digest([str(saver).encode(), *chain.from_iterable(of_tensor(tensor.cpu()) for tensor in tensors)])


def _same(value: ScoreMap) -> ScoreMap:
    return value


def _largest(numbers: Sequence[dict[str, int]]) -> dict[str, int]:
    names = {name for each in numbers for name in each}
    return {name: max(each.get(name, 0) for each in numbers) for name in names}
