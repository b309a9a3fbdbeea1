"""NCE, the negative conditional entropy."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from ..statistics import JointMass
from ._look import Look
from ._metric import TransferabilityMetric


@dataclass(frozen=True, kw_only=True)
class NCE(TransferabilityMetric):
    r"""How well the predicted source class tells the target class: minus their conditional entropy, in nats.

    $$ \mathrm{NCE} = -H(Y \mid Z) = \sum_{y,z} p(y, z) \ln p(y \mid z), \qquad 0 \ln 0 = 0 $$

    It reads the source model's class scores; the largest of a pixel is its prediction. In `[-ln K, 0]`; 0 with a single
    target class.

    Example:
        >>> logits, labels = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1, 1])
        >>> round(NCE()(logits, labels).item(), 4)
        -0.4621

    Source: A. T. Tran, C. V. Nguyen and T. Hassner, "Transferability and hardness of supervised classification tasks",
    ICCV 2019, section 4.
    """

    name: ClassVar = "nce"
    unit: ClassVar = "nats"
    is_log_likelihood: ClassVar = True

    @property
    def looks(self) -> tuple[Look, ...]:
        """How hard predictions and target classes go together."""
        return (Look(JointMass, "logits", options={"hard": True}),)

    def score(self, joint_mass: JointMass) -> Float64[Tensor, "*batch"]:
        """NCE of the joint mass of predictions."""
        return negative_conditional_entropy(joint_mass)

    def bounds(self, num_classes: int, channels: int) -> tuple[float, float]:
        """`[-ln K, 0]`."""
        return -math.log(num_classes), 0.0


def negative_conditional_entropy(joint_mass: JointMass) -> Float64[Tensor, "*batch"]:
    """-H(Y | Z) of a joint mass, in nats; NaN without mass."""
    # 0 - x, so that no entropy at all is 0 and not -0.
    entropy = torch.special.entr(joint_mass.mass).sum((-2, -1)) - torch.special.entr(joint_mass.mass.sum(-2)).sum(-1)
    return 0 - (entropy / joint_mass.total).clamp(min=0)
