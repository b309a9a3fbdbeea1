"""What a solver finds."""

from dataclasses import dataclass

from jaxtyping import Float64, Int64
from torch import Tensor

from ..statistics._entries import Entries


@dataclass(frozen=True, slots=True, eq=False)
class Coupling(Entries):
    """Couplings of problems side by side, as far as anybody asks; costs in each problem's unit.

    Attributes:
        mass: that the coupling moves between target and source classes.
        cost: of the coupling.
        target_potential: a dual potential; with its c-transform it bounds the least cost from below.
        marginal_error: L1 distance of the found plan's row sums from the source weights plus that of its column sums
            from the target weights, before it is rounded to a coupling.
        iterations: how many the solver took.
    """

    mass: Float64[Tensor, "problems K Z"]
    cost: Float64[Tensor, "problems"]
    target_potential: Float64[Tensor, "problems M"]
    marginal_error: Float64[Tensor, "problems"]
    iterations: Int64[Tensor, "problems"]
