"""Sinkhorn's iteration in units of epsilon: annealed by GeomLoss, over-relaxed, and rounded to a coupling."""

import math
import warnings
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from .._entries import Entries
from ._import import import_quietly
from ._kernels import ChunkedKernel, DenseKernel, KeopsKernel, OnlineKernel
from ._problem import Problem, mean_squares

ANNEALING = 0.5  # ratio of the scales from the extent of the points down to epsilon
CHECKED = 10  # iterations from one look at the marginals to the next
MOST_RELAXED = 1.98  # the relaxation parameter must stay below 2
WORSE = 2.0  # a marginal error so many times the least one shows divergence
FEW = 2000  # pixels a side for which is annealed where KeOps does not run
RECOVERY = 0.7  # how the distance to 2 of the largest relaxation that is allowed after it shrinks with every look


@dataclass(frozen=True, slots=True, eq=False)
class Rounded(Entries):
    """Couplings in units of epsilon, from plans that were rounded.

    Attributes:
        index: which problem it is.
        mass: that the coupling moves between target and source classes.
        cost: of the coupling.
        target_potential: a dual potential.
        marginal_error: of the plan before it was rounded.
        iterations: how many it took.
    """

    index: Int64[Tensor, "p"]
    mass: Float64[Tensor, "p K Z"]
    cost: Float64[Tensor, "p"]
    target_potential: Float64[Tensor, "p M"]
    marginal_error: Float64[Tensor, "p"]
    iterations: Int64[Tensor, "p"]


def iterate(problem: Problem, tolerance: float, max_iterations: int, *, dense: bool) -> Rounded:
    r"""Couplings of problems in units of epsilon.

    The potentials are over-relaxed: a step goes $\omega$ times as far as to the potential that makes one side's
    marginals hold. The rate $\lambda$ at which the marginal error falls tells that of the plain iteration,
    $\theta = (\lambda + \omega - 1)^2 / (\lambda \omega^2)$, and that the best relaxation,
    $\omega = 2 / (1 + \sqrt{1 - \theta})$, by Young's theory of linear iterations, which this is near its end. Far from
    its end it may diverge: then the best potentials so far are taken up again with less relaxation.

    Args:
        problem: in units of epsilon; a single one unless a matrix is kept.
        tolerance: of the marginal error.
        max_iterations: to end with at the latest.
        dense: whether a matrix of all pairs is kept in memory.

    Sources: D. M. Young, "Iterative methods for solving partial difference equations of elliptic type", 1954;
    A. Thibault et al., "Overrelaxed Sinkhorn-Knopp algorithm for regularized optimal transport", 2021; T. Lehmann et
    al., "A note on overrelaxation in the Sinkhorn algorithm", 2022.
    """
    kernel: DenseKernel | OnlineKernel
    if dense:
        start = _annealed(problem, "tensorized")
        kernel = DenseKernel(problem, start)
    elif keops_runs(problem.source.shape[-1], problem.num_classes, problem.precision, problem.source.device):
        start = _annealed(problem, "online")
        kernel = KeopsKernel(problem)
    else:
        start = _annealed_for_few(problem)
        kernel = ChunkedKernel(problem)
    state = _State.start(problem, start)
    couplings = []
    iteration = 1
    while True:
        state = _look(kernel, state, tolerance, iteration)
        if iteration >= max_iterations:  # what is not the best is no result
            worse = ~(state.error <= state.best_error)[:, None]
            state = replace(state, target_potential=state.best_potential.where(worse, state.target_potential))
            kernel.follow(state.target_potential)
            state = _look(kernel, state, tolerance, iteration)
        finished = (state.error <= tolerance) | (iteration >= max_iterations)
        if 2 * finished.sum() >= len(finished):  # a problem waits until half of those beside it are done
            couplings.append(_round(kernel.some(finished), state[finished]))
            kernel, state = kernel.some(~finished), state[~finished]
            if not len(state.index):
                break
        steps = min(CHECKED, max_iterations - iteration)
        state = _relax(state, tolerance)
        kernel.follow(state.target_potential)
        for _ in range(steps - 1):
            state = _step(kernel, state)
        iteration += steps
    together = Rounded.cat(couplings)
    return together[together.index.argsort()]


