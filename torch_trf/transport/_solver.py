"""What every solver is: a value that knows how to couple pixels, and when the coupling is good enough."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch

from .._checks import require_types
from ._coupling import Coupling
from ._problem import Problem

TOLERANCE = 1e-3  # of the marginal error, where the weights of a side sum to 1


class ConvergenceWarning(UserWarning):
    """A coupling is not as good as was asked for."""


class ConvergenceError(RuntimeError):
    """As `ConvergenceWarning`, where only converged couplings were wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solver:
    """How couplings are found: `Exact`, `Sinkhorn` or `Auto`, with its options. Solvers of equal options are equal.

    Args:
        strict: whether a coupling that did not converge is a `ConvergenceError` instead of a `ConvergenceWarning`.
    """

    name: ClassVar[str]
    strict: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        require_types(self)

    def choose(self, pixels: int, device: torch.device) -> "Solver":
        """The solver for problems of at most so many pixels a side: this one, unless it leaves the choice open."""
        return self

    def for_cost_divided_by(self, divisor: float) -> "Solver":
        """The solver that finds the same coupling where all costs are divided by a number."""
        return self

    def solve(self, problem: Problem, *, progress: bool = False) -> Coupling:
        """Couplings of problems side by side, in the units of the features; the caller checks them."""
        raise NotImplementedError

    def shortfall(self, coupling: Coupling, problem: Problem) -> str:
        """What was done, and why the worst of these couplings, none of which converged, is not to be trusted."""
        raise NotImplementedError

    def check(self, coupling: Coupling, problem: Problem) -> None:
        """Warns where couplings side by side did not converge.

        Raises:
            ConvergenceError: strict, and there are such.
        """
        if coupling.converged.all():
            return
        failed, count = ~coupling.converged, len(coupling.converged)
        which = "the coupling" if count == 1 else f"{int(failed.sum()):,} of {count:,} couplings"
        message = f"{which} did not converge: {self.shortfall(coupling[failed], problem[failed])}"
        if self.strict:
            raise ConvergenceError(message)
        warnings.warn(message, ConvergenceWarning, stacklevel=4)  # where `couple` was called


def marginals_are_off(coupling: Coupling, tolerance: float) -> str:
    """The largest marginal error in words."""
    error = float(coupling.marginal_error.max())
    return f"the marginals are off by {error:.2g} in L1, more than the tolerance {tolerance:g}"
