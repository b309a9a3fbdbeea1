"""Commands over models and images: rank and extract."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from ..datasets import LabeledData
from ..ranking import Candidate, Ranker, Ranking, extract
from ..ranking._extract import FileType
from ..ranking._passes import Precision
from ..ranking._rank import DEFAULTS
from ..score import Scorer
from ..table import METRICS, FeatureMetricName, MetricName
from ._shared import NOT_ASKED, aligned, chosen_device

T = TypeVar("T", Candidate, LabeledData)

SOME_FAILED = 1
ASKED = Scorer.__dataclass_fields__.keys() - NOT_ASKED - {"ignore_index"}  # which is the data set's


class _Table:
    """How a part of a configuration file is read, and what `--help` calls it."""

    def __init__(self, read: Callable[[Any], Any], name: str) -> None:
        self._read, self._name = read, name

    def __call__(self, value: Any) -> Any:
        return self._read(yaml.safe_load(value) if isinstance(value, str) else value)

    def __repr__(self) -> str:
        return self._name


def rank_parser() -> ArgumentParser:
    """What `torch-trf rank` asks."""
    parser = _models_parser(
        "Ranks candidate models by how well they transfer to a target data set, all read at the same pixels, and"
        " writes ranking.json, ranking.csv and report.html. What is there already is not computed again. Ends with 1"
        " where a candidate failed and the others were ranked"
    )
    parser.add_argument(
        "--candidates",
        type=_Table(_candidates, "list of tables"),
        required=True,
        help="the models (see docs/ranking.md)",
    )
    parser.add_argument(
        "--target", type=_Table(_data, "table"), required=True, help="the target data set: images with labels"
    )
    parser.add_argument("--metrics", type=MetricName, nargs="+", default=list(Ranker.metrics), help="which metrics")
    parser.add_argument("--by", type=MetricName | None, help="the metric that ranks; the first by default")
    parser.add_argument("--softmax", type=FeatureMetricName, nargs="*", default=[], help="metrics of softmax features")
    skipped = Scorer.__dataclass_fields__.keys() - ASKED
    parser.add_class_arguments(Scorer, as_group=False, as_positional=False, skip=skipped)
    parser.set_defaults(**DEFAULTS)
    return parser


def extract_parser() -> ArgumentParser:
    """What `torch-trf extract` asks."""
    parser = _models_parser(
        "Writes the features of one model on a data set to a folder that `torch-trf score` reads: final/<k>.npy"
        " [D, H, W] with label/<k>.npy [H, W], read nearest to each feature, and logits/<k>.npy where there is a"
        " logits_layer. Images that are there already are not computed again"
    )
    parser.add_argument(
        "--candidate", type=_Table(_candidate, "table"), required=True, help="the model (see docs/ranking.md)"
    )
    parser.add_argument("--data", type=_Table(_data, "table"), required=True, help="the data set: images with labels")
    parser.add_argument("--dtype", type=FileType, default="float32", help="of the files: float16 or float32")
    return parser


def _models_parser(description: str) -> ArgumentParser:
    """What all commands that run models ask."""
    parser = ArgumentParser(description=f"{description}.", exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these options")
    parser.add_argument("--output", type=str, required=True, metavar="DIR", help="folder of the results; it is made")
    parser.add_argument(
        "--batch_size", type=int, default=4, help="images at once; halved where memory does not suffice"
    )
    parser.add_argument("--num_workers", type=int, default=2, help="processes that decode images")
    parser.add_argument(
        "--precision", type=Precision, default="float32", help="float32, or bfloat16 or float16 by autocast"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU if any")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _candidates(value: Any) -> list[Candidate]:
    """Candidates of a configuration file; what they are made of is left for later, because some may fail."""
    if not isinstance(value, list):
        raise ValueError(f"candidates are a {type(value).__name__}, expected a list")
    return [_candidate(each) for each in value]


def _candidate(value: Any) -> Candidate:
    if isinstance(value, dict):  # a name or a layer may look like a number
        value = {name: str(part) if isinstance(part, int) else part for name, part in value.items()}
        if value.get("source") is not None:
            value["source"] = _data(value["source"])
    return _plain(Candidate, value)


def _data(value: Any) -> LabeledData:
    return _plain(LabeledData, value)


def _plain(kind: type[T], value: Any) -> T:
    """A value of a configuration file as the dataclass that it stands for."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{kind.__name__}: {value!r} is not a table of its settings")
    known = {each.name: each.default for each in fields(kind)}
    missing = [name for name, default in known.items() if default is MISSING and name not in value]
    if missing or (unknown := [name for name in value if name not in known]):
        what = f"{missing[0]} is missing" if missing else f"{unknown[0]!r} is none of {', '.join(known)}"
        raise ValueError(f"{kind.__name__} {value.get('name', '')}: {what}")
    if not isinstance(value.get("num_classes", 0), int):
        raise ValueError(f"num_classes: {value['num_classes']!r} is not a number")
    return kind(**value)


def rank_models(options: Namespace) -> int:
    """Ranks, prints the table and writes the report."""
    given = {name: options[name] for name in sorted(ASKED)}
    ranker = Ranker(
        target=options.target,
        output=Path(options.output),
        metrics=tuple(options.metrics),
        by=options.by,
        options=given | {"softmax": tuple(options.softmax)},
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        precision=options.precision,
        device=str(chosen_device(options.device)),
    )
    ranking = ranker(options.candidates)
    print(_table(ranking))
    for result in ranking.failed:
        print(f"failed  {result.name}: {result.failure}")
    print(f"written to {options.output}: ranking.json, ranking.csv, report.html")
    if not ranking.scored:
        raise ValueError("every candidate failed")
    return SOME_FAILED if ranking.failed else 0


def extract_features(options: Namespace) -> None:
    """Writes the features, and says where."""
    written, found = extract(
        options.candidate,
        options.data,
        Path(options.output),
        dtype=options.dtype,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        precision=options.precision,
        device=chosen_device(options.device),
        progress=True,
    )
    kept = f"; {found:,} were there" if found else ""
    print(f"written to {options.output}: features of {written:,} images{kept}")


def _table(ranking: Ranking) -> str:
    """The ranking for the terminal: the scores that rank, over repeats, and the ranks by every metric.

    All scores are in `ranking.csv` and in the report: of many metrics they would fill no terminal.
    """
    by, metrics = ranking.by, ranking.metrics
    rows = [["rank", "candidate", f"{by} ({METRICS[by].unit})", "±", *(f"by {each}" for each in metrics), "consensus"]]
    for row in ranking.rows():
        std = row[f"{by}_std"]
        cells = [str(row["rank"]), row["name"], f"{row[by]:.6f}", "" if std is None else f"{std:.6f}"]
        rows.append([*cells, *(str(row[f"{each}_rank"]) for each in metrics), str(row["consensus_rank"])])
    return aligned(rows, left={1})
