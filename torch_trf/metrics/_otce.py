"""OTCE, the optimal transport based conditional entropy."""

from jaxtyping import Float64
from torch import Tensor

from ..transport import JointLabelMass
from ._nce import nce


def otce(coupling: JointLabelMass) -> Float64[Tensor, "*batch"]:
    r"""How well the source label tells the target label once both are coupled by their features, in nats.

    $$ \mathrm{OTCE} = -H(Y_t \mid Y_s) = \sum_{y,z} p(y, z) \ln p(y \mid z), \qquad p = Y_t^\top P^\top Y_s $$

    with P an optimal coupling of source and target pixels (`transport.couple`) and Y their one-hot labels. Where the
    ground cost is that of features alone, this is F-OTCE: the domain distance of the first OTCE is left out. Where it
    holds label distances, too, this is JC-OTCE.

    Args:
        coupling: the label mass of couplings, with leading dimensions.

    Returns:
        One score for each leading index, in `[-ln K, 0]`; higher is better. 0 with a single target class, NaN where a
        side has no pixel.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> otce(torch_trf.transport.joint_label_mass(x, y, x, y)).item()
        0.0

    Sources: Y. Tan, Y. Li and S.-L. Huang, "OTCE: A transferability metric for cross-domain cross-task
    representations", CVPR 2021, equations 1 to 5; Y. Tan et al., "Transferability-guided cross-domain cross-task
    transfer learning", TNNLS 2024 (F-OTCE, JC-OTCE); Y. Tan et al., "Efficient prediction of model transferability in
    semantic segmentation tasks", ICIP 2023 (over sampled pixels).
    """
    return nce(coupling.joint_mass)
