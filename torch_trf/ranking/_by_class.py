"""Scores by class, from the pixels at which a model was read."""

import math
from typing import Any

import torch
from torch import Tensor

from ..metrics import leep, logme_by_class
from ..statistics import JointMass, LogLikelihood, Moments, PixelSample
from ..statistics._pixel_sample import NOT_DRAWN


def by_class(samples: dict[str, PixelSample], num_classes: int) -> dict[str, list[float | None]]:
    """What a model knows of each class, in nats, over all repeats of a draw; None of a class without a pixel.

    Args:
        samples: with features ("feature_sample") and with class scores ("logit_sample"), if there are any.
        num_classes: K.

    Returns:
        "logme": the evidence for each class against all others, of which LogME is the mean. "leep": the mean
        log-likelihood of the pixels of each class, of which LEEP is the mean weighted by their number.
    """
    found: dict[str, Tensor] = {}
    rows = {name: (sample.features.flatten(0, -2), sample.labels.flatten()) for name, sample in samples.items()}
    options: dict[str, Any] = {"ignore_index": NOT_DRAWN}
    if "feature_sample" in rows:
        moments = Moments.from_pixels(*rows["feature_sample"], num_classes=num_classes, **options)
        found["logme"] = logme_by_class(moments)
    if "logit_sample" in rows:
        logits, labels = rows["logit_sample"]
        mass = JointMass.from_pixels(logits, labels, num_classes=num_classes, **options)
        classes = torch.arange(num_classes, device=labels.device).unsqueeze(-1)
        alone = labels.where(labels == classes, NOT_DRAWN).unsqueeze(1)  # each class in an image of its own
        images = logits.mT.unsqueeze(1).expand(num_classes, -1, -1, -1)
        found["leep"] = leep(LogLikelihood.from_pixels(images, alone, joint_mass=mass, pool_batch=False, **options))
    return {name: [None if math.isnan(value) else value for value in values.tolist()] for name, values in found.items()}
