"""LEEP of parts of what a model gave: of the drawn pixels of each class, and of patches of an image."""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..maps import MIN_PIXELS
from ..metrics import leep
from ..pixels import bilinear, size_of
from ..statistics import JointMass, LogLikelihood, PixelSample
from ..statistics._pixel_sample import NOT_DRAWN
from ._ranking import map_patch_size


def leep_by_class(sample: PixelSample, num_classes: int) -> Float64[Tensor, "K"]:
    """The mean log-likelihood of the pixels of each class, of which LEEP is the mean weighted by their number.

    Args:
        sample: with class scores; all repeats of a draw count alike.
        num_classes: K.

    Returns:
        In nats; NaN for a class without a pixel.
    """
    logits, labels = sample.features.flatten(0, -2), sample.labels.flatten()
    classes = torch.arange(num_classes, device=labels.device).unsqueeze(-1)
    alone = labels.where(labels == classes, NOT_DRAWN).unsqueeze(1)  # each class in an image of its own
    images = logits.mT.unsqueeze(1).expand(num_classes, -1, -1, -1)
    mass = _joint_mass(sample, num_classes)
    return leep(LogLikelihood.from_pixels(images, alone, joint_mass=mass, ignore_index=NOT_DRAWN, pool_batch=False))


def leep_map(
    logits: Float[Tensor, "Z h w"], labels: Int64[Tensor, "H W"], sample: PixelSample, num_classes: int
) -> Float64[Tensor, "rows columns"]:
    """The mean log-likelihood of patches of an image, given how classes go together over all drawn pixels.

    Args:
        logits: class scores of an image, read bilinearly at its labels.
        labels: of this image.
        sample: as for `leep_by_class`.
        num_classes: K.

    Returns:
        In nats, on the CPU; NaN where a patch has too few pixels.
    """
    size = size_of(labels)
    patch = map_patch_size(size)
    resized = bilinear(logits.unsqueeze(0).to(torch.float32), size)
    mass = _joint_mass(sample, num_classes)
    seen = LogLikelihood.from_pixels(
        resized, labels.unsqueeze(0).to(resized.device), joint_mass=mass, patch_size=(patch, patch)
    )
    return leep(seen).where(seen.count >= MIN_PIXELS, torch.nan).cpu()


def _joint_mass(sample: PixelSample, num_classes: int) -> JointMass:
    rows = sample.features.flatten(0, -2), sample.labels.flatten()
    return JointMass.from_pixels(*rows, num_classes=num_classes, ignore_index=NOT_DRAWN)
