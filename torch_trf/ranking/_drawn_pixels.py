"""Pixels that are drawn once, from the labels of a data set, so that every model is read at the same ones."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from .._digest import digest, of_tensor
from ..datasets import IGNORED, LabeledImage
from ..pixels import Pixels
from ..sampling import Sampling
from ..statistics import PixelSample, Running


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """What is drawn from one image: pixels, with their places as features; what tells it from any other; its labels.

    Attributes:
        index: its place in the data set.
        sample: the pixels.
        digest: as of `LabeledImage`.
        label_counts: how many pixels there are of every label; the last one is `IGNORED`.
    """

    index: int
    sample: PixelSample
    digest: str
    label_counts: Int64[Tensor, "256"]

    @classmethod
    def from_labels(cls, image: LabeledImage, *, sampling: Sampling, num_classes: int) -> "DrawnImage":
        """Draws pixels of an image, as many as are wanted of the whole data set."""
        places = _places(image)
        pixels = Pixels(places, image.labels.unsqueeze(0), stream=image.index)
        sample = sampling.draw(places, pixels, num_classes=num_classes, ignore_index=IGNORED)
        return cls(image.index, sample, image.digest, image.labels.flatten().bincount(minlength=IGNORED + 1))


@dataclass(frozen=True, slots=True)
class DrawnPixels:
    """The pixels of a data set at which every model is read.

    Attributes:
        sample: their labels, and as features the place of each: its image, and the fractions of the image's height and
            width at which it lies.
        fingerprint: tells these pixels of these images from any others.
        shown: the image that shows most classes, the first of several.
        digests: of every image.
        label_counts: of all images, as of `DrawnImage`.
    """

    sample: PixelSample
    fingerprint: str
    shown: int
    digests: dict[int, str]
    label_counts: Int64[Tensor, "256"]

    @classmethod
    def from_images(cls, images: Iterable[DrawnImage]) -> "DrawnPixels":
        """The pixels of a data set.

        Args:
            images: what was drawn from each image, in any order.

        Raises:
            ValueError: no labeled pixel.
        """
        running = Running()
        digests: dict[int, str] = {}
        classes: dict[int, int] = {}
        label_counts = torch.zeros(IGNORED + 1, dtype=torch.int64, device="cpu")
        for each in images:
            running += each.sample
            digests[each.index], classes[each.index] = each.digest, int(each.label_counts[:IGNORED].count_nonzero())
            label_counts += each.label_counts
        sample = cast(PixelSample, running.total)
        if not sample.count.any():
            raise ValueError("no labeled pixel in the data set: every label is ignore_index, or none may be drawn")
        everything = [f"{index} {digests[index]}".encode() for index in sorted(digests)]
        everything += [part for tensor in sample.state().values() for part in of_tensor(tensor)]
        shown = max(sorted(classes), key=classes.__getitem__)
        return cls(sample, digest(everything), shown, digests, label_counts)

    def of_images(self) -> dict[int, Int64[Tensor, "pixels"]]:
        """Of every image that has pixels here, which of all pixels they are; images in order."""
        is_drawn = self.sample.labels.flatten() >= 0
        image = self.sample.features[..., 0].flatten().to(torch.int64).masked_fill(~is_drawn, -1)
        order = image.argsort(stable=True)
        indices, counts = image[order].unique_consecutive(return_counts=True)
        parts = zip(indices.tolist(), order.split(counts.tolist()), strict=True)
        return {index: part for index, part in parts if index >= 0}

    def read(self, features: Float[Tensor, "D h w"], pixels: Int64[Tensor, "pixels"]) -> Float[Tensor, "pixels D"]:
        """Features of an image, at whatever stride, read bilinearly at some of the pixels that lie in it.

        Beyond the outermost features these are continued, as `torch.nn.functional.interpolate` does.
        """
        if features.dtype.itemsize < 4:
            features = features.to(torch.float32)  # to bfloat16 the place between two features would be rounded
        _, row, column = self.sample.features.flatten(0, -2)[pixels].to(features.device).unbind(-1)
        grid = (2 * torch.stack([column, row], -1) - 1).to(features.dtype).reshape(1, 1, -1, 2)
        values = torch.nn.functional.grid_sample(
            features.unsqueeze(0), grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        return values[0, :, 0].mT

    def filled(self, features: Float[Tensor, "pixels D"]) -> PixelSample:
        """The pixels with a model's features instead of their places."""
        sample = self.sample.to(features.device)
        return sample.with_features(features.unflatten(0, sample.labels.shape))


def _places(image: LabeledImage) -> Float64[Tensor, "1 3 H W"]:
    height, width = image.labels.shape
    row, column = ((torch.arange(size, dtype=torch.float64, device="cpu") + 0.5) / size for size in (height, width))
    number = torch.tensor(float(image.index), dtype=torch.float64, device="cpu")
    return torch.stack(torch.broadcast_tensors(number, row.unsqueeze(-1), column)).unsqueeze(0)