@dataclass(frozen=True, slots=True, eq=False)
class _State(Entries):
    """Where the iteration is.

    Attributes:
        index: which problem it is.
        source_potential: f.
        target_potential: g.
        balanced: the target potential that would make the columns of the plan sum to the target weights.
        error: of the marginals.
        iterations: up to here, or to where the error was within the tolerance.
        omega: the relaxation; 0 where nothing more is to be done.
        most: the largest relaxation that is allowed now.
        best_potential: the target potential of the least error so far.
        best_error: its error.
    """

    index: Int64[Tensor, "p"]
    source_potential: Float64[Tensor, "p N"]
    target_potential: Float64[Tensor, "p M"]
    balanced: Float64[Tensor, "p M"]
    error: Float64[Tensor, "p"]
    iterations: Int64[Tensor, "p"]
    omega: Float64[Tensor, "p"]
    most: Float64[Tensor, "p"]
    best_potential: Float64[Tensor, "p M"]
    best_error: Float64[Tensor, "p"]

    @classmethod
    def start(cls, problem: Problem, potential: Float64[Tensor, "p M"]) -> "_State":
        """Before the first look, without relaxation."""
        one, index = torch.ones_like(problem.unit), torch.arange(len(problem.unit), device=problem.unit.device)
        unknown = one * torch.inf
        none = torch.zeros_like(problem.source_weight)
        return cls(index, none, potential, potential, unknown, index, one, MOST_RELAXED * one, potential, unknown)


def _look(kernel: DenseKernel | OnlineKernel, state: _State, tolerance: float, iteration: int) -> _State:
    """The first half of an iteration, as a whole step: the rows sum to their weights, so the error is the columns'."""
    source_potential = kernel.source_potential(state.target_potential)
    balanced = kernel.target_potential(source_potential)
    difference = torch.expm1(state.target_potential - balanced)
    return replace(
        state,
        source_potential=source_potential,
        balanced=balanced,
        error=(kernel.problem.target_weight * difference.abs()).sum(-1),
        iterations=torch.where(state.error <= tolerance, state.iterations, iteration),
    )


def _relax(state: _State, tolerance: float) -> _State:
    """The second half of it, with the relaxation that is best now; back to the best look where the error grew."""
    better, grown = state.error < state.best_error, ~(state.error <= WORSE * state.best_error)
    most = torch.where(grown, (1 + state.omega) / 2, 2 - RECOVERY * (2 - state.most)).clamp(max=MOST_RELAXED)
    omega = _best_relaxation(state.omega.clamp(min=1), (state.error / state.best_error) ** (1 / CHECKED)).minimum(most)
    omega = torch.where(state.error <= tolerance, 0, omega)
    moved = state.target_potential + omega[:, None] * (state.balanced - state.target_potential)
    return replace(
        state,
        # From 0, the first step without relaxation is a whole one.
        source_potential=torch.where(grown[:, None], 0, state.source_potential),
        target_potential=torch.where(grown[:, None], state.best_potential, moved),
        omega=torch.where(grown, 1, omega),
        most=most,
        best_potential=torch.where(better[:, None], state.target_potential, state.best_potential),
        best_error=torch.where(better, state.error, state.best_error),
    )


def _step(kernel: DenseKernel | OnlineKernel, state: _State) -> _State:
    """An over-relaxed iteration."""
    omega = state.omega[:, None]
    change = kernel.source_potential(state.target_potential) - state.source_potential
    source_potential = state.source_potential + omega * change
    change = kernel.target_potential(source_potential) - state.target_potential
    return replace(state, source_potential=source_potential, target_potential=state.target_potential + omega * change)


def _best_relaxation(omega: Float64[Tensor, "p"], rate: Float64[Tensor, "p"]) -> Float64[Tensor, "p"]:
    """The best relaxation, by the rate at which the error falls under that of now; the same where it cannot be told."""
    plain = (rate + omega - 1).square() / (rate * omega.square())
    best = 2 / (1 + (1 - plain.clamp(max=1)).sqrt())
    return torch.where((rate > omega - 1) & (rate < 1), best, omega)


