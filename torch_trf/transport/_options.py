"""How couplings are to be solved."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Solver = Literal["auto", "exact", "sinkhorn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverOptions:
    """How couplings are to be solved: the options of `transport.joint_label_mass`, for whoever passes them on.

    Args:
        solver: of optimal transport: "exact" (on the CPU), "sinkhorn", or "auto", which is exact on the CPU up to
            10,000 pixels a side.
        epsilon: strength of the entropy in sinkhorn; smaller is nearer to the exact coupling and takes longer.
        relative_epsilon: whether epsilon is a share of the mean cost, or in units of the cost.
        tolerance: of the L1 error of a coupling's marginals.
        max_iterations: of sinkhorn at the last epsilon.
        strict: whether a coupling that did not converge is an error instead of a warning.

    Raises:
        ValueError: an option out of its range.
    """

    solver: Solver = "auto"
    epsilon: float = 0.005
    relative_epsilon: bool = True
    tolerance: float = 1e-3
    max_iterations: int = 10_000
    strict: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver: {self.solver!r} is none of {', '.join(get_args(Solver))}")
        for name in ("epsilon", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {getattr(self, name)}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, not {self.max_iterations}")

    def solver_options(self) -> dict[str, Any]:
        """These options alone, by name."""
        return {field.name: getattr(self, field.name) for field in fields(SolverOptions)}
