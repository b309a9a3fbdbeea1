"""Scores over a stream of pixels: one read serves every metric that is asked for."""

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from operator import length_hint
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from .metrics._checks import require_finite, require_pixels
from .metrics._hscore import RCOND
from .metrics._knn import NEIGHBORS, require_neighbors
from .pixels import Pixels, as_images, boundary
from .statistics import PixelSample, Running, Statistic, all_reduce
from .statistics._collectives import rank
from .statistics._pixel_sample import NOT_DRAWN
from .table import COUPLED, METRICS, FeatureMetricName, MetricName, class_scores, statistic
from .transport import JointLabelMass, SolverOptions, couple

Sampling = Literal["uniform", "per_class", "boundary"]
Batch = Pixels | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
if TYPE_CHECKING:
    Batches: TypeAlias = Iterable[Batch]
else:
    Batches = Iterable  # a run-time check of an iterator's items would use them up
Source = Batches | PixelSample

DRAWN_PIXELS = 10_000  # what the published experiments draw for OTCE


@dataclass(frozen=True, slots=True)
class Score:
    """One metric's score of one model.

    Attributes:
        score: the mean over the repeats; higher is better.
        repeats: the score of each sample of pixels; a single one over all pixels.
        pixels: number of target pixels in each.
        seconds: reading, statistics and formula of this metric. Metrics share what they can, so these do not add up.
        standard_error: of a LEEP whose log-likelihood was taken over a sample of a stream; None where it is exact.
        coupling: of OTCE and JC-OTCE, how well source and target were coupled in each repeat: solver, cost,
            duality_gap, marginal_error, epsilon, iterations and converged, as in `transport.JointLabelMass`.
        by_class: of LogME, the evidence for each class, of which the score is the mean; None of a class without pixels.
    """

    score: float
    repeats: tuple[float, ...]
    pixels: int
    seconds: float
    standard_error: float | None = None
    coupling: dict[str, Any] | None = None
    by_class: tuple[float | None, ...] | None = None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the repeats; None with a single one."""
        return torch.tensor(self.repeats, dtype=torch.float64).std().item() if len(self.repeats) > 1 else None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self) | {"std": self.std}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer(SolverOptions):
    """Scores a source model on a target data set by several metrics at once.

    Beside these, it takes the options of the solver of OTCE and JC-OTCE, `transport.SolverOptions`.

    Args:
        metrics: which metrics, by name.
        num_classes: K, number of target classes.
        num_source_classes: number of source classes, for OTCE and JC-OTCE.
        ignore_index: label of the pixels to leave out.
        num_pixels: pixels drawn without replacement for every metric; by default LEEP, LogME, both H-scores and NCE
            take all pixels, OTCE, JC-OTCE and kNN draw 10,000.
        num_repeats: how many independent samples are drawn and scored.
        sampling: which pixels may be drawn: all labeled ones ("uniform"), equally many of each class ("per_class",
            num_pixels // K each), or those near a change of label ("boundary").
        boundary_radius: how near, in pixels, in rows, columns and diagonals alike.
        seed: of the sampling.
        softmax: metrics that read the softmax of the features instead of the features.
        absent_classes: whether LogME leaves out classes without pixels ("skip") or, as published code does, averages
            them in ("include").
        rcond: the H-score drops directions whose variance is at most this times the largest.
        neighbors: k of kNN, the number of nearest pixels that vote for the class of a pixel.
        stream_pixels: LEEP over a stream that can be read only once takes the log-likelihood over a uniform sample of
            this many pixels; exact when the stream has no more.
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

    metrics: tuple[str, ...]
    num_classes: int
    num_source_classes: int | None = None
    ignore_index: int = 255
    num_pixels: int | None = None
    num_repeats: int = 1
    sampling: Sampling = "uniform"
    boundary_radius: int = 3
    seed: int = 0
    softmax: tuple[str, ...] = ()
    absent_classes: Literal["skip", "include"] = "skip"
    rcond: float = RCOND
    neighbors: int = NEIGHBORS
    stream_pixels: int = 100_000
    device: torch.device | str | None = None
    all_ranks: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        SolverOptions.__post_init__(self)
        for option, known in (("metrics", get_args(MetricName)), ("softmax", get_args(FeatureMetricName))):
            if unknown := [name for name in getattr(self, option) if name not in known]:
                raise ValueError(f"{option}: {unknown[0]!r} is none of {', '.join(known)}")
        for option, known in (("sampling", get_args(Sampling)), ("absent_classes", ("skip", "include"))):
            if getattr(self, option) not in known:
                raise ValueError(f"{option}: {getattr(self, option)!r} is none of {', '.join(known)}")
        if not self.metrics:
            raise ValueError(f"no metric asked for; known are {', '.join(METRICS)}")
        for name in (
            "num_classes",
            "num_source_classes",
            "num_pixels",
            "num_repeats",
            "boundary_radius",
            "neighbors",
            "stream_pixels",
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.sampling == "per_class" and (self.num_pixels or DRAWN_PIXELS) < self.num_classes:
            raise ValueError(
                f"num_pixels={self.num_pixels} is less than a pixel for each of {self.num_classes} classes"
            )
        if self.coupled and self.num_source_classes is None:
            raise ValueError(f"{self.coupled[0]} needs num_source_classes")
        draws = self.num_pixels is not None or any(METRICS[name].draws for name in self.metrics)
        if not draws and (self.num_repeats > 1 or self.sampling != "uniform"):
            options = f"num_repeats={self.num_repeats} and sampling={self.sampling!r}"
            raise ValueError(f"{options} need num_pixels: all pixels are used now")

    def __call__(self, target: Batches, source: Source | None = None) -> dict[str, Score]:
        """The scores of the asked metrics, by name.

        Args:
            target: a `FeatureFolder`, or batches of pixels as tuples (features, labels) or (features, labels, logits).
                Over all pixels LEEP takes two exact passes where it can iterate again (a folder, a list, a DataLoader
                that does not shuffle), and a single one over an iterator.
            source: the same of the source data set, seen through the same model, for OTCE and JC-OTCE; or a sample that
                was drawn from it.

        Raises:
            ValueError: bad pixels (the message names the batch), logits that are missing for LEEP and NCE, a missing
                source for OTCE, or no labeled pixel.
            ConvergenceError: strict, and a coupling that did not converge.
            RuntimeError: a rank that ended.
        """
        seconds: dict[str, float] = defaultdict(float)
        return self.scores(self.collect(target, source, seconds), seconds)

    def collect(
        self, target: Batches, source: Source | None = None, seconds: dict[str, float] | None = None
    ) -> dict[str, Statistic]:
        """All that the scores must know of the pixels, by name, for `scores`.

        Args:
            target: as for a call.
            source: as for a call.
            seconds: what each statistic took is added here.

        Raises:
            ValueError: as for a call.
            RuntimeError: as for a call.
        """
        seconds = defaultdict(float) if seconds is None else seconds
        if self.coupled and source is None:
            raise ValueError(f"{self.coupled[0]} compares two data sets: a source is needed beside the target")
        names = self.statistic_names()
        exact = self.num_pixels is None and "leep" in self.metrics and not isinstance(target, Iterator)
        known = self._pass(target, names - {"logit_sample"} if exact else names, seconds, "target")
        if exact:
            options = {"joint_mass": known["soft_mass"]}
            known |= self._pass(target, {"log_likelihood"}, seconds, "target again", **options)
        if self.coupled and source is not None:
            with _timing(seconds, "source_sample"):
                known["source_sample"] = self.source_sample(source)
        return known

    def source_sample(self, source: Source) -> PixelSample:
        """The pixels of the source data set with which OTCE and JC-OTCE couple those of the target.

        Raises:
            ValueError: as for a call.
        """
        if isinstance(source, PixelSample):
            return source if source.batch_shape else source[None]
        drawn = self.of_source._pass(source, {"feature_sample"}, defaultdict(float), "source")
        return cast(PixelSample, drawn["feature_sample"])

    @property
    def of_source(self) -> "Scorer":
        """The scorer that draws pixels of the source data set."""
        # The complement of the seed draws the source independently of a target on the same grid.
        return replace(self, num_classes=self._source_classes, seed=~self.seed)

    def sample(self, pixels: Pixels) -> PixelSample:
        """The pixels that are drawn from a batch, with its features; those of several batches add up.

        Raises:
            ValueError: labels outside the classes, or features that are NaN or infinite.
        """
        return self._draw(pixels, pixels.features, self.num_pixels or DRAWN_PIXELS)

    def statistic_names(self) -> set[str]:
        """What must be known of pixels that are seen once."""
        names: set[str] = set()
        for metric in self.metrics:
            table = METRICS[metric]
            if self.num_pixels is not None or table.draws:
                names.add(f"{table.reads[:-1]}_sample")
            else:
                names.add(self._named(metric, table.statistics[0]))
                if "log_likelihood" in table.statistics:
                    names.add("logit_sample")
        return names

    def statistics(self, pixels: Pixels) -> dict[str, Statistic]:
        """What a batch of pixels that is seen once tells, by name; those of several batches add up, for `scores`.

        Raises:
            ValueError: as for a call.

        Example:
            >>> scorer = Scorer(metrics=("logme",), num_classes=2)
            >>> pixels = Pixels(torch.randn(1, 3, 4, 4), torch.randint(0, 2, (1, 4, 4)))
            >>> known = scorer.statistics(pixels)
            >>> list(known), scorer.scores(known)["logme"].pixels
            (['moments'], 16)
        """
        with pixels.named_errors():
            return {name: self._statistic(name, pixels) for name in self.statistic_names()}

    def scores(self, known: Mapping[str, Statistic], seconds: dict[str, float] | None = None) -> dict[str, Score]:
        """The scores of the asked metrics, by name.

        Args:
            known: of all pixels, the statistics that `statistics` gives; "source_sample" for OTCE and JC-OTCE; of LEEP
                the "log_likelihood" where pixels could be seen twice.
            seconds: what each took.

        Raises:
            ValueError: pixels that are bad or missing.
            ConvergenceError: as for a call.
        """
        seconds = defaultdict(float) if seconds is None else seconds
        found: dict[str, Any] = {
            name: value.join_groups() if isinstance(value, PixelSample) else value for name, value in known.items()
        }
        for name, value in found.items():
            classes = self._source_classes if name == "source_sample" else self.num_classes
            require_pixels(value, num_classes=classes, ignore_index=self.ignore_index)
            if self.num_pixels is not None:
                self.say_if_few(value, "source" if name == "source_sample" else "target", classes)
        self._look_at_samples(found, seconds)
        return {name: self._score(name, found, seconds) for name in self.metrics}

    def _look_at_samples(self, found: dict[str, Any], seconds: dict[str, float]) -> None:
        """Adds what drawn pixels tell: everything where only they are scored, and LEEP's second look at a stream."""
        reads = ("logit_sample",) if self.num_pixels is None else ("feature_sample", "logit_sample")
        images = {name: found[name].as_images() for name in reads if name in found}
        if not images:
            return
        features, labels = next(iter(images.values()))
        pixels = Pixels(features, labels, images["logit_sample"][0] if "logit_sample" in images else None)
        parts = {self._named(metric, part) for metric in self.metrics for part in METRICS[metric].statistics}
        for name in sorted(parts - found.keys() - set(COUPLED), key="log_likelihood".__eq__):
            options = {"joint_mass": found["soft_mass"]} if name == "log_likelihood" else {}
            options |= {"num_classes": self.num_classes, "ignore_index": NOT_DRAWN, "pool_batch": False}
            with _timing(seconds, name):
                found[name] = statistic(name, pixels, **options)

    def _pass(
        self, batches: Batches, names: set[str], seconds: dict[str, float], progress: str, **options: Any
    ) -> dict[str, Statistic]:
        """Statistics of all batches; adds to `seconds` what each took."""
        running: dict[str, Running] = defaultdict(Running)
        stream = rank() if self.all_ranks else 0
        start = time.perf_counter()
        total = length_hint(batches) or None
        with tqdm(batches, progress, total, unit="batch", disable=not self.progress) as bar:
            for pixels in (pixels.to(self.device) for pixels in as_pixels(bar, stream)):
                seconds["read"] += time.perf_counter() - start
                for name in names:
                    with _timing(seconds, name), pixels.named_errors():
                        running[name] += self._statistic(name, pixels, **options)
                start = time.perf_counter()
        known = {name: each.total for name, each in running.items()}
        if self.all_ranks:
            known = all_reduce(known)
        if not known:
            again = ": give batches that can be read again, or an iterator" if progress == "target again" else ""
            raise ValueError(f"no batch of pixels: the data set is empty{again}")
        return known

    def _statistic(self, name: str, pixels: Pixels, **options: Any) -> Statistic:
        if name == "feature_sample":
            return self.sample(pixels)
        if name == "logit_sample" and self.num_pixels is not None:
            return self._draw(pixels, class_scores(pixels), self.num_pixels)
        if name == "logit_sample":  # LEEP's second look at a stream stands for all pixels
            uniform = replace(self, num_repeats=1, sampling="uniform")
            return uniform._draw(pixels, class_scores(pixels), self.stream_pixels)
        return statistic(name, pixels, num_classes=self.num_classes, ignore_index=self.ignore_index, **options)

    def _draw(self, pixels: Pixels, features: Tensor, size: int) -> PixelSample:
        eligible = None
        if self.sampling == "per_class":
            classes = torch.arange(self.num_classes, device=pixels.labels.device).reshape(-1, 1, 1, 1)
            eligible = pixels.labels == classes
            size = size // self.num_classes
        elif self.sampling == "boundary":
            eligible = boundary(pixels.labels, self.boundary_radius, self.ignore_index)
        return PixelSample.from_pixels(
            features,
            pixels.labels,
            size=size,
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            eligible=eligible,
            num_repeats=self.num_repeats,
            seed=self.seed,
            stream=pixels.stream,
            offset=pixels.offset,
        )

    def say_if_few(self, sample: PixelSample, side: str, classes: int) -> None:
        """Warns where fewer pixels could be drawn than were asked for."""
        count = int(sample.count.min())
        if count < sample.size:
            limit = f", at most {sample.size // classes:,} of each class" if self.sampling == "per_class" else ""
            warnings.warn(
                f"{side}: {self.sampling} sampling finds {count:,} of the {self.num_pixels:,} pixels asked for{limit};"
                " all of them are used",
                stacklevel=4,
            )

    def _score(self, name: str, found: dict[str, Any], seconds: dict[str, float]) -> Score:
        start = time.perf_counter()
        table = METRICS[name]
        known = self._as_read(name, found[self._named(name, table.statistics[-1])])
        coupling = error = None
        if table.gamma is not None:
            if "source_sample" not in found:
                raise ValueError(f"{name} compares two data sets: a source is needed beside the target")
            coupling = self._couple(self._as_read(name, found["source_sample"]), known, table.gamma)
        if name == "knn":
            require_neighbors(known)
        parts = None if table.by_class is None else table.by_class(known, self)
        scores = table.function(coupling or known, self) if parts is None else parts.nanmean(-1)
        repeats = require_finite(scores.reshape(-1))
        if name == "leep" and self.num_pixels is None and "logit_sample" in found:
            error = known.standard_error(found["logit_sample"].population).item()
        values = tuple(repeats.tolist())
        used = [self._named(name, part) for part in table.statistics]
        if self.num_pixels is not None:
            used.append(f"{table.reads[:-1]}_sample")
        return Score(
            score=sum(values) / len(values),
            repeats=values,
            pixels=int(known.count.min()),
            seconds=seconds["read"] + sum(seconds[part] for part in set(used)) + time.perf_counter() - start,
            standard_error=error,
            coupling=None if coupling is None else coupling.diagnostics(),
            by_class=None if parts is None else numbers(parts.reshape(-1, self.num_classes).nanmean(0)),
        )

    def _as_read(self, metric: str, known: Any) -> Any:
        """A statistic as a metric reads it: of a sample, which metrics share, perhaps the softmax of the features."""
        if metric in self.softmax and isinstance(known, PixelSample):
            return replace(known, features=known.features.softmax(-1, torch.float64))
        return known

    def _couple(self, source: PixelSample, target: PixelSample, gamma: float) -> JointLabelMass:
        return couple(
            source.features,
            source.labels,
            target.features,
            target.labels,
            num_classes=self.num_classes,
            num_source_classes=self._source_classes,
            gamma=gamma,
            progress=self.progress,
            **self.solver_options(),
        )

    @property
    def coupled(self) -> list[str]:
        """The metrics that couple source and target pixels."""
        return [name for name in self.metrics if METRICS[name].gamma is not None]

    @property
    def _source_classes(self) -> int:
        return cast(int, self.num_source_classes)  # there is one where a metric couples

    def _named(self, metric: str, name: str) -> str:
        """The statistic's name, which tells whether it is of the softmax of the features."""
        return f"softmax_{name}" if metric in self.softmax and name == "moments" else name


def as_pixels(batches: Batches, stream: int = 0) -> Iterator[Pixels]:
    """Batches as pixels, checked; those that come as tensors are numbered through, as pixels of this stream."""
    offset = 0
    for batch in batches:
        if isinstance(batch, Pixels):
            yield batch
        else:
            features, labels = as_images(*batch[:2])
            logits = as_images(batch[2], batch[1])[0] if len(batch) == 3 else None
            yield Pixels(features, labels, logits, stream=stream, offset=offset)
            offset += labels.numel()


def numbers(values: Tensor) -> tuple[float | None, ...]:
    """Numbers for a file, which has no NaN: None instead."""
    return tuple(None if math.isnan(value) else value for value in values.tolist())


@contextmanager
def _timing(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - start
