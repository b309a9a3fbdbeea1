"""The exact optimal coupling: POT's network simplex over all pairs of pixels, or over those that turn out to matter."""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from tqdm import tqdm

from ._costs import c_transform, reduced_costs
from ._coupling import Coupling
from ._import import import_quietly
from ._problem import Problem
from ._solver import TOLERANCE, Solver, marginals_are_off

DENSE_PIXELS = 1000  # up to so many on either side the simplex is given all pairs at once
NEAREST = 8  # pairs of each pixel that are tried first
REDUCED_COST_TOLERANCE = 1e-10  # reduced costs, in units of the mean cost, that count as none
MAX_PIVOTS = 100_000_000  # of the simplex; POT's default of 100,000 is too few for 10,000 pixels
LOST_MASS = 1e-9  # L1, far above rounding and far below a pixel's weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact(Solver):
    """The coupling of least cost, to rounding, by POT's network simplex; on the CPU, in double precision.

    Problems are solved several at a time, in threads. The simplex is given the pairs of pixels that may matter, not all
    of them, and ends when no other pair could lower the cost. Memory: some hundred numbers a pixel. Where features
    repeat, the optimal coupling is not unique, and the mass may depend on the order of the pixels.

    Args:
        strict: as in `Solver`.

    Source: N. Bonneel et al., "Displacement interpolation using Lagrangian mass transport", 2011.
    """

    name: ClassVar[str] = "exact"

    def solve(self, problem: Problem, *, progress: bool = False) -> Coupling:
        """Couplings, a problem a thread.

        Raises:
            RuntimeError: the simplex did not end with a coupling.
        """
        import_quietly("ot")  # before the threads need it
        problems, threads = len(problem.unit), torch.get_num_threads()
        on_cpu = problem.to("cpu")
        # A thread a problem, and what is left over for the products inside one.
        own = (max(1, threads // problems),)
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=own)
        try:
            with warnings.catch_warnings(), pool:
                warnings.filterwarnings("ignore", module=r"ot\b")  # what POT warns of becomes an error
                couplings = pool.map(lambda index: _couple_one(on_cpu[index]), range(problems))
                solved = list(tqdm(couplings, "coupling", problems, unit="problem", disable=not progress))
        finally:
            torch.set_num_threads(threads)  # which the pool has set for threads that are started later, too
        columns = [torch.stack(column).to(problem.unit.device) for column in zip(*solved, strict=True)]
        mass, cost, target_potential, marginal_error, rounds = columns
        return Coupling.of(
            problem,
            mass=mass,
            cost=cost,
            target_potential=target_potential,
            marginal_error=marginal_error,
            epsilon=torch.zeros_like(problem.unit),
            iterations=rounds,
            tolerance=TOLERANCE,
            solver=self.name,
        )

    def shortfall(self, coupling: Coupling) -> str:
        """What was done, and how far from converged the worst of these couplings is."""
        return f"by the exact solver {marginals_are_off(coupling, TOLERANCE)}"


def _couple_one(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mass, cost, target potential, marginal error, and how many times the simplex ran, of one problem."""
    source_drawn, target_drawn = problem.source_labels >= 0, problem.target_labels >= 0
    source, target = problem.source[source_drawn], problem.target[target_drawn]
    plan, target_potential, rounds = _solve(source, target)
    (source_index, target_index), flow = plan.indices(), plan.values()
    classes = problem.target_labels[target_drawn][target_index] * problem.num_source_classes
    classes += problem.source_labels[source_drawn][source_index]
    mass = torch.bincount(classes, flow, problem.num_classes * problem.num_source_classes)
    cost = (flow * (source[source_index] - target[target_index]).square().sum(-1)).sum()
    rows = torch.bincount(source_index, flow, len(source))
    columns = torch.bincount(target_index, flow, len(target))
    error = (rows - 1 / len(source)).abs().sum() + (columns - 1 / len(target)).abs().sum()
    potential = target.new_zeros(len(target_drawn)).masked_scatter(target_drawn, target_potential)
    mass = mass.reshape(problem.num_classes, problem.num_source_classes)
    return mass, cost, potential, error, torch.tensor(rounds)


def _solve(source: Float64[Tensor, "N E"], target: Float64[Tensor, "M E"]) -> tuple[Tensor, Float64[Tensor, "M"], int]:
    """The optimal plan (sparse), its target potential, and how many times the simplex ran.

    Where there are many pixels, the simplex is given few pairs: those nearest by the potentials of a problem with half
    the pixels, solved likewise. Its own potentials then tell which other pairs would lower the cost; these are added
    until there are none, and the plan is optimal over all pairs.
    """
    if max(len(source), len(target)) <= DENSE_PIXELS:
        zeros = source.new_zeros(len(source)), target.new_zeros(len(target))
        costs = torch.cat([rows.clone() for _, rows in reduced_costs(source, target, *zeros)])
        plan, _, target_potential = _simplex(costs)
        return plan.to_sparse(), target_potential, 1
    target_potential = _solve(source[::2], target[::2])[1]
    source_potential = c_transform(source, target[::2], target_potential)
    pairs = _first_pairs(source, target, source_potential, c_transform(target, source, source_potential))
    rounds = 0
    while True:
        rounds += 1
        ends = torch.stack([pairs // len(target), pairs % len(target)])
        costs = (source[ends[0]] - target[ends[1]]).square().sum(-1)
        plan, source_potential, target_potential = _simplex(
            torch.sparse_coo_tensor(ends, costs, (len(source), len(target)), is_coalesced=True, check_invariants=False)
        )
        # Where pixels lie on each other, few pairs more change little: every round adds twice as many.
        count = NEAREST * 2 ** (rounds - 1)
        below = -REDUCED_COST_TOLERANCE
        missed = _nearest(source, target, source_potential, target_potential, count=count, below=below)
        before, pairs = len(pairs), torch.cat([pairs, missed]).unique()
        if len(pairs) == before:  # what seems to be missed is rounding, where the simplex was given it already
            return plan.coalesce(), target_potential, rounds


def _first_pairs(
    source: Float64[Tensor, "N E"],
    target: Float64[Tensor, "M E"],
    source_potential: Float64[Tensor, "N"],
    target_potential: Float64[Tensor, "M"],
) -> Int64[Tensor, "pairs"]:
    """The pairs to begin with: those nearest for either end, and enough others for some coupling."""
    mirrored = _nearest(target, source, target_potential, source_potential)
    return torch.cat(
        [
            _feasible(len(source), len(target)),
            _nearest(source, target, source_potential, target_potential),
            mirrored % len(source) * len(target) + mirrored // len(source),
        ]
    ).unique()


def _simplex(costs: Tensor) -> tuple[Tensor, Float64[Tensor, "N"], Float64[Tensor, "M"]]:
    """The best plan over the pairs that have a cost, and its potentials."""
    weights = [torch.full((count,), 1 / count, dtype=torch.float64) for count in costs.shape]
    plan, log = import_quietly("ot").emd(*weights, costs, numItermax=MAX_PIVOTS, log=True, check_marginals=False)
    error = abs(float(plan.sum()) - 1)
    if log["warning"] is not None or not error <= LOST_MASS:
        raise RuntimeError(f"the exact coupling was not found: {log['warning']}, its mass is off by {error:.2g}")
    return plan, log["u"], log["v"]


def _feasible(sources: int, targets: int) -> Int64[Tensor, "pairs"]:
    """Pairs that suffice for some coupling: where mass goes that is moved in the order of the pixels."""
    moved = torch.cat([torch.arange(sources) * targets, torch.arange(targets) * sources]).unique()
    return moved // targets * targets + moved // sources


def _nearest(
    source: Float64[Tensor, "N E"],
    target: Float64[Tensor, "M E"],
    source_potential: Float64[Tensor, "N"],
    target_potential: Float64[Tensor, "M"],
    count: int = NEAREST,
    below: float = math.inf,
) -> Int64[Tensor, "pairs"]:
    """For each source the targets of least reduced cost, of those below a bound."""
    pairs = []
    for rows, costs in reduced_costs(source, target, source_potential, target_potential):
        some = torch.arange(rows.start, rows.stop)[costs.amin(-1) < below]
        least, nearest = costs[some - rows.start].topk(min(count, len(target)), largest=False, sorted=False)
        pairs.append((some.unsqueeze(-1) * len(target) + nearest)[least < below])
    return torch.cat(pairs)
