"""What a map is: a metric's value in every patch."""

import os
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from .._files import PathLike, whole_file
from .._ops import Size
from ..metrics import TransferabilityMetric
from ..statistics import checked_classes
from ..transport import Coupling

MIN_PIXELS = 5  # labeled, below which a patch has no value
FirstLook = Literal["dataset", "patch"]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMap:
    """A metric's value in every patch.

    Attributes:
        values: `[H', W']`, or `[B, H', W']` with a map for every image; higher is better. In `unit`.
        valid: where a patch has enough labeled pixels; elsewhere `values` holds the fill value.
        count: number of labeled pixels of every patch; of a metric that needs a source, on the side that has fewer.
        metric: whose values they are.
        patch_size: height and width of a patch, in pixels.
        stride: rows and columns from one patch to the next. Patch (i, j) begins at row i * stride[0] and column
            j * stride[1].
        image_size: height and width of the images. H' = (H - patch height) // row stride + 1, and W' alike: what is
            left at the bottom and on the right belongs to no patch.
        first_look: of a metric that looks at pixels twice, where the first look was taken: over all pixels of the data
            set, or anew in each patch.
        scale: "identity", or "exp" where values are the exponential of the metric.
        coupling: of a metric that couples source and target, how the pixels of each patch were coupled.
    """

    values: Float64[Tensor, "*batch rows columns"]
    valid: Bool[Tensor, "*batch rows columns"]
    count: Int64[Tensor, "*batch rows columns"]
    metric: TransferabilityMetric
    patch_size: Size
    stride: Size
    image_size: Size
    first_look: FirstLook = "dataset"
    scale: Literal["identity", "exp"] = "identity"
    coupling: Coupling | None = None

    @property
    def name(self) -> str:
        """What the values are called: the metric; local, where its first look was taken in each patch."""
        is_local = self.first_look == "patch" and len(self.metric.looks) > 1
        name = f"local {self.metric.name}" if is_local else self.metric.name
        return f"exp({name})" if self.scale == "exp" else name

    @property
    def unit(self) -> str:
        """Of the values."""
        return "likelihood" if self.scale == "exp" else self.metric.unit

    def exp(self) -> "ScoreMap":
        """The exponential of every valid value: a mean likelihood, in [0, 1], as published maps of LEEP hold it.

        Raises:
            ValueError: a metric whose exponential means nothing.
        """
        if not self.metric.is_log_likelihood:
            raise ValueError(f"exp is for mean log-likelihoods, as of leep, and not for {self.metric.name}")
        return replace(self, values=torch.where(self.valid, self.values.exp(), self.values), scale="exp")

    def upsample(self) -> Float64[Tensor, "*batch H W"]:
        """The map at the resolution of the pixels.

        Every pixel has the mean over the valid patches that hold it; NaN where there is none.

        Example:
            >>> labels = torch.tensor([[[0, 0, 1, 1, 1]]])
            >>> logits = torch.eye(2)[labels].movedim(-1, 1)
            >>> score_map = torch_trf.transferability_map(
            ...     "nce", logits, labels, features_are_logits=True, patch_size=(1, 2), min_pixels=1)
            >>> score_map.upsample().tolist()
            [[0.0, 0.0, 0.0, 0.0, nan]]
        """
        weight = self.valid.to(torch.float64)
        total, weight = self._spread(torch.where(self.valid, self.values, 0)), self._spread(weight)
        # A pixel without a patch has exactly no weight: sums of zeros.
        mean = torch.where(weight > 0, total / weight, torch.nan)
        height, width = self.image_size
        rest = (0, width - mean.shape[-1], 0, height - mean.shape[-2])
        return torch.nn.functional.pad(mean, rest, value=torch.nan)

    def class_mean(
        self, labels: Integer[Tensor, "images H W"], *, num_classes: int, ignore_index: int = 255
    ) -> Float64[Tensor, "*batch K"]:
        """The mean over the pixels of each class, at the resolution of the pixels.

        Args:
            labels: `[B, H, W]` of the images that were mapped.
            num_classes: K.
            ignore_index: label of the pixels to leave out.

        Returns:
            `[K]`, over all images, or `[B, K]` of a map for every image. NaN for a class without a pixel in a valid
            patch.

        Raises:
            ValueError: labels of another size than the images, or outside `[0, K)`.

        Example:
            >>> labels = torch.tensor([[[0, 0, 1, 1]]])
            >>> score_map = torch_trf.transferability_map(
            ...     "nce", torch.randn(1, 3, 1, 4), labels, features_are_logits=True, patch_size=1, min_pixels=1)
            >>> score_map.class_mean(labels, num_classes=2).tolist()
            [0.0, 0.0]
        """
        pooled = self.values.dim() == 2
        if labels.shape[1:] != self.image_size or not (pooled or len(labels) == len(self.values)):
            raise ValueError(f"labels {list(labels.shape)} for a map of {self._describe()}")
        index = checked_classes(labels, num_classes, ignore_index)
        pixels = self.upsample().expand(labels.shape)
        index = torch.where(pixels.isnan(), -1, index)
        index, pixels = (tensor.reshape(1 if pooled else len(labels), -1) for tensor in (index, pixels))
        sums = pixels.new_zeros(len(index), num_classes + 1)  # the first place for pixels that do not count
        total = sums.scatter_add(1, index + 1, pixels.nan_to_num(0))[:, 1:]
        count = sums.scatter_add(1, index + 1, torch.ones_like(pixels))[:, 1:]
        return (total / count)[0] if pooled else total / count

    def save(self, path: PathLike) -> None:
        """Writes the values to a .npy file, as float32; the whole file or nothing.

        Raises:
            ValueError: another suffix.
        """
        if not os.fspath(path).endswith(".npy"):
            raise ValueError(f"{path} must end in .npy")
        with whole_file(path) as temporary:
            np.save(temporary, self.values.cpu().numpy().astype(np.float32))

    def _spread(self, values: Tensor) -> Tensor:
        """At every pixel that lies between the first and the last patch the sum over the patches that hold it."""
        spread = values.reshape(-1, 1, *values.shape[-2:])
        for axis in range(2):
            size, stride = [1, 1], [1, 1]
            size[axis], stride[axis] = self.patch_size[axis], self.stride[axis]
            spread = torch.nn.functional.conv_transpose2d(spread, spread.new_ones(1, 1, *size), stride=stride)
        return spread.reshape(*values.shape[:-2], *spread.shape[-2:])

    def _describe(self) -> str:
        images = "" if self.values.dim() == 2 else f"{len(self.values)} images of "
        return f"{images}{self.image_size[0]} x {self.image_size[1]} pixels"
