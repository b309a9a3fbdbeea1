"""The op `torch_trf::logme_evidence`: the fixed point of LogME for many linear regressions at once."""

import math

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ._checks import check_tensor
from ._registration import define, run


def logme_evidence(
    sigma: Float64[Tensor, "*batch D"],
    projected: Float64[Tensor, "*batch K D"],
    outside: Float64[Tensor, "*batch K"],
    count: Float64[Tensor, "*batch"],
    included: Bool[Tensor, "*batch K"],
    *,
    epsilon: float,
    tolerance: float,
    max_iterations: int,
) -> Float64[Tensor, "*batch K"]:
    r"""Log evidence over N of Bayesian linear regression, at the maximum over both precisions.

    From $\alpha = \beta = 1$, with $r = \alpha / \beta$ and sums over the directions with $\sigma_d > 0$:

    $$ \gamma = \sum_d \frac{\sigma_d}{\sigma_d + r}, \quad
       \lVert m \rVert^2 = \sum_d \frac{\sigma_d q_d}{(\sigma_d + r)^2} + \epsilon, \quad
       e = \sum_d \frac{r^2 q_d}{(\sigma_d + r)^2} + o + \epsilon, \quad
       \alpha = \frac{\gamma}{\lVert m \rVert^2}, \quad \beta = \frac{N - \gamma}{e} $$

    until r changes by at most `tolerance` times itself. $N - \gamma$ is summed without canceling.

    Args:
        sigma: `[..., D]`, eigenvalues of the Gram matrix; 0 for a direction without features.
        projected: `[..., K, D]`, q: squared coordinates of the label vectors in those directions; 0 where there is
            none.
        outside: `[..., K]`, o: the squared part of the label vectors that no direction reaches.
        count: `[...]`, N, at least the number of positive `sigma`; an entry with 0 gives NaN.
        included: `[..., K]`, which regressions to solve; the evidence of the others is 0.
        epsilon: added to ‖m‖² and to the residual.
        tolerance: relative change of r at which the iteration ends.
        max_iterations: or after so many.

    Returns:
        `[..., K]`, in nats a pixel. There is no backward.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a negative tolerance, or no iteration.
    """
    if not (tolerance >= 0 and max_iterations > 0):
        raise ValueError(f"tolerance={tolerance} must be at least 0 and max_iterations={max_iterations} at least 1")
    directions, classes, device = sigma.shape[-1], outside.shape[-1], sigma.device
    check_tensor("sigma", sigma, (*count.shape, directions), device)
    check_tensor("projected", projected, (*count.shape, classes, directions), device)
    check_tensor("outside", outside, (*count.shape, classes), device)
    check_tensor("count", count, count.shape, device)
    check_tensor("included", included, (*count.shape, classes), device, torch.bool)
    tensors = (tensor.contiguous() for tensor in (sigma, projected, outside, count, included))
    return run("logme_evidence", *tensors, epsilon, tolerance, max_iterations)


def logme_evidence_reference(
    sigma: Tensor,
    projected: Tensor,
    outside: Tensor,
    count: Tensor,
    included: Tensor,
    epsilon: float,
    tolerance: float,
    max_iterations: int,
) -> Tensor:
    """The op in plain PyTorch: what every kernel must agree with, and what runs where there is none."""
    sigma = sigma.unsqueeze(-2)  # against classes
    present = sigma > 0
    count = count.unsqueeze(-1)
    beyond_rank = (count - present.sum(-1)).clamp(min=0)
    alpha = beta = torch.ones_like(outside)
    evidence = torch.zeros_like(outside)
    converged = ~included
    for _ in range(max_iterations):
        ratio = alpha / beta
        shrinkage = torch.where(present, sigma / (sigma + ratio.unsqueeze(-1)), 0)
        remainder = torch.where(present, ratio.unsqueeze(-1) / (sigma + ratio.unsqueeze(-1)), 0)  # 1 - shrinkage
        gamma = shrinkage.sum(-1)
        freedom = beyond_rank + remainder.sum(-1)  # N - gamma, without canceling
        mean_square = torch.where(present, shrinkage.square() * projected / sigma, 0).sum(-1) + epsilon  # ‖m‖²
        residual = (remainder.square() * projected).sum(-1) + outside + epsilon  # ‖y - Fm‖²
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
        converged = converged | ~((alpha / beta - ratio).abs() > tolerance * ratio)  # what is no number stays so
        if converged.all():
            break
    return evidence


def _shapes(sigma: Tensor, projected: Tensor, outside: Tensor, *_: object) -> Tensor:
    return outside.new_empty(outside.shape)


define(
    "logme_evidence",
    "(Tensor sigma, Tensor projected, Tensor outside, Tensor count, Tensor included, float epsilon, float tolerance,"
    " int max_iterations) -> Tensor evidence",
    logme_evidence_reference,
    _shapes,
)
