"""Scores over a stream of pixels: one read serves every metric that is asked for."""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from .metrics._checks import require_finite, require_pixels
from .metrics._hscore import RCOND
from .pixels import Pixels, as_images, boundary
from .statistics import JointMass, PixelSample, Statistic
from .statistics._pixel_sample import NOT_DRAWN
from .table import METRICS, FeatureMetricName, MetricName, class_scores, statistic
from .transport import JointLabelMass, SolverOptions, couple

Sampling = Literal["uniform", "per_class", "boundary"]
Batch = Pixels | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
if TYPE_CHECKING:
    Batches: TypeAlias = Iterable[Batch]
else:
    Batches = Iterable  # a run-time check of an iterator's items would use them up

OTCE_PIXELS = 10_000  # what the published experiments draw


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
    """

    score: float
    repeats: tuple[float, ...]
    pixels: int
    seconds: float
    standard_error: float | None = None
    coupling: dict[str, Any] | None = None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the repeats; None with a single one."""
        return torch.tensor(self.repeats, dtype=torch.float64).std().item() if len(self.repeats) > 1 else None


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
            take all pixels, OTCE and JC-OTCE draw 10,000.
        num_repeats: how many independent samples are drawn and scored.
        sampling: which pixels may be drawn: all labelled ones ("uniform"), equally many of each class ("per_class",
            num_pixels // K each), or those near a change of label ("boundary").
        boundary_radius: how near, in pixels, in rows, columns and diagonals alike.
        seed: of the sampling.
        softmax: metrics that read the softmax of the features instead of the features.
        absent_classes: whether LogME leaves out classes without pixels ("skip") or, as published code does, averages
            them in ("include").
        rcond: the H-score drops directions whose variance is at most this times the largest.
        stream_pixels: LEEP over a stream that can be read only once takes the log-likelihood over a uniform sample of
            this many pixels; exact when the stream has no more.
        device: where to compute; where the pixels are by default.
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
    stream_pixels: int = 100_000
    device: torch.device | str | None = None
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
            "stream_pixels",
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.sampling == "per_class" and (self.num_pixels or OTCE_PIXELS) < self.num_classes:
            raise ValueError(
                f"num_pixels={self.num_pixels} is less than a pixel for each of {self.num_classes} classes"
            )
        draws = self.num_pixels is not None or self._coupled()
        if not draws and (self.num_repeats > 1 or self.sampling != "uniform"):
            options = f"num_repeats={self.num_repeats} and sampling={self.sampling!r}"
            raise ValueError(f"{options} need num_pixels: all pixels are used now")

    def __call__(self, target: Batches, source: Batches | None = None) -> dict[str, Score]:
        """The scores of the asked metrics, by name.

        Args:
            target: a `FeatureFolder`, or batches of pixels as tuples (features, labels) or (features, labels, logits).
                Over all pixels LEEP takes two exact passes where it can iterate again (a folder, a list, a DataLoader
                that does not shuffle), and a single one over an iterator.
            source: the same of the source data set, seen through the same model, for OTCE and JC-OTCE.

        Raises:
            ValueError: bad pixels (the message names the batch), logits that are missing for LEEP and NCE, a missing
                source for OTCE, or no labelled pixel.
            ConvergenceError: strict, and a coupling that did not converge.
        """
        seconds: dict[str, float] = defaultdict(float)
        tables = [METRICS[name] for name in self.metrics]
        wanted = {self._named(name, part) for name in self.metrics for part in METRICS[name].statistics}
        wanted -= {"source_sample"}
        samples = {f"{table.reads[:-1]}_sample" for table in tables}
        can_read_again = not isinstance(target, Iterator)
        coupled = self._coupled()
        if coupled and source is None:
            raise ValueError(f"{coupled[0]} compares two data sets: a source is needed beside the target")

        if self.num_pixels is not None:
            found = self._collect(target, samples, seconds, progress="target")
            images = _sampled_pixels(found.get("feature_sample"), found.get("logit_sample"))
            found |= self._collect([images], wanted - samples - {"log_likelihood"}, seconds, sampled=True)
        else:
            if "log_likelihood" in wanted and not can_read_again:
                wanted.add("logit_sample")
            found = self._collect(target, wanted - {"log_likelihood"}, seconds, progress="target")
            images = None
        if "log_likelihood" in wanted:
            if images is None and not can_read_again:
                images = _sampled_pixels(None, found["logit_sample"])
            found |= self._collect(
                target if images is None else [images],
                {"log_likelihood"},
                seconds,
                joint_mass=found["soft_mass"],
                sampled=images is not None,
                progress="target again" if images is None else None,
            )
        if coupled and source is not None:
            start = time.perf_counter()
            # The complement of the seed draws the source independently of a target on the same grid.
            scorer = replace(self, num_classes=self._source_classes(), seed=~self.seed)
            drawn = scorer._collect(source, {"feature_sample"}, defaultdict(float), progress="source")
            found["source_sample"] = drawn["feature_sample"]
            seconds["source_sample"] = time.perf_counter() - start
        return {name: self._score(name, found, seconds) for name in self.metrics}

    def _collect(
        self,
        batches: Batches,
        wanted: set[str],
        seconds: dict[str, float],
        *,
        joint_mass: JointMass | None = None,
        sampled: bool = False,
        progress: str | None = None,
    ) -> dict[str, Any]:
        """The wanted statistics of all batches, in one pass; adds to `seconds` what each took."""
        options: dict[str, Any] = {
            "ignore_index": NOT_DRAWN if sampled else self.ignore_index,
            "pool_batch": not sampled,
        }
        if joint_mass is not None:
            options["joint_mass"] = joint_mass

        def build(name: str, pixels: Pixels) -> Statistic:
            if name == "feature_sample":
                return self._draw(pixels, pixels.features, self.num_pixels or OTCE_PIXELS)
            if name == "logit_sample" and self.num_pixels is not None:
                return self._draw(pixels, class_scores(pixels), self.num_pixels)
            if name == "logit_sample":  # LEEP's second look at a stream stands for all pixels
                uniform = replace(self, num_repeats=1, sampling="uniform")
                return uniform._draw(pixels, class_scores(pixels), self.stream_pixels)
            return statistic(name, pixels, num_classes=self.num_classes, **options)

        found: dict[str, Any] = {}
        start = time.perf_counter()
        with tqdm(batches, progress, unit="batch", disable=not (self.progress and progress)) as bar:
            for pixels in (pixels.to(self.device) for pixels in as_pixels(bar)):
                seconds["read"] += time.perf_counter() - start
                for name in wanted:
                    start = time.perf_counter()
                    with pixels.named_errors():
                        built = build(name, pixels)
                    found[name] = found[name] + built if name in found else built
                    seconds[name] += time.perf_counter() - start
                start = time.perf_counter()
        if not found and wanted:
            raise ValueError("no batch of pixels: the data set is empty")
        for name in wanted & {"feature_sample", "logit_sample"}:
            found[name] = found[name].join_groups()
        for built in found.values():
            require_pixels(built, num_classes=self.num_classes, ignore_index=self.ignore_index)
        if progress is not None and self.num_pixels is not None:
            self._say_if_few(next(iter(found.values())), progress)
        return found

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

    def _say_if_few(self, sample: PixelSample, side: str) -> None:
        count, places = int(sample.count.min()), sample.key.shape[-1]
        if count < places:
            limit = f", at most {places // self.num_classes:,} of each class" if self.sampling == "per_class" else ""
            warnings.warn(
                f"{side}: {self.sampling} sampling finds {count:,} of the {self.num_pixels:,} pixels asked for{limit};"
                " all of them are used",
                stacklevel=4,
            )

    def _score(self, name: str, found: dict[str, Any], seconds: dict[str, float]) -> Score:
        start = time.perf_counter()
        table = METRICS[name]
        known = found[self._named(name, table.statistics[-1])]
        coupling = error = None
        if table.gamma is not None:
            coupling = self._couple(name, found["source_sample"], known, table.gamma)
        repeats = require_finite(table.function(coupling or known, self).reshape(-1))
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
        )

    def _couple(self, name: str, source: PixelSample, target: PixelSample, gamma: float) -> JointLabelMass:
        if name in self.softmax:
            source, target = (
                replace(sample, features=sample.features.softmax(-1, torch.float64)) for sample in (source, target)
            )
        return couple(
            source.features,
            source.labels,
            target.features,
            target.labels,
            num_classes=self.num_classes,
            num_source_classes=self._source_classes(),
            gamma=gamma,
            progress=self.progress,
            **self.solver_options(),
        )

    def _coupled(self) -> list[str]:
        """The metrics that couple source and target pixels."""
        return [name for name in self.metrics if METRICS[name].gamma is not None]

    def _source_classes(self) -> int:
        if self.num_source_classes is None:
            raise ValueError(f"{self._coupled()[0]} needs num_source_classes")
        return self.num_source_classes

    def _named(self, metric: str, name: str) -> str:
        """The statistic's name, which tells whether it is of the softmax of the features."""
        return f"softmax_{name}" if metric in self.softmax and name == "moments" else name


def as_pixels(batches: Batches) -> Iterator[Pixels]:
    """Batches as pixels, checked; those that come as tensors are numbered through."""
    offset = 0
    for batch in batches:
        if isinstance(batch, Pixels):
            yield batch
        else:
            features, labels = as_images(*batch[:2])
            logits = as_images(batch[2], batch[1])[0] if len(batch) == 3 else None
            yield Pixels(features, labels, logits, offset=offset)
            offset += labels.numel()


def _sampled_pixels(features: PixelSample | None, logits: PixelSample | None) -> Pixels:
    """Samples as a batch of pixels, one image a repeat."""
    images = [sample.as_images() for sample in (features, logits) if sample is not None]
    return Pixels(*images[0], logits=None if logits is None else images[-1][0])
