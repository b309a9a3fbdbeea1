"""The label mass that an optimal coupling moves, with the proof of how optimal it is."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor

from ..statistics import Faults, JointMass
from ._checks import check_label_cost, check_pixels, check_sides
from ._costs import c_transform
from ._coupling import Coupling
from ._exact import exact_coupling
from ._options import Solver, SolverOptions
from ._problem import Problem
from ._sinkhorn import sinkhorn_coupling

LEAST_EPSILON = 1e-12  # of the spread of the costs; rounding is no longer small beside less
EXACT_PIXELS = 10_000  # a side; larger problems, and all on a GPU, go to Sinkhorn unless the exact solver is asked for


class ConvergenceWarning(UserWarning):
    """A coupling is not as good as was asked for."""


class ConvergenceError(RuntimeError):
    """As `ConvergenceWarning`, where only converged couplings were wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class JointLabelMass:
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
        converged: whether the marginal error is within the tolerance.
        solver: "exact" or "sinkhorn"; both, of a map whose patches were coupled by both.

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

    @property
    def joint_mass(self) -> JointMass:
        """The mass as a statistic, for `metrics.nce`."""
        none = Faults.none().to(self.mass.device)
        return JointMass(self.mass, none._map(lambda tensor: tensor.expand(self.cost.shape)))

    @classmethod
    def nothing(
        cls, problems: int, num_classes: int, num_source_classes: int, solver: str, device: torch.device
    ) -> "JointLabelMass":
        """Of problems without pixels."""
        zero = torch.zeros(problems, dtype=torch.float64, device=device)
        unknown, none = zero + math.nan, zero.to(torch.int64)
        mass = zero.new_zeros(problems, num_classes, num_source_classes)
        return cls(mass, unknown, unknown.clone(), zero, unknown.clone(), none, none == 0, solver)

    def tensors(self) -> dict[str, Tensor]:
        """All but the solver's name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "solver"}

    @classmethod
    def cat(cls, parts: "Sequence[JointLabelMass]", dim: int) -> "JointLabelMass":
        """Several results as one, along a leading dimension; `dim` counts from the first."""
        columns = {name: [part.tensors()[name] for part in parts] for name in parts[0].tensors()}
        solvers = ", ".join(sorted({part.solver for part in parts}))
        return cls(**{name: torch.cat(tensors, dim) for name, tensors in columns.items()}, solver=solvers)

    def diagnostics(self) -> dict[str, Any]:
        """All but the mass, as plain numbers, in lists along the leading dimensions."""
        values = {name: value.tolist() for name, value in self.tensors().items() if name != "mass"}
        return {"solver": self.solver, **values}


def joint_label_mass(
    source_features: Float[Tensor, "*batch N D"],
    source_labels: Integer[Tensor, "*batch N"],
    target_features: Float[Tensor, "*batch M D"],
    target_labels: Integer[Tensor, "*batch M"],
    *,
    num_classes: int | None = None,
    num_source_classes: int | None = None,
    label_cost: Float64[Tensor, "*batch K Z"] | None = None,
    solver: Solver = "auto",
    epsilon: float = 0.005,
    relative_epsilon: bool = True,
    tolerance: float = 1e-3,
    max_iterations: int = 10_000,
    strict: bool = False,
    progress: bool = False,
) -> JointLabelMass:
    r"""The mass that an optimal coupling of source and target pixels moves between their classes.

    $$ \min_P \sum_{ij} P_{ij} \lVert x_i - x'_j \rVert^2 \quad \text{with} \quad P 1 = 1/N, \; P^\top 1 = 1/M,
       \; P \ge 0; \qquad p = Y_t^\top P^\top Y_s $$

    with Y the one-hot labels. Leading dimensions are problems of their own; where they differ in size, fill the places
    up with pixels labeled -1. Solvers:

    - "exact": POT's network simplex on the CPU, in double precision, several problems at a time in threads. It is given
      the pairs of pixels that may matter, not all of them, and ends when no other pair could lower the cost. Memory:
      some hundred numbers a pixel. Where features repeat, the optimal coupling is not unique, and the mass may depend
      on the order of the pixels.
    - "sinkhorn": entropic, $\min_P \langle P, C \rangle + \varepsilon \, \mathrm{KL}(P, ab^\top)$, where the features
      are. GeomLoss lowers epsilon to its value, then over-relaxed iterations go on until the marginals hold, and the
      plan is rounded to a coupling. Where a matrix of all pairs fits into memory it is kept, so that an iteration is
      two products with it; where it does not, KeOps computes it anew every time. Features
      of double precision are computed with in double precision, others in single precision, whose marginal error ends
      at about 1e-6 (KeOps: 1e-4).
    - "auto": exact on the CPU up to 10,000 pixels a side, sinkhorn otherwise; the result says which.

    All work on features without gradient: nothing is differentiable here.

    Args:
        source_features: `[..., N, D]`, finite; where the label is negative they are not read.
        source_labels: `[..., N]`, in `[0, Z)`; negative for no pixel.
        target_features: `[..., M, D]`, likewise.
        target_labels: `[..., M]`, in `[0, K)`; negative for no pixel.
        num_classes: K, the number of target classes; the largest target label plus one by default.
        num_source_classes: Z; the largest source label plus one by default.
        label_cost: `[..., K, Z]`, at least 0, is added to the squared distance of pixels of these classes.
        solver: "auto", "exact" or "sinkhorn".
        epsilon: strength of the entropy for sinkhorn. Smaller is nearer to the exact coupling and takes longer.
        relative_epsilon: whether epsilon is a share of the mean cost over all pairs, or in units of the cost.
        tolerance: of the marginal error, the L1 distances of row and column sums from the weights of the pixels
            (which sum to 1).
        max_iterations: of sinkhorn at the last epsilon.
        strict: whether a coupling that did not converge is an error instead of a warning.
        progress: whether to show a progress bar over problems.

    Returns:
        Mass `[..., K, Z]`, cost and diagnostics, on the target features' device.

    Raises:
        ValueError: shapes that do not belong together, labels outside the classes, features that are NaN, infinite or
            so large that squared distances overflow, or options out of their range.
        ConvergenceError: strict, and a marginal error above the tolerance.
        RuntimeError: the exact coupling was not found.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> found = joint_label_mass(x, y, x + 1, y)
        >>> found.mass.tolist(), round(found.cost.item(), 9), found.solver
        ([[0.5, 0.0], [0.0, 0.5]], 1.0, 'exact')

    Sources: N. Bonneel et al., "Displacement interpolation using Lagrangian mass transport", 2011 (network simplex);
    M. Cuturi, "Sinkhorn distances", NeurIPS 2013; J. Feydy, "Geometric data analysis, beyond convolutions", 2020,
    chapter 3 (annealing).
    """
    options = SolverOptions(
        solver=solver,
        epsilon=epsilon,
        relative_epsilon=relative_epsilon,
        tolerance=tolerance,
        max_iterations=max_iterations,
        strict=strict,
    )
    num_source_classes = check_pixels(source_features, source_labels, num_source_classes, "source")
    num_classes = check_pixels(target_features, target_labels, num_classes, "target")
    check_sides(source_features, target_features)
    shape = (*target_labels.shape[:-1], num_classes, num_source_classes)
    if label_cost is not None:
        check_label_cost(label_cost, shape, target_features.device)

    dtype = torch.promote_types(torch.promote_types(source_features.dtype, target_features.dtype), torch.float32)
    source, target = _packed(source_features, source_labels), _packed(target_features, target_labels)
    present = (source[1] >= 0).any(-1) & (target[1] >= 0).any(-1)
    largest = max(source[1].shape[-1], target[1].shape[-1])
    if options.solver == "auto":
        on_cpu = target_features.device.type == "cpu"
        options = replace(options, solver="exact" if on_cpu and largest <= EXACT_PIXELS else "sinkhorn")
    found = JointLabelMass.nothing(len(present), num_classes, num_source_classes, options.solver, present.device)
    if present.any():
        problem = Problem.of(
            source[0][present],
            source[1][present],
            target[0][present],
            target[1][present],
            label_cost=None if label_cost is None else label_cost.detach().reshape(-1, *shape[-2:])[present],
        )
        if not problem.unit.isfinite().all():
            raise ValueError("the features are so large that their squared distances exceed double precision")
        labels = source[1][present], target[1][present]
        solved = _solved(problem, *labels, num_classes, num_source_classes, options, dtype, progress)
        for name, value in solved.tensors().items():
            getattr(found, name)[present] = value
    tensors = {name: value.reshape((*shape[:-2], *value.shape[1:])) for name, value in found.tensors().items()}
    return JointLabelMass(**tensors, solver=options.solver)


def _solved(
    problem: Problem,
    source_labels: Int64[Tensor, "p N"],
    target_labels: Int64[Tensor, "p M"],
    num_classes: int,
    num_source_classes: int,
    options: SolverOptions,
    dtype: torch.dtype,
    progress: bool,
) -> JointLabelMass:
    """The solver's couplings, in the units of the features."""
    classes = {"num_classes": num_classes, "num_source_classes": num_source_classes}
    if options.solver == "exact":
        epsilon = torch.zeros_like(problem.unit)
        coupling = exact_coupling(problem, source_labels, target_labels, **classes, progress=progress)
        coupling = coupling.to(problem.unit.device)
    else:
        epsilon = options.epsilon * problem.mean_cost if options.relative_epsilon else options.epsilon / problem.unit
        if (epsilon < LEAST_EPSILON).any():
            raise ValueError(f"epsilon={options.epsilon:g} is too small for sinkhorn in double precision")
        coupling = sinkhorn_coupling(
            problem,
            source_labels,
            target_labels,
            epsilon=epsilon,
            tolerance=options.tolerance,
            max_iterations=options.max_iterations,
            dtype=dtype,
            **classes,
            progress=progress,
        )
    converged = coupling.marginal_error <= options.tolerance
    if not converged.all():
        _say_not_converged(coupling, converged, options)
    return JointLabelMass(
        mass=coupling.mass,
        cost=(coupling.cost - problem.surplus) * problem.unit,
        duality_gap=(coupling.cost - _dual(problem, coupling.target_potential)).clamp(min=0) * problem.unit,
        marginal_error=coupling.marginal_error,
        epsilon=epsilon * problem.unit,
        iterations=coupling.iterations,
        converged=converged,
        solver=options.solver,
    )


