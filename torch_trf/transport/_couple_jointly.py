"""Couplings for JC-OTCE, where the distances of classes have a part in the ground cost."""

from dataclasses import replace

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor
from tqdm import tqdm

from ._as_solver import SolverLike, as_solver
from ._couple import couple_sides
from ._coupling import Coupling
from ._sides import Sides
from ._solver import Solver

JC_GAMMA = 0.5  # as in the published code of JC-OTCE


def couple_jointly(
    features: Float[Tensor, "*batch M D"],
    labels: Integer[Tensor, "*batch M"],
    *,
    source: tuple[Float[Tensor, "*source_batch N D"], Integer[Tensor, "*source_batch N"]],
    num_classes: int | None = None,
    num_source_classes: int | None = None,
    gamma: float = JC_GAMMA,
    solver: SolverLike = "auto",
    progress: bool = False,
) -> Coupling:
    r"""The label mass of optimal couplings of pixels, where the distances of their classes are part of the cost.

    The ground cost of a source pixel x of class z and a target pixel x' of class y is

    $$ \gamma \lVert x - x' \rVert^2 + (1 - \gamma) \, W(y, z) $$

    with W the `label_distances`. With gamma = 1 this is `couple`.

    Args:
        features: as of `couple`.
        labels: as of `couple`.
        source: as of `couple`.
        num_classes: as of `couple`.
        num_source_classes: as of `couple`.
        gamma: share of the features in the ground cost, above 0 and at most 1.
        solver: as of `couple`; it finds W, too. The diagnostics of W are not kept: a warning tells where a coupling of
            two classes did not converge.
        progress: whether to show progress bars, first over target classes and then over problems.

    Raises:
        ValueError: as `couple`, or gamma out of its range.
        ConvergenceError: as `couple`.
        RuntimeError: as `couple`.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> couple_jointly(x + 1, y, source=(x, y), gamma=0.5).mass.tolist()
        [[0.5, 0.0], [0.0, 0.5]]

    Source: Y. Tan et al., "Transferability-guided cross-domain cross-task transfer learning", TNNLS 2024 (JC-OTCE).
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be above 0 and at most 1, not {gamma}")
    sides = Sides.of(features, labels, source, num_classes, num_source_classes)
    return couple_sides_jointly(sides, gamma=gamma, solver=as_solver(solver), progress=progress)


def couple_sides_jointly(sides: Sides, *, gamma: float, solver: Solver, progress: bool = False) -> Coupling:
    """`couple_jointly`, of pixels that were checked."""
    sides.warn_of_equal_features()
    if gamma == 1:
        return couple_sides(sides, solver=solver, progress=progress)
    # The ground cost divided by gamma, so that features stay as precise as they are.
    label_cost = (1 - gamma) / gamma * _distances(sides, solver, progress)
    coupling = couple_sides(sides, label_cost=label_cost, solver=solver.for_cost_divided_by(gamma), progress=progress)
    return replace(
        coupling,
        cost=gamma * coupling.cost,
        duality_gap=gamma * coupling.duality_gap,
        epsilon=gamma * coupling.epsilon,
    )


def label_distances(
    features: Float[Tensor, "*batch M D"],
    labels: Integer[Tensor, "*batch M"],
    *,
    source: tuple[Float[Tensor, "*source_batch N D"], Integer[Tensor, "*source_batch N"]],
    num_classes: int | None = None,
    num_source_classes: int | None = None,
    solver: SolverLike = "auto",
    progress: bool = False,
) -> Float64[Tensor, "*batch K Z"]:
    r"""How far the pixels of a target class lie from those of a source class: the cost of their optimal coupling.

    Args:
        features: as of `couple`.
        labels: as of `couple`.
        source: as of `couple`.
        num_classes: as of `couple`.
        num_source_classes: as of `couple`.
        solver: as of `couple`.
        progress: whether to show a progress bar over target classes.

    Returns:
        `[..., K, Z]`, squared distances in units of the features; 0 for a class without pixels.

    Raises:
        ValueError: as `couple`.
        ConvergenceError: as `couple`.
        RuntimeError: as `couple`.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> label_distances(x + 1, y, source=(x, y)).tolist()
        [[1.0, 16.0], [36.0, 1.0]]
    """
    sides = Sides.of(features, labels, source, num_classes, num_source_classes)
    return _distances(sides, as_solver(solver), progress)


def _distances(sides: Sides, solver: Solver, progress: bool) -> Float64[Tensor, "*batch K Z"]:
    """`label_distances`, of pixels that are checked: row by row, with a problem for each source class."""
    source_classes = torch.arange(sides.num_source_classes, device=sides.device).unsqueeze(-1)
    source_labels = sides.source_labels.to(torch.int64).unsqueeze(-2)
    source_labels = torch.where(source_labels == source_classes, source_labels, -1)
    batch = source_labels.shape[:-1]
    source_features = sides.source_features.unsqueeze(-3)
    features, labels = sides.features.unsqueeze(-3), sides.labels.to(torch.int64).unsqueeze(-2)
    of_all = replace(
        sides,
        features=features.expand(*batch, *features.shape[-2:]),
        labels=labels.expand(*batch, labels.shape[-1]),
        source_features=source_features.expand(*batch, *source_features.shape[-2:]),
        source_labels=source_labels,
    )
    rows = []
    for target_class in tqdm(range(sides.num_classes), "label distances", unit="class", disable=not progress):
        of_class = replace(of_all, labels=torch.where(of_all.labels == target_class, of_all.labels, -1))
        rows.append(couple_sides(of_class, solver=solver, progress=False).cost)
    return torch.stack(rows, -2).nan_to_num(0)
