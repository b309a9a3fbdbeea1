"""Transforms that move what is in an image are refused, whatever else they do; those that do not are not."""

import random

import pytest
import torch
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification, SemanticSegmentation

from torch_trf.ranking._whole_view import require_whole_view

SCALE = v2.ToDtype(torch.float32, scale=True)
NORMALIZE = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NEAREST, BICUBIC = v2.InterpolationMode.NEAREST, v2.InterpolationMode.BICUBIC
LIKE = {
    "uint8": torch.zeros(3, 64, 96, dtype=torch.uint8),
    "uint16": torch.zeros(3, 50, 30, dtype=torch.uint16),
    "float": torch.zeros(3, 75, 100),
    "many channels": torch.zeros(5, 48, 48, dtype=torch.float64),
}


def standardized(image):
    return (image - image.mean()) / image.std()


def half_the_time(bits):
    """Flips by a random number that PyTorch does not know of."""
    return lambda image: image.flip(-1) if bits(1) else image


@pytest.mark.parametrize("like", LIKE.values(), ids=LIKE)
@pytest.mark.parametrize(
    "steps",
    [
        [],
        [NORMALIZE],
        [v2.Resize([48, 80])],
        [v2.Resize([37, 61], antialias=False)],
        [v2.Resize([31, 45], interpolation=NEAREST)],
        [v2.Resize([200, 320], interpolation=BICUBIC), NORMALIZE],
        [v2.Resize([9, 7])],
        [v2.GaussianBlur(9, sigma=2.0)],
        [standardized],
        [lambda image: image.flip(0)],  # of channels
        [lambda image: image[:1].sqrt()],
        [lambda image: 1 - 2 * image],
    ],
)
def test_a_whole_view_passes(steps, like):
    steps = [step for step in steps if step is not NORMALIZE or len(like) == 3]
    assert require_whole_view(v2.Compose([nn.Identity(), SCALE, *steps]), like) is None


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomSolarize(128, p=1.0),
        v2.RandomInvert(p=1.0),
        v2.RandomPosterize(2, p=1.0),
        v2.RandomEqualize(p=1.0),
        v2.RandomAutocontrast(p=1.0),
        v2.Grayscale(),
        v2.Compose([v2.ToPILImage(), v2.Resize([40, 40]), v2.ToImage()]),
        SemanticSegmentation(resize_size=52),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_what_is_done_with_colors_passes(transform):
    assert require_whole_view(transform, LIKE["uint8"]) is None


@pytest.mark.parametrize("like", LIKE.values(), ids=LIKE)
@pytest.mark.parametrize(
    "transform",
    [
        v2.CenterCrop(28),
        v2.Compose([v2.Resize([60, 60]), v2.CenterCrop(52), v2.Resize([60, 60])]),
        v2.Pad([0, 0, 12, 0]),
        v2.Pad([0, 9, 0, 0], padding_mode="edge"),
        v2.Pad(10, padding_mode="reflect"),
        v2.RandomHorizontalFlip(p=1.0),
        v2.RandomVerticalFlip(p=1.0),
        v2.RandomRotation((180, 180)),
        v2.RandomRotation((20, 20)),
        v2.RandomAffine(0, shear=(30, 30)),
        lambda image: image.mT,
        lambda image: image.roll(7, -1),
        lambda image: image[..., :24],
    ],
)
def test_what_moves_is_refused(transform, like):
    with pytest.raises(
        ValueError, match=r"^transform \w+(, \w+)* moves images against their labels: (rows|columns) 0 to"
    ):
        require_whole_view(transform, like)


def test_the_error_names_steps_and_places():
    transform = v2.Compose([nn.Identity(), v2.CenterCrop(64), SCALE])
    message = "transform CenterCrop, ToDtype moves .*: columns 0 to 24 of 96 come to lie at 0 to 8 of 64, not 0 to 16"
    with pytest.raises(ValueError, match=message):
        require_whole_view(transform, LIKE["uint8"])
    with pytest.raises(ValueError, match=r"columns 0 to 24 of 96 come to lie at 72 to 96 of 96, not 0 to 24"):
        require_whole_view(v2.RandomHorizontalFlip(p=1.0), LIKE["uint8"])
    with pytest.raises(ValueError, match="transform ImageClassification moves"):  # what torchvision's weights give
        require_whole_view(ImageClassification(crop_size=56, resize_size=64), LIKE["uint8"])


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomHorizontalFlip(),
        v2.RandomCrop(20),
        v2.RandomResizedCrop(30),
        v2.ColorJitter(0.5),
        v2.RandomErasing(p=1.0),
        half_the_time(random.getrandbits),
        half_the_time(random.Random(0).getrandbits),
    ],
)
def test_chance_is_refused(transform):
    random.seed(0)
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="does not do the same with an image every time"):
        require_whole_view(transform, LIKE["uint8"])


def test_numbers_that_others_draw_are_left_as_they_are():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    require_whole_view(v2.GaussianBlur(3, sigma=1.0), LIKE["uint8"])  # which draws its sigma from one number
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (lambda image: 0 * image, "it gives the same whatever the image"),
        (lambda image: image["pixels"], "IndexError"),
        (v2.ToPILImage(), "AttributeError"),
    ],
)
def test_what_cannot_be_told_is_said(transform, reason):
    note = require_whole_view(transform, LIKE["uint8"])
    assert reason in note
    assert "whether it keeps all of an image in view is not known" in note
