"""How well scores predict fine-tuning in the demo's experiment, over several seeds, and what raises or lowers that.

    python benchmarks/correlation.py        # five seeds: about 20 minutes on two cores; --help lists the options

For each seed the demo's models are trained, ranked and fine-tuned as `torch-trf demo` does. They are then ranked again
with one option changed at a time: which pixels are drawn, how many, and from which layer features are taken. And
the same scores are compared with accuracies after shorter and longer fine-tuning. Each cell is the mean over seeds of
a coefficient between scores and accuracies, and its range. OTCE and JC-OTCE are left out where options change.
"""

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from timing import table
from tqdm import tqdm

from torch_trf import Sampling
from torch_trf.demo import FULL, QUICK, Experiment, Plan, Tuned
from torch_trf.inference import Inference
from torch_trf.metrics import METRICS
from torch_trf.ranking import Correlation, Ranker, Ranking, correlation

# Couplings would take most of the time.
UNCOUPLED = tuple(name for name, metric in METRICS.items() if not metric.needs_source)
VARIANTS: dict[str, dict[str, Any]] = {  # of the ranking by class-balanced, 2,000 pixels of the decoder
    "uniform pixels": {"strategy": "uniform"},
    "pixels at boundaries": {"strategy": "boundary"},
    "500 pixels": {"num_pixels": 500},
    "10,000 pixels": {"num_pixels": 10_000},
    "layer join": {"layer": "join"},
    "layer coarse": {"layer": "coarse"},
    "layer head": {"layer": "head"},
}
STEPS = (5, 60)  # of fine-tuning, beside the demo's


def rank(experiment: Experiment, output: Path, changes: dict[str, Any]) -> Ranking:
    """The ranking of an experiment's models, with one option changed."""
    plan = experiment.plan
    options = {"num_pixels": plan.num_pixels, "num_repeats": plan.num_repeats, "strategy": "per_class"} | changes
    layer, metrics = options.pop("layer", None), options.pop("metrics", tuple(METRICS))
    candidates = [replace(each, layer=layer or each.layer) for each in experiment.candidates]
    ranker = Ranker(
        target=experiment.target,
        output=output,
        metrics=metrics,
        sampling=Sampling(**options),
        inference=Inference(num_workers=0),
    )
    return ranker(candidates)


def compared(ranking: Ranking, tuned: list[Tuned]) -> Correlation:
    """Scores of a ranking against accuracies; beside them, accuracies that are known without fine-tuning."""
    scores = {
        metric.name: {each.name: each.scores[metric.name].score for each in ranking.scored}
        for metric in ranking.metrics
    }
    scores["accuracy before fine-tuning"] = {each.name: each.before for each in tuned}
    accuracies, own = ({each.name: getattr(each, name) for each in tuned} for name in ("accuracy", "source_accuracy"))
    return correlation(scores, accuracies, source_accuracies=own, num_resamples=100)


def of_seed(seed: int, plan: Plan) -> dict[str, dict[str, tuple[float, float]]]:
    """Spearman's coefficient and the weighted tau of each variant and predictor."""
    torch.set_num_threads(1)  # a process for each core
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experiment = Experiment(folder, plan, seed)
        experiment.train()
        tuned, ranking = experiment.fine_tune(), rank(experiment, folder / "as the demo", {})
        results = {"as the demo": compared(ranking, tuned)}
        for steps in STEPS:
            retuned = Experiment(folder, replace(plan, tuning_steps=steps), seed).fine_tune()
            results[f"{steps} steps of fine-tuning"] = compared(ranking, retuned)
        for name, changes in VARIANTS.items():
            changed = rank(experiment, folder / name, {"metrics": UNCOUPLED} | changes)
            results[name] = compared(changed, tuned)
    return {
        variant: {name: (each.spearman.value, each.weighted_kendall.value) for name, each in result.agreements.items()}
        for variant, result in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many: 5 by default")
    parser.add_argument("--quick", action="store_true", help="the demo's quick experiment")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        seeds = tqdm(pool.map(partial(of_seed, plan=plan), range(options.seeds)), total=options.seeds, unit="seed")
        results = list(seeds)
    print(f"{len(plan.sources)} models, {options.seeds} seeds, one thread each")
    for variant, predictors in results[0].items():
        rows = [
            (predictor, *map(cell, zip(*(each[variant][predictor] for each in results), strict=True)))
            for predictor in predictors
        ]
        print(f"\n{variant}\n")
        print(table(("predictor", "Spearman", "weighted Kendall"), rows))


def cell(of_seeds: tuple[float, ...]) -> str:
    """The mean and the range."""
    return f"{sum(of_seeds) / len(of_seeds):.2f} [{min(of_seeds):.2f}, {max(of_seeds):.2f}]"


if __name__ == "__main__":
    main()
