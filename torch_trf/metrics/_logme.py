"""LogME, the log maximum evidence."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from .._checks import require_choice
from .._ops import logme_evidence
from ..statistics import Moments
from ._doubts import DOUBTFUL, too_few_digits
from ._look import Look
from ._metric import TransferabilityMetric
from ._regression import (
    EPS,
    HARMLESS_ROUNDING,
    Regression,
    correlations,
    may_be_rounded,
    regression,
    regression_of_factor,
)

AbsentClasses = Literal["skip", "include"]

# The fixed point (You et al. 2022, section 4.3) with the constants of its authors' and of later published code.
MAX_ITERATIONS = 100
TOLERANCE = 1e-3  # on the relative change of alpha / beta
ROUNDINGS = (0, -1, 4)  # with which scores are compared where digits may be lost
EPSILON = 1e-5  # added to ‖m‖² and to the residual, so that alpha and beta stay finite


@dataclass(frozen=True, kw_only=True)
class LogME(TransferabilityMetric):
    r"""The evidence that a linear model on the features has for the labels, in nats a pixel.

    For each class, Bayesian linear regression from the features F to the one-hot label y, with prior precision
    $\alpha$ and noise precision $\beta$ at the maximum of the evidence:

    $$ \ln p(y \mid F) = \tfrac{N}{2} \ln \tfrac{\beta}{2\pi} + \tfrac{D}{2} \ln \alpha - \tfrac12 \ln |A|
       - \tfrac{\beta}{2} \lVert y - F m \rVert^2 - \tfrac{\alpha}{2} \lVert m \rVert^2,
       \quad A = \alpha I + \beta F^\top F, \quad m = \beta A^{-1} F^\top y $$

    and the score is the mean over classes of the evidence over N. With $F^\top F = V \mathrm{diag}(\sigma) V^\top$
    all of it follows from $\sigma$, $V^\top F^\top y$, $y^\top y$ and N: the features are not read again. They are
    taken as they are: no centering, no bias. The score is unbounded.

    Args:
        absent_classes: "skip" averages over the classes that have pixels, so that the score does not depend on how
            labels are numbered; "include" averages over all classes up to the largest that has pixels, as published
            code does (an absent class has a high evidence, set by `EPSILON`).
        softmax: whether to read the softmax of the features instead of the features.

    Raises:
        ValueError: an unknown `absent_classes`.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> round(LogME()(features, torch.tensor([0, 0, 1, 1])).item(), 3)
        -0.144

    Source: K. You et al., "LogME: Practical assessment of pre-trained models for transfer learning", ICML 2021,
    equations 1 to 3; K. You et al., "Ranking and tuning pre-trained models", JMLR 2022, algorithm 3 (fixed point).
    """

    name: ClassVar = "logme"
    unit: ClassVar = "nats"
    mean_over: ClassVar = "classes"

    absent_classes: AbsentClasses = "skip"
    softmax: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        require_choice("absent_classes", self.absent_classes, AbsentClasses)

    @property
    def looks(self) -> tuple[Look, ...]:
        """The moments of the features."""
        return (Look(Moments, softmax=self.softmax),)

    def score(self, moments: Moments) -> Float64[Tensor, "*batch"]:
        """The mean evidence over the classes."""
        return self.by_class(moments).nanmean(-1)

    def by_class(self, moments: Moments) -> Float64[Tensor, "*batch K"]:
        """The evidence for each class against all others, in nats a pixel; NaN for a class that does not count.

        Example:
            >>> features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
            >>> moments = Moments.from_pixels(features, torch.tensor([0, 0, 1, 1]), num_classes=3)
            >>> [round(evidence, 3) for evidence in LogME().by_class(moments).tolist()]
            [-0.144, -0.144, nan]
        """
        regressions = regression(moments)
        evidence = self._evidence(moments, regressions)
        rounded = may_be_rounded(moments, regressions.sigma)
        if rounded.any():
            few = moments[rounded]
            evidence[rounded] = self._evidence(few, regression_of_factor(few, correlations(few)))
        return evidence

    def doubt(self, moments: Moments) -> str | None:
        """Features of which rounding leaves too little beside the largest."""
        if (vanishing := moments.vanishing(together=True)) is not None:
            return vanishing
        large = EPS * moments.channels * moments.most_mean_square > HARMLESS_ROUNDING
        if not large.any():
            return None
        moments = moments[large]
        moments = moments[may_be_rounded(moments, regression(moments).sigma)]
        basis = correlations(moments)
        score, *others = (
            self._evidence(moments, regression_of_factor(moments, basis, roundings=number)).nanmean(-1)
            for number in ROUNDINGS
        )
        error = torch.stack([(other - score).abs() for other in others]).amax(0)
        doubtful = ~(error <= DOUBTFUL * score.abs().clamp(min=1))  # nor may one be no number
        if not doubtful.any():
            return None
        return too_few_digits(moments[doubtful][0])

    def _evidence(self, moments: Moments, regressions: Regression) -> Float64[Tensor, "*batch K"]:
        present = moments.class_count > 0
        # Up to the largest class that is present, or just those that are.
        included = present if self.absent_classes == "skip" else present.flip(-1).cumsum(-1).flip(-1) > 0
        evidence = logme_evidence(
            *regressions,
            moments.count.to(torch.float64),
            included,
            epsilon=EPSILON,
            tolerance=TOLERANCE,
            max_iterations=MAX_ITERATIONS,
        )
        return evidence.where(included, torch.nan)
