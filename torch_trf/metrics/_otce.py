"""OTCE, the optimal transport based conditional entropy."""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ..statistics import PixelSample
from ..transport import joint_label_mass
from ._nce import nce


def otce(
    source: PixelSample, target: PixelSample, *, num_classes: int, num_source_classes: int
) -> Float64[Tensor, "*batch"]:
    r"""How well the source label tells the target label once both are coupled by their features, in nats.

    $$ \mathrm{OTCE} = -H(Y_t \mid Y_s) = \sum_{y,z} p(y, z) \ln p(y \mid z), \qquad p = Y_t^\top P^\top Y_s $$

    with P the optimal coupling for the squared Euclidean cost and uniform weights (`transport.joint_label_mass`), and
    Y the one-hot labels. This is F-OTCE: the domain distance of the first OTCE is left out.

    Args:
        source: pixels of the source data set, seen through the source model.
        target: pixels of the target data set, seen through the same model; the same leading dimensions.
        num_classes: K, the number of target classes.
        num_source_classes: Z, the number of source classes.

    Returns:
        One score for each leading index, in `[-ln K, 0]`; higher is better. 0 with a single target class, NaN where
        either sample is empty.

    Raises:
        ValueError: source and target features of different D.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> sample = PixelSample.from_pixels(x, y, size=2, num_classes=2)
        >>> otce(sample, sample, num_classes=2, num_source_classes=2).item()
        0.0

    Source: Y. Tan, Y. Li and S.-L. Huang, "OTCE: A transferability metric for cross-domain cross-task representations",
    CVPR 2021, equations 1 to 5; Y. Tan et al., "Transferability-guided cross-domain cross-task transfer learning",
    TNNLS 2024 (F-OTCE); Y. Tan et al., "Efficient prediction of model transferability in semantic segmentation tasks",
    ICIP 2023 (over sampled pixels).
    """
    if source.features.shape[-1] != target.features.shape[-1]:
        raise ValueError(
            f"source features of {source.features.shape[-1]} channels, target features of {target.features.shape[-1]}:"
            " both data sets must be seen through the same model"
        )
    scores = target.features.new_full(target.batch_shape, torch.nan, dtype=torch.float64)
    for index in np.ndindex(*target.batch_shape):
        (source_features, source_labels), (target_features, target_labels) = (
            source[index].drawn(),
            target[index].drawn(),
        )
        if len(source_labels) and len(target_labels):
            mass = joint_label_mass(
                source_features,
                source_labels,
                target_features,
                target_labels,
                num_classes=num_classes,
                num_source_classes=num_source_classes,
            )
            scores[index] = nce(mass)
    return scores
