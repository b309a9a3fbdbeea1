"""What the commands share: options that several of them have, the device, files, tables."""

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import distributed
from tqdm import tqdm

from .._class_path import ClassPath
from ..metrics import DEFAULT_METRICS, METRICS
from ..sampling import Sampling
from ..transport import SOLVERS
from ._configuration import Parsed

BY_CLASS_PATH = "{class_path: NAME, init_args: {...}}"


# A metric or a solver, kept as it is written: that is what files of results tell.
METRIC = SOLVER = Parsed(lambda value: value, "name or table")


def add_metrics(parser: ArgumentParser) -> None:
    """The option `--metrics`, which `chosen_metrics` reads: by a type jsonargparse would take a text for a list."""
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=list(DEFAULT_METRICS),
        help=f"which metrics: {', '.join(METRICS)}; with options, or of your own, by {BY_CLASS_PATH}, where NAME may be"
        " the dotted path of a class",
    )


def chosen_metrics(options: Namespace) -> list[ClassPath]:
    """What the option of `add_metrics` says, one metric or several, each a name or a table as it is written."""
    given = options.metrics if isinstance(options.metrics, list) else [options.metrics]
    metrics: list[ClassPath] = []
    for value in map(METRIC, given):
        metrics += value if isinstance(value, list) else [value]
    return metrics


def add_metric(parser: ArgumentParser) -> None:
    """The option `--metric`, for a command that maps one."""
    names = ", ".join(name for name, metric in METRICS.items() if metric.has_map)
    parser.add_argument(
        "--metric",
        type=METRIC,
        required=True,
        help=f"which metric to map: {names}; with options, or of your own, by {BY_CLASS_PATH}",
    )


def add_solver(parser: ArgumentParser) -> None:
    """The option `--solver`: what is given, a name or a table, as `transport.as_solver` takes it."""
    parser.add_argument(
        "--solver",
        type=SOLVER,
        default="auto",
        help=f"what couples source and target pixels: {', '.join(SOLVERS)}; with options by"
        " {class_path: sinkhorn, init_args: {epsilon: 0.01}}",
    )


def add_sampling(parser: ArgumentParser, **defaults: int | str | None) -> None:
    """The options of `Sampling`, each by its own name.

    Args:
        parser: to which they are added.
        **defaults: where those of `Sampling` are not wanted.
    """
    parser.add_class_arguments(Sampling, as_group=False, as_positional=False)
    parser.set_defaults(**defaults)


def chosen_sampling(options: Namespace) -> Sampling:
    """What the options of `add_sampling` say."""
    return Sampling(**{field.name: options[field.name] for field in fields(Sampling)})


def add_device(parser: ArgumentParser) -> None:
    """The option `--device`."""
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU if any")


def chosen_device(name: str) -> torch.device:
    """The device of this name, which under torchrun is one for each process."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this PyTorch sees no GPU")
    if device.type == "cuda" and device.index is None and distributed.is_torchelastic_launched():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))  # a GPU each
        torch.cuda.set_device(device)
    return device


def check_output(path: Path) -> None:
    """Raises where a file cannot be written."""
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"--output {path} cannot be written: it must be a file in a folder that exists")


def say(text: str, *, to_stderr: bool = False) -> None:
    """Prints a text; control characters, and characters that its encoding lacks, are escaped.

    Args:
        text: lines, in which names may be anybody's.
        to_stderr: rather than to standard output.
    """
    file = sys.stderr if to_stderr else sys.stdout
    shown = "\n".join(map(_printable, text.split("\n")))
    encoding = file.encoding or "utf-8"
    with tqdm.external_write_mode(file):  # on a line of its own, not on that of a progress bar
        print(shown.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)


def _printable(line: str) -> str:
    """A line in which nothing moves the cursor, clears the terminal or hides what stands beside it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def aligned(rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """Rows of cells as a table for the terminal; the columns `left` hold words."""
    rows = [list(map(_printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
