"""Entropic couplings, by Sinkhorn's algorithm."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm import tqdm

from ._coupling import Coupling
from ._iterations import Rounded, iterate
from ._problem import Problem
from ._solver import TOLERANCE, Solver, marginals_are_off

DENSE_PAIRS = {"cpu": 2**27, "cuda": 2**29}  # in memory at a time; with GeomLoss's copies about 20 bytes each
MOST_BLURRED = 1e5  # epsilon over the cost of a usual pair; only what lies far apart makes it more
LEAST_EPSILON = 1e-12  # of the spread of the costs; rounding is no longer small beside less


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinkhorn(Solver):
    r"""The entropic coupling, which blurs the exact one and is found on any device, for any number of pixels.

    $$ \min_P \; \langle P, C \rangle + \varepsilon \, \mathrm{KL}(P, ab^\top) $$

    with costs C and weights a, b. GeomLoss lowers epsilon to its value, then over-relaxed iterations go on until the
    marginals hold, and the plan is rounded to a coupling. Where a matrix of all pairs fits into memory it is kept, so
    that an iteration is two products with it; where it does not, KeOps computes it anew every time. Features of double
    precision are computed with in double precision, others in single precision, whose marginal error ends at about
    1e-6 (KeOps: 1e-4).

    Args:
        epsilon: strength of the entropy. Smaller is nearer to the exact coupling and takes longer.
        relative_epsilon: whether epsilon is a share of the mean cost over all pairs, or in units of the cost.
        tolerance: of the marginal error, the L1 distances of row and column sums from the weights of the pixels
            (which sum to 1).
        max_iterations: at the last epsilon.
        strict: as in `Solver`.

    Raises:
        ValueError: an option out of its range.

    Example:
        >>> Sinkhorn(epsilon=0.01) == Sinkhorn(epsilon=0.01, tolerance=1e-3)
        True

    Sources: M. Cuturi, "Sinkhorn distances", NeurIPS 2013; J. Feydy, "Geometric data analysis, beyond convolutions",
    2020, chapter 3 (annealing).
    """

    name: ClassVar[str] = "sinkhorn"
    epsilon: float = 0.005
    relative_epsilon: bool = True
    tolerance: float = TOLERANCE
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        """Checks the options."""
        Solver.__post_init__(self)  # a class with slots is made anew, and `super` would not know it
        for name, value in (("epsilon", self.epsilon), ("tolerance", self.tolerance)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {value}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, not {self.max_iterations}")

    def for_cost_divided_by(self, divisor: float) -> "Sinkhorn":
        """The same where epsilon is a share of the cost; otherwise epsilon is divided, too."""
        return self if self.relative_epsilon else replace(self, epsilon=self.epsilon / divisor)

    def solve(self, problem: Problem, *, progress: bool = False) -> Coupling:
        """Couplings, as many at a time as fit into memory, on the problems' device.

        Raises:
            ValueError: epsilon is too small for double precision.
        """
        epsilon = self._epsilon(problem)
        root = epsilon.sqrt()[:, None, None]
        in_epsilon = replace(problem, source=problem.source / root, target=problem.target / root)
        rounded = self._iterate(in_epsilon, progress)
        cost = rounded.cost * epsilon
        return Coupling.of(
            problem,
            mass=rounded.mass,
            cost=problem.true_cost(cost),
            gap=cost - problem.lower_bound(rounded.target_potential * epsilon.unsqueeze(-1)),
            marginal_error=rounded.marginal_error,
            epsilon=epsilon,
            iterations=rounded.iterations,
            converged=(rounded.marginal_error <= self.tolerance) & (epsilon <= MOST_BLURRED * problem.usual_cost()),
            solver=self.name,
        )

    def shortfall(self, coupling: Coupling, problem: Problem) -> str:
        """What was done, why the worst of these couplings is not to be trusted, and what would help."""
        share = " of the mean cost" if self.relative_epsilon else ""
        epsilon = f"epsilon = {self.epsilon:g}{share}"
        if (coupling.marginal_error > self.tolerance).any():
            iterations = f"after {int(coupling.iterations.max()):,} Sinkhorn iterations at {epsilon}"
            return f"{iterations} {marginals_are_off(coupling, self.tolerance)}; allow more, or a larger epsilon"
        return f"{epsilon} blurs all but what lies far apart, for {problem.farthest()}"

    def _epsilon(self, problem: Problem) -> Float64[Tensor, "problems"]:
        """Epsilon in the problems' units."""
        epsilon = self.epsilon * problem.mean_cost if self.relative_epsilon else self.epsilon / problem.unit
        if (epsilon < LEAST_EPSILON).any():
            raise ValueError(f"epsilon={self.epsilon:g} is too small for sinkhorn in double precision")
        return epsilon

    def _iterate(self, problem: Problem, progress: bool) -> Rounded:
        """Couplings of problems in units of epsilon, batch by batch."""
        limit = DENSE_PAIRS["cpu" if problem.unit.device.type == "cpu" else "cuda"]
        pairs, problems = problem.source.shape[-2] * problem.target.shape[-2], len(problem.unit)
        at_a_time = max(1, limit // pairs)
        rounded = []
        with (
            tqdm(total=problems, desc="coupling", unit="problem", disable=not progress) as bar,
            _full_precision(),
            redirect_stdout(sys.stdout if pairs <= limit else sys.stderr),  # where KeOps says what it compiles
        ):
            for start in range(0, problems, at_a_time):
                some = problem[start : start + at_a_time]
                rounded.append(iterate(some, self.tolerance, self.max_iterations, dense=pairs <= limit))
                bar.update(len(some.unit))
        return Rounded.cat(rounded)


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
