"""H-score against the pseudo-inverse, known answers, and its invariance under linear maps."""

import pytest
import torch
from hypothesis import given

from torch_trf.metrics import HScore
from torch_trf.statistics import Moments

from .. import references
from ..helpers import SIZES, arrays, assert_close, random_pixels


def hscore(features, labels, num_classes, **options):
    return HScore(**options).score(Moments.from_pixels(features, labels, num_classes=num_classes))


@pytest.mark.parametrize("rcond", [1e-5, 0.2])
def test_matches_definition(pixels, rcond):
    assert_close(hscore(*pixels, num_classes=7, rcond=rcond), references.hscore(*arrays(*pixels), rcond=rcond))


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_one_pixel_a_class_scores_the_rank(channels, device):
    features, _ = random_pixels(4, channels, 1, device=device)
    assert_close(hscore(features, torch.arange(4, device=device), num_classes=4), min(channels, 3))


def test_classes_without_spread_score_one_less_than_their_number(device):
    labels = torch.arange(12, device=device) % 3
    features = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)[labels]
    assert_close(hscore(features, labels, num_classes=3), 2)


def test_probabilities_lose_the_direction_that_sums_to_one(device):
    logits, labels = random_pixels(200, 6, 3, device=device, dtype=torch.float32)
    theta = logits.softmax(1)
    assert_close(hscore(theta, labels, num_classes=3), hscore(theta[:, :-1], labels, num_classes=3), rtol=1e-5)


@given(size=SIZES)
def test_invariant_under_invertible_affine_maps(size, device):
    features, labels = random_pixels(**size | {"count": size["count"] + 20}, device=device)
    generator = torch.Generator().manual_seed(size["seed"])
    rotation = torch.linalg.qr(torch.randn(2 * [size["channels"]], generator=generator, dtype=torch.float64)).Q
    scale = torch.linspace(1, 3, size["channels"], dtype=torch.float64).unsqueeze(-1)
    mapped = features @ (scale * rotation).to(device) + 5
    assert_close(hscore(mapped, labels, num_classes=4), hscore(features, labels, num_classes=4), rtol=1e-7, atol=1e-9)
