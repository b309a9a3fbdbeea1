"""H-score."""

import torch
from jaxtyping import Float64
from torch import Tensor

from .._ops import eigenbasis
from ..statistics import Moments

RCOND = 1e-5


def hscore(moments: Moments, *, rcond: float = RCOND) -> Float64[Tensor, "*batch"]:
    r"""How much of the features' variance the classes explain, in number of directions.

    $$ H = \mathrm{tr}\!\left(\mathrm{cov}(f)^{+}\, \mathrm{cov}(\mathrm{E}[f \mid y])\right) $$

    Both covariances are taken over pixels with the same divisor, which cancels.

    Args:
        moments: of the target pixels.
        rcond: the pseudo-inverse drops directions whose variance is at most `rcond` times the largest. Softmax outputs
            sum to 1, so one of their directions has no variance and must be dropped.

    Returns:
        One score for each leading index, in `[0, min(D, K - 1)]`; higher is better. 0 with a single class or constant
        features, NaN without a pixel.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> round(hscore(Moments.from_pixels(features, torch.tensor([0, 0, 1, 1]), num_classes=2)).item(), 3)
        0.988

    Source: Y. Bao et al., "An information-theoretic approach to transferability in task transfer learning", ICIP 2019,
    definition 2.
    """
    variance, between = principal_variances(moments)
    kept = variance > rcond * variance[..., -1:]
    score = torch.where(kept, between / variance, 0).sum(-1)
    return score.where(moments.count > 0, torch.nan)


def principal_variances(moments: Moments) -> tuple[Float64[Tensor, "*batch D"], Float64[Tensor, "*batch D"]]:
    """Scatter of the features along their principal directions, ascending, and the part that lies between classes."""
    centered = moments.centered
    variance, deviation = eigenbasis(centered.offset_gram, centered.offset_class_sum)
    between = (deviation.square() / centered.class_count.clamp(min=1).unsqueeze(-1)).sum(-2)
    return variance, between