def _dual(problem: Problem, target_potential: Float64[Tensor, "p M"]) -> Float64[Tensor, "p"]:
    """A lower bound of every coupling's cost: the dual value of a target potential and its c-transform."""
    is_pixel = problem.target_weight > 0
    target_value = (problem.target_weight * target_potential).sum(-1)
    potential = c_transform(problem.source, problem.target, target_potential.where(is_pixel, -math.inf))
    return target_value + (problem.source_weight * potential).sum(-1)


def _packed(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Problems along one dimension, pixels first, with as many places as the largest has pixels."""
    features, labels = features.detach(), labels.to(torch.int64)
    places = max(1, int((labels >= 0).sum(-1).max()))
    if places < labels.shape[-1]:
        first = (labels < 0).to(torch.uint8).argsort(dim=-1, stable=True)[..., :places]
        features, labels = features.take_along_dim(first.unsqueeze(-1), -2), labels.take_along_dim(first, -1)
    return features.reshape(-1, *features.shape[-2:]), labels.reshape(-1, labels.shape[-1])


def _say_not_converged(coupling: Coupling, converged: Bool[Tensor, "p"], options: SolverOptions) -> None:
    failed = int((~converged).sum())
    which = "the coupling" if len(converged) == 1 else f"{failed:,} of {len(converged):,} couplings"
    how, advice = "by the exact solver", ""
    if options.solver == "sinkhorn":
        share = " of the mean cost" if options.relative_epsilon else ""
        iterations = f"after {int(coupling.iterations.max()):,} Sinkhorn iterations"
        how, advice = f"{iterations} at epsilon = {options.epsilon:g}{share}", "; allow more, or a larger epsilon"
    error = f"{float(coupling.marginal_error.max()):.2g}"
    message = (
        f"{which} did not converge: {how} the marginals are off by {error} in L1, more than the tolerance"
        f" {options.tolerance:g}{advice}"
    )
    if options.strict:
        raise ConvergenceError(message)
    warnings.warn(message, ConvergenceWarning, stacklevel=4)
