"""The command demo: an experiment that shows whether scores predict fine-tuning, by the commands that users have."""

import shlex
import tempfile
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace

from ..demo import FULL, QUICK, TARGET, Experiment, Tuned
from ._configuration import MODE
from ._correlate import correlate, correlate_parser
from ._models import rank_models, rank_parser
from ._shared import aligned, say

MOST_SEEDS = 2**61  # PyTorch takes 64 bits, of four times a seed


def demo_parser() -> ArgumentParser:
    """What `torch-trf demo` asks."""
    parser = ArgumentParser(
        description="Does a ranking predict which model fine-tunes best? Small models learn made-up road scenes, each"
        f" of another domain ({', '.join(FULL.sources)}). All of them are ranked for one more ({TARGET}), from a few"
        " labeled pictures, by every metric, then fine-tuned on these pictures and tested on others. Everything is"
        " computed here, and whatever comes out is printed.",
        exit_on_error=False,
        parser_mode=MODE,
    )
    parser.add_argument(
        "--output",
        type=str | None,
        metavar="DIR",
        help="keep ranking.json, ranking.csv, report.html, accuracies.csv, correlation.json, .csv and .png, scenes.png,"
        " models, pictures and features in this folder, which must be empty; a temporary folder by default",
    )
    parser.add_argument("--quick", action="store_true", help="fewer models, which learn less: under a minute")
    parser.add_argument("--seed", type=int, default=0, help="of pictures, models and training")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def demo(options: Namespace) -> None:
    """Trains, ranks, fine-tunes and compares."""
    if not 0 <= options.seed < MOST_SEEDS:
        raise ValueError(f"--seed must be in [0, {MOST_SEEDS}), not {options.seed}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.output or temporary)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"--output {folder} is not an empty folder: give another one, or remove it")
        experiment = Experiment(folder, QUICK if options.quick else FULL, options.seed, progress=True)
        plan = experiment.plan
        say(
            f"{len(plan.sources)} small models learn road scenes, each of another domain: {', '.join(plan.sources)}.\n"
            f"Which of them should be fine-tuned for the domain {TARGET!r}, of which {plan.labeled_pictures} pictures"
            f" are labeled? (PyTorch {torch.__version__}, threads: {torch.get_num_threads()})"
        )
        experiment.train()
        command = ["--config", str(folder / "rank.yaml"), "--output", str(folder)]
        _print_command("rank", command)
        if rank_models(rank_parser().parse_args(command)):
            raise ValueError("a model failed in the ranking")
        say(f"\nNow all are fine-tuned on these {plan.labeled_pictures} pictures, in {plan.tuning_steps} steps.")
        tuned = experiment.fine_tune()
        say(_table(tuned))
        files = [str(folder / name) for name in ("ranking.json", "accuracies.csv")]
        command = [*files, "--output", str(folder / "correlation")]
        _print_command("correlate", command)
        correlate(correlate_parser().parse_args(command))
        experiment.draw(tuned)
        experiment.extract()
        if not options.output:
            say("The folder was temporary; --output DIR keeps it.")
        else:
            say(f"written to {folder}: scenes.png, accuracies.csv, pictures, features, checkpoints, rank.yaml")


def _print_command(name: str, arguments: list[str]) -> None:
    say(f"\n$ torch-trf {name} {shlex.join(arguments)}")


def _table(tuned: list[Tuned]) -> str:
    """What became of the models, the best one first."""
    rows = [["mean IoU of the model that learned", "its own domain", f"{TARGET}, before", f"{TARGET}, fine-tuned", "±"]]
    for each in sorted(tuned, key=lambda each: -each.accuracy):
        cells = each.source_accuracy, each.before, each.accuracy, each.deviation
        rows.append([each.name, *("" if value is None else f"{value:.4f}" for value in cells)])
    return aligned(rows, left={0})
