"""H-score."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from .._ops import eigenbasis
from ..statistics import Moments
from ._look import Look
from ._metric import TransferabilityMetric

RCOND = 1e-5


@dataclass(frozen=True, kw_only=True)
class HScore(TransferabilityMetric):
    r"""How much of the features' variance the classes explain, in number of directions.

    $$ H = \mathrm{tr}\!\left(\mathrm{cov}(f)^{+}\, \mathrm{cov}(\mathrm{E}[f \mid y])\right) $$

    Both covariances are taken over pixels with the same divisor, which cancels. In `[0, min(D, K - 1)]`; 0 with a
    single class or constant features.

    Args:
        rcond: the pseudo-inverse drops directions whose variance is at most `rcond` times the largest. Softmax outputs
            sum to 1, so one of their directions has no variance and must be dropped.
        softmax: whether to read the softmax of the features instead of the features; published code reads that of
            logits.

    Raises:
        ValueError: rcond out of its range.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> round(HScore()(features, torch.tensor([0, 0, 1, 1])).item(), 3)
        0.988

    Source: Y. Bao et al., "An information-theoretic approach to transferability in task transfer learning", ICIP 2019,
    definition 2.
    """

    name: ClassVar = "hscore"
    unit: ClassVar = "directions"

    rcond: float = RCOND
    softmax: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        if not 0 <= self.rcond < 1:
            raise ValueError(f"rcond must be at least 0 and below 1, not {self.rcond}")

    @property
    def looks(self) -> tuple[Look, ...]:
        """The moments of the features."""
        return (Look(Moments, softmax=self.softmax),)

    def score(self, moments: Moments) -> Float64[Tensor, "*batch"]:
        """The explained share of the variance, summed over directions."""
        variance, between = principal_variances(moments)
        kept = variance > self.rcond * variance[..., -1:]
        score = torch.where(kept, between / variance, 0).sum(-1)
        return score.where(moments.count > 0, torch.nan)

    def bounds(self, num_classes: int, channels: int) -> tuple[float, float]:
        """`[0, min(D, K - 1)]`."""
        return 0.0, float(min(channels, num_classes - 1))


def principal_variances(moments: Moments) -> tuple[Float64[Tensor, "*batch D"], Float64[Tensor, "*batch D"]]:
    """Scatter of the features along their principal directions, ascending, and the part that lies between classes."""
    centered = moments.centered
    variance, deviation = eigenbasis(centered.offset_gram, centered.offset_class_sum)
    between = (deviation.square() / centered.class_count.clamp(min=1).unsqueeze(-1)).sum(-2)
    return variance, between
