"""Entropic couplings: Sinkhorn's algorithm, annealed by GeomLoss, over-relaxed, and rounded to a coupling."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.nn.functional import one_hot
from tqdm import tqdm

from ..statistics._entries import Entries
from ._coupling import Coupling
from ._import import import_quietly
from ._kernels import DenseKernel, OnlineKernel
from ._problem import Problem, mean_squares

DENSE_PAIRS = {"cpu": 2**27, "cuda": 2**29}  # in memory at a time; with GeomLoss's copies about 20 bytes each
ANNEALING = 0.5  # ratio of the scales from the extent of the points down to epsilon
CHECKED = 10  # iterations from one look at the marginals to the next
MOST_RELAXED = 1.98  # the relaxation parameter must stay below 2
WORSE = 2.0  # a marginal error so many times the least one shows divergence
RECOVERY = 0.7  # how the distance to 2 of the largest relaxation that is allowed after it shrinks with every look


def sinkhorn_coupling(
    problem: Problem,
    source_labels: Int64[Tensor, "problems N"],
    target_labels: Int64[Tensor, "problems M"],
    *,
    num_classes: int,
    num_source_classes: int,
    epsilon: Float64[Tensor, "problems"],
    tolerance: float,
    max_iterations: int,
    dtype: torch.dtype,
    progress: bool,
) -> Coupling:
    """Entropic couplings, as many at a time as fit into memory, on the problems' device.

    Args:
        problem: in its own units.
        source_labels: negative where there is no pixel.
        target_labels: likewise.
        num_classes: K.
        num_source_classes: Z.
        epsilon: in the problems' units.
        tolerance: of the marginal error.
        max_iterations: at the last epsilon.
        dtype: of what grows with the number of pairs.
        progress: whether to show a progress bar.
    """
    limit = DENSE_PAIRS["cpu" if epsilon.device.type == "cpu" else "cuda"]
    pairs = source_labels.shape[-1] * target_labels.shape[-1]
    at_a_time = max(1, limit // pairs)
    root = epsilon.sqrt()[:, None, None]
    in_epsilon = replace(problem, source=problem.source / root, target=problem.target / root)
    couplings = []
    with (
        tqdm(total=len(epsilon), desc="coupling", unit="problem", disable=not progress) as bar,
        _full_precision(),
        redirect_stdout(sys.stdout if pairs <= limit else sys.stderr),  # where KeOps says what it compiles
    ):
        for start in range(0, len(epsilon), at_a_time):
            some = slice(start, start + at_a_time)
            couplings.append(
                _couple_batch(
                    in_epsilon[some],
                    _one_hot(source_labels[some], num_source_classes),
                    _one_hot(target_labels[some], num_classes),
                    tolerance,
                    max_iterations,
                    dtype,
                    dense=pairs <= limit,
                )
            )
            bar.update(len(couplings[-1].cost))
    found = Coupling.cat(couplings)
    return replace(found, cost=found.cost * epsilon, target_potential=found.target_potential * epsilon.unsqueeze(-1))


def _couple_batch(
    problem: Problem,
    source_classes: Float64[Tensor, "p N Z"],
    target_classes: Float64[Tensor, "p M K"],
    tolerance: float,
    max_iterations: int,
    dtype: torch.dtype,
    *,
    dense: bool,
) -> Coupling:
    r"""Couplings of problems in units of epsilon.

    The potentials are over-relaxed: a step goes $\omega$ times as far as to the potential that makes one side's
    marginals hold. The rate $\lambda$ at which the marginal error falls tells that of the plain iteration,
    $\theta = (\lambda + \omega - 1)^2 / (\lambda \omega^2)$, and that the best relaxation,
    $\omega = 2 / (1 + \sqrt{1 - \theta})$, by Young's theory of linear iterations, which this is near its end. Far from
    its end it may diverge: then the best potentials so far are taken up again with less relaxation.

    Sources: D. M. Young, "Iterative methods for solving partial difference equations of elliptic type", 1954;
    A. Thibault et al., "Overrelaxed Sinkhorn-Knopp algorithm for regularized optimal transport", 2021; T. Lehmann et
    al., "A note on overrelaxation in the Sinkhorn algorithm", 2022.
    """
    kernel: DenseKernel | OnlineKernel
    start = _annealed(problem, dtype, dense)
    kernel = DenseKernel(problem, start, dtype) if dense else OnlineKernel(problem, dtype)
    state = _State.start(problem, start)
    found = []
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
            some = state[finished]
            classes = source_classes[some.index], target_classes[some.index]
            mass, cost = _round(kernel.some(finished), some, *classes)
            found.append((some.index, Coupling(mass, cost, some.target_potential, some.error, some.iterations)))
            kernel, state = kernel.some(~finished), state[~finished]
            if not len(state.index):
                break
        steps = min(CHECKED, max_iterations - iteration)
        state = _relax(state, tolerance)
        kernel.follow(state.target_potential)
        for _ in range(steps - 1):
            state = _step(kernel, state)
        iteration += steps
    order = torch.cat([index for index, _ in found]).argsort()
    return Coupling.cat([coupling for _, coupling in found])[order]


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


def _annealed(problem: Problem, dtype: torch.dtype, dense: bool) -> Float64[Tensor, "p M"]:
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
        backend="tensorized" if dense else "online",
    )
    clouds = (problem.source_weight, problem.source, problem.target_weight, problem.target)
    with torch.no_grad():
        potential = solver(*(tensor.to(dtype) for tensor in clouds))[1]
    return 2 * potential.to(torch.float64)


def _round(
    kernel: DenseKernel | OnlineKernel,
    state: _State,
    source_classes: Float64[Tensor, "p N Z"],
    target_classes: Float64[Tensor, "p M K"],
) -> tuple[Float64[Tensor, "p K Z"], Float64[Tensor, "p"]]:
    """Joint label mass and cost of a coupling near the plan: columns too heavy are cut, what is missing is spread.

    Source: J. Altschuler, J. Weed and P. Rigollet, "Near-linear time approximation algorithms for optimal transport via
    Sinkhorn iteration", NeurIPS 2017, algorithm 2.
    """
    problem = kernel.problem
    cut = state.target_potential.minimum(state.balanced)
    values = torch.cat([target_classes, problem.target], -1)
    moved, points = kernel.plan_times(state.source_potential, cut, values).tensor_split([target_classes.shape[-1]], -1)
    rows = (problem.source_weight - moved.sum(-1)).clamp(min=0).unsqueeze(-2)
    columns = (problem.target_weight * -torch.expm1(cut - state.balanced)).unsqueeze(-2)
    columns = columns / columns.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    mass = moved.mT @ source_classes + (columns @ target_classes).mT @ (rows @ source_classes)
    inner = (problem.source * points).sum((-2, -1))
    inner += ((rows @ problem.source) * (columns @ problem.target)).sum((-2, -1))
    squares = mean_squares((problem.source, problem.target), (problem.source_weight, problem.target_weight))
    return mass, squares - 2 * inner


def _one_hot(labels: Int64[Tensor, "p n"], num_classes: int) -> Float64[Tensor, "p n {num_classes}"]:
    """Classes of pixels; nothing but zeros where there is no pixel."""
    return one_hot(labels.clamp(min=0), num_classes).to(torch.float64) * (labels >= 0).unsqueeze(-1)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products in the precision of their numbers, whatever the caller allows elsewhere."""
    backends = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
