"""The command line: reads the arguments, joins torchrun's processes, and says what is wrong in a line."""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from jsonargparse import ArgumentParser, Namespace
from torch import distributed

from .. import __version__
from .._class_path import trusting
from .._collectives import rank
from .._errors import in_a_line
from . import _correlate, _demo, _folders, _models
from ._configuration import MODE
from ._shared import chosen_device, say

WRONG_INPUT, INTERRUPTED = 2, 130
COMMANDS: dict[str, tuple[Callable[[], ArgumentParser], Callable[[Namespace], int | None], str]] = {
    "score": (_folders.score_parser, _folders.score, "score a folder of extracted features by several metrics"),
    "map": (_folders.map_parser, _folders.map_, "map a metric over a folder of extracted features, patch by patch"),
    "rank": (_models.rank_parser, _models.rank_models, "rank candidate models by how well they transfer to a data set"),
    "correlate": (
        _correlate.correlate_parser,
        _correlate.correlate,
        "compare scores of models with their accuracies after fine-tuning",
    ),
    "extract": (_models.extract_parser, _models.extract_features, "write a model's features on a data set to a folder"),
    "demo": (_demo.demo_parser, _demo.demo, "train, rank and fine-tune small models, and see which ranking was right"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns 0, or 1 where some models of a ranking failed, 2 where the input is wrong and 130 after an interruption,
    each after a line on stderr that says so.

    Example:
        >>> main(["score", "--target", "no/such/folder"])
        2
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        tell = cache(lambda note: _print(f"note: {note}"))  # once, however often it is said
        warnings.showwarning = lambda message, *_, **__: tell(str(message)) if rank() == 0 else None
        try:
            options = _parser().parse_args(arguments)
            of_command = options[options.subcommand]
            with trusting(of_command.get("trusted_modules")), _joined_ranks(options.subcommand, of_command):
                return COMMANDS[options.subcommand][1](of_command) or 0
        except KeyboardInterrupt:
            _print("interrupted")
            return INTERRUPTED
        except Exception as error:  # models and data sets may be anybody's code
            if "--debug" in arguments:
                raise
            _print(f"error: {in_a_line(error)}")
            return WRONG_INPUT


def _print(message: str) -> None:
    """A line on stderr, which names the process where there are several."""
    which = f" (rank {rank()})" if distributed.is_initialized() else ""
    say(f"torch-trf{which}: {' '.join(message.split())}", to_stderr=True)


@contextmanager
def _joined_ranks(subcommand: str, options: Namespace) -> Iterator[None]:
    """Joins the processes that torchrun has started, where it has."""
    if not distributed.is_torchelastic_launched():
        yield
        return
    if subcommand != "score":
        raise ValueError(f"torch-trf {subcommand} runs in a single process: start it without torchrun")
    distributed.init_process_group("nccl" if chosen_device(options.device).type == "cuda" else "gloo")
    yield
    distributed.destroy_process_group()


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="torch-trf",
        description="Predicts how well a pretrained segmentation model transfers to new data, without fine-tuning it.",
        version=__version__,
        exit_on_error=False,
        parser_mode=MODE,
    )
    commands = parser.add_subcommands(required=True)
    for name, (make_parser, _, purpose) in COMMANDS.items():
        commands.add_subcommand(name, make_parser(), help=purpose)
    return parser
