"""What couplings cost: solvers beside POT's, what makes Sinkhorn converge fast, samples, maps.

The data are made up, 10 street scenes of 12 channels and 90 x 120 pixels a side, or are two folders of
features (`torch_trf.FeatureFolder`). Every solver runs in a process of its own, so that its peak memory is its own.

python benchmarks/transport.py [--pixels 2000 10000] [--target DIR --source DIR] [--tables solvers convergence]
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from made_up import IGNORE_INDEX, make_feature_folder
from timing import medians, table

from torch_trf import FeatureFolder, Mapper, Sampling, ScoreMap, Scorer, otce
from torch_trf.statistics import PixelSample
from torch_trf.transport import Coupling, Exact, Sinkhorn, Solver, _iterations, couple
from torch_trf.transport._costs import c_transform, shifted
from torch_trf.transport._import import import_quietly
from torch_trf.transport._kernels import DenseKernel, KeopsKernel, OnlineKernel
from torch_trf.transport._problem import Problem

T = TypeVar("T")
Pixels = tuple[torch.Tensor, torch.Tensor]  # features and labels
PIVOTS = 100_000_000  # POT's own limits end before the optimum
WARM_UP = 50  # pixels of a first run, which imports and compiles
TABLES = ("solvers", "convergence", "samples", "maps")
EPSILONS = (0.01, 0.005, 0.002)  # shares of the mean cost
PIXELS_IN_ALL, SAMPLES = 10_000, (1_000, 2_000, 5_000, 10_000)


@dataclass(frozen=True)
class Data:
    """Two folders of features."""

    source: FeatureFolder
    target: FeatureFolder
    ignore_index: int

    def classes(self) -> dict[str, int]:
        """How many classes there are on either side."""
        counts = [max(folder.class_counts(self.ignore_index)) + 1 for folder in (self.target, self.source)]
        return dict(zip(("num_classes", "num_source_classes"), counts, strict=True))

    def sample(self, pixels: int) -> "Sample":
        """So many pixels of either side."""
        classes = self.classes()
        target, source = (
            self._drawn(folder, size=pixels, num_classes=count, ignore_index=self.ignore_index)
            for folder, count in ((self.target, classes["num_classes"]), (self.source, classes["num_source_classes"]))
        )
        return Sample(target, source)

    @staticmethod
    def _drawn(folder: FeatureFolder, **options: int) -> Pixels:
        samples = [
            PixelSample.from_pixels(image.features, image.labels, stream=image.stream, **options) for image in folder
        ]
        return sum(samples[1:], samples[0])[0].drawn()


@dataclass(frozen=True)
class Sample:
    """Pixels of either side."""

    target: Pixels
    source: Pixels

    def first(self, count: int) -> "Sample":
        """So many of them."""
        return Sample(*(tuple(tensor[:count] for tensor in side) for side in (self.target, self.source)))

    def couple(self, solver: Solver) -> Coupling:
        """By a solver of torch_trf."""
        return couple(*self.target, source=self.source, solver=solver)

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the source and of the target, for POT."""
        return self.source[0].double().numpy(), self.target[0].double().numpy()


def dense_pot(sample: Sample) -> Coupling:
    """POT's network simplex over a matrix of all pairs."""
    ot = import_quietly("ot")
    plan, log = ot.emd([], [], ot.dist(*sample.points()), numItermax=PIVOTS, log=True)
    row, column = plan.nonzero()
    return _coupling(sample, row, column, plan[row, column], log["v"])


def lazy_pot(sample: Sample) -> Coupling:
    """POT's network simplex, which computes a distance whenever it looks at one."""
    ot = import_quietly("ot")
    _, log = ot.lp.emd2_lazy(*sample.points(), numItermax=PIVOTS, log=True, return_matrix=True)
    plan = log["G"].tocoo()
    return _coupling(sample, plan.row, plan.col, plan.data, log["v"])


def _coupling(sample: Sample, *arrays: np.ndarray) -> Coupling:
    """What torch_trf says of its own couplings, of one that POT found: rows, columns, flow and target potential."""
    source, target = (torch.as_tensor(points) for points in sample.points())
    labels, source_labels = sample.target[1], sample.source[1]
    row, column, flow, potential = (torch.as_tensor(array) for array in arrays)
    row, column = row.long(), column.long()
    mass = torch.zeros(int(labels.max()) + 1, int(source_labels.max()) + 1, dtype=torch.float64)
    mass.index_put_((labels[column], source_labels[row]), flow, accumulate=True)
    cost = (flow * (source[row] - target[column]).square().sum(-1)).sum()
    source_potential = c_transform(source, target, shifted(target, potential)) + source.square().sum(-1)
    dual = potential.mean() + source_potential.mean()
    weights = [torch.bincount(index, flow, len(x)) for index, x in ((row, source), (column, target))]
    error = sum((weight - 1 / len(weight)).abs().sum() for weight in weights)
    exact = {"epsilon": torch.zeros(()), "iterations": torch.ones(()), "converged": torch.tensor(True)}
    return Coupling(mass, cost, (cost - dual).clamp(min=0), torch.as_tensor(error), **exact, solver="POT")


