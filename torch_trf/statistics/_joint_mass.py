"""How much mass target and source classes share."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from .._ops import patch_joint_mass
from ..pixels import as_images
from ._faults import Faults
from ._statistic import Statistic


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
        cell: tuple[int, int] | None = None,
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
            cell: as for `Moments.from_pixels`.

        Raises:
            ValueError: as `Moments.from_pixels`.

        Example:
            >>> logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
            >>> JointMass.from_pixels(logits, torch.tensor([0, 0, 1]), num_classes=2, hard=True).mass.tolist()
            [[1.0, 1.0], [0.0, 1.0]]
        """
        logits, labels = as_images(logits, labels)
        height, width = cell or labels.shape[1:]
        sums = patch_joint_mass(logits, labels, num_classes, height, width, pool_batch, ignore_index, hard)
        joint_mass = cls(sums.mass, Faults.from_columns(sums.faults))
        joint_mass.faults.check_on_cpu(num_classes, ignore_index)
        return joint_mass if cell else joint_mass._of_whole_images()

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""
        return self.mass.shape[:-2]

    @property
    def channels(self) -> int:
        """Z."""
        return self.mass.shape[-1]

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
