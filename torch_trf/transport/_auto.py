"""The solver that suits the device and the number of pixels."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from ._exact import Exact
from ._sinkhorn import Sinkhorn
from ._solver import Solver

EXACT_PIXELS = 10_000  # a side, up to which a CPU couples exactly faster than by Sinkhorn


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto(Solver):
    """`Exact` on the CPU up to 10,000 pixels a side, `Sinkhorn` otherwise; `Coupling.solver` names the one that ran.

    Args:
        sinkhorn: used where the problem is too large for the exact solver, or on a GPU.
        strict: as in `Solver`, whichever is chosen.

    Example:
        >>> Auto(sinkhorn=Sinkhorn(epsilon=0.01)).choose(20_000, torch.device("cpu")).epsilon
        0.01
    """

    name: ClassVar[str] = "auto"
    sinkhorn: Sinkhorn = field(default_factory=Sinkhorn)

    def choose(self, pixels: int, device: torch.device) -> Exact | Sinkhorn:
        """The solver for problems of at most so many pixels a side."""
        if device.type == "cpu" and pixels <= EXACT_PIXELS:
            return Exact(strict=self.strict)
        return replace(self.sinkhorn, strict=self.strict or self.sinkhorn.strict)

    def for_cost_divided_by(self, divisor: float) -> "Auto":
        """With the Sinkhorn that finds the same coupling."""
        return replace(self, sinkhorn=self.sinkhorn.for_cost_divided_by(divisor))