SOLVERS: dict[str, Callable[[Sample], Coupling]] = {
    "POT, dense": dense_pot,
    "POT, lazy": lazy_pot,
    "exact": partial(Sample.couple, solver=Exact()),
    "sinkhorn, 0.5 %": partial(Sample.couple, solver=Sinkhorn(epsilon=0.005)),
    "sinkhorn, 0.2 %": partial(Sample.couple, solver=Sinkhorn(epsilon=0.002)),
}


def measured(name: str, sample: Sample, rounds: int) -> tuple[float, float, dict[str, Any]]:
    """Median seconds of a solver, its peak memory in MB above what it imports, and its coupling as plain values."""
    solve = SOLVERS[name]
    solve(sample.first(WARM_UP))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _peak()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        coupling = solve(sample)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), _peak() - before, coupling.as_json()


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def keep(results: dict[str, T], name: str, run: Callable[[], T]) -> None:
    """Puts the result of a run under its name."""
    results[name] = run()


def solver_rows(data: Data, sizes: list[int], rounds: int) -> list[tuple[str, ...]]:
    """Each solver in a fresh process."""
    fresh = {"max_workers": 1, "max_tasks_per_child": 1, "mp_context": multiprocessing.get_context("spawn")}
    rows = []
    with ProcessPoolExecutor(**fresh) as process:
        for pixels in sizes:
            sample = data.sample(pixels)
            repeats = rounds if pixels < PIXELS_IN_ALL else 1
            results = {name: process.submit(measured, name, sample, repeats).result() for name in SOLVERS}
            couplings = {name: Coupling.from_json(values) for name, (_, _, values) in results.items()}
            baseline = results["POT, dense"][0]
            rows += [
                (
                    f"{pixels:,}",
                    name,
                    f"{seconds:.2f}",
                    f"{baseline / seconds:.1f}",
                    f"{memory:,.0f}",
                    f"{otce.score(coupling).item():.4f}",
                    f"{coupling.cost.item():.4f}",
                    f"{100 * (coupling.duality_gap / coupling.cost).item():.2g}",
                    f"{coupling.marginal_error.item():.1g}",
                    f"{coupling.iterations.item():,.0f}",
                )
                for (name, coupling), (seconds, memory, _) in zip(couplings.items(), results.values(), strict=True)
            ]
    return rows


def from_zero(problem: Problem, *_: object) -> torch.Tensor:
    """What Sinkhorn begins with where nothing is annealed."""
    return torch.zeros_like(problem.target_weight)


WAYS = {  # what is put in place of what Sinkhorn uses
    "annealed, over-relaxed": {},
    "annealed, plain": {"MOST_RELAXED": 1.0},
    "from zero, over-relaxed": {"_annealed": from_zero},
    "from zero, plain": {"MOST_RELAXED": 1.0, "_annealed": from_zero},
}


def convergence_rows(data: Data, pixels: int, rounds: int) -> list[tuple[str, ...]]:
    """Sinkhorn with and without what makes it fast."""
    sample = data.sample(pixels)
    rows = []
    for epsilon in EPSILONS:
        seconds, couplings = {}, {}
        solver = Sinkhorn(epsilon=epsilon, max_iterations=30_000)
        for name, replaced in WAYS.items():
            solve = partial(keep, couplings, name, partial(sample.couple, solver))
            with mock.patch.dict(vars(_iterations), replaced):
                seconds |= medians({name: solve}, rounds=rounds)
        baseline = seconds["from zero, plain"]
        rows += [
            (
                f"{100 * epsilon:g} %",
                name,
                f"{coupling.iterations.item():,}",
                f"{seconds[name]:.2f}",
                f"{baseline / seconds[name]:.1f}",
                f"{otce.score(coupling).item():.4f}",
                f"{coupling.marginal_error.item():.1g}",
            )
            for name, coupling in couplings.items()
        ]
    return rows


def iteration_rows(data: Data, pixels: int) -> list[tuple[str, ...]]:
    """One Sinkhorn iteration: products with the plan that is kept, and logarithms of sums of exponentials."""
    sample = data.sample(pixels)
    target, source = ([tensor.unsqueeze(0) for tensor in side] for side in (sample.target, sample.source))
    problem = Problem.of(*target, source=tuple(source), **data.classes())
    root = (0.005 * problem.mean_cost).sqrt()[:, None, None]
    problem = replace(problem, source=problem.source / root, target=problem.target / root)
    potential = torch.zeros_like(problem.target_weight)
    log_kernel = -torch.cdist(problem.source, problem.target).square().to(torch.float32)[0]
    log_source, log_target = problem.source_weight[0].log(), problem.target_weight[0].log()

    def from_logarithms() -> torch.Tensor:
        source_potential = -(log_kernel + (potential[0] + log_target).float()).logsumexp(1)
        return -(log_kernel + (source_potential + log_source).float().unsqueeze(1)).logsumexp(0)

    def of(kernel: DenseKernel | OnlineKernel) -> Callable[[], torch.Tensor]:
        return lambda: kernel.target_potential(kernel.source_potential(potential))

    functions = {
        "logarithms, all pairs in memory": from_logarithms,
        "products with the plan": of(DenseKernel(problem, potential)),
    }
    try:
        online = of(KeopsKernel(problem))
        online()  # compiles
        functions["logarithms, KeOps"] = online
    except Exception as error:
        print(f"KeOps does not run here and is left out: {type(error).__name__}\n")
    seconds = medians(functions)
    baseline = seconds["logarithms, all pairs in memory"]
    return [(name, f"{1e3 * median:.1f}", f"{baseline / median:.1f}") for name, median in seconds.items()]


