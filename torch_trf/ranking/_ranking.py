"""What came out: candidates in order, by each metric and by all of them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._files import write_csv, write_json
from .._versions import versions
from ..maps import MIN_PIXELS
from ..score import Score

MAP_PATCHES = 30  # along the longer side of the image that is shown
LEAST_PATCH = math.isqrt(MIN_PIXELS - 1) + 1  # a smaller one has too few pixels for a score


def map_patch_size(size: tuple[int, int]) -> int:
    """Height and width of the patches in which an image of this size is mapped."""
    return min(max(math.ceil(max(size) / MAP_PATCHES), LEAST_PATCH), *size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is known of one candidate.

    Attributes:
        name: of the candidate.
        scores: by metric; none where it failed.
        by_class: of "logme" the evidence for each class, its mean over repeats; of "leep" the mean log-likelihood of
            its pixels in all of them; in nats, None where a class has no pixel.
        map: of LEEP over the image that is shown, row by row of patches, in nats; None where a patch has too few
            pixels, and of a candidate without class scores.
        settings: what the scores depend on.
        seconds: "all" that the model took, and its "forward" passes.
        failure: why there are no scores.
    """

    name: str
    scores: dict[str, Score]
    by_class: dict[str, list[float | None]]
    map: list[list[float | None]] | None
    settings: dict[str, Any]
    seconds: dict[str, float]
    failure: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self) | {"scores": {name: score.as_json() for name, score in self.scores.items()}}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Result":
        """The result that `as_json` gave."""
        scores = {}
        for name, score in value["scores"].items():
            fields = {key: part for key, part in score.items() if key != "std"}
            lists = {key: tuple(part) for key, part in fields.items() if isinstance(part, list)}
            scores[name] = Score(**fields | lists)
        return Result(**value | {"scores": scores})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Candidates by how well they transfer.

    Attributes:
        results: of all candidates, in the order in which they were given.
        by: the metric that ranks them.
        target: the settings of the target data set.
        shown: number of the image of which the results hold maps.
    """

    results: tuple[Result, ...]
    by: str
    target: dict[str, Any]
    shown: int

    @property
    def scored(self) -> list[Result]:
        """The candidates that have scores, best first."""
        return sorted((each for each in self.results if not each.failure), key=lambda each: -each.scores[self.by].score)

    @property
    def failed(self) -> list[Result]:
        """The candidates that have none."""
        return [each for each in self.results if each.failure]

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics."""
        return list(self.scored[0].scores) if self.scored else []

    def ranks(self) -> dict[str, dict[str, int]]:
        """The rank of each candidate, from 1, by each metric and by "consensus"; equals share the better rank.

        The consensus ranks candidates by the mean of their ranks (Borda's count).
        """
        ranks = {
            metric: _ranked({each.name: -each.scores[metric].score for each in self.scored}) for metric in self.metrics
        }
        means = {each.name: sum(names[each.name] for names in ranks.values()) / len(ranks) for each in self.scored}
        return ranks | {"consensus": _ranked(means)}

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

    def write(self, folder: Path) -> None:
        """Writes `ranking.json` and `ranking.csv`, each whole or not at all."""
        rows = self.rows()
        value = {
            "by": self.by,
            "target": self.target,
            "shown": self.shown,
            "ranking": rows,
            "candidates": [each.as_json() for each in self.results],
            "versions": versions(),
        }
        write_json(folder / "ranking.json", value)
        write_csv(folder / "ranking.csv", list(rows[0]) if rows else ["rank", "name"], rows)


def _ranked(values: Mapping[str, float]) -> dict[str, int]:
    """Ranks from 1, the least value first."""
    ordered = sorted(values.values())
    return {name: ordered.index(value) + 1 for name, value in values.items()}
