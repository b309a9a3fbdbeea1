"""The exact optimal coupling of pixels, as their labels see it."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from tqdm import tqdm

from ._costs import c_transform
from ._coupling import Coupling
from ._import import import_quietly
from ._optimal import Points, optimal_plan, reduced_of_pairs
from ._problem import Problem
from ._solver import TOLERANCE, Solver, marginals_are_off

MOST_OPEN = 1e-3  # share of the mass of which double precision does not tell where it moves best


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact(Solver):
    """The coupling of least cost, to rounding, by POT's network simplex; on the CPU, in double precision.

    Problems are solved several at a time, in threads. The simplex is given the pairs of pixels that may matter, not all
    of them, and ends when no other pair could lower the cost. Memory: some hundred numbers a pixel. Pixels of equal
    features share alike in what moves, so the order of the pixels does not matter.

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
        for library in ("ot", "scipy.sparse.csgraph"):  # before the threads need them
            import_quietly(library)
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
        mass, cost, gap, marginal_error, is_open, rounds = (
            torch.stack(column).to(problem.unit.device) for column in zip(*solved, strict=True)
        )
        return Coupling.of(
            problem,
            mass=mass,
            cost=cost,
            gap=gap,
            marginal_error=marginal_error,
            epsilon=torch.zeros_like(problem.unit),
            iterations=rounds,
            converged=(marginal_error <= TOLERANCE) & (is_open <= MOST_OPEN),
            solver=self.name,
        )

    def shortfall(self, coupling: Coupling, problem: Problem) -> str:
        """Why the worst of these couplings, none of which converged, is not to be trusted."""
        if (coupling.marginal_error > TOLERANCE).any():
            return f"by the exact solver {marginals_are_off(coupling, TOLERANCE)}"
        return f"double precision does not tell which pixels are nearest, for {problem.farthest()}"


def _couple_one(problem: Problem) -> tuple[Tensor, ...]:
    """Mass, cost, duality gap, marginal error, share that is open, and rounds of the simplex, of one problem."""
    source, source_classes = _points(
        problem.source, problem.source_labels, problem.num_source_classes, problem.num_channels
    )
    target, target_classes = _points(problem.target, problem.target_labels, problem.num_classes, problem.num_channels)
    plan = optimal_plan(source, target)
    flow = plan.flow / (source.count.sum() * target.count.sum())
    moved = flow.unsqueeze(-1) * source_classes[plan.ends[0]]
    mass = target_classes.mT @ moved.new_zeros(len(target.at), moved.shape[-1]).index_add_(0, plan.ends[1], moved)
    apart = source.at[plan.ends[0]] - target.at[plan.ends[1]] + problem.shift
    cost = (flow * apart.square().sum(-1)).sum() - problem.surplus
    source_potential = c_transform(source.at, target.at, plan.target_potential)
    gap = (flow * reduced_of_pairs(source.at, target.at, (source_potential, plan.target_potential), plan.ends)).sum()
    error = torch.stack(
        [
            (torch.bincount(end, flow, len(side.at)) - side.count.to(flow.dtype) / side.count.sum()).abs().sum()
            for end, side in zip(plan.ends, (source, target), strict=True)
        ]
    ).sum()
    return mass, cost, gap, error, cost.new_tensor(plan.open), cost.new_tensor(plan.rounds, dtype=torch.int64)


def _points(
    pixels: Float64[Tensor, "places E"], labels: Int64[Tensor, "places"], num_classes: int, num_channels: int
) -> tuple[Points, Float64[Tensor, "points classes"]]:
    """Where pixels lie, in an order of its own, and which share of the pixels there each class has."""
    drawn = labels >= 0
    order = pixels[drawn, 0].argsort()
    at, point, count = pixels[drawn][order], order.argsort(), torch.ones_like(order)
    if not at[:, 0].diff().all():  # some may lie on each other; the order is the same
        at, point, count = pixels[drawn].unique(dim=0, return_inverse=True, return_counts=True)
    of_class = torch.bincount(point * num_classes + labels[drawn], minlength=len(at) * num_classes)
    return Points(at, count, num_channels), of_class.reshape(len(at), num_classes) / count.unsqueeze(-1).to(
        torch.float64
    )
