"""The log-likelihood of target labels under a source model's predictions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from .._ops import Size, patch_log_likelihood, patch_shape
from ..pixels import Pool, pools_images
from ._faults import Faults
from ._joint_mass import JointMass
from ._statistic import Statistic


@dataclass(frozen=True, slots=True, eq=False)
class LogLikelihood(Statistic):
    """Sum, sum of squares and count over pixels of ln Σ_z p(y|z) θ_z(x): the second look that LEEP takes."""

    total: Float64[Tensor, "*batch"]
    total_square: Float64[Tensor, "*batch"]
    num_pixels: Int64[Tensor, "*batch"]

    @classmethod
    def from_images(
        cls,
        images: Float[Tensor, "B Z H W"],
        labels: Integer[Tensor, "B H W"],
        *,
        joint_mass: JointMass,
        ignore_index: int = 255,
        pool: Pool = "dataset",
        patch_size: Size | None = None,
        stride: Size | None = None,
    ) -> "LogLikelihood":
        """The log-likelihood of a batch of pixels, where θ is the softmax of the logits.

        Args:
            images: `[B, Z, H, W]`, the source model's class scores before softmax.
            labels: `[B, H, W]`, target classes.
            joint_mass: where p(y|z) comes from, usually the soft mass of the same pixels; its leading dimensions are
                those of the result, or broadcast to them.
            ignore_index: label of the pixels to leave out.
            pool: as for `Moments.from_images`.
            patch_size: height and width, in pixels, of the patches that make an entry each, along two further leading
                dimensions. One entry for the whole image by default.
            stride: rows and columns from one patch to the next; the size of a patch by default.

        Raises:
            ValueError: as `Moments.from_images`, or logits whose Z is not that of the joint mass.

        Example:
            >>> logits, labels = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])
            >>> joint_mass = JointMass.from_pixels(logits, labels, num_classes=2)
            >>> log_likelihood = LogLikelihood.from_pixels(logits, labels, joint_mass=joint_mass)
            >>> round(log_likelihood.mean.exp().item(), 4)
            0.9998
        """
        num_classes, num_source_classes = joint_mass.mass.shape[-2:]
        if images.shape[1] != num_source_classes:
            raise ValueError(f"logits of {images.shape[1]} source classes, but a joint mass of {num_source_classes}")
        pool_batch, patch = pools_images(pool), patch_size or (labels.shape[1], labels.shape[2])
        steps = stride or patch
        target_given_source = joint_mass.target_given_source
        if patch_size is None:
            target_given_source = target_given_source[..., None, None, :, :]
        grid = patch_shape(labels, patch, steps, pool_batch)
        target_given_source = target_given_source.expand(*grid, -1, -1)
        sums = patch_log_likelihood(images, labels, target_given_source, *patch, *steps, pool_batch, ignore_index)
        log_likelihood = cls(*sums[:-1], faults=Faults.from_columns(sums.faults))
        log_likelihood.faults.check_on_cpu(num_classes, ignore_index)
        return log_likelihood if patch_size else log_likelihood._of_whole_images()

    @classmethod
    def numbers(cls, channels: int, num_classes: int, pixels: int) -> int:
        """Sum, sum of squares and count."""
        return 3

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""
        return self.total.shape

    @property
    def count(self) -> Int64[Tensor, "*batch"]:
        """N, the number of pixels."""
        return self.num_pixels

    @property
    def mean(self) -> Float64[Tensor, "*batch"]:
        """Mean log-likelihood in nats; NaN without a pixel."""
        return self.total / self.count

    def standard_error(self, population: Int64[Tensor, "*batch"]) -> Float64[Tensor, "*batch"]:
        """Standard error of the mean, in nats, where these pixels are a uniform sample of `population` pixels.

        Drawn without replacement, so 0 where the sample holds them all (Cochran, "Sampling Techniques", 1977,
        equation 2.20).
        """
        variance = (self.total_square - self.count * self.mean.square()).clamp(min=0) / (self.count - 1).clamp(min=1)
        return (variance / self.count * (1 - self.count / population)).clamp(min=0).sqrt()
