"""What came out: candidates in order, by each metric and by all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .._files import PathLike, write_csv, write_json
from .._versions import versions
from ..maps import MIN_PIXELS
from ..metrics import TransferabilityMetric
from ..score import Score

MAP_PATCHES = 30  # along the longer side of the image that is shown
LEAST_PATCH = math.isqrt(MIN_PIXELS - 1) + 1  # a smaller one has too few pixels for a score


def check_columns(metrics: Sequence[TransferabilityMetric]) -> None:
    """Raises where a metric's columns would be called as others of `Ranking.rows`.

    Raises:
        ValueError: with the name of the column.
    """
    columns = ["rank", "name", "consensus", "consensus_rank"]
    columns += [f"{metric.name}{end}" for metric in metrics for end in ("", "_std", "_rank")]
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise ValueError(f"no metric may be called as a column of the ranking: {twice[0]!r} would be there twice")


def map_patch_size(size: tuple[int, int]) -> int:
    """Height and width of the patches in which an image of this size is mapped."""
    return min(max(math.ceil(max(size) / MAP_PATCHES), LEAST_PATCH), *size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is known of one candidate.

    Attributes:
        name: of the candidate.
        scores: by metric; none where it failed.
        map: of the mapped metric over the image that is shown, row by row of patches; None where a patch has too few
            pixels, and of a candidate that does not give what the metric reads.
        settings: what the scores depend on.
        seconds: "all" that the model took, and its "forward" passes.
        failure: why there are no scores.
        doubts: what was warned of while the model ran and was scored.
    """

    name: str
    scores: dict[str, Score]
    map: list[list[float | None]] | None
    settings: dict[str, Any]
    seconds: dict[str, float]
    failure: str | None = None
    doubts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        scores = {name: score.as_json() for name, score in self.scores.items()}
        return asdict(replace(self, scores={})) | {"scores": scores}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Result":
        """The result that `as_json` gave."""
        scores = {name: Score.from_json(score) for name, score in value["scores"].items()}
        return Result(**value | {"scores": scores, "doubts": tuple(value["doubts"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Candidates by how well they transfer.

    Attributes:
        results: of all candidates, in the order in which they were given.
        metrics: by which they are scored.
        by: the name of the one that ranks them.
        map_metric: of which the results hold maps.
        target: the settings of the target data set.
        shown: number of the image that was mapped.

    Raises:
        ValueError: a metric that is called as a column of the rows.
    """

    results: tuple[Result, ...]
    metrics: tuple[TransferabilityMetric, ...]
    by: str
    map_metric: TransferabilityMetric
    target: dict[str, Any]
    shown: int

    def __post_init__(self) -> None:
        """Checks the names of the metrics."""
        check_columns(self.metrics)

    @property
    def scored(self) -> list[Result]:
        """The candidates that have scores, best first."""
        return sorted((each for each in self.results if not each.failure), key=lambda each: -each.scores[self.by].score)

    @property
    def failed(self) -> list[Result]:
        """The candidates that have none."""
        return [each for each in self.results if each.failure]

    @property
    def doubted(self) -> list[Result]:
        """The candidates of which something was warned of, best first."""
        return [each for each in self.scored if each.doubts]

    def ranks(self) -> dict[str, dict[str, int]]:
        """The rank of each candidate, from 1, by each metric and by "consensus"; equals share the better rank.

        The consensus ranks candidates by the mean of their ranks (Borda's count).
        """
        ranks = {
            metric.name: _ranks({each.name: -each.scores[metric.name].score for each in self.scored})
            for metric in self.metrics
        }
        means = {each.name: sum(names[each.name] for names in ranks.values()) / len(ranks) for each in self.scored}
        return ranks | {"consensus": _ranks(means)}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each candidate that has scores, best first: what `ranking.csv` holds."""
        ranks = self.ranks()
        rows = []
        for each in self.scored:
            row: dict[str, Any] = {"rank": ranks[self.by][each.name], "name": each.name}
            for metric, score in each.scores.items():
                row |= {metric: score.score, f"{metric}_std": score.std, f"{metric}_rank": ranks[metric][each.name]}
            rows.append(row | {"consensus_rank": ranks["consensus"][each.name]})
        return rows

    def write(self, folder: PathLike) -> None:
        """Writes `ranking.json` and `ranking.csv`, each whole or not at all."""
        folder, rows = Path(folder), self.rows()
        value = {
            "by": self.by,
            "target": self.target,
            "shown": self.shown,
            "map_metric": {"name": self.map_metric.name, "unit": self.map_metric.unit},
            "ranking": rows,
            "candidates": [each.as_json() for each in self.results],
            "versions": versions(),
        }
        write_json(folder / "ranking.json", value)
        write_csv(folder / "ranking.csv", list(rows[0]) if rows else ["rank", "name"], rows)


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """Ranks from 1, the least value first."""
    ordered = sorted(values.values())
    return {name: ordered.index(value) + 1 for name, value in values.items()}
