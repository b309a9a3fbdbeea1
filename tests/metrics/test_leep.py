"""LEEP against its equations, known answers, and what published code gets wrong."""

import math

import torch

from torch_trf.metrics import LEEP

from .. import references
from ..helpers import arrays, assert_close, log_likelihood


def leep(logits, labels, num_classes):
    return LEEP().score(log_likelihood(logits, labels, num_classes=num_classes))


def test_matches_equations(pixels):
    assert_close(leep(*pixels, num_classes=7), references.leep(*arrays(*pixels)))


def test_equal_logits_tell_nothing(device):
    labels = torch.tensor([0, 1, 2, 3], device=device)
    assert_close(leep(torch.zeros(4, 5, device=device), labels, num_classes=4), -math.log(4))


def test_one_class_is_zero_and_never_above(device):
    logits = torch.randn(100, 7, generator=torch.Generator().manual_seed(0)).to(device)
    assert -1e-15 < leep(logits, torch.full((100,), 2, device=device), num_classes=3).item() <= 0


def test_source_class_without_mass_contributes_nothing(device):
    logits = torch.tensor([[2.0, 0.0, -5000.0], [0.0, 1.0, -5000.0]], device=device)
    labels = torch.tensor([0, 1], device=device)
    assert_close(leep(logits, labels, num_classes=2), leep(logits[:, :2], labels, num_classes=2))


def test_logits_shifted_pixel_by_pixel_are_the_same_prediction(pixels):
    logits, labels = pixels
    logits = logits.double()
    shift = torch.linspace(-50, 50, len(labels), dtype=logits.dtype, device=logits.device).unsqueeze(-1)
    assert_close(leep(logits + shift, labels, num_classes=7), leep(logits, labels, num_classes=7))
