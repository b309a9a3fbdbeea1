"""Scores over a stream of pixels: one read serves every metric that is asked for."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from ._checks import require_at_least, require_finite, require_ignore_index, require_num_classes
from ._collectives import failing_together, gathered_objects, options_of, rank, require_agreement
from .batches import Batches, Build, Reader, Source, accumulate
from .metrics import DEFAULT_METRICS, CoupledMetric, Look, MetricLike, TensorName, TransferabilityMetric, as_metrics
from .pixels import Pixels
from .sampling import Sampling
from .statistics import PixelSample, Statistic, all_reduce
from .transport import Coupling, SolverLike, as_solver

SOURCE_SAMPLE = "source_sample"


def sample_name(reads: TensorName) -> str:
    """What the drawn pixels with their features, or logits, are called among the statistics."""
    return f"{reads}_sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric's score of one model.

    Attributes:
        score: the mean over the repeats; higher is better.
        values: the score of each repeat; a single one over all pixels.
        pixels: number of target pixels in each.
        unit: of the score.
        standard_error: of a score whose last look was at a sample of a stream; None where it is exact.
        coupling: of a metric that couples source and target, the coupling of each repeat.
        by_class: scores by class, averaged over the repeats; None of a class without pixels. Of a metric that is a mean
            over classes, and, where pixels are drawn, of one that is a mean over pixels.
    """

    score: float
    values: tuple[float, ...]
    pixels: int
    unit: str
    standard_error: float | None = None
    coupling: Coupling | None = None
    by_class: tuple[float | None, ...] | None = None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the repeats; None with a single one."""
        values = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        return values.std().item() if len(values) > 1 else None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        values = asdict(replace(self, coupling=None)) | {"std": self.std}
        return values | {"coupling": None if self.coupling is None else self.coupling.as_json()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Score":
        """The score that `as_json` gave."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        del fields["std"]  # which the values tell
        if fields["coupling"] is not None:
            fields["coupling"] = Coupling.from_json(fields["coupling"])
        return Score(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Scores a source model on a target data set by several metrics at once.

    Args:
        metrics: which metrics, each by name, as an object or by `class_path` (`metrics.as_metric`).
        num_classes: K, number of target classes.
        num_source_classes: number of source classes, for metrics that need a source.
        ignore_index: label of the pixels to leave out.
        sampling: which pixels are drawn; all are taken by default where the metric allows it.
        solver: which couples source and target pixels: "auto", "exact", "sinkhorn", or one of `transport`.
        stream_pixels: a metric that looks at pixels twice takes the second look, over a stream that can be read only
            once, at a uniform sample of this many pixels; exact when the stream has no more.
        device: where to compute; where the pixels are by default.
        all_ranks: whether every rank of torch.distributed gives a part of the pixels; each then has the scores of all.
            The pixels of different ranks must be of different streams; batches of tensors are.
        progress: whether to show progress bars.

    Raises:
        ValueError: an unknown metric, or options that contradict each other.

    Example:
        >>> features, labels = torch.randn(2, 3, 8, 8), torch.randint(0, 2, (2, 8, 8))
        >>> scores = Scorer(metrics=("logme", "hscore"), num_classes=2)([(features, labels)])
        >>> scores["logme"].pixels
        128
    """

    metrics: MetricLike | Sequence[MetricLike] = DEFAULT_METRICS
    num_classes: int
    num_source_classes: int | None = None
    ignore_index: int = 255
    sampling: Sampling = Sampling()
    solver: SolverLike = "auto"
    stream_pixels: int = 100_000
    device: torch.device | str | None = None
    all_ranks: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        object.__setattr__(self, "metrics", as_metrics(self.metrics))
        object.__setattr__(self, "solver", as_solver(self.solver))
        require_num_classes(self.num_classes)
        require_at_least(1, num_source_classes=self.num_source_classes)
        require_at_least(1, stream_pixels=self.stream_pixels)
        require_ignore_index(self.ignore_index)
        if not isinstance(self.sampling, Sampling):
            raise ValueError(f"sampling must be a Sampling(...), not {self.sampling!r}")
        self.sampling.check_classes(self.num_classes)
        if self.coupled and self.num_source_classes is None:
            raise ValueError(f"{self.coupled[0].name} needs num_source_classes")
        repeats, strategy = self.sampling.num_repeats, self.sampling.strategy
        if not any(map(self._draws, self._metrics)) and (repeats > 1 or strategy != "uniform"):
            raise ValueError(
                f"num_repeats={repeats} and strategy={strategy!r} need num_pixels: all pixels are used now"
            )

    def __call__(self, target: Batches, *, source: Source | None = None) -> dict[str, Score]:
        """The scores of the asked metrics, by name.

        Args:
            target: a `FeatureFolder`, or batches of pixels as tuples (features, labels) or (features, labels, logits).
                Over all pixels a metric that looks at pixels twice takes two exact passes where it can iterate again (a
                folder, a list, a DataLoader that does not shuffle), and a single one over an iterator.
            source: the same of the source data set, seen through the same model, for metrics that need a source; or a
                sample that was drawn from it.

        Raises:
            ValueError: bad pixels (the message names the batch), logits or a source that are missing, or no labeled
                pixel.
            ConvergenceError: a strict solver, and a coupling that did not converge.
            RuntimeError: a rank that ended, or failed.
        """
        return self.scores(self.collect(target, source=source))

    def collect(self, target: Batches, *, source: Source | None = None) -> dict[str, Statistic]:
        """All that the scores must know of the pixels, by name, for `scores`; arguments and errors as for a call."""
        reader = self._reader(target)
        if self.all_ranks:
            given = {"target": "once" if reader.once else "again", "source": "none" if source is None else "given"}
            told = gathered_objects(self.options | {f"{side} as it is read": how for side, how in given.items()}, None)
            require_agreement(dict(enumerate(told)))
        for coupled in self.coupled:
            coupled.require_source(source)
        statistics = self._pass(reader, self._builds(once=reader.once), "target")
        again = [metric for metric in self._metrics if not (reader.once or self._draws(metric))]
        for depth in range(1, max((len(metric.looks) for metric in again), default=1)):
            builds: dict[str, Build] = {}
            for metric in again:
                if depth < len(metric.looks):
                    before = statistics[metric.look_names[depth - 1]]
                    builds[metric.look_names[depth]] = self._build(metric, depth, before)
            statistics |= self._pass(reader, builds, "target again")
        if self.coupled and source is not None:
            statistics[SOURCE_SAMPLE] = self.source_sample(source)
        self.warn_if_fewer(statistics)
        return statistics

    def statistics(self, pixels: Pixels) -> dict[str, Statistic]:
        """What a batch of pixels that is seen once tells, by name; those of several batches add up, for `scores`.

        Raises:
            ValueError: as for a call.

        Example:
            >>> scorer = Scorer(metrics=("logme",), num_classes=2)
            >>> pixels = Pixels.of(torch.randn(1, 3, 4, 4), torch.randint(0, 2, (1, 4, 4)))
            >>> statistics = scorer.statistics(pixels)
            >>> list(statistics), scorer.scores(statistics)["logme"].pixels
            (['Moments(features)'], 16)
        """
        with pixels.named_errors():
            return {name: build(pixels) for name, build in self._builds(once=True).items()}

    def statistic_types(self) -> dict[str, type[Statistic]]:
        """Which kind of statistic `statistics` gives under each name."""
        types: dict[str, type[Statistic]] = {}
        for metric in self._metrics:
            if self._draws(metric):
                types[sample_name(metric.reads)] = PixelSample
            else:
                types[metric.look_names[0]] = metric.looks[0].statistic
                if len(metric.looks) > 1:
                    types[_again_name(metric)] = PixelSample
        return types

    def scores(self, statistics: Mapping[str, Statistic]) -> dict[str, Score]:
        """The scores of the asked metrics, by name.

        Args:
            statistics: of all pixels, what `statistics` or `collect` gives; "source_sample" for metrics that need a
                source.

        Raises:
            ValueError: pixels that are bad or missing.
            ConvergenceError: as for a call.
        """
        target, source = _sides(statistics)
        if source is not None:
            source.require_pixels(self._source_classes, self.ignore_index)
        for statistic in target.values():
            statistic.require_pixels(self.num_classes, self.ignore_index)
        looks: dict[str, Statistic] = {}  # at samples, which metrics share
        return {metric.name: self._score(metric, target, source, looks) for metric in self._metrics}

    def source_sample(self, source: Source) -> PixelSample:
        """The pixels of the source data set with which those of the target are coupled.

        Raises:
            ValueError: as for a call.
        """
        if isinstance(source, Statistic):  # a sample that was drawn before
            return source if source.batch_shape else source[None]
        name, reads, sampling = SOURCE_SAMPLE, self.coupled[0].reads, self.sampling.of_source
        build = partial(self._draw, reads=reads, sampling=sampling, num_classes=self._source_classes)
        return cast(PixelSample, self._pass(self._reader(source), {name: build}, "source")[name])

    def warn_if_fewer(self, statistics: Mapping[str, Statistic]) -> None:
        """Warns where fewer pixels were drawn than asked for; `statistics` as for `scores`."""
        if self.sampling.num_pixels is not None:  # all of them are samples, those of the target alike
            target, source = _sides(statistics)
            self.sampling.warn_if_fewer(cast(PixelSample, next(iter(target.values()))), "target")
            if source is not None:
                self.sampling.warn_if_fewer(cast(PixelSample, source), "source")

    @property
    def options(self) -> dict[str, str]:
        """The options on which scores depend, as they print; ranks that work together have the same."""
        return options_of(self, but=("device", "all_ranks", "progress"))

    @property
    def names(self) -> list[str]:
        """What the metrics are called."""
        return [metric.name for metric in self._metrics]

    @property
    def coupled(self) -> list[CoupledMetric]:
        """The metrics that couple source and target pixels."""
        return [metric for metric in self._metrics if isinstance(metric, CoupledMetric)]

    def _draws(self, metric: TransferabilityMetric) -> bool:
        """Whether a metric is of drawn pixels."""
        return self.sampling.num_pixels is not None or metric.draws

    def _builds(self, *, once: bool) -> dict[str, Build]:
        """What builds, from a batch, the statistics that must be known before any second look, by their names.

        Args:
            once: whether the pixels are seen only once, so that a sample of them is kept for second looks.
        """
        builds: dict[str, Build] = {}
        for metric in self._metrics:
            if self._draws(metric):
                builds[sample_name(metric.reads)] = partial(self._draw, reads=metric.reads, sampling=self.sampling)
            else:
                builds[metric.look_names[0]] = self._build(metric, 0, None)
                if once and len(metric.looks) > 1:
                    for_second_look = Sampling(num_pixels=self.stream_pixels, seed=self.sampling.seed)
                    builds[_again_name(metric)] = partial(self._draw, reads=metric.reads, sampling=for_second_look)
        return builds

    def _build(self, metric: TransferabilityMetric, depth: int, before: Statistic | None) -> Build:
        """What builds the statistic of a metric's look from a batch."""
        look = metric.looks[depth]
        return partial(look, before=before, num_classes=self.num_classes, ignore_index=self.ignore_index)

    def _draw(
        self, pixels: Pixels, *, reads: TensorName, sampling: Sampling, num_classes: int | None = None
    ) -> PixelSample:
        """The pixels that are drawn from a batch, with its features or logits."""
        tensor = Look(PixelSample, reads).read(pixels)  # raises where there are no logits
        classes = num_classes or self.num_classes
        return sampling.draw(tensor, pixels, num_classes=classes, ignore_index=self.ignore_index)

    def _reader(self, batches: Batches) -> Reader:
        return Reader(batches, stream=rank() if self.all_ranks else 0)

    def _pass(self, reader: Reader, builds: Mapping[str, Build], title: str) -> dict[str, Statistic]:
        """Statistics of all batches, of all ranks."""
        with (
            failing_together() if self.all_ranks else nullcontext(),
            closing(reader.read(title if self.progress else "")) as batches,
        ):
            statistics = accumulate(([pixels] for pixels in batches), builds, self.device)
        if self.all_ranks:
            statistics = all_reduce(statistics)
        if builds and not statistics:
            raise ValueError("no batch of pixels: the data set is empty")
        return statistics

    def _score(
        self,
        metric: TransferabilityMetric,
        statistics: Mapping[str, Statistic],
        source: Statistic | None,
        looks: dict[str, Statistic],
    ) -> Score:
        """A metric's score; `looks` keeps what metrics share of looks at samples."""
        last, error, parts = metric.look_names[-1], None, None
        if self._draws(metric):
            sample = cast(PixelSample, statistics[sample_name(metric.reads)])
            statistic, before = self._look_at_sample(metric, sample, looks)
            if metric.mean_over == "pixels":
                parts = metric.by_class_at_sample(sample, before, num_classes=self.num_classes)
        elif last in statistics:
            statistic = statistics[last]
        else:
            sample, statistic = cast(PixelSample, statistics[_again_name(metric)]), statistics[metric.look_names[0]]
            for look in metric.looks[1:]:
                statistic = look.at_sample(sample, statistic, num_classes=self.num_classes)
            error = metric.standard_error(statistic, sample.population)
        metric.require_enough(statistic)
        coupling = None
        if isinstance(metric, CoupledMetric):
            coupling = self._couple(metric, cast(PixelSample, statistic), cast(PixelSample | None, source))
        if metric.mean_over == "classes":
            parts = metric.by_class(statistic)
            scores = parts.nanmean(-1)
        else:
            scores = metric.score(statistic if coupling is None else coupling)
        values = tuple(require_finite(scores.reshape(-1), metric.name).tolist())
        metric.warn_of(metric.doubt(statistic))
        return Score(
            score=sum(values) / len(values),
            values=values,
            pixels=int(statistic.count.min()),
            unit=metric.unit,
            standard_error=None if error is None else error.item(),
            coupling=coupling,
            by_class=None if parts is None else numbers(parts.reshape(-1, self.num_classes).nanmean(0)),
        )

    def _look_at_sample(
        self, metric: TransferabilityMetric, sample: PixelSample, looks: dict[str, Statistic]
    ) -> tuple[Statistic, Statistic | None]:
        """What the metric's last look at a sample gives, and the look before it."""
        before: Statistic | None = None
        statistic: Statistic = sample
        for depth, (name, look) in enumerate(zip(metric.look_names, metric.looks, strict=True)):
            before = statistic if depth else None
            if name not in looks:
                looks[name] = look.at_sample(sample, before, num_classes=self.num_classes)
            statistic = looks[name]
        return statistic, before

    def _couple(self, metric: CoupledMetric, target: PixelSample, source: PixelSample | None) -> Coupling:
        sample = metric.require_source(source)
        source = cast(PixelSample, metric.looks[0].at_sample(sample, num_classes=self._source_classes))
        return metric.couple_pixels(
            target.features,
            target.labels,
            source=(source.features, source.labels),
            num_classes=self.num_classes,
            num_source_classes=self._source_classes,
            solver=self.solver,
            progress=self.progress,
        )

    @property
    def _metrics(self) -> tuple[TransferabilityMetric, ...]:
        return cast(tuple[TransferabilityMetric, ...], self.metrics)

    @property
    def _source_classes(self) -> int:
        return cast(int, self.num_source_classes)  # there is one where a metric needs a source


def _sides(statistics: Mapping[str, Statistic]) -> tuple[dict[str, Statistic], Statistic | None]:
    """The statistics of the target, and the sample of the source where there is one."""
    target = dict(statistics)
    source = target.pop(SOURCE_SAMPLE, None)
    return target, source


def _again_name(metric: TransferabilityMetric) -> str:
    """What the pixels of a stream that stand for all of them in second looks are called among the statistics."""
    return f"{metric.reads}_again"


def numbers(values: Tensor) -> tuple[float | None, ...]:
    """Numbers for a file, which has no NaN: None instead."""
    return tuple(None if math.isnan(value) else value for value in values.tolist())
