"""H-score."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from .._ops import eigenbasis
from ..statistics import Moments
from ._doubts import ROUNDINGS, first_entries, largest_channel
from ._look import Look
from ._metric import TransferabilityMetric

RCOND = 1e-5
SMALLEST_VARIANCE = 1e-13  # of the largest; features in float32 that have none in a direction are left with less
MISSED = 0.1  # share of the score, more than by chance, that dropped directions may have without a warning
EPS = torch.finfo(torch.float64).eps


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
        super().__post_init__()
        if not 0 <= self.rcond < 1:
            raise ValueError(f"rcond must be at least 0 and below 1, not {self.rcond}")

    @property
    def looks(self) -> tuple[Look, ...]:
        """The moments of the features."""
        return (Look(Moments, softmax=self.softmax),)

    def score(self, moments: Moments) -> Float64[Tensor, "*batch"]:
        """The explained share of the variance, summed over directions."""
        variance, between = _scaled_variances(moments)
        score = torch.where(self._is_kept(variance), between / variance, 0).sum(-1)
        return score.where(moments.count > 0, torch.nan)

    def doubt(self, moments: Moments) -> str | None:
        """Directions that `rcond` drops although the classes differ in them, and channels whose squares vanish."""
        if (vanishing := moments.vanishing()) is not None:
            return vanishing
        # By fewer pixels any direction seems to tell classes apart, and a single class is not apart from another.
        are_enough = (moments.count > 2 * moments.channels) & ((moments.class_count > 0).sum(-1) > 1)
        moments = first_entries(moments, are_enough)
        moments = moments[self._may_drop(moments)]
        variance, between = _scaled_variances(moments)
        is_kept = self._is_kept(variance)
        explained = between / variance.clamp(min=SMALLEST_VARIANCE * variance[..., -1:])
        chance = (~is_kept).sum(-1) * ((moments.class_count > 0).sum(-1) - 1) / (moments.count - 1)
        missed = explained.where(~is_kept, 0).sum(-1) - 2 * chance > MISSED * explained.where(is_kept, 0).sum(-1)
        is_told = ~is_kept & (between > (ROUNDINGS * EPS * moments.channels) ** 2)
        doubtful = missed | is_told.any(-1) & moments.is_of_one_pixel
        if not doubtful.any():
            return None
        moments, is_kept = moments[doubtful][0], is_kept[doubtful][0]
        return (
            f"rcond={self.rcond:g} drops {int((~is_kept).sum())} of {len(is_kept)} directions of the features, in which"
            f" classes differ, too: pixels that are large in many channels hide them ({largest_channel(moments)}); look"
            " for outliers, or give a smaller rcond"
        )

    def _may_drop(self, moments: Moments) -> Bool[Tensor, "*batch"]:
        """Where directions of channels that vary may be dropped, which takes a tenth of the time to tell.

        Less what is dropped at most, as the Frobenius norm is no less than the largest variance, a matrix that has a
        Cholesky factor has no such direction.
        """
        correlation, _ = moments.standardized
        least = self.rcond * torch.linalg.matrix_norm(correlation)
        is_constant = correlation.diagonal(dim1=-2, dim2=-1) == 0
        correlation.diagonal(dim1=-2, dim2=-1).add_(is_constant * (1 + least.unsqueeze(-1)) - least.unsqueeze(-1))
        return torch.linalg.cholesky_ex(correlation).info != 0

    def _is_kept(self, variance: Float64[Tensor, "*batch D"]) -> Bool[Tensor, "*batch D"]:
        return variance > self.rcond * variance[..., -1:]

    def bounds(self, num_classes: int, channels: int) -> tuple[float, float]:
        """`[0, min(D, K - 1)]`."""
        return 0.0, float(min(channels, num_classes - 1))


def principal_variances(moments: Moments) -> tuple[Float64[Tensor, "*batch D"], Float64[Tensor, "*batch D"]]:
    """Scatter of the features along their principal directions, ascending, and the part that lies between classes."""
    return _variances(moments, moments.scatter, moments.class_deviation)


def _scaled_variances(moments: Moments) -> tuple[Float64[Tensor, "*batch D"], Float64[Tensor, "*batch D"]]:
    """The same of features whose channels have a scatter of 1 each, or 0 where they are constant."""
    return _variances(moments, *moments.standardized)


def _variances(
    moments: Moments, scatter: Float64[Tensor, "*batch D D"], class_sum: Float64[Tensor, "*batch K D"]
) -> tuple[Float64[Tensor, "*batch D"], Float64[Tensor, "*batch D"]]:
    variance, deviation = eigenbasis(scatter, class_sum)
    between = (deviation.square() / moments.class_count.clamp(min=1).unsqueeze(-1)).sum(-2)
    return variance, between
