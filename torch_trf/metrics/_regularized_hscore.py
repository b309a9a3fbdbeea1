"""Regularized H-score."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from ..statistics import Moments
from ._doubts import ROUNDINGS, first_entries, too_few_digits
from ._hscore import principal_variances
from ._look import Look
from ._metric import TransferabilityMetric

EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, kw_only=True)
class RegularizedHScore(TransferabilityMetric):
    r"""The H-score with a shrunk covariance, which stays meaningful with few pixels and many channels.

    $$ H_a = (1 - a)\, \mathrm{tr}\!\left(\Sigma_a^{-1}\, \mathrm{cov}(\mathrm{E}[f \mid y])\right), \qquad
       \Sigma_a = (1 - a)\, \Sigma + a\, \tfrac{\mathrm{tr}\,\Sigma}{D} I $$

    where $\Sigma$ is the covariance of the features with divisor N, $\mathrm{cov}(\mathrm{E}[f \mid y])$ has N - 1, and
    $a$ is Ledoit and Wolf's shrinkage, which needs the fourth moment of the centered features. At least 0; 0 with a
    single class or constant features.

    Args:
        softmax: whether to read the softmax of the features instead of the features.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> round(RegularizedHScore()(features, torch.tensor([0, 0, 1, 1])).item(), 3)
        1.301

    Source: S. Ibrahim, N. Ponomareva and R. Mazumder, "Newer is not always better: Rethinking transferability metrics,
    their peculiarities, stability and performance", 2021, section 4; O. Ledoit and M. Wolf, "A well-conditioned
    estimator for large-dimensional covariance matrices", Journal of Multivariate Analysis, 2004, section 3.
    """

    name: ClassVar = "regularized_hscore"
    unit: ClassVar = "directions"

    softmax: bool = False

    @property
    def looks(self) -> tuple[Look, ...]:
        """The moments of the features."""
        return (Look(Moments, softmax=self.softmax),)

    def score(self, moments: Moments) -> Float64[Tensor, "*batch"]:
        """The explained share of the shrunk variance, summed over directions."""
        shrinkage, variance, between = self._shrunk(moments)
        floor = variance[..., -1:] * variance.shape[-1] * EPS  # directions of rounding alone
        degrees = (moments.count - 1).clamp(min=1)
        score = (1 - shrinkage) * torch.where(variance > floor, between / variance, 0).sum(-1) / degrees
        return score.where((moments.count > 0) & shrinkage.isfinite(), torch.nan)

    def doubt(self, moments: Moments) -> str | None:
        """Features so small that fourth powers vanish, or beside which rounding hides others that classes differ in."""
        if (vanishing := moments.vanishing(power=4, together=True)) is not None:
            return vanishing
        # No shrunk variance is below the shrinkage times their mean, which is no less than the largest over D.
        moments = first_entries(moments, moments.count > 0)
        moments = moments[_shrinkage_of(moments) < ROUNDINGS * EPS * moments.channels]
        shrinkage, variance, between = self._shrunk(moments)
        rounding = ROUNDINGS * EPS * variance[..., -1:]
        of_channel = moments.spread.square() / moments.count.unsqueeze(-1)
        shrunk = torch.lerp(of_channel, of_channel.mean(-1, keepdim=True), shrinkage.unsqueeze(-1))
        is_told = between > (ROUNDINGS * EPS * moments.channels) ** 2 * between.sum(-1, keepdim=True)
        doubtful = ((shrunk < rounding) & (of_channel > 0) | (variance < rounding) & is_told).any(-1)
        return too_few_digits(moments[doubtful][0]) if doubtful.any() else None

    def _shrunk(
        self, moments: Moments
    ) -> tuple[Float64[Tensor, "*batch"], Float64[Tensor, "*batch D"], Float64[Tensor, "*batch D"]]:
        """The shrinkage, and along principal directions the shrunk variances and the scatter between classes."""
        scatter, between = principal_variances(moments)
        variance = scatter / moments.count.clamp(min=1).unsqueeze(-1)
        target = variance.mean(-1, keepdim=True)
        shrinkage = _shrinkage(moments, variance.square().sum(-1), (variance - target).square().sum(-1))
        return shrinkage, torch.lerp(variance, target, shrinkage.unsqueeze(-1)), between

    def bounds(self, num_classes: int, channels: int) -> tuple[float, float]:
        """At least 0."""
        return 0.0, math.inf


def _shrinkage_of(moments: Moments) -> Float64[Tensor, "*batch"]:
    """The shrinkage, without principal directions."""
    covariance = moments.scatter.div_(moments.count.clamp(min=1)[..., None, None])
    square = covariance.square().sum((-2, -1))
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    diagonal -= diagonal.mean(-1, keepdim=True)
    return _shrinkage(moments, square, covariance.square().sum((-2, -1)))


def _shrinkage(
    moments: Moments, square: Float64[Tensor, "*batch"], distance: Float64[Tensor, "*batch"]
) -> Float64[Tensor, "*batch"]:
    """Ledoit and Wolf's: the ratio of two expectations, each a sum over D x D entries, here times N².

    Args:
        moments: any leading dimensions.
        square: of the covariance, and
        distance: of the covariance from its target, squared: sums over all entries.
    """
    count = moments.count.to(torch.float64)
    fourth = moments.centered.offset_fourth_moment
    noise, distance = fourth - count * square, count.square() * distance
    return torch.where(distance > 0, noise / distance, 0).clamp(0, 1).where(fourth.isfinite(), torch.nan)
