"""The log-likelihood of target labels under a source model's predictions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from ..pixels import as_images, class_index, class_probabilities
from ._faults import Faults
from ._joint_mass import JointMass
from ._statistic import Statistic, over_blocks


@dataclass(frozen=True, slots=True, eq=False)
class LogLikelihood(Statistic):
    """Sum, sum of squares and count over pixels of ln Σ_z p(y|z) θ_z(x): the second look that LEEP takes."""

    total: Float64[Tensor, "*batch"]
    total_square: Float64[Tensor, "*batch"]
    count: Int64[Tensor, "*batch"]
    faults: Faults

    @classmethod
    def from_pixels(
        cls,
        logits: Float[Tensor, "..."],
        labels: Integer[Tensor, "..."],
        *,
        joint_mass: JointMass,
        ignore_index: int = 255,
        pool_batch: bool = True,
    ) -> "LogLikelihood":
        """The log-likelihood of a batch of pixels, where θ is the softmax of the logits.

        Args:
            logits: `[N, Z]` or `[B, Z, H, W]`, the source model's class scores before softmax.
            labels: `[N]` or `[B, H, W]`, target classes.
            joint_mass: where p(y|z) comes from, usually the soft mass of the same pixels; no leading dimension, or one
                entry an image.
            ignore_index: label of the pixels to leave out.
            pool_batch: whether all images make one entry, or each its own along a leading dimension B.

        Raises:
            ValueError: as `Moments.from_pixels`, or logits whose Z is not that of the joint mass.

        Example:
            >>> logits, labels = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])
            >>> joint_mass = JointMass.from_pixels(logits, labels, num_classes=2)
            >>> log_likelihood = LogLikelihood.from_pixels(logits, labels, joint_mass=joint_mass)
            >>> round(log_likelihood.mean.exp().item(), 4)
            0.9998
        """
        logits, labels = as_images(logits, labels)
        num_classes, num_source_classes = joint_mass.mass.shape[-2:]
        if logits.shape[1] != num_source_classes:
            raise ValueError(f"logits of {logits.shape[1]} source classes, but a joint mass of {num_source_classes}")

        def look(block: Tensor, block_labels: Tensor, target_given_source: Tensor) -> LogLikelihood:
            index, bad = class_index(block_labels, num_classes, ignore_index)
            theta, non_finite = class_probabilities(block, index >= 0, hard=False)
            likelihood = (target_given_source @ theta).gather(1, index.clamp(min=0).unsqueeze(1)).squeeze(1)
            # The likelihood is at most 1; rounding may lift it by an ulp.
            log_likelihood = likelihood.clamp(max=1).log().masked_fill(index < 0, 0)
            return cls(
                log_likelihood.sum(-1),
                log_likelihood.square().sum(-1),
                (index >= 0).sum(-1),
                Faults.from_pixels(block_labels, bad, non_finite),
            )

        target_given_source = joint_mass.target_given_source.expand(len(logits), -1, -1)
        log_likelihood = over_blocks(look, logits, labels, target_given_source, pool_batch=pool_batch)
        log_likelihood.faults.check_on_cpu(num_classes, ignore_index)
        return log_likelihood

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""
        return self.total.shape

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
