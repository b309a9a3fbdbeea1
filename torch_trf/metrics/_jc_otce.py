"""JC-OTCE, OTCE by joint correspondences of features and labels."""

from dataclasses import dataclass
from typing import ClassVar

from ..transport import JC_GAMMA
from ._coupled import CoupledMetric


@dataclass(frozen=True, kw_only=True)
class JCOTCE(CoupledMetric):
    r"""OTCE with the distances of the labels in the ground cost, in nats (`transport.couple_jointly`).

    In `[-ln K, 0]`; 0 with a single target class.

    Args:
        gamma: share of the features in the ground cost, above 0 and at most 1; 1 gives OTCE.
        softmax: whether to read the softmax of the features instead of the features.

    Raises:
        ValueError: gamma out of its range.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> JCOTCE()(x + 1, y, source=(x, y)).item()
        0.0

    Source: Y. Tan et al., "Transferability-guided cross-domain cross-task transfer learning", TNNLS 2024.
    """

    name: ClassVar = "jc_otce"
    unit: ClassVar = "nats"

    gamma: float = JC_GAMMA

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must be above 0 and at most 1, not {self.gamma}")
