"""How much mass target and source classes share."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from .._ops import Size, patch_joint_mass
from ..pixels import Pool, pools_images
from ._faults import Faults
from ._statistic import Statistic


@dataclass(frozen=True, slots=True, eq=False)
class JointMass(Statistic):
    """Joint mass of target classes (first) and source classes (second); over N pixels it sums to N."""

    mass: Float64[Tensor, "*batch K Z"]

    @classmethod
    def from_images(
        cls,
        images: Float[Tensor, "B Z H W"],
        labels: Integer[Tensor, "B H W"],
        *,
        num_classes: int,
        ignore_index: int = 255,
        hard: bool = False,
        pool: Pool = "dataset",
        cell_size: Size | None = None,
    ) -> "JointMass":
        """Sums what the source model predicts on the pixels of each target class.

        Args:
            images: `[B, Z, H, W]`, the source model's class scores before softmax.
            labels: `[B, H, W]`, target classes.
            num_classes: K.
            ignore_index: label of the pixels to leave out.
            hard: whether a pixel gives its whole mass to the source class of largest score (the lowest-numbered one
                where several are equal), or shares it as the softmax does.
            pool: as for `Moments.from_images`.
            cell_size: as for `Moments.from_images`.

        Raises:
            ValueError: as `Moments.from_images`.

        Example:
            >>> logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
            >>> JointMass.from_pixels(logits, torch.tensor([0, 0, 1]), num_classes=2, hard=True).mass.tolist()
            [[1.0, 1.0], [0.0, 1.0]]
        """
        height, width = cell_size or labels.shape[1:]
        sums = patch_joint_mass(images, labels, num_classes, height, width, pools_images(pool), ignore_index, hard)
        faults = Faults.from_columns(sums.faults)
        faults.check_on_cpu(num_classes, ignore_index)
        joint_mass = cls(sums.mass, faults=faults if hard else faults.with_class_scores(images))
        return joint_mass if cell_size else joint_mass._of_whole_images()

    @classmethod
    def numbers(cls, channels: int, num_classes: int, pixels: int) -> int:
        """K·Z."""
        return channels * num_classes

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
