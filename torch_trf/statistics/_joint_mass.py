"""How much mass target and source classes share."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from ..pixels import as_images, class_index, class_probabilities
from ._faults import Faults
from ._statistic import Statistic, over_blocks


@dataclass(frozen=True, slots=True, eq=False)
class JointMass(Statistic):
    """Joint mass of target classes (first) and source classes (second); over N pixels it sums to N."""

    mass: Float64[Tensor, "*batch K Z"]
    faults: Faults

    @classmethod
    def from_pixels(
        cls,
        logits: Float[Tensor, "..."],
        labels: Integer[Tensor, "..."],
        *,
        num_classes: int,
        ignore_index: int = 255,
        hard: bool = False,
        pool_batch: bool = True,
    ) -> "JointMass":
        """Sums what the source model predicts on the pixels of each target class.

        Args:
            logits: `[N, Z]` or `[B, Z, H, W]`, the source model's class scores before softmax.
            labels: `[N]` or `[B, H, W]`, target classes.
            num_classes: K.
            ignore_index: label of the pixels to leave out.
            hard: whether a pixel gives its whole mass to the source class of largest score (the lowest-numbered one
                where several are equal), or shares it as the softmax does.
            pool_batch: whether all images make one entry, or each its own along a leading dimension B.

        Raises:
            ValueError: as `Moments.from_pixels`.

        Example:
            >>> logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
            >>> JointMass.from_pixels(logits, torch.tensor([0, 0, 1]), num_classes=2, hard=True).mass.tolist()
            [[1.0, 1.0], [0.0, 1.0]]
        """
        logits, labels = as_images(logits, labels)

        def share(block: Tensor, block_labels: Tensor) -> JointMass:
            index, bad = class_index(block_labels, num_classes, ignore_index)
            theta, non_finite = class_probabilities(block, index >= 0, hard=hard)
            one_hot = index.unsqueeze(1) == torch.arange(num_classes, device=index.device).unsqueeze(-1)
            return cls(one_hot.to(theta.dtype) @ theta.mT, Faults.from_pixels(block_labels, bad, non_finite))

        joint_mass = over_blocks(share, logits, labels, pool_batch=pool_batch)
        joint_mass.faults.check_on_cpu(num_classes, ignore_index)
        return joint_mass

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""
        return self.mass.shape[:-2]

    @property
    def total(self) -> Float64[Tensor, "*batch"]:
        """The whole mass; N where it was counted over N pixels."""
        return self.mass.sum((-2, -1))

    @property
    def count(self) -> Int64[Tensor, "*batch"]:
        """N, the number of pixels, where the mass was counted over pixels."""
        return self.total.round().to(torch.int64)

    @property
    def target_given_source(self) -> Float64[Tensor, "*batch K Z"]:
        """p(y|z); 0 for a source class without mass, which contributes nothing."""
        source = self.mass.sum(-2, keepdim=True)
        return torch.where(source > 0, self.mass / source, 0)
