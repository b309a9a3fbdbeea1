"""The regressions of labels on features that LogME scores, in the basis in which they fall apart."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from .._ops import eigenbasis
from ..statistics import Moments

EPS = torch.finfo(torch.float64).eps
# An eigenvalue of the Gram matrix is rounded by D ε times the largest. That does not matter where it is far below the
# number of pixels, or where all eigenvalues that the features have are far above it.
HARMLESS_ROUNDING = 1e-8  # of the number of pixels
DIGITS = 1e-4  # of the least eigenvalue
CAP = 1e5  # how far the constant of the features stands out of the rest, at most, while singular values are computed


class Regression(NamedTuple):
    """What must be known of features F `[N, D]` and one-hot labels, entry by entry."""

    sigma: Float64[Tensor, "*batch R"]  # squared singular values of F; 0 for a direction without features
    projected: Float64[Tensor, "*batch K R"]  # (uᵀy)², the part of the labels of a class that each direction reaches
    outside: Float64[Tensor, "*batch K"]  # the part that none reaches


def regression(moments: Moments) -> Regression:
    """By the eigenvalues of the Gram matrix FᵀF, each of which is rounded by D ε times the largest."""
    eigenvalues, coordinates = eigenbasis(moments.gram, moments.class_sum)
    # Directions without features hold rounding alone.
    sigma = eigenvalues.masked_fill(eigenvalues <= _rounding(eigenvalues), 0)
    projected = torch.where(sigma.unsqueeze(-2) == 0, 0, coordinates.square() / sigma.unsqueeze(-2))
    return Regression(sigma, projected, _outside(moments, projected).clamp(min=0))


def may_be_rounded(moments: Moments, sigma: Float64[Tensor, "*batch D"]) -> Bool[Tensor, "*batch"]:
    """Where the rounding of the largest eigenvalues may be more than others that count."""
    rounding = _rounding(sigma).squeeze(-1)
    is_large = rounding > HARMLESS_ROUNDING * moments.count
    if not is_large.any():
        return is_large
    rank = torch.minimum(moments.count, (moments.mean_square > 0).sum(-1)).clamp(min=1)
    least = sigma.gather(-1, (sigma.shape[-1] - rank).unsqueeze(-1)).squeeze(-1)
    return is_large & (rounding > DIGITS * least)


class Correlations(NamedTuple):
    """Of features whose channels have a scatter of 1 each, Δ⁻¹ S Δ⁻¹ = W Λ Wᵀ; 0 of constant channels."""

    values: Float64[Tensor, "*batch D"]  # Λ, ascending
    vectors: Float64[Tensor, "*batch D D"]  # W
    targets: Float64[Tensor, "*batch K D"]  # class deviations in this basis


def correlations(moments: Moments) -> Correlations:
    """What `regression_of_factor` begins with."""
    correlation, deviation = moments.standardized
    values, vectors = torch.linalg.eigh(correlation)
    return Correlations(values, vectors, deviation @ vectors)


def regression_of_factor(moments: Moments, basis: Correlations, *, roundings: int = 0) -> Regression:
    """By the singular values of a factor R of FᵀF = RᵀR, each of which is rounded by D ε times the largest of them.

    With the scatter around the mean S = L Lᵀ, the rows of R are √N times the mean, and Lᵀ. Channels of any scale keep
    their digits in L = Δ W Λ^½, by their correlations Δ⁻¹ S Δ⁻¹ = W Λ Wᵀ. All constant channels
    together are one, whose value is capped while the others are computed: it takes a direction of its own.

    Args:
        moments: any leading dimensions.
        basis: their correlations.
        roundings: how many times its rounding to add to all that is computed. The differences that this makes tell
            how far the result can be trusted.
    """
    count, scale = moments.count.to(torch.float64).unsqueeze(-1), moments.spread
    correlation, vectors, targets = basis
    rounding = _rounding(correlation)
    channels = correlation.shape[-1]
    may_count = torch.arange(channels, device=scale.device) >= channels + 1 - count  # N pixels span N - 1 around a mean
    if roundings:
        between = (targets.square() / moments.class_count.clamp(min=1).unsqueeze(-1)).sum(-2)  # of which there is more
        correlation = torch.maximum(correlation + roundings * rounding, between)
    else:
        correlation = correlation.where(correlation > rounding, 0)
    root = correlation.where(may_count, 0).sqrt()
    is_used = (root > 0).reshape(-1, channels).any(0)  # rows of zeros cost as much as others
    root, vectors, targets = root[..., is_used], vectors[..., is_used], targets[..., is_used]
    factor = (scale.unsqueeze(-1) * vectors * root.unsqueeze(-2)).mT
    targets = torch.where(root.unsqueeze(-2) > 0, targets / root.unsqueeze(-2), 0)
    mean = count.sqrt() * moments.mean
    constant = torch.linalg.vector_norm(mean.where(scale == 0, 0), dim=-1)
    rows = torch.cat([mean.where(scale > 0, 0).unsqueeze(-2), factor], -2)
    rest = torch.linalg.matrix_norm(rows)
    capped = torch.where(rest > 0, torch.minimum(constant, CAP * rest), constant)
    column = torch.nn.functional.pad(capped.unsqueeze(-1), (0, root.shape[-1])).unsqueeze(-1)
    left, singular, _ = torch.linalg.svd(torch.cat([rows, column], -1), full_matrices=False)
    targets = torch.cat([(moments.class_count / count.sqrt()).unsqueeze(-1), targets], -1)
    rounding = (channels + 1) * EPS * singular[..., :1]
    singular = (singular + roundings * rounding).clamp(min=0) if roundings else singular.where(singular > rounding, 0)
    sigma = singular.square()
    most = torch.minimum(count, (scale > 0).sum(-1, keepdim=True) + (constant > 0).unsqueeze(-1))  # directions
    sigma = sigma.where(torch.arange(sigma.shape[-1], device=scale.device) < most, 0)
    sigma[..., 0] *= torch.where(capped > 0, constant / capped, 1).square()
    projected = torch.where(sigma.unsqueeze(-2) > 0, (targets @ left).square(), 0)
    outside = _outside(moments, projected)
    # With roundings the parts may sum to more than the whole; less than nothing outside then makes up for it.
    return Regression(sigma, projected, outside if roundings else outside.clamp(min=0))


def _rounding(eigenvalues: Float64[Tensor, "*batch D"]) -> Float64[Tensor, "*batch 1"]:
    """What eigenvalues, which ascend, may be wrong by."""
    return eigenvalues[..., -1:] * eigenvalues.shape[-1] * EPS


def _outside(moments: Moments, projected: Float64[Tensor, "*batch K R"]) -> Float64[Tensor, "*batch K"]:
    return moments.class_count - projected.sum(-1)
