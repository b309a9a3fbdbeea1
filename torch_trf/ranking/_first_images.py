"""What is asked of a data set and a transform, by a few images, before a model is run over all of them."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..datasets import LabeledImage, LabeledImages
from ._candidate import Candidate
from ._whole_view import require_whole_view

MOST = 3  # images


def first_images(images: LabeledImages, indices: Sequence[int], digests: Mapping[int, str]) -> list[LabeledImage]:
    """The first few images, as they are before a transform.

    Args:
        images: the data set.
        indices: of those that count.
        digests: of images that were read before.

    Raises:
        ValueError: an image that is bad, or as `require_same`.
    """
    as_given = replace(images, transform=None)
    first = []
    for index in indices[:MOST]:
        image = as_given[index]
        if isinstance(image, ValueError):
            raise image
        require_same(image, digests)
        first.append(image)
    return first


def check_transform(
    candidate: Candidate, transform: Callable[[Tensor], Tensor], images: Iterable[LabeledImage]
) -> None:
    """Tries a transform on images of a data set, and warns of what is doubtful.

    Args:
        candidate: whose transform.
        transform: as it makes it.
        images: as they are before it.

    Raises:
        ValueError: as `require_whole_view`.
    """
    by_default = candidate.transform is None
    notes = (_note_on_range(each) if by_default else require_whole_view(transform, each.image) for each in images)
    note = next(filter(None, notes), None)
    if note is not None:
        warnings.warn(note, stacklevel=1)  # of one place, so that Python says it once, whatever the number of models


def require_same(image: LabeledImage, digests: Mapping[int, str]) -> None:
    """Raises where an image, or its labels, are others than when they were read before.

    Raises:
        ValueError: with the image's number.
    """
    if digests.get(image.index, image.digest) != image.digest:
        raise ValueError(
            f"image {image.index} or its labels are not what they were when they were read before: the data set must"
            " give the same every time, without the random augmentation of training"
        )


def _note_on_range(image: LabeledImage) -> str | None:
    """What is doubtful about scaling an image by its type and normalizing it, as is done by default."""
    values = image.image
    if not values.is_floating_point() or values.numel() == 0 or (values.min() >= 0 and values.max() <= 1):
        return None
    return (
        "images hold numbers outside the range from 0 to 1, and by default they are normalized by ImageNet's mean and"
        f" deviation as if they were in it (image {image.index}: {values.min():.3g} to {values.max():.3g}): give"
        " transform: [] where they are what the model needs"
    )
