"""Regularized H-score against Ledoit and Wolf's definition, known answers, and its invariance under rotations."""

import torch
from hypothesis import given

from torch_trf.metrics import HScore, RegularizedHScore
from torch_trf.statistics import Moments

from .. import references
from ..helpers import SIZES, arrays, assert_close, random_pixels


def regularized_hscore(features, labels, num_classes):
    return RegularizedHScore().score(Moments.from_pixels(features, labels, num_classes=num_classes))


def test_matches_definition(pixels):
    assert_close(regularized_hscore(*pixels, num_classes=7), references.regularized_hscore(*arrays(*pixels)))


def test_one_channel_is_not_shrunk(device):
    features, labels = random_pixels(30, 1, 3, device=device)
    plain = HScore().score(Moments.from_pixels(features, labels, num_classes=3))
    assert_close(regularized_hscore(features, labels, num_classes=3), plain * 30 / 29)  # divisors N and N - 1


def test_round_covariance_is_not_shrunk(device):
    """Covariance I / 2 is its own target; between the classes lies 2 / 3."""
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], device=device)
    assert_close(regularized_hscore(features, torch.tensor([0, 1, 0, 1], device=device), num_classes=2), 4 / 3)


@given(size=SIZES)
def test_invariant_under_rotation_offset_and_scale(size, device):
    features, labels = random_pixels(**size | {"count": size["count"] + 20}, device=device)
    generator = torch.Generator().manual_seed(size["seed"])
    rotation = torch.linalg.qr(torch.randn(2 * [size["channels"]], generator=generator, dtype=torch.float64)).Q
    mapped = 3 * features @ rotation.to(device) + 5
    scores = [regularized_hscore(x, labels, num_classes=4) for x in (mapped, features)]
    assert_close(*scores, rtol=1e-7, atol=1e-9)


def test_directions_of_rounding_alone_explain_nothing(device):
    """Two pixels span one direction, are not shrunk, and score N / (N - 1) wherever they lie."""
    features = torch.randn(3000, 2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1000
    images = features.mT.unsqueeze(2).to(device)
    labels = torch.tensor([0, 1], device=device).expand(3000, 1, 2)
    moments = Moments.from_pixels(images, labels, num_classes=2, pool="image")
    assert_close(RegularizedHScore().score(moments), torch.full((3000,), 2.0), rtol=1e-6)
