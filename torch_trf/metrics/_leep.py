"""LEEP, the log expected empirical prediction."""

from jaxtyping import Float64
from torch import Tensor

from ..statistics import LogLikelihood


def leep(log_likelihood: LogLikelihood) -> Float64[Tensor, "*batch"]:
    r"""How likely the target labels are under the source model's predictions, in nats a pixel.

    $$ \mathrm{LEEP} = \frac{1}{N} \sum_i \ln \sum_z p(y_i \mid z)\, \theta_z(x_i), \qquad
       p(y \mid z) = \frac{\sum_{i: y_i = y} \theta_z(x_i)}{\sum_i \theta_z(x_i)} $$

    Args:
        log_likelihood: of the target pixels, or of a uniform sample of them, given the joint mass of all of them. A
            source class without mass contributes nothing.

    Returns:
        One score for each leading index, in `[-ln K, 0]` over all pixels; higher is better. 0 with a single class, NaN
        without a pixel.

    Example:
        >>> logits, labels = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])
        >>> joint_mass = JointMass.from_pixels(logits, labels, num_classes=2)
        >>> round(leep(LogLikelihood.from_pixels(logits, labels, joint_mass=joint_mass)).item(), 4)
        -0.0002

    Source: C. V. Nguyen et al., "LEEP: A new measure to evaluate transferability of learned representations", ICML
    2020, equations 1 and 2.
    """
    return log_likelihood.mean
