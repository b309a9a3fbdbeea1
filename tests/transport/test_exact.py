"""The exact coupling and the label mass that it carries."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torch_trf
from torch_trf.transport import joint_label_mass

from ..helpers import assert_close, random_pixels


@given(source_count=st.integers(1, 12), target_count=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_marginals_are_the_class_frequencies(source_count, target_count, seed, device):
    source_features, source_labels = random_pixels(source_count, 2, 3, seed=seed, device=device)
    target_features, target_labels = random_pixels(target_count, 2, 4, seed=seed + 1, device=device)
    mass = joint_label_mass(
        source_features, source_labels, target_features, target_labels, num_classes=4, num_source_classes=3
    ).mass
    assert mass.device.type == device.type
    assert (mass >= 0).all()
    assert_close(mass.sum(1), target_labels.bincount(minlength=4) / target_count, rtol=1e-6)
    assert_close(mass.sum(0), source_labels.bincount(minlength=3) / source_count, rtol=1e-6)


def test_exchanging_sides_transposes(device):
    source = random_pixels(10, 2, 3, seed=1, device=device)
    target = random_pixels(15, 2, 3, seed=2, device=device)
    forth, back = (
        joint_label_mass(*first, *second, num_classes=3, num_source_classes=3).mass
        for first, second in ((source, target), (target, source))
    )
    assert_close(forth, back.T)


def test_on_a_line_the_coupling_is_sorted(device):
    x = torch.tensor([3.0, 1.0, 2.0], device=device).unsqueeze(-1)
    source_labels, target_labels = torch.tensor([2, 0, 1], device=device), torch.tensor([1, 2, 0], device=device)
    target = torch.tensor([50.0, 90.0, -70.0], device=device).unsqueeze(-1)
    mass = joint_label_mass(x, source_labels, target, target_labels, num_classes=3, num_source_classes=3).mass
    assert_close(mass, torch.eye(3) / 3, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:numItermax reached")  # POT's own, before the error
def test_unfinished_simplex_is_an_error(device, monkeypatch):
    monkeypatch.setattr(torch_trf.transport._exact, "MAX_ITERATIONS", 1)
    x, y = random_pixels(20, 2, 2, device=device)
    with pytest.raises(RuntimeError, match="the exact coupling was not found"):
        joint_label_mass(x, y, x + 1, y, num_classes=2, num_source_classes=2)
