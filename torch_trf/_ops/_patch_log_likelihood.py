"""The op `torch_trf::patch_log_likelihood`: LEEP's second look at the pixels, patch by patch."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from ._checks import check_pixels, check_tensor
from ._patch_joint_mass import prediction
from ._patches import class_index, fault_columns, patch_shape, patches, with_an_image
from ._registration import define, run


class PatchLogLikelihood(NamedTuple):
    """What `patch_log_likelihood` returns: sums over the pixels of a patch of l = ln Σ_z p(y|z) θ_z(x)."""

    total: Float64[Tensor, "*patches"]  # Σ l, in nats
    total_square: Float64[Tensor, "*patches"]  # Σ l²
    pixel_count: Int64[Tensor, "*patches"]
    faults: Int64[Tensor, "*patches 4"]  # bad labels: how many, least, largest; pixels that are not finite


def patch_log_likelihood(
    logits: Float[Tensor, "B Z H W"],
    labels: Integer[Tensor, "B H W"],
    target_given_source: Float64[Tensor, "*patches K Z"],
    patch_height: int,
    patch_width: int,
    stride_height: int,
    stride_width: int,
    pool_batch: bool,
    ignore_index: int,
) -> PatchLogLikelihood:
    """The log-likelihood of the target labels in every patch of a grid, each patch by its own p(y|z).

    θ is the softmax of a pixel's logits, fused into the sum: probabilities are never written out. Patches may overlap;
    a pixel is then looked at once for each patch that holds it.

    Args:
        logits: `[B, Z, H, W]`, dtypes and strides as for `patch_moments`.
        labels: `[B, H, W]`, as for `patch_moments`.
        target_given_source: `[H', W', K, Z]`, or `[B, H', W', K, Z]` where the batch is not pooled: p(y|z) of every
            patch, any strides. H' = (H - patch_height) // stride_height + 1, and W' alike.
        patch_height: height of a patch in pixels.
        patch_width: width of a patch in pixels.
        stride_height: rows from one patch to the next.
        stride_width: columns from one patch to the next.
        pool_batch: whether a patch is pooled over the batch or lies in one image.
        ignore_index: label of the pixels to leave out.

    Returns:
        The sums of every patch in float64; the same input gives the same bits. There is no backward.

    Raises:
        ValueError: as `patch_moments`, or a `target_given_source` that does not fit the patches and logits.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [0.0, 9.0]]).T.reshape(1, 2, 1, 2)
        >>> p = torch.eye(2, dtype=torch.float64).expand(1, 1, 2, 2)
        >>> sums = patch_log_likelihood(logits, torch.tensor([[[0, 1]]]), p, 1, 2, 1, 2, True, 255)
        >>> round(sums.total.item(), 6), sums.pixel_count.item()
        (-0.000247, 2)
    """
    patch, stride = (patch_height, patch_width), (stride_height, stride_width)
    num_classes = target_given_source.shape[-2]
    grid = check_pixels(logits, labels, num_classes, patch, stride, pool_batch)
    check_tensor("target_given_source", target_given_source, (*grid, num_classes, logits.shape[1]), logits.device)
    arguments = (logits, labels, target_given_source.contiguous(), *patch, *stride, pool_batch, ignore_index)
    return PatchLogLikelihood(*run("patch_log_likelihood", *arguments))


def patch_log_likelihood_reference(
    logits: Tensor,
    labels: Tensor,
    target_given_source: Tensor,
    patch_height: int,
    patch_width: int,
    stride_height: int,
    stride_width: int,
    pool_batch: bool,
    ignore_index: int,
) -> tuple[Tensor, ...]:
    """The op in plain PyTorch: what every kernel must agree with, and what runs where there is none."""
    logits, labels, ignore_index = with_an_image(logits, labels, ignore_index, pool_batch)
    patch, stride = (patch_height, patch_width), (stride_height, stride_width)
    label = patches(labels.unsqueeze(1), patch, stride, pool_batch).squeeze(0)
    index, bad = class_index(label, target_given_source.shape[-2], ignore_index)
    theta, non_finite = prediction(patches(logits, patch, stride, pool_batch), index >= 0, hard=False)
    counts = (index >= 0) & ~non_finite
    likelihood = target_given_source @ theta.movedim(0, -2)
    likelihood = likelihood.gather(-2, index.clamp(min=0).unsqueeze(-2)).squeeze(-2)
    # The likelihood is at most 1; rounding may lift it by an ulp.
    log_likelihood = likelihood.clamp(max=1).log().masked_fill(~counts, 0)
    return (
        log_likelihood.sum(-1),
        log_likelihood.square().sum(-1),
        counts.sum(-1),
        fault_columns(label, bad, non_finite),
    )


def _shapes(
    logits: Tensor,
    labels: Tensor,
    target_given_source: Tensor,
    patch_height: int,
    patch_width: int,
    stride_height: int,
    stride_width: int,
    pool_batch: bool,
    ignore_index: int,
) -> tuple[Tensor, ...]:
    grid = patch_shape(labels, (patch_height, patch_width), (stride_height, stride_width), pool_batch)
    real = [logits.new_empty(grid, dtype=torch.float64) for _ in range(2)]
    return *real, logits.new_empty(grid, dtype=torch.int64), logits.new_empty(*grid, 4, dtype=torch.int64)


define(
    "patch_log_likelihood",
    "(Tensor logits, Tensor labels, Tensor target_given_source, int patch_height, int patch_width, int stride_height,"
    " int stride_width, bool pool_batch, int ignore_index) -> (Tensor total, Tensor total_square, Tensor pixel_count,"
    " Tensor faults)",
    patch_log_likelihood_reference,
    _shapes,
)
