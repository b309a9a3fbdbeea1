"""The command correlate: scores against accuracies after fine-tuning."""

import os
import warnings
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..ranking import Correlation, correlation, output_files, read_accuracies, read_scores, write_correlation
from ._configuration import MODE
from ._shared import aligned, check_output, say


def correlate_parser() -> ArgumentParser:
    """What `torch-trf correlate` asks."""
    parser = ArgumentParser(
        description="Tells how well scores predicted the accuracies of models after fine-tuning: rank correlations and"
        " what is lost by trusting the scores, with 95 % intervals, beside what chance alone gives.",
        exit_on_error=False,
        parser_mode=MODE,
    )
    parser.add_argument(
        "scores",
        type=str,
        metavar="SCORES.json",
        help='ranking.json of `torch-trf rank`, or a table {"model": {"logme": 0.3, ...}, ...}',
    )
    parser.add_argument(
        "accuracies",
        type=str,
        metavar="ACCURACIES.csv",
        help="accuracy of each model after fine-tuning; higher is better. The header has name and accuracy, and may"
        " have source_accuracy, the accuracy on the model's own source data set, which is then a baseline",
    )
    parser.add_argument(
        "--top", type=int, default=3, help="k of the top-k regret: how many of the best scored models are fine-tuned"
    )
    parser.add_argument(
        "--num_resamples", type=int, default=1000, help="of the models, for the intervals, and random orders"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resamples and of the random orders")
    parser.add_argument(
        "--output", type=str | None, metavar="STEM", help="write STEM.json, STEM.csv and STEM.png (a figure)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def correlate(options: Namespace) -> None:
    """Compares, writes the files, and prints the table."""
    inputs = Path(options.scores), Path(options.accuracies)
    if options.output is not None and not os.path.basename(options.output).strip("."):
        raise ValueError(f"--output {options.output!r} ends without a name, of which .json, .csv and .png are written")
    written = output_files(options.output) if options.output is not None else ()
    for path in written:
        check_output(path)
        if path.resolve() in [each.resolve() for each in inputs]:
            raise ValueError(f"--output {options.output} would overwrite {path}, which is read")
    scores = read_scores(inputs[0])
    accuracies, source_accuracies = read_accuracies(inputs[1])
    for name, failure in scores.failures.items():
        warnings.warn(f"{name} failed in the ranking and is left out: {failure}", stacklevel=2)
        for values in (accuracies, source_accuracies or {}):
            values.pop(name, None)
    result = correlation(
        scores.scores,
        accuracies,
        source_accuracies=source_accuracies,
        units=scores.units,
        top=options.top,
        num_resamples=options.num_resamples,
        seed=options.seed,
    )
    if written:
        write_correlation(result, options.output)
    say(correlation_table(result))
    if written:
        say(f"written to {', '.join(map(str, written))}")


def correlation_table(result: Correlation) -> str:
    """A correlation for the terminal: how many models, the coefficients and regrets, and what the intervals are."""
    accuracies = result.accuracies.values()
    titles = [f"top-{k} regret" for k in sorted({1, result.top})]
    coefficients, regrets = [], []
    for predictor, agreement in result.agreements.items():
        measures = agreement.spearman, agreement.weighted_kendall, agreement.kendall, agreement.pearson
        coefficients.append([predictor, *map(str, measures)])
        of_top = (agreement.top_1_regret, agreement.top_k_regret)[: len(titles)]
        regrets.append([predictor, *(each.text(decimals=4) for each in of_top)])
    return (
        f"{len(accuracies)} models, accuracies from {min(accuracies):.4f} to {max(accuracies):.4f}\n"
        f"{aligned([['', 'spearman', 'weighted kendall', 'kendall', 'pearson'], *coefficients], left={0})}\n\n"
        f"{aligned([['', *titles], *regrets], left={0})}\n\n"
        f"in brackets: 95 % intervals over {result.num_resamples:,} bootstrap resamples of the models; of random order,"
        f" the mean and the middle 95 % of {result.num_resamples:,} random orders"
    )