def sample_rows(data: Data) -> list[tuple[str, ...]]:
    """As many pixels in all, drawn as few large or many small samples."""
    rows = []
    for metric in ("otce", "jc_otce"):
        for pixels in SAMPLES if metric == "otce" else (2_000,):
            repeats = PIXELS_IN_ALL // pixels
            sampling = Sampling(num_pixels=pixels, num_repeats=repeats)
            scorer = Scorer(metrics=metric, sampling=sampling, ignore_index=data.ignore_index, **data.classes())
            start = time.perf_counter()
            score = scorer(data.target, source=data.source)[metric]
            seconds = time.perf_counter() - start
            spread = "" if score.std is None else f"{score.std:.4f}"
            error = "" if score.std is None else f"{score.std / repeats**0.5:.4f}"
            size = f"{score.pixels:,}"
            rows.append((metric, str(repeats), size, f"{score.score:.4f}", spread, error, f"{seconds:.2f}"))
    return rows


def map_rows(data: Data, rounds: int) -> list[tuple[str, ...]]:
    """A map of OTCE by patches of 4 x 4 pixels."""
    mappers = {
        solver: Mapper(metric="otce", patch_size=4, ignore_index=data.ignore_index, solver=solver, **data.classes())
        for solver in ("exact", "sinkhorn")
    }
    maps: dict[str, ScoreMap] = {}
    seconds = medians(
        {
            solver: partial(keep, maps, solver, partial(mapper, data.target, source=data.source))
            for solver, mapper in mappers.items()
        },
        rounds,
    )
    values = {solver: score_map.values[score_map.valid] for solver, score_map in maps.items()}
    difference = (values["sinkhorn"] - values["exact"]).abs()
    return [
        (
            solver,
            f"{maps[solver].values.numel():,}",
            f"{maps[solver].count.max().item():,}",
            f"{median:.2f}",
            f"{seconds['exact'] / median:.1f}",
            f"{values[solver].mean().item():.4f}",
            "" if solver == "exact" else f"{difference.mean().item():.4f}, {difference.max().item():.4f}",
        )
        for solver, median in seconds.items()
    ]


def main() -> None:
    """Prints the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, help="folder of features; made up by default")
    parser.add_argument("--source", type=Path, help="folder of features; made up by default")
    parser.add_argument("--ignore_index", type=int, default=IGNORE_INDEX)
    parser.add_argument("--pixels", type=int, nargs="+", default=[2000], help="a side, drawn for the solvers")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is printed")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    arguments = parser.parse_args()
    if (arguments.target is None) != (arguments.source is None):
        parser.error("--target and --source are given together")
    with tempfile.TemporaryDirectory() as folder:
        target, source = arguments.target, arguments.source
        if target is None:
            target, source = Path(folder, "target"), Path(folder, "source")
            make_feature_folder(target, shift=0.5, seed=1)
            make_feature_folder(source, shift=0.0, seed=0)
        data = Data(FeatureFolder(source), FeatureFolder(target), arguments.ignore_index)
        pixels, rounds = arguments.pixels[0], arguments.rounds
        channels = next(iter(data.target)).features.shape[1]
        of = f"{channels} channels, float32, {torch.get_num_threads()} threads, medians of {rounds}"
        print(f"{'made-up' if arguments.target is None else 'given'} features, {of}\n")
        if "solvers" in arguments.tables:
            header = ("pixels a side", "solver", "seconds", "times faster", "peak, MB", "score", "cost")
            header += ("gap, % of the cost", "marginal error", "iterations")
            print(table(header, solver_rows(data, arguments.pixels, rounds)) + "\n")
        if "convergence" in arguments.tables:
            header = ("epsilon", "iteration", "iterations", "seconds", "times faster", "score", "marginal error")
            print(f"{pixels:,} pixels a side\n")
            print(table(header, convergence_rows(data, pixels, rounds)) + "\n")
            print(table(("one iteration", "ms", "times faster"), iteration_rows(data, pixels)) + "\n")
        if "samples" in arguments.tables:
            header = ("metric", "samples", "pixels a side", "score", "standard deviation", "standard error", "seconds")
            print(table(header, sample_rows(data)) + "\n")
        if "maps" in arguments.tables:
            header = ("solver", "patches", "pixels a side", "seconds", "times faster", "mean value")
            print(table((*header, "off by, mean and most"), map_rows(data, rounds)))


if __name__ == "__main__":
    main()
