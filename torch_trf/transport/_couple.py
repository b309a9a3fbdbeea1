"""Couplings for OTCE and JC-OTCE: of features alone, or with the distances of labels."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor
from tqdm import tqdm

from ._checks import check_pixels, check_sides
from ._joint_label_mass import JointLabelMass, joint_label_mass
from ._options import SolverOptions

JC_GAMMA = 0.5  # as in the published code of JC-OTCE


def couple(
    source_features: Float[Tensor, "*source_batch N D"],
    source_labels: Integer[Tensor, "*source_batch N"],
    target_features: Float[Tensor, "*batch M D"],
    target_labels: Integer[Tensor, "*batch M"],
    *,
    num_classes: int,
    num_source_classes: int,
    gamma: float = 1.0,
    **solver_options: Any,
) -> JointLabelMass:
    r"""The label mass of optimal couplings of pixels, where labels may have a part in the ground cost.

    The ground cost of a source pixel x of class z and a target pixel x' of class y is

    $$ \gamma \lVert x - x' \rVert^2 + (1 - \gamma) \, W(y, z) $$

    with W the `label_distances`. `metrics.otce` of the result is OTCE with gamma = 1 and JC-OTCE with gamma = 0.5.
    Features are taken without gradient.

    Args:
        source_features: `[..., N, D]`, finite where the label is not negative.
        source_labels: `[..., N]`, in `[0, Z)`; negative for no pixel.
        target_features: `[..., M, D]`, likewise. Leading dimensions are problems of their own; those of the source
            broadcast to them.
        target_labels: `[..., M]`, in `[0, K)`; negative for no pixel.
        num_classes: K, the number of target classes.
        num_source_classes: Z, the number of source classes.
        gamma: share of the features in the ground cost, above 0 and at most 1.
        **solver_options: solver, epsilon, relative_epsilon, tolerance, max_iterations, strict and progress of
            `joint_label_mass`; for W, too, whose diagnostics are not kept: a warning tells where it did not converge.

    Raises:
        ValueError: as `joint_label_mass`, or gamma out of its range.
        ConvergenceError: as `joint_label_mass`.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> couple(x, y, x + 1, y, num_classes=2, num_source_classes=2, gamma=0.5).mass.tolist()
        [[0.5, 0.0], [0.0, 0.5]]

    Source: Y. Tan et al., "Transferability-guided cross-domain cross-task transfer learning", TNNLS 2024 (JC-OTCE).
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be above 0 and at most 1, not {gamma}")
    options = {"num_classes": num_classes, "num_source_classes": num_source_classes, **solver_options}
    batch = target_labels.shape[:-1]
    try:
        source_features = source_features.expand(*batch, *source_features.shape[-2:])
        source_labels = source_labels.expand(*batch, source_labels.shape[-1])
    except RuntimeError as error:
        leading = f"leading dimensions {list(source_labels.shape[:-1])} of the source"
        raise ValueError(f"{leading} do not broadcast to those of the target, {list(batch)}") from error
    if gamma == 1:
        return joint_label_mass(source_features, source_labels, target_features, target_labels, **options)
    distances = label_distances(source_features, source_labels, target_features, target_labels, **options)
    # The ground cost divided by gamma, so that features stay as precise as they are.
    if not options.get("relative_epsilon", True):
        options["epsilon"] = options.get("epsilon", SolverOptions().epsilon) / gamma
    label_cost = (1 - gamma) / gamma * distances
    found = joint_label_mass(
        source_features, source_labels, target_features, target_labels, label_cost=label_cost, **options
    )
    scaled = {name: gamma * getattr(found, name) for name in ("cost", "duality_gap", "epsilon")}
    return replace(found, **scaled)


def label_distances(
    source_features: Float[Tensor, "*batch N D"],
    source_labels: Integer[Tensor, "*batch N"],
    target_features: Float[Tensor, "*batch M D"],
    target_labels: Integer[Tensor, "*batch M"],
    *,
    num_classes: int,
    num_source_classes: int,
    progress: bool = False,
    **solver_options: Any,
) -> Float64[Tensor, "*batch K Z"]:
    r"""How far the pixels of a target class lie from those of a source class: the cost of their optimal coupling.

    Without gradient.

    Args:
        source_features: `[..., N, D]`, finite where the label is not negative.
        source_labels: `[..., N]`, in `[0, Z)`; negative for no pixel.
        target_features: `[..., M, D]`, likewise.
        target_labels: `[..., M]`, in `[0, K)`; negative for no pixel.
        num_classes: K.
        num_source_classes: Z.
        progress: whether to show a progress bar over target classes.
        **solver_options: as for `joint_label_mass`.

    Returns:
        `[..., K, Z]`, squared distances in units of the features; 0 for a class without pixels.

    Raises:
        ValueError: as `joint_label_mass`.
        ConvergenceError: as `joint_label_mass`.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> label_distances(x, y, x + 1, y, num_classes=2, num_source_classes=2).tolist()
        [[1.0, 16.0], [36.0, 1.0]]
    """
    check_pixels(source_features, source_labels, num_source_classes, "source")
    check_pixels(target_features, target_labels, num_classes, "target")
    check_sides(source_features, target_features)
    of_class = torch.arange(num_source_classes, device=source_labels.device).unsqueeze(-1)
    source_labels = source_labels.to(torch.int64).unsqueeze(-2)
    source_labels = torch.where(source_labels == of_class, source_labels, -1)  # [..., Z, N]: a problem for each class
    source_features = source_features.unsqueeze(-3).expand(*source_labels.shape, source_features.shape[-1])
    target_features = target_features.unsqueeze(-3).expand(*source_labels.shape[:-1], *target_features.shape[-2:])
    target_labels = (
        target_labels.to(torch.int64).unsqueeze(-2).expand(*source_labels.shape[:-1], target_labels.shape[-1])
    )
    rows = [
        joint_label_mass(
            source_features,
            source_labels,
            target_features,
            torch.where(target_labels == target_class, target_labels, -1),
            num_classes=num_classes,
            num_source_classes=num_source_classes,
            **solver_options,
        ).cost
        for target_class in tqdm(range(num_classes), "label distances", unit="class", disable=not progress)
    ]
    return torch.stack(rows, -2).nan_to_num(0)
