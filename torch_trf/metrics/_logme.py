"""LogME, the log maximum evidence."""

import math
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from ..statistics import Moments

# The fixed point (You et al. 2022, section 4.3) with the constants of its authors' and of later published code.
MAX_ITERATIONS = 100
TOLERANCE = 1e-3  # on the relative change of alpha / beta
EPSILON = 1e-5  # added to ‖m‖² and to the residual, so that alpha and beta stay finite


def logme(moments: Moments, *, absent_classes: Literal["skip", "include"] = "skip") -> Float64[Tensor, "*batch"]:
    r"""The evidence that a linear model on the features has for the labels, in nats a pixel.

    For each class, Bayesian linear regression from the features F to the one-hot label y, with prior precision
    $\alpha$ and noise precision $\beta$ at the maximum of the evidence:

    $$ \ln p(y \mid F) = \tfrac{N}{2} \ln \tfrac{\beta}{2\pi} + \tfrac{D}{2} \ln \alpha - \tfrac12 \ln |A|
       - \tfrac{\beta}{2} \lVert y - F m \rVert^2 - \tfrac{\alpha}{2} \lVert m \rVert^2,
       \quad A = \alpha I + \beta F^\top F, \quad m = \beta A^{-1} F^\top y $$

    and the score is the mean over classes of the evidence over N. With $F^\top F = V \mathrm{diag}(\sigma) V^\top$
    all of it follows from $\sigma$, $V^\top F^\top y$, $y^\top y$ and N: the features are not read again.

    Args:
        moments: of the target pixels. The features are taken as they are: no centring, no bias.
        absent_classes: "skip" averages over the classes that have pixels, so that the score does not depend on how
            labels are numbered; "include" averages over all K classes, as published code does with K the largest label
            plus one (an absent class has a high evidence, set by `EPSILON`).

    Returns:
        One score for each leading index, unbounded; higher is better. NaN without a pixel.

    Raises:
        ValueError: an unknown `absent_classes`.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> round(logme(Moments.from_pixels(features, torch.tensor([0, 0, 1, 1]), num_classes=2)).item(), 3)
        -0.144

    Source: K. You et al., "LogME: Practical assessment of pre-trained models for transfer learning", ICML 2021,
    equations 1 to 3; K. You et al., "Ranking and tuning pre-trained models", JMLR 2022, algorithm 3 (fixed point).
    """
    if absent_classes not in ("skip", "include"):
        raise ValueError(f"absent_classes must be 'skip' or 'include', not {absent_classes!r}")
    count = moments.count.unsqueeze(-1).to(torch.float64)  # [..., 1], against classes
    eigenvalues, eigenvectors = torch.linalg.eigh(moments.gram)
    # Directions without features hold rounding alone.
    floor = eigenvalues[..., -1:] * eigenvalues.shape[-1] * torch.finfo(torch.float64).eps
    present = (eigenvalues > floor).unsqueeze(-2)  # [..., 1, D], against classes
    sigma = eigenvalues.unsqueeze(-2)
    projected = (moments.class_sum @ eigenvectors).square()  # (vᵀFᵀy)², [..., K, D]
    projected = torch.where(present, projected / sigma, 0)
    label_square = moments.class_count.to(torch.float64)  # yᵀy
    outside = (label_square - projected.sum(-1)).clamp(min=0)  # the part of y that no direction of F reaches

    beyond_rank = (count - present.sum(-1)).clamp(min=0)

    alpha = beta = torch.ones_like(label_square)
    evidence = torch.full_like(label_square, math.nan)
    converged = torch.zeros_like(label_square, dtype=torch.bool)
    for _ in range(MAX_ITERATIONS):
        ratio = alpha / beta
        shrinkage = torch.where(present, sigma / (sigma + ratio.unsqueeze(-1)), 0)
        remainder = torch.where(present, ratio.unsqueeze(-1) / (sigma + ratio.unsqueeze(-1)), 0)  # 1 - shrinkage
        gamma = shrinkage.sum(-1)
        freedom = beyond_rank + remainder.sum(-1)  # N - gamma, without cancelling
        mean_square = torch.where(present, shrinkage.square() * projected / sigma, 0).sum(-1) + EPSILON  # ‖m‖²
        residual = (remainder.square() * projected).sum(-1) + outside + EPSILON  # ‖y - Fm‖²
        alpha = torch.where(converged, alpha, gamma / mean_square)
        beta = torch.where(converged, beta, freedom / residual)
        log_determinant = torch.where(present, (sigma * (beta / alpha).unsqueeze(-1)).log1p(), 0).sum(-1)  # ln |A / α|
        log_evidence = (
            count / 2 * (beta / (2 * math.pi)).log()
            - log_determinant / 2
            - beta / 2 * residual
            - alpha / 2 * mean_square
        )
        evidence = torch.where(converged, evidence, log_evidence / count)
        converged = converged | ((alpha / beta - ratio).abs() <= TOLERANCE * ratio)
        if converged.all():
            break

    included = moments.class_count > 0 if absent_classes == "skip" else torch.ones_like(converged)
    score = evidence.where(included, 0).sum(-1) / included.sum(-1)
    return score.where(moments.count > 0, math.nan)
