"""The command line: `torch-trf score` and `torch-trf demo`."""

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from . import __version__
from .demo import CLASSES, IGNORE_INDEX, make_feature_folder
from .features import FeatureFolder
from .score import Score, Scorer
from .table import METRICS, FeatureMetricName, MetricName

DEFAULT_METRICS = ["leep", "logme", "hscore", "nce"]
WRONG_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 after one line on stderr that says what is wrong with the input.

    Example:
        >>> main(["score", "--target", "no/such/folder"])
        2
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"torch-trf: note: {message}", file=sys.stderr)
        try:
            options = _parser().parse_args(arguments)
            chosen = options[options.subcommand]
            {"score": _score, "demo": _demo}[options.subcommand](chosen)
        except (argparse.ArgumentError, ValueError, OSError, RuntimeError) as error:
            if "--debug" in arguments:
                raise
            print(f"torch-trf: error: {' '.join(str(error).split())}", file=sys.stderr)
            return WRONG_INPUT
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="torch-trf",
        description="Predicts how well a pretrained segmentation model transfers to new data, without fine-tuning it.",
        version=__version__,
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True)
    commands.add_subcommand("score", _score_parser(), help="score a folder of extracted features by several metrics")
    commands.add_subcommand("demo", _demo_parser(), help="make a small feature folder and score it by every metric")
    return parser


def _score_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Scores a source model on a target data set, from the model's features on target pixels and the"
        " pixels' labels, in the layout DIR/final/<k>.npy [D, H, W] with DIR/label/<k>.npy [H, W].",
        exit_on_error=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these options")
    parser.add_argument("--target", type=str, required=True, metavar="DIR", help="features of the target data set")
    parser.add_argument("--source", type=str, metavar="DIR", help="features of the source data set, for otce")
    parser.add_argument(
        "--metrics", type=MetricName, nargs="+", default=DEFAULT_METRICS, help="which metrics to compute"
    )
    parser.add_argument(
        "--softmax",
        type=FeatureMetricName,
        nargs="*",
        default=[],
        help="metrics that read the softmax of the features instead of the features",
    )
    parser.add_argument(
        "--num_classes", type=int | None, help="number of target classes; the largest label plus one by default"
    )
    parser.add_argument(
        "--num_source_classes", type=int | None, help="number of source classes; the largest label plus one by default"
    )
    own = {"metrics", "softmax", "num_classes", "num_source_classes", "stream_pixels", "device", "progress"}
    parser.add_class_arguments(Scorer, as_group=False, as_positional=False, skip=own)
    parser.add_class_arguments(FeatureFolder, as_group=False, as_positional=False, skip={"path", "num_images", "seed"})
    parser.add_argument("--num_source_images", type=int | None, help="source images to draw; all by default")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU if any")
    parser.add_argument("--output", type=str | None, metavar="FILE", help="JSON file to write the scores to")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _demo_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Makes a small, seeded source and target data set in the published layout and scores them.",
        exit_on_error=False,
    )
    parser.add_argument("--output", type=str | None, metavar="DIR", help="keep the folders and scores.json here")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the sampling")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _score(options: Namespace) -> None:
    output = None if options.output is None else Path(options.output)
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise ValueError(f"--output {output} cannot be written: it must be a file in a folder that exists")
    reads_logits = any(METRICS[name].reads == "logits" for name in options.metrics)
    names = {
        "feature_name": options.feature_name,
        "label_name": options.label_name,
        "logit_name": options.logit_name if reads_logits else None,
    }
    target = FeatureFolder(options.target, **names)
    source = None
    if "otce" in options.metrics:
        if options.source is None:
            raise ValueError("otce compares two data sets: give --source DIR")
        names["logit_name"] = None
        source = FeatureFolder(options.source, **names, num_images=options.num_source_images, seed=options.seed)
    num_classes = _num_classes(target, options.num_classes, options.ignore_index, "--num_classes")
    num_source_classes = None
    if source is not None:
        num_source_classes = _num_classes(
            source, options.num_source_classes, options.ignore_index, "--num_source_classes"
        )
    device = _device(options.device)
    settings = {key: value for key, value in vars(options).items() if key not in ("config", "output", "debug")}
    settings |= {"num_classes": num_classes, "num_source_classes": num_source_classes, "device": str(device)}
    scorer_options = {key: value for key, value in settings.items() if key in Scorer.__dataclass_fields__}
    for name in ("metrics", "softmax"):
        scorer_options[name] = tuple(scorer_options[name])
    scores = Scorer(**scorer_options, progress=True)(target, source)
    print(f"target  {target.path}: {len(target)} images, {num_classes} classes")
    if source is not None:
        print(f"source  {source.path}: {len(source)} images, {num_source_classes} classes")
    print(_table(scores))
    if output is not None:
        _write_json(
            output,
            {
                "scores": {name: asdict(score) | {"std": score.std} for name, score in scores.items()},
                "target": str(target.path),
                "source": None if source is None else str(source.path),
                "num_classes": num_classes,
                "settings": settings,
                "versions": {
                    "torch_trf": __version__,
                    "python": platform.python_version(),
                    **{package: version(package) for package in ("torch", "numpy", "POT")},
                },
            },
        )
        print(f"written to {output}")


def _demo(options: Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.output or temporary)
        for name, shift, seed in (("source", 0.0, options.seed), ("target", 0.5, options.seed + 1)):
            make_feature_folder(folder / name, shift=shift, seed=seed)
        command = ["score", "--source", str(folder / "source"), "--target", str(folder / "target")]
        command += ["--metrics", *get_args(MetricName), "--num_pixels", "2000", "--num_repeats", "5"]
        command += ["--num_classes", str(len(CLASSES)), "--num_source_classes", str(len(CLASSES))]
        command += ["--ignore_index", str(IGNORE_INDEX), "--seed", str(options.seed)]
        if options.output is not None:
            command += ["--output", str(folder / "scores.json")]
        print("A made-up source domain and a target domain at some distance, seen through the source model.")
        print(f"$ torch-trf {shlex.join(command)}", flush=True)
        _score(_score_parser().parse_args(command[1:]))
    if options.output is None:
        print("The folders were temporary; --output DIR keeps them.")


def _num_classes(folder: FeatureFolder, given: int | None, ignore_index: int, option: str) -> int:
    """The number of classes: as given, or the largest label plus one."""
    if given is not None:
        return given
    labels = sorted(folder.class_counts(ignore_index))
    if not labels:
        raise ValueError(f"{folder.path}: no labelled pixel: every label is ignore_index={ignore_index}")
    if labels[-1] >= 2 * len(labels):
        warnings.warn(
            f"{folder.path} has {len(labels)} different labels up to {labels[-1]}, taken as {labels[-1] + 1} classes;"
            f" if {labels[-1]} means 'ignore', give --ignore_index {labels[-1]}, otherwise {option}",
            stacklevel=2,
        )
    return max(labels[-1] + 1, 1)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this PyTorch sees no GPU")
    return device


def _table(scores: dict[str, Score]) -> str:
    """The scores for the terminal: standard deviation over repeats, or standard error, behind the ±."""
    rows = [("metric", "score", "±", "unit", "pixels", "repeats", "seconds")]
    for name, score in scores.items():
        spread = score.std if score.std is not None else score.standard_error
        rows.append(
            (
                name,
                f"{score.score:.6f}",
                "" if spread is None else f"{spread:.6f}",
                METRICS[name].unit,
                f"{score.pixels:,}",
                str(len(score.repeats)),
                f"{score.seconds:.2f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, 3}  # columns of words
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes the whole file or leaves what was there."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