@cache
def keops_runs(coordinates: int, num_classes: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether KeOps runs here, tried on two pixels with all sums that it would compile; warns where it does not."""
    points, labels = torch.eye(2, coordinates, dtype=dtype, device=device), torch.zeros(2, dtype=torch.int64)
    pixels = points[None], labels.to(device)[None]
    few = Problem.of(*pixels, source=pixels, num_classes=num_classes, num_source_classes=1)
    try:
        kernel, potential = KeopsKernel(few), _annealed(few, "online")
        values = torch.cat([_one_hot(few.target_labels, num_classes), few.target], -1)
        kernel.plan_times(kernel.source_potential(potential), potential, values)
    except Exception as error:  # whatever its import, its compiler and its cache folder may raise
        warnings.warn(
            f"KeOps does not run here ({type(error).__name__}: {error}); it needs a C++ compiler and a cache folder"
            " that can be written (KEOPS_CACHE_FOLDER). Sinkhorn sums in chunks of plain PyTorch instead; on a CPU"
            " solver='exact' is faster",
            stacklevel=2,
        )
        return False
    return True


def _annealed_for_few(problem: Problem) -> Float64[Tensor, "1 M"]:
    """A target potential to begin with: that for some of the pixels, at all of them."""
    source, target = (
        drawn[:: math.ceil(len(drawn) / FEW)]
        for drawn in (weight[0].nonzero().squeeze(-1) for weight in (problem.source_weight, problem.target_weight))
    )
    few = replace(
        problem,
        source=problem.source[:, source],
        source_labels=problem.source_labels[:, source],
        source_weight=torch.ones_like(problem.source_weight[:, source]) / len(source),
        target=problem.target[:, target],
        target_labels=problem.target_labels[:, target],
        target_weight=torch.ones_like(problem.target_weight[:, target]) / len(target),
    )
    kernel = ChunkedKernel(few)
    source_potential = kernel.source_potential(_annealed(few, "tensorized"))
    return kernel.target_potential_at(problem.target, source_potential)


def _annealed(problem: Problem, backend: str) -> Float64[Tensor, "p M"]:
    """A target potential to begin with: that of GeomLoss, which lowers epsilon from the extent of the points to 1."""
    points = torch.cat([problem.source, problem.target], 1).flatten(0, 1)
    extent = (points.amax(0) - points.amin(0)).square().sum().sqrt().item()
    solver = import_quietly("geomloss").SamplesLoss(
        "sinkhorn",
        p=2,
        blur=0.5**0.5,  # GeomLoss halves the cost, and its epsilon is the square of the blur
        scaling=ANNEALING,
        diameter=max(extent, 1.0),
        debias=False,
        potentials=True,
        backend=backend,
    )
    clouds = (problem.source_weight, problem.source, problem.target_weight, problem.target)
    with torch.no_grad():
        potential = solver(*(tensor.to(problem.precision) for tensor in clouds))[1]
    return 2 * potential.to(torch.float64)


def _round(kernel: DenseKernel | OnlineKernel, state: _State) -> Rounded:
    """Couplings near the plans: columns too heavy are cut, what is missing is spread.

    Source: J. Altschuler, J. Weed and P. Rigollet, "Near-linear time approximation algorithms for optimal transport via
    Sinkhorn iteration", NeurIPS 2017, algorithm 2.
    """
    problem = kernel.problem
    source_classes = _one_hot(problem.source_labels, problem.num_source_classes)
    target_classes = _one_hot(problem.target_labels, problem.num_classes)
    cut = state.target_potential.minimum(state.balanced)
    values = torch.cat([target_classes, problem.target], -1)
    moved, points = kernel.plan_times(state.source_potential, cut, values).tensor_split([problem.num_classes], -1)
    rows = (problem.source_weight - moved.sum(-1)).clamp(min=0).unsqueeze(-2)
    columns = (problem.target_weight * -torch.expm1(cut - state.balanced)).unsqueeze(-2)
    columns = columns / columns.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    inner = (problem.source * points).sum((-2, -1))
    inner += ((rows @ problem.source) * (columns @ problem.target)).sum((-2, -1))
    squares = mean_squares((problem.source, problem.target), (problem.source_weight, problem.target_weight))
    return Rounded(
        index=state.index,
        mass=moved.mT @ source_classes + (columns @ target_classes).mT @ (rows @ source_classes),
        cost=squares - 2 * inner,
        target_potential=state.target_potential,
        marginal_error=state.error,
        iterations=state.iterations,
    )


def _one_hot(labels: Int64[Tensor, "p n"], num_classes: int) -> Float64[Tensor, "p n {num_classes}"]:
    """Classes of pixels; nothing but zeros where there is no pixel."""
    return one_hot(labels.clamp(min=0), num_classes).to(torch.float64) * (labels >= 0).unsqueeze(-1)
