"""LEEP by class, from the pixels at which a model was read."""

import torch
from jaxtyping import Float64
from torch import Tensor

from ..metrics import leep
from ..statistics import JointMass, LogLikelihood, PixelSample
from ..statistics._pixel_sample import NOT_DRAWN


def leep_by_class(sample: PixelSample, num_classes: int) -> Float64[Tensor, "K"]:
    """The mean log-likelihood of the pixels of each class, of which LEEP is the mean weighted by their number.

    Args:
        sample: with class scores; all repeats of a draw count alike.
        num_classes: K.

    Returns:
        In nats; NaN for a class without a pixel.
    """
    logits, labels = sample.features.flatten(0, -2), sample.labels.flatten()
    mass = JointMass.from_pixels(logits, labels, num_classes=num_classes, ignore_index=NOT_DRAWN)
    classes = torch.arange(num_classes, device=labels.device).unsqueeze(-1)
    alone = labels.where(labels == classes, NOT_DRAWN).unsqueeze(1)  # each class in an image of its own
    images = logits.mT.unsqueeze(1).expand(num_classes, -1, -1, -1)
    return leep(LogLikelihood.from_pixels(images, alone, joint_mass=mass, ignore_index=NOT_DRAWN, pool_batch=False))
