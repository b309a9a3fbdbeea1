"""Commands over models and images: rank and extract."""

from dataclasses import MISSING, fields
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from ..datasets import LabeledData
from ..inference import Inference
from ..metrics import METRICS
from ..ranking import Candidate, FileType, Ranker, Ranking, extract
from ._configuration import MODE, Parsed, add_configuration
from ._shared import (
    METRIC,
    add_device,
    add_metrics,
    add_sampling,
    add_solver,
    aligned,
    chosen_device,
    chosen_metrics,
    chosen_sampling,
    say,
)

T = TypeVar("T", Candidate, LabeledData)

SOME_FAILED = 1


def rank_parser() -> ArgumentParser:
    """What `torch-trf rank` asks."""
    parser = _models_parser(
        "Ranks candidate models by how well they transfer to a target data set, all read at the same pixels, and"
        " writes ranking.json, ranking.csv and report.html. What is there already is not computed again. Ends with 1"
        " where a candidate failed and the others were ranked"
    )
    parser.add_argument(
        "--candidates",
        type=Parsed(_candidates, "list of tables"),
        required=True,
        help="the models (see docs/ranking.md)",
    )
    parser.add_argument(
        "--target", type=Parsed(_data, "table"), required=True, help="the target data set: images with labels"
    )
    add_metrics(parser)
    parser.add_argument("--by", type=str | None, help="the name of the metric that ranks; the first by default")
    parser.add_argument(
        "--map_metric",
        type=METRIC,
        default=Ranker.map_metric,
        help="the metric of which the report shows a map over one image, given as metrics are: one of "
        + ", ".join(name for name, metric in METRICS.items() if metric.has_map and not metric.needs_source),
    )
    add_sampling(parser, num_pixels=Ranker.sampling.num_pixels, strategy=Ranker.sampling.strategy)
    add_solver(parser)
    return parser


def extract_parser() -> ArgumentParser:
    """What `torch-trf extract` asks."""
    parser = _models_parser(
        "Writes the features of one model on a data set to a folder that `torch-trf score` reads: final/<k>.npy"
        " [D, H, W] with label/<k>.npy [H, W], read nearest to each feature, and logits/<k>.npy where there is a"
        " logits_layer. Images that are there already are not computed again"
    )
    parser.add_argument(
        "--candidate", type=Parsed(_candidate, "table"), required=True, help="the model (see docs/ranking.md)"
    )
    parser.add_argument("--data", type=Parsed(_data, "table"), required=True, help="the data set: images with labels")
    parser.add_argument("--dtype", type=FileType, default="float32", help="of the files: float16 or float32")
    return parser


def _models_parser(description: str) -> ArgumentParser:
    """What all commands that run models ask."""
    parser = ArgumentParser(description=f"{description}.", exit_on_error=False, parser_mode=MODE)
    add_configuration(parser)
    parser.add_argument("--output", type=str, required=True, metavar="DIR", help="folder of the results; it is made")
    parser.add_class_arguments(Inference, as_group=False, as_positional=False, skip={"device", "progress"})
    add_device(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _candidates(value: Any) -> list[Candidate]:
    """Candidates of a configuration file; what they are made of is left for later, because some may fail."""
    if not isinstance(value, list):
        raise ValueError(f"candidates are a {type(value).__name__}, expected a list")
    return [_candidate(each) for each in value]


def _candidate(value: Any) -> Candidate:
    if isinstance(value, dict):
        texts = ("name", "layer", "logits_layer")  # which may look like a number
        value = value | {name: str(value[name]) for name in texts if type(value.get(name)) is int}
        if value.get("source") is not None:
            value["source"] = _data(value["source"])
    return _instance(Candidate, value)


def _data(value: Any) -> LabeledData:
    return _instance(LabeledData, value)


def _instance(kind: type[T], value: Any) -> T:
    """The dataclass that a value of a configuration file stands for."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{kind.__name__}: {value!r} is not a table of its settings")
    defaults = {field.name: field.default for field in fields(kind)}
    missing = [name for name, default in defaults.items() if default is MISSING and name not in value]
    if missing or (unknown := [name for name in value if name not in defaults]):
        what = f"{missing[0]} is missing" if missing else f"{unknown[0]!r} is none of {', '.join(defaults)}"
        raise ValueError(f"{kind.__name__} {value.get('name', '')}: {what}")
    return kind(**value)


def rank_models(options: Namespace) -> int:
    """Ranks, prints the table and writes the report."""
    ranker = Ranker(
        target=options.target,
        output=options.output,
        metrics=chosen_metrics(options),
        by=options.by,
        sampling=chosen_sampling(options),
        solver=options.solver,
        map_metric=options.map_metric,
        inference=_chosen_inference(options),
    )
    ranking = ranker(options.candidates)
    say(_table(ranking))
    for result in ranking.failed:
        say(f"failed  {result.name}: {result.failure}")
    say(f"written to {options.output}: ranking.json, ranking.csv, report.html")
    if not ranking.scored:
        raise ValueError("every candidate failed")
    return SOME_FAILED if ranking.failed else 0


def extract_features(options: Namespace) -> None:
    """Writes the features, and says where."""
    written, kept = extract(
        options.candidate,
        options.data,
        options.output,
        dtype=options.dtype,
        inference=_chosen_inference(options),
    )
    others = f"; {kept:,} were there" if kept else ""
    say(f"written to {options.output}: features of {written:,} images{others}")


def _chosen_inference(options: Namespace) -> Inference:
    return Inference(
        device=chosen_device(options.device),
        precision=options.precision,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        progress=True,
    )


def _table(ranking: Ranking) -> str:
    """The ranking for the terminal: the scores that rank, over repeats, and the ranks by every metric.

    All scores are in `ranking.csv` and in the report: of many metrics they would fill no terminal.
    """
    by, names = ranking.by, [metric.name for metric in ranking.metrics]
    unit = next(metric.unit for metric in ranking.metrics if metric.name == by)
    rows = [["rank", "candidate", f"{by} ({unit})", "±", *(f"by {name}" for name in names), "consensus"]]
    for row in ranking.rows():
        std = row[f"{by}_std"]
        cells = [str(row["rank"]), row["name"], f"{row[by]:.6f}", "" if std is None else f"{std:.6f}"]
        rows.append([*cells, *(str(row[f"{name}_rank"]) for name in names), str(row["consensus_rank"])])
    return aligned(rows, left={1})
