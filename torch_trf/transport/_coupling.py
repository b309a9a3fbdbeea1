"""What an optimal coupling says of labels, and how far it can be trusted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from .._entries import Entries
from ..statistics import Faults, JointMass
from ._problem import Problem

DTYPES = {"iterations": torch.int64, "converged": torch.bool}  # of the fields that are not float64


@dataclass(frozen=True, slots=True, eq=False)
class Coupling(Entries):
    """What an optimal coupling of source and target pixels says of their labels, and how far it can be trusted.

    Attributes:
        mass: that the coupling moves between target classes (first) and source classes (second); it sums to 1, and its
            margins are the shares of the classes. 0 where a side has no pixel.
        cost: of the coupling, squared distances in units of the features, with what labels cost; NaN without pixels.
        duality_gap: by how much, at most, the cost is above the least one; in the same units.
        marginal_error: sum of the L1 distances of the plan's row and column sums from the pixels' weights, before it
            was rounded to a coupling.
        epsilon: of the entropic coupling, in the units of the cost; 0 of an exact one.
        iterations: of Sinkhorn at the last epsilon; of the exact solver, how many times the simplex ran.
        converged: whether the marginal error is within the tolerance, and the pixels' distances are told apart.
        solver: "exact" or "sinkhorn"; "exact, sinkhorn" where both solved a part.

    Where a side has no pixel, nothing was to be done: no error, no iteration, converged.
    """

    mass: Float64[Tensor, "*batch K Z"]
    cost: Float64[Tensor, "*batch"]
    duality_gap: Float64[Tensor, "*batch"]
    marginal_error: Float64[Tensor, "*batch"]
    epsilon: Float64[Tensor, "*batch"]
    iterations: Int64[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]
    solver: str

    @classmethod
    def of(
        cls,
        problem: Problem,
        *,
        mass: Float64[Tensor, "p K Z"],
        cost: Float64[Tensor, "p"],
        gap: Float64[Tensor, "p"],
        marginal_error: Float64[Tensor, "p"],
        epsilon: Float64[Tensor, "p"],
        iterations: Int64[Tensor, "p"],
        converged: Bool[Tensor, "p"],
        solver: str,
    ) -> "Coupling":
        """Couplings of problems, in the units of the features.

        Args:
            problem: that was solved.
            mass: as the attribute.
            cost: in truth, in the problem's unit.
            gap: the duality gap, in the problem's unit.
            marginal_error: as the attribute.
            epsilon: in the problem's unit.
            iterations: as the attribute.
            converged: as the attribute.
            solver: its name.
        """
        return cls(
            mass=mass,
            cost=cost * problem.unit,
            duality_gap=gap.clamp(min=0) * problem.unit,
            marginal_error=marginal_error,
            epsilon=epsilon * problem.unit,
            iterations=iterations,
            converged=converged,
            solver=solver,
        )

    @classmethod
    def nothing(
        cls, problems: int, num_classes: int, num_source_classes: int, solver: str, device: torch.device
    ) -> "Coupling":
        """Of problems without pixels."""
        zero = torch.zeros(problems, dtype=torch.float64, device=device)
        unknown, none = zero + math.nan, zero.to(torch.int64)
        mass = zero.new_zeros(problems, num_classes, num_source_classes)
        return cls(mass, unknown, unknown.clone(), zero, unknown.clone(), none, none == 0, solver)

    @classmethod
    def cat(cls, values: "Sequence[Coupling]", dim: int = 0) -> "Coupling":
        """Several values as one, along a leading dimension, counted from the first."""
        return cls._join(partial(torch.cat, dim=dim), values)

    @classmethod
    def _join(cls, join: Callable[[list[Tensor]], Tensor], values: "Sequence[Coupling]") -> "Coupling":
        solvers = sorted({solver for value in values for solver in value.solver.split(", ")})
        return replace(super(Coupling, cls)._join(join, values), solver=", ".join(solvers))

    @property
    def joint_mass(self) -> JointMass:
        """The mass as a statistic, whose NCE is OTCE."""
        none = Faults.none().to(self.mass.device)
        return JointMass(self.mass, faults=none._map(lambda tensor: tensor.expand(self.cost.shape)))

    def tensors(self) -> dict[str, Tensor]:
        """All but the solver's name."""
        return {name: value for name, value in self._items() if name != "solver"}

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON, in lists along the leading dimensions; with the shape of the mass.

        Example:
            >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
            >>> values = torch_trf.transport.couple(x, y, source=(x, y)).as_json()
            >>> values["solver"], values["shape"], values["mass"]
            ('exact', [2, 2], [[0.5, 0.0], [0.0, 0.5]])
        """
        values = {name: tensor.tolist() for name, tensor in self.tensors().items()}
        return {"solver": self.solver, "shape": list(self.mass.shape), **values}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Coupling":
        """The coupling of `as_json`, on the CPU, the same to the last bit."""
        solver, shape, lists = values["solver"], values["shape"], values.keys() - {"solver", "shape"}
        tensors = {
            name: torch.tensor(values[name], dtype=DTYPES.get(name, torch.float64), device="cpu") for name in lists
        }
        # Lists do not tell the shape where a leading dimension is empty.
        shaped = {name: value.reshape(shape if name == "mass" else shape[:-2]) for name, value in tensors.items()}
        return cls(**shaped, solver=solver)
