"""OTCE, the optimal transport based conditional entropy."""

from dataclasses import dataclass
from typing import ClassVar

from ._coupled import CoupledMetric


@dataclass(frozen=True, kw_only=True)
class OTCE(CoupledMetric):
    r"""How well the source label tells the target label once both are coupled by their features, in nats.

    $$ \mathrm{OTCE} = -H(Y_t \mid Y_s) = \sum_{y,z} p(y, z) \ln p(y \mid z), \qquad p = Y_t^\top P^\top Y_s $$

    with P an optimal coupling of source and target pixels (`transport.couple`) and Y their one-hot labels. This is
    F-OTCE: the domain distance of the first OTCE is left out. In `[-ln K, 0]`; 0 with a single target class.

    Args:
        softmax: whether to read the softmax of the features instead of the features.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> OTCE()(x + 1, y, source=(x, y)).item()
        0.0

    Sources: Y. Tan, Y. Li and S.-L. Huang, "OTCE: A transferability metric for cross-domain cross-task
    representations", CVPR 2021, equations 1 to 5; Y. Tan et al., "Transferability-guided cross-domain cross-task
    transfer learning", TNNLS 2024 (F-OTCE); Y. Tan et al., "Efficient prediction of model transferability in semantic
    segmentation tasks", ICIP 2023 (over sampled pixels).
    """

    name: ClassVar = "otce"
    unit: ClassVar = "nats"
