"""Ranking candidates: each model runs once over the target's images, and what it gave is kept to go on from."""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import cast

from .._checks import require_types
from .._errors import in_a_line
from .._files import PathLike, only_writer
from .._versions import versions
from ..datasets import DataWarning, LabeledData, read_batches
from ..inference import Inference
from ..metrics import DEFAULT_METRICS, MetricLike, TransferabilityMetric, as_metric, as_metrics
from ..sampling import Sampling
from ..score import SOURCE_SAMPLE, Score, Scorer, numbers
from ..transport import SolverLike, as_solver
from ._candidate import Candidate
from ._doubts import doubts
from ._drawn_pixels import DrawnImage, DrawnPixels
from ._first_images import check_transform, first_images
from ._ranking import Ranking, Result, check_columns
from ._reading import Reading, mapped_layer, read_model
from ._report import write_report
from ._store import Settings, Store, as_class_path, plain


class CandidateError(Exception):
    """Why a candidate cannot be scored, in one line."""


@dataclass(frozen=True, kw_only=True)
class Ranker:
    """Ranks candidate models by how well they transfer to a target data set.

    All of them are read at the same pixels, drawn once from the labels, bilinearly between the places where their
    features lie, so that models of different strides are compared on equal terms. Each model runs once. What it gave at
    these pixels, and its scores, are kept in the folder, so a ranking that was interrupted goes on where it ended.

    Args:
        target: the labeled images of the target data set.
        output: folder of the results; it is made.
        metrics: which metrics, each by name, as an object or by `class_path` (`metrics.as_metric`).
        by: the name of the metric that ranks; the first by default.
        sampling: which pixels are drawn; by default 10,000, equally many of each class.
        solver: which couples source and target pixels: "auto", "exact", "sinkhorn", or one of `transport`.
        map_metric: the metric of which the report shows a map over one image, as `metrics` are given; it reads one data
            set. The first look of one that looks twice is at the drawn pixels.
        inference: how models are run; scores are computed where they are.

    Raises:
        ValueError: an unknown metric, one that is called as a column of the ranking, or options that contradict each
            other.
    """

    target: LabeledData
    output: PathLike
    metrics: MetricLike | Sequence[MetricLike] = DEFAULT_METRICS
    by: str | None = None
    sampling: Sampling = Sampling(num_pixels=10_000, strategy="per_class")
    solver: SolverLike = "auto"
    map_metric: MetricLike = "leep"
    inference: Inference = Inference()

    def __post_init__(self) -> None:
        """Checks the options."""
        object.__setattr__(self, "metrics", as_metrics(self.metrics))
        object.__setattr__(self, "map_metric", as_metric(self.map_metric))
        object.__setattr__(self, "solver", as_solver(self.solver))
        require_types(self)
        check_columns(self._metrics)
        names = [metric.name for metric in self._metrics]
        if self.by not in (None, *names):
            raise ValueError(f"by: {self.by!r} is none of the metrics {', '.join(names)}")
        if self._map_metric.needs_source or not self._map_metric.has_map:
            raise ValueError(f"map_metric: {self._map_metric.name!r} has no map over an image of one data set")
        if self.sampling.num_pixels is None:
            raise ValueError("num_pixels must be a number: models are compared at pixels that are drawn")
        self.sampling.check_classes(self.target.num_classes)

    def __call__(self, candidates: Sequence[Candidate]) -> Ranking:
        """The ranking, also written as `ranking.json`, `ranking.csv` and `report.html`.

        Of a candidate that fails there is a warning at once; it is in the ranking with its error.

        Raises:
            ValueError: no candidate, two of one name, one that does not give what a metric reads, or whose transform
                does not keep all of an image in view, or bad data.
            OSError: results that cannot be written, or a folder into which another process writes.
        """
        self._check(candidates)
        with only_writer(self.output):
            return self._ranking(candidates)

    def _ranking(self, candidates: Sequence[Candidate]) -> Ranking:
        output = Path(self.output)
        drawn = self._drawn_pixels(self.target, self.sampling, "target", "labels")
        self._check_transforms(candidates, drawn)
        self._sources.clear()
        results = []
        for number, candidate in enumerate(candidates, 1):
            try:
                result = self._result(candidate, drawn, f"{candidate.name} ({number} of {len(candidates)})")
            except CandidateError as error:
                warnings.warn(f"{candidate.name} failed and is left out: {error}", stacklevel=3)
                result = Result(name=candidate.name, scores={}, map=None, settings={}, seconds={}, failure=str(error))
            results.append(result)
        ranking = Ranking(
            results=tuple(results),
            metrics=self._metrics,
            by=self.by or self._metrics[0].name,
            map_metric=self._map_metric,
            target=plain(asdict(self.target)),
            shown=drawn.shown,
        )
        ranking.write(output)
        shown = self.target.make().read(drawn.shown)
        write_report(ranking, shown.image, shown.labels, output / "report.html")
        return ranking

    @property
    def _metrics(self) -> tuple[TransferabilityMetric, ...]:
        return cast(tuple[TransferabilityMetric, ...], self.metrics)

    @property
    def _map_metric(self) -> TransferabilityMetric:
        return cast(TransferabilityMetric, self.map_metric)

    @property
    def _needs_source(self) -> bool:
        return any(metric.needs_source for metric in self._metrics)

    @cached_property
    def _sources(self) -> dict[str, DrawnPixels]:
        """What was drawn from source data sets, which candidates may share."""
        return {}

    def _check(self, candidates: Sequence[Candidate]) -> None:
        if not candidates:
            raise ValueError("there is no candidate to rank")
        names = [candidate.name for candidate in candidates]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two candidates are called {twice[0]!r}")
        for candidate in candidates:
            for metric in self._metrics:
                if metric.reads not in candidate.layer_of:
                    raise ValueError(
                        f"{metric.name} reads class scores: give logits_layer to candidate {candidate.name!r}"
                    )
                if metric.needs_source and candidate.source is None:
                    raise ValueError(
                        f"{metric.name} compares two data sets: give source to candidate {candidate.name!r}"
                    )

    def _check_transforms(self, candidates: Sequence[Candidate], drawn: DrawnPixels) -> None:
        images = first_images(self.target.make(), sorted(drawn.of_images()), drawn.digests)
        for candidate in candidates:
            try:
                transform = candidate.make_transform()
            except Exception:  # it fails in its turn, alone
                continue
            try:
                check_transform(candidate, transform, images)
            except ValueError as error:
                raise ValueError(f"candidate {candidate.name!r}: {error}") from error

    def _drawn_pixels(self, data: LabeledData, sampling: Sampling, side: str, title: str) -> DrawnPixels:
        """The pixels that are drawn from a data set, image by image; says where they are fewer than asked for."""
        bar = title if self.inference.progress else ""
        draw = partial(DrawnImage.from_labels, sampling=sampling, num_classes=data.num_classes)
        batches = read_batches(data.make(), draw, batch_size=1, num_workers=self.inference.num_workers, title=bar)
        drawn = DrawnPixels.from_images(image for batch in batches for image in batch)
        sampling.warn_if_fewer(drawn.sample, side)
        for doubt in doubts(drawn.label_counts, drawn.digests, data.ignore_index):
            warnings.warn(f"{side}: {doubt}", stacklevel=4)
        return drawn

    def _result(self, candidate: Candidate, drawn: DrawnPixels, title: str) -> Result:
        """The candidate's result: as it was kept, from what its model gave before, or from its model.

        Raises:
            CandidateError: a candidate that cannot be scored.
            OSError: results that cannot be written.
        """
        store = Store(Path(self.output) / candidate.name)
        with _errors_of_candidate():
            source = self._source_pixels(candidate, title)
            settings = self._settings(candidate, drawn, source)
        result = store.result(settings)
        if result.value is not None:
            _tell(candidate, result.value.doubts)
            return result.value
        kept = store.reading(settings["model"])
        reading = kept.value
        doubts: list[str] = []
        if reading is None:
            _warn(candidate, kept.differences or result.differences, "its model runs again")
            with _errors_of_candidate(), _gathered(candidate, doubts):
                reading = read_model(
                    candidate,
                    self.target,
                    drawn,
                    source,
                    map_metric=self._map_metric,
                    inference=self.inference,
                    title=title,
                )
            reading = replace(reading, doubts=tuple(doubts))
            store.save_reading(reading, settings["model"])
        else:
            _warn(candidate, result.differences, "it is scored again")
            _tell(candidate, doubts := list(reading.doubts))
        with _errors_of_candidate(), _gathered(candidate, doubts):
            scores = self._scores(candidate, reading)
        scored = Result(
            name=candidate.name,
            scores=scores,
            map=None if reading.map is None else [list(numbers(row)) for row in reading.map],
            settings=settings,
            seconds=reading.seconds,
            doubts=tuple(doubts),
        )
        store.save_result(scored)
        return scored

    def _source_pixels(self, candidate: Candidate, title: str) -> DrawnPixels | None:
        """The pixels of a candidate's source data set; None where no metric compares with it."""
        if candidate.source is None or not self._needs_source:
            return None
        name = json.dumps(asdict(candidate.source), default=str)
        if name not in self._sources:
            side, bar = f"source of {candidate.name}", f"{title}: labels of the source"
            self._sources[name] = self._drawn_pixels(candidate.source, self.sampling.of_source, side, bar)
        return self._sources[name]

    def _settings(self, candidate: Candidate, drawn: DrawnPixels, source: DrawnPixels | None) -> Settings:
        """What a candidate's result depends on; under "model" what is read of its model does."""
        maps = mapped_layer(candidate, self._map_metric) is not None
        model = candidate.settings | {
            "sampling": asdict(self.sampling),
            "map_metric": as_class_path(self._map_metric) if maps else None,
            "precision": self.inference.precision,
            "versions": {name: versions()[name] for name in ("torch", "torch_trf")},
            "images and labels": drawn.fingerprint,
        }
        if source is not None:
            model["source images and labels"] = source.fingerprint
        scorer = {
            "metrics": {metric.name: as_class_path(metric) for metric in self._metrics},
            "num_classes": self.target.num_classes,
            "solver": as_class_path(self.solver) if self._needs_source else None,
        }
        return plain({"model": model, "scorer": scorer})

    def _scores(self, candidate: Candidate, reading: Reading) -> dict[str, Score]:
        """The scores of what a model gave, computed where models are run."""
        scorer = Scorer(
            metrics=self._metrics,
            num_classes=self.target.num_classes,
            num_source_classes=None if candidate.source is None else candidate.source.num_classes,
            sampling=self.sampling,
            solver=self.solver,
        )
        names = [*scorer.statistic_types(), *([SOURCE_SAMPLE] if self._needs_source else [])]
        samples = {name: reading.samples[name] for name in names}
        if self.inference.device is not None:
            samples = {name: sample.to(self.inference.device) for name, sample in samples.items()}
        return scorer.scores(samples)


@contextmanager
def _errors_of_candidate() -> Iterator[None]:
    """Makes a `CandidateError` of any other, since files and code of a candidate may be anybody's."""
    try:
        yield
    except Exception as error:
        raise CandidateError(in_a_line(error)) from error


@contextmanager
def _gathered(candidate: Candidate, doubts: list[str]) -> Iterator[None]:
    """Tells what is warned of in a block with the candidate's name, once, and keeps it; not what is of the images."""
    try:
        with warnings.catch_warnings(record=True) as met:
            warnings.simplefilter("always", UserWarning)
            yield
    finally:
        for each in met:
            if not issubclass(each.category, UserWarning) or issubclass(each.category, DataWarning):
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
            elif (doubt := str(each.message)) not in doubts:
                doubts.append(doubt)
                _tell(candidate, [doubt])


def _tell(candidate: Candidate, doubts: Iterable[str]) -> None:
    for doubt in doubts:
        warnings.warn(f"{candidate.name}: {doubt}", stacklevel=5)


def _warn(candidate: Candidate, differences: Iterable[str], consequence: str) -> None:
    for difference in differences:
        warnings.warn(f"{candidate.name}: {difference}: {consequence}", stacklevel=5)
