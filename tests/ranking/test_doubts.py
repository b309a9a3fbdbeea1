"""What is said of labels that hold one class, and of images that are there twice."""

import pytest
import torch

from torch_trf import Sampling
from torch_trf.datasets import LabeledImages
from torch_trf.ranking._doubts import doubts
from torch_trf.ranking._drawn_pixels import DrawnImage, DrawnPixels

from .helpers import K, Scenes


def doubts_about(pairs):
    images = LabeledImages(dataset=pairs, num_classes=K)
    sampling = Sampling(num_pixels=10)
    drawn = DrawnPixels.from_images(
        DrawnImage.from_labels(image, sampling=sampling, num_classes=K) for image in reversed(list(images))
    )
    return list(doubts(drawn.label_counts, drawn.digests, ignore_index=9))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 1), []),
        ((0, 1, 255), []),
        ((2,), ["all labeled pixels are of class 2: scores tell how well classes are told apart"]),
        (
            (1, 255),
            [
                "all labeled pixels are of class 1, and 50% of the pixels are ignored (ignore_index=9): if these are a"
                " class, too, name it in a label_map, as {0: 0, 9: 1}"
            ],
        ),
    ],
)
def test_a_single_class_is_told(values, expected):
    pairs = Scenes(count=3).pairs
    for _, labels in pairs:
        labels.copy_(torch.arange(labels.numel()).reshape(labels.shape) % len(values))
        labels.copy_(torch.tensor(values)[labels])
    assert doubts_about(pairs) == expected


def test_images_that_are_there_twice_are_told():
    one, two, three, four = Scenes(count=4).pairs
    of_other_labels = one[0], one[1].roll(1, 0)
    assert not doubts_about([one, two, three, of_other_labels])
    assert doubts_about([one, two, three, two]) == ["image 3 and its labels are the same as image 1: each counts"]
    assert doubts_about([one, one, two, one, four, two]) == [
        "image 1 and its labels are the same as image 0, and so are 2 others of earlier ones: each counts"
    ]
