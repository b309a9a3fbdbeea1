"""The files of a correlation: scores and accuracies that are read, and what came of them."""

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import PathLike, from_cell, write_csv, write_json
from .._versions import versions
from ..plots import save_figure
from ._correlation import Correlation
from ._scatter import draw_scatter


@dataclass(frozen=True, slots=True)
class ModelScores:
    """The scores of several models.

    Attributes:
        scores: by metric, of each model.
        units: of the metrics; a plain table has none.
        failures: of models that failed in the ranking, which have no scores, why.
    """

    scores: dict[str, dict[str, float]]
    units: dict[str, str]
    failures: dict[str, str]


def read_scores(path: PathLike) -> ModelScores:
    """Reads the scores of several models.

    Args:
        path: `ranking.json`, as `torch-trf rank` writes it, or a plain table `{"model": {"logme": 0.3, ...}, ...}`.

    Raises:
        ValueError: a file that is neither, a name that is there twice, or a score that is missing or no finite number.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "scores.json"
        >>> _ = path.write_text('{"resnet": {"logme": 0.3, "leep": -0.5}, "unet": {"logme": -0.1, "leep": -0.7}}')
        >>> read_scores(path).scores
        {'logme': {'resnet': 0.3, 'unet': -0.1}, 'leep': {'resnet': -0.5, 'unet': -0.7}}
    """
    try:
        contents = json.loads(
            Path(path).read_text(encoding="utf-8-sig"), parse_int=float, object_pairs_hook=_unique_names
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} holds no table of models and their scores")
    if "scores" in contents and "versions" in contents:
        raise ValueError(
            f"{path} holds the scores of one model, as `torch-trf score` writes them: give those of several, as"
            ' `torch-trf rank` does, or a table {"model": {"logme": 0.3}}'
        )
    if "candidates" in contents and "versions" in contents:
        table, units, failures = _ranking_table(path, contents)
        return ModelScores(_by_metric(path, table), units, failures)
    return ModelScores(_by_metric(path, contents), {}, {})


def _by_metric(path: PathLike, table: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The scores of a table of models, each of every metric."""
    scores: dict[str, dict[str, float]] = {}
    for model, row in table.items():
        if not isinstance(row, dict):
            raise ValueError(f'{path}: {model} has {row!r}, expected a table of its scores {{"logme": 0.3}}')
        for metric, score in row.items():
            if not isinstance(score, float) or not math.isfinite(score):
                raise ValueError(f"{path}: {metric} of {model} is {score!r}, not a finite number")
            scores.setdefault(metric, {})[model] = score
    for metric, of_models in scores.items():
        if missing := table.keys() - of_models.keys():
            raise ValueError(f"{path}: no {metric} of {', '.join(sorted(missing))}")
    if not scores:
        raise ValueError(f"{path} has no scores")
    return scores


def read_accuracies(path: PathLike) -> tuple[dict[str, float], dict[str, float] | None]:
    r"""Reads the accuracies of models after fine-tuning.

    Args:
        path: a CSV file with a header that has `name` and `accuracy` and may have `source_accuracy`; other columns are
            not looked at.

    Returns:
        The accuracy of each model, and its source accuracy where the file has them.

    Raises:
        ValueError: a file without a header, a column that is missing, a column or a name that is there twice, or a
            cell that is no finite number.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "accuracies.csv"
        >>> _ = path.write_text("name,accuracy,epochs\nresnet,0.61,40\nunet,0.48,40\n")
        >>> read_accuracies(path)
        ({'resnet': 0.61, 'unet': 0.48}, None)
    """
    columns: dict[str, dict[str, float]] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin a file with a mark
            reader = csv.DictReader(file, skipinitialspace=True)
            header = reader.fieldnames
            if not header:
                raise ValueError("line 1: the file is empty, or begins with an empty line")
            if missing := [column for column in ("name", "accuracy") if column not in header]:
                raise ValueError(f"line 1: no column {missing[0]} among {', '.join(header)}")
            columns = {column: {} for column in ("accuracy", "source_accuracy") if column in header}
            if twice := [column for column in ("name", *columns) if header.count(column) > 1]:
                raise ValueError(f"line 1: column {twice[0]} is there twice")
            for row in reader:
                line = f"line {reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(f"{line} has another number of cells than the header")
                name = from_cell(row["name"])
                if not name:
                    raise ValueError(f"{line} has no name")
                if name in columns["accuracy"]:
                    raise ValueError(f"{line}: {name} is there twice")
                for column, values in columns.items():
                    values[name] = _number(row[column], f"{line}: {column} of {name}")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, {error}") from error
    return columns["accuracy"], columns.get("source_accuracy")


def output_files(stem: PathLike) -> tuple[Path, Path, Path]:
    """The JSON file, the table and the figure that `write_correlation` writes."""
    return Path(f"{stem}.json"), Path(f"{stem}.csv"), Path(f"{stem}.png")


def write_correlation(correlation: Correlation, stem: PathLike) -> None:
    """Writes `STEM.json`, `STEM.csv` and `STEM.png`, each whole or not at all.

    The JSON file holds all that was compared and what came of it, the table a row for each predictor, the figure a
    panel for each.

    Raises:
        OSError: a file that cannot be written.
    """
    values, table, figure = output_files(stem)
    save_figure(draw_scatter(correlation), figure)  # before there is any file, since drawing may fail
    rows = correlation.rows()
    inputs = {"predictors": correlation.predictors, "accuracies": correlation.accuracies, "units": correlation.units}
    settings = {"top": correlation.top, "num_resamples": correlation.num_resamples, "seed": correlation.seed}
    write_json(values, {"agreements": rows, **inputs, **settings, "versions": versions()})
    write_csv(table, list(rows[0]), rows)


def _ranking_table(path: PathLike, ranking: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """The scores of each model that a ranking holds, by metric, the metrics' units, and why models failed."""
    try:
        results = _unique_names((each["name"], each) for each in ranking["candidates"])
        failures = {name: each["failure"] for name, each in results.items() if each["failure"]}
        scored = {name: each["scores"] for name, each in results.items() if not each["failure"]}
        units = {metric: score["unit"] for row in scored.values() for metric, score in row.items()}
        if wrong := [each for each in (*results, *failures.values(), *units.values()) if not isinstance(each, str)]:
            raise TypeError(f"{wrong[0]!r} is no text")
        table = {name: {metric: score["score"] for metric, score in row.items()} for name, row in scored.items()}
        return table, units, failures
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a ranking as `torch-trf rank` writes it: {error!r}") from error


def _unique_names(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Names with their values, each there once."""
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"{name} is there twice")
        table[name] = value
    return table


def _number(cell: str, what: str) -> float:
    """A cell as a number."""
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{what} is {cell!r}, not a finite number")
    return number
