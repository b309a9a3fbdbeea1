"""Optimal couplings of source and target pixels."""

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

from ._as_solver import SolverLike, as_solver
from ._coupling import Coupling
from ._problem import Problem
from ._sides import Sides
from ._solver import Solver


def couple(
    features: Float[Tensor, "*batch M D"],
    labels: Integer[Tensor, "*batch M"],
    *,
    source: tuple[Float[Tensor, "*source_batch N D"], Integer[Tensor, "*source_batch N"]],
    num_classes: int | None = None,
    num_source_classes: int | None = None,
    label_cost: Float64[Tensor, "*batch K Z"] | None = None,
    solver: SolverLike = "auto",
    progress: bool = False,
) -> Coupling:
    r"""The mass that an optimal coupling of source and target pixels moves between their classes.

    $$ \min_P \sum_{ij} P_{ij} \lVert x_i - x'_j \rVert^2 \quad \text{with} \quad P 1 = 1/N, \; P^\top 1 = 1/M,
       \; P \ge 0; \qquad p = Y_t^\top P^\top Y_s $$

    with source pixels x, target pixels x', and Y the one-hot labels. Leading dimensions are problems of their own;
    where they differ in size, fill the places up with pixels labeled -1. Features are taken without gradient.

    Args:
        features: `[..., M, D]`, finite; where the label is negative they are not read.
        labels: `[..., M]`, in `[0, K)`; negative for no pixel.
        source: features `[..., N, D]` and labels `[..., N]`, in `[0, Z)`, of the source; its leading dimensions
            broadcast to those of the target.
        num_classes: K, the number of target classes; the largest target label plus one by default.
        num_source_classes: Z; the largest source label plus one by default.
        label_cost: `[..., K, Z]`, at least 0, is added to the squared distance of pixels of these classes.
        solver: as `as_solver` takes it.
        progress: whether to show a progress bar over problems.

    Returns:
        Mass `[..., K, Z]`, cost and diagnostics, on the features' device.

    Raises:
        ValueError: shapes that do not belong together, labels outside the classes, features that are NaN, infinite or
            so large or small that squared distances leave double precision, or a solver that is none.
        ConvergenceError: the solver is strict, and a coupling did not converge.
        RuntimeError: the exact coupling was not found.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> coupling = couple(x + 1, y, source=(x, y))
        >>> coupling.mass.tolist(), round(coupling.cost.item(), 9), coupling.solver
        ([[0.5, 0.0], [0.0, 0.5]], 1.0, 'exact')
    """
    sides = Sides.of(features, labels, source, num_classes, num_source_classes)
    sides.warn_of_equal_features()
    return couple_sides(sides, label_cost=label_cost, solver=as_solver(solver), progress=progress)


def couple_sides(
    sides: Sides, *, label_cost: Float64[Tensor, "*batch K Z"] | None = None, solver: Solver, progress: bool
) -> Coupling:
    """`couple`, of pixels that are checked."""
    if label_cost is not None:
        sides.check_label_cost(label_cost)
    target = _packed(sides.features, sides.labels)
    source = _packed(sides.source_features, sides.source_labels)
    present = (source[1] >= 0).any(-1) & (target[1] >= 0).any(-1)
    solver = solver.choose(max(source[1].shape[-1], target[1].shape[-1]), sides.device)
    classes = sides.num_classes, sides.num_source_classes
    coupling = Coupling.nothing(len(present), *classes, solver.name, sides.device)
    if present.any():
        problem = Problem.of(
            target[0][present],
            target[1][present],
            source=(source[0][present], source[1][present]),
            num_classes=sides.num_classes,
            num_source_classes=sides.num_source_classes,
            label_cost=None if label_cost is None else label_cost.detach().reshape(-1, *classes)[present],
        )
        if not problem.unit.isfinite().all():
            raise ValueError("the features are so large that their squared distances exceed double precision")
        if (problem.unit < torch.finfo(torch.float64).tiny).any():
            raise ValueError("the features are so small that their squared distances vanish in double precision")
        solved = solver.solve(problem, progress=progress)
        solver.check(solved, problem)
        for name, tensor in coupling.tensors().items():
            tensor[present] = solved.tensors()[name]
    return coupling._map(lambda tensor: tensor.reshape((*sides.shape[:-2], *tensor.shape[1:])))


def _packed(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Problems along one dimension, pixels first, with as many places as the largest has pixels."""
    features, labels = features.detach(), labels.to(torch.int64)
    places = max(1, int((labels >= 0).sum(-1).max()))
    if places < labels.shape[-1]:
        first = (labels < 0).to(torch.uint8).argsort(dim=-1, stable=True)[..., :places]
        features, labels = features.take_along_dim(first.unsqueeze(-1), -2), labels.take_along_dim(first, -1)
    return features.reshape(-1, *features.shape[-2:]), labels.reshape(-1, labels.shape[-1])
