"""LEEP, the log expected empirical prediction."""

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float64, Int64
from torch import Tensor

from ..statistics import JointMass, LogLikelihood
from ._look import Look
from ._metric import TransferabilityMetric


@dataclass(frozen=True, kw_only=True)
class LEEP(TransferabilityMetric):
    r"""How likely the target labels are under the source model's predictions, in nats a pixel.

    $$ \mathrm{LEEP} = \frac{1}{N} \sum_i \ln \sum_z p(y_i \mid z)\, \theta_z(x_i), \qquad
       p(y \mid z) = \frac{\sum_{i: y_i = y} \theta_z(x_i)}{\sum_i \theta_z(x_i)} $$

    It reads the source model's class scores before softmax; of probabilities, give the logarithm. A source class
    without mass contributes nothing. In `[-ln K, 0]` over all pixels; 0 with a single class.

    Example:
        >>> logits, labels = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])
        >>> round(LEEP()(logits, labels).item(), 4)
        -0.0002

    Source: C. V. Nguyen et al., "LEEP: A new measure to evaluate transferability of learned representations", ICML
    2020, equations 1 and 2.
    """

    name: ClassVar = "leep"
    unit: ClassVar = "nats"
    is_log_likelihood: ClassVar = True
    mean_over: ClassVar = "pixels"

    @property
    def looks(self) -> tuple[Look, ...]:
        """How classes go together, then how likely that makes each label."""
        return Look(JointMass, "logits"), Look(LogLikelihood, "logits", given="joint_mass")

    def score(self, log_likelihood: LogLikelihood) -> Float64[Tensor, "*batch"]:
        """LEEP of the pixels, or of a uniform sample of them, given the joint mass of all of them."""
        return log_likelihood.mean

    def standard_error(
        self, log_likelihood: LogLikelihood, population: Int64[Tensor, "*batch"]
    ) -> Float64[Tensor, "*batch"]:
        """Of the mean over pixels."""
        return log_likelihood.standard_error(population)

    def bounds(self, num_classes: int, channels: int) -> tuple[float, float]:
        """`[-ln K, 0]`."""
        return -math.log(num_classes), 0.0
