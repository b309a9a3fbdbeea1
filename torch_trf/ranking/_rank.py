"""Ranking candidates: each model runs once over the target's images, and what it gave is kept to go on from."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import torch

from .._versions import versions
from ..datasets import LabeledData, read_batches
from ..score import Scorer, numbers
from ..table import METRICS
from ._candidate import Candidate
from ._drawn_pixels import DrawnImage, DrawnPixels
from ._leep import leep_by_class
from ._look import Look, Seen
from ._passes import Precision
from ._ranking import Ranking, Result
from ._report import write_report
from ._store import Settings, Store, plain

DRAWING = ("seed", "num_pixels", "num_repeats", "sampling", "boundary_radius")  # options on which the pixels depend
DEFAULTS: dict[str, Any] = {"num_pixels": 10_000, "sampling": "per_class"}


@dataclass(frozen=True, kw_only=True)
class Ranker:
    """Ranks candidate models by how well they transfer to a target data set.

    All of them are read at the same pixels, drawn once from the labels, bilinearly between the places where their
    features lie, so that models of different strides are compared on equal terms. Each model runs once. What it gave at
    these pixels, and its scores, are kept in the folder, so a ranking that was interrupted goes on where it ended.

    Args:
        target: the labeled images of the target data set.
        output: folder of the results; it is made.
        metrics: which metrics, by name.
        by: the metric that ranks; the first by default.
        options: of `Scorer`; of num_pixels and sampling the defaults are 10,000 and "per_class".
        batch_size: images that a model sees at once; less where memory does not suffice.
        num_workers: processes that decode images.
        precision: of the forward passes; other than float32 by autocast.
        device: where models run and scores are computed.
        progress: whether to show progress bars.

    Raises:
        ValueError: options that contradict each other.
    """

    target: LabeledData
    output: Path
    metrics: tuple[str, ...] = ("logme", "hscore")
    by: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 4
    num_workers: int = 2
    precision: Precision = "float32"
    device: str = "cpu"
    progress: bool = True

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision: {self.precision!r} is none of {', '.join(get_args(Precision))}")
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.by not in (None, *self.metrics):
            raise ValueError(f"by: {self.by!r} is none of the metrics {', '.join(self.metrics)}")
        if self._scorer.num_pixels is None:
            raise ValueError("num_pixels must be a number: models are compared at pixels that are drawn")

    def __call__(self, candidates: Sequence[Candidate]) -> Ranking:
        """The ranking, also written as `ranking.json`, `ranking.csv` and `report.html`.

        A candidate that fails is told at once, and is in the ranking with its error.

        Raises:
            ValueError: no candidate, two of one name, one that does not give what a metric reads, or bad data.
            OSError: results that cannot be written.
        """
        self._check(candidates)
        self.output.mkdir(parents=True, exist_ok=True)
        drawn = self._draw(self.target, self._scorer, "labels")
        self._scorer.say_if_few(drawn.sample.join_groups(), "target", self.target.num_classes)
        self._sources.clear()
        results = []
        for number, candidate in enumerate(candidates, 1):
            result = self._kept_or_made(candidate, drawn, f"{candidate.name} ({number} of {len(candidates)})")
            if result.failure:
                warnings.warn(f"{candidate.name} failed and is left out: {result.failure}", stacklevel=2)
            results.append(result)
        ranking = Ranking(
            results=tuple(results),
            by=self.by or self.metrics[0],
            target=plain(asdict(self.target)),
            shown=drawn.shown,
        )
        ranking.write(self.output)
        shown = self.target.make().read(drawn.shown)
        write_report(ranking, shown.image, shown.labels, self.output / "report.html")
        return ranking

    @cached_property
    def _scorer(self) -> Scorer:
        """What draws pixels of the target and scores them."""
        coupled = any(METRICS[name].gamma is not None for name in self.metrics if name in METRICS)
        options = DEFAULTS | {"num_source_classes": 1 if coupled else None} | self.options
        return Scorer(metrics=self.metrics, num_classes=self.target.num_classes, device=self.device, **options)

    def _check(self, candidates: Sequence[Candidate]) -> None:
        if not candidates:
            raise ValueError("there is no candidate to rank")
        names = [candidate.name for candidate in candidates]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two candidates are called {twice[0]!r}")
        for candidate in candidates:
            for metric in self.metrics:
                if METRICS[metric].reads == "logits" and candidate.logits_layer is None:
                    raise ValueError(f"{metric} reads class scores: give logits_layer to candidate {candidate.name!r}")
                if METRICS[metric].gamma is not None and candidate.source is None:
                    raise ValueError(f"{metric} compares two data sets: give source to candidate {candidate.name!r}")

    def _draw(self, data: LabeledData, scorer: Scorer, progress: str) -> DrawnPixels:
        bar = progress if self.progress else ""
        draw = partial(DrawnImage.from_labels, scorer=replace(scorer, device="cpu"))
        batches = read_batches(data.make(), draw, batch_size=1, num_workers=self.num_workers, progress=bar)
        return DrawnPixels.from_images(image for batch in batches for image in batch)

    def _kept_or_made(self, candidate: Candidate, drawn: DrawnPixels, title: str) -> Result:
        """The candidate's result: as it was kept, from what its model gave before, or from its model."""
        store = Store(self.output / candidate.name)
        look = Look(
            device=torch.device(self.device),
            precision=self.precision,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            progress=self.progress,
        )
        try:
            scorer, source = self._for_source(candidate, title)
            settings = self._settings(candidate, drawn, source)
        except Exception as error:  # of files and code that may be anybody's
            return _failed(candidate, error)
        kept = store.result(settings)
        if isinstance(kept, Result):
            return kept
        seen = store.seen(settings["model"])
        if not isinstance(seen, Seen):
            for difference in seen:
                warnings.warn(f"{candidate.name}: {difference}: its model runs again", stacklevel=3)
            try:
                seen = look(candidate, self.target, drawn, source, title)
            except Exception as error:
                return _failed(candidate, error)
            store.save_seen(seen, settings["model"])
        else:
            for difference in kept:
                warnings.warn(f"{candidate.name}: {difference}: it is scored again", stacklevel=3)
        try:
            result = self._scored(candidate, scorer, seen, settings)
        except Exception as error:
            return _failed(candidate, error)
        store.save_result(result)
        return result

    def _for_source(self, candidate: Candidate, title: str) -> tuple[Scorer, DrawnPixels | None]:
        """The scorer of a candidate, and the pixels of its source data set where a metric couples both."""
        if candidate.source is None or not self._scorer.coupled:
            return self._scorer, None
        scorer = replace(self._scorer, num_source_classes=candidate.source.num_classes)
        name = json.dumps(asdict(candidate.source), default=str)
        if name not in self._sources:
            self._sources[name] = self._draw(candidate.source, scorer.of_source, f"{title}: labels of the source")
        return scorer, self._sources[name]

    @cached_property
    def _sources(self) -> dict[str, DrawnPixels]:
        """What was drawn from source data sets, which candidates may share."""
        return {}

    def _settings(self, candidate: Candidate, drawn: DrawnPixels, source: DrawnPixels | None) -> Settings:
        """What a candidate's result depends on; under "model" what its model's features do."""
        drawing = {name: getattr(self._scorer, name) for name in DRAWING}
        model = candidate.settings | drawing | {"precision": self.precision}
        model |= {"versions": {name: versions()[name] for name in ("torch", "torch_trf")}}
        model["images and labels"] = drawn.fingerprint
        if source is not None:
            model["source images and labels"] = source.fingerprint
        scorer = {name: value for name, value in asdict(self._scorer).items() if name not in ("device", "progress")}
        return plain({"model": model, "scorer": scorer})

    def _scored(self, candidate: Candidate, scorer: Scorer, seen: Seen, settings: Settings) -> Result:
        device = torch.device(self.device)
        samples = {name: sample.to(device) for name, sample in seen.samples.items()}
        needed = scorer.statistic_names() | ({"source_sample"} if scorer.coupled else set())
        known = {name: samples[name] for name in samples if name in needed}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* sampling finds ")  # as was told when pixels were drawn
            scores = scorer.scores(known)
        by_class = {name: list(score.by_class) for name, score in scores.items() if score.by_class is not None}
        if "logit_sample" in samples:
            by_class["leep"] = list(numbers(leep_by_class(samples["logit_sample"], self.target.num_classes)))
        return Result(
            name=candidate.name,
            scores=scores,
            by_class=by_class,
            map=None if seen.map is None else [list(numbers(row)) for row in seen.map],
            settings=settings,
            seconds=seen.seconds,
        )


def _failed(candidate: Candidate, error: Exception) -> Result:
    """The result of a candidate that cannot be scored."""
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    failure = " ".join(f"{kind}{error}".split())
    return Result(name=candidate.name, scores={}, by_class={}, map=None, settings={}, seconds={}, failure=failure)
