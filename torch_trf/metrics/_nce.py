"""NCE, the negative conditional entropy."""

import torch
from jaxtyping import Float64
from torch import Tensor

from ..statistics import JointMass


def nce(joint_mass: JointMass) -> Float64[Tensor, "*batch"]:
    r"""How well the source class tells the target class: minus their conditional entropy, in nats.

    $$ \mathrm{NCE} = -H(Y \mid Z) = \sum_{y,z} p(y, z) \ln p(y \mid z), \qquad 0 \ln 0 = 0 $$

    Args:
        joint_mass: `[..., K, Z]`. The hard mass of predictions gives NCE, that of an optimal coupling gives OTCE.

    Returns:
        One score for each leading index, in `[-ln K, 0]`; higher is better. 0 with a single target class, NaN without
        mass.

    Example:
        >>> logits, labels = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1, 1])
        >>> round(nce(JointMass.from_pixels(logits, labels, num_classes=2, hard=True)).item(), 4)
        -0.4621

    Source: A. T. Tran, C. V. Nguyen and T. Hassner, "Transferability and hardness of supervised classification tasks",
    ICCV 2019, section 4.
    """
    # 0 - x, so that no entropy at all is 0 and not -0.
    entropy = torch.special.entr(joint_mass.mass).sum((-2, -1)) - torch.special.entr(joint_mass.mass.sum(-2)).sum(-1)
    return 0 - (entropy / joint_mass.total).clamp(min=0)
