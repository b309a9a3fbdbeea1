"""The op `torch_trf::patch_joint_mass`: the mass that target and source classes share in every cell."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from ._checks import check_pixels
from ._patches import class_index, fault_columns, patch_shape, patches, with_an_image
from ._registration import define, run


class PatchJointMass(NamedTuple):
    """What `patch_joint_mass` returns; the leading dimensions are those of the patches."""

    mass: Float64[Tensor, "*patches K Z"]  # Σ_{i: y_i = y} θ_z(x_i)
    faults: Int64[Tensor, "*patches 4"]  # bad labels: how many, least, largest; pixels that are not finite


def patch_joint_mass(
    logits: Float[Tensor, "B Z H W"],
    labels: Integer[Tensor, "B H W"],
    num_classes: int,
    cell_height: int,
    cell_width: int,
    pool_batch: bool,
    ignore_index: int,
    hard: bool,
) -> PatchJointMass:
    """What the source model predicts on the pixels of each target class, summed over every cell of a grid.

    θ is the softmax of a pixel's logits, fused into the sum: probabilities are never written out.

    Args:
        logits: `[B, Z, H, W]`, dtypes and strides as for `patch_moments`.
        labels: `[B, H, W]`, as for `patch_moments`.
        num_classes: K.
        cell_height: as for `patch_moments`.
        cell_width: as for `patch_moments`.
        pool_batch: as for `patch_moments`.
        ignore_index: label of the pixels to leave out.
        hard: whether θ is 1 for the class of largest logit (the lowest-numbered one where several are equal) and 0
            for the others, instead of the softmax.

    Returns:
        The mass of every patch in float64; the same input gives the same bits. There is no backward.

    Raises:
        ValueError: as `patch_moments`.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0]]).T.reshape(1, 2, 1, 3)
        >>> patch_joint_mass(logits, torch.tensor([[[0, 0, 1]]]), 2, 1, 3, True, 255, True).mass.tolist()
        [[[[1.0, 1.0], [0.0, 1.0]]]]
    """
    cell = (cell_height, cell_width)
    check_pixels(logits, labels, num_classes, cell, cell, pool_batch)
    arguments = (logits, labels, num_classes, cell_height, cell_width, pool_batch, ignore_index, hard)
    return PatchJointMass(*run("patch_joint_mass", *arguments))


def prediction(logits: Float[Tensor, "Z *grid"], counts: Tensor, *, hard: bool) -> tuple[Tensor, Tensor]:
    """θ of every pixel in float64, 0 where it does not count, and where a pixel that should is not finite."""
    logits = logits.to(torch.float64).masked_fill(~counts, 0)
    finite = logits.sum(0).isfinite()
    if hard:
        classes = torch.arange(len(logits), device=logits.device).reshape(-1, *[1] * (logits.dim() - 1))
        theta = (logits.argmax(0, keepdim=True) == classes).to(torch.float64)
    else:
        theta = logits.softmax(0)
    return theta.masked_fill(~(counts & finite), 0), counts & ~finite


def patch_joint_mass_reference(
    logits: Tensor,
    labels: Tensor,
    num_classes: int,
    cell_height: int,
    cell_width: int,
    pool_batch: bool,
    ignore_index: int,
    hard: bool,
) -> tuple[Tensor, ...]:
    """The op in plain PyTorch: what every kernel must agree with, and what runs where there is none."""
    logits, labels, ignore_index = with_an_image(logits, labels, ignore_index, pool_batch)
    cell = (cell_height, cell_width)
    label = patches(labels.unsqueeze(1), cell, cell, pool_batch).squeeze(0)
    index, bad = class_index(label, num_classes, ignore_index)
    theta, non_finite = prediction(patches(logits, cell, cell, pool_batch), index >= 0, hard=hard)
    one_hot = index.unsqueeze(-2) == torch.arange(num_classes, device=index.device).unsqueeze(-1)
    return one_hot.to(theta.dtype) @ theta.movedim(0, -1), fault_columns(label, bad, non_finite)


def _shapes(
    logits: Tensor, labels: Tensor, num_classes: int, cell_height: int, cell_width: int, pool_batch: bool, *_: object
) -> tuple[Tensor, ...]:
    cell = (cell_height, cell_width)
    grid = patch_shape(labels, cell, cell, pool_batch)
    mass = logits.new_empty(*grid, num_classes, logits.shape[1], dtype=torch.float64)
    return mass, logits.new_empty(*grid, 4, dtype=torch.int64)


define(
    "patch_joint_mass",
    "(Tensor logits, Tensor labels, int num_classes, int cell_height, int cell_width, bool pool_batch,"
    " int ignore_index, bool hard) -> (Tensor mass, Tensor faults)",
    patch_joint_mass_reference,
    _shapes,
)
