"""OTCE and JC-OTCE of couplings against an assignment of copies, and known answers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_trf import metrics
from torch_trf.statistics import PixelSample
from torch_trf.transport import couple

from .. import references
from ..helpers import SIZES, arrays, assert_close, random_pixels

every_gamma = pytest.mark.parametrize("gamma", [1.0, 0.5])


def otce(source, target, **options):
    return metrics.otce(couple(*source, *target, **{"num_classes": 4, "num_source_classes": 4} | options))


@every_gamma
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("source_count", "target_count"), [(1, 1), (1, 7), (24, 24), (8, 12), (40, 20)])
def test_matches_assignment(source_count, target_count, dtype, gamma, device):
    source = random_pixels(source_count, 3, 4, seed=1, dtype=dtype, device=device)
    target = random_pixels(target_count, 3, 3, seed=2, dtype=dtype, device=device)
    assert_close(otce(source, target, gamma=gamma), references.otce(*arrays(*source, *target), gamma))


@pytest.mark.parametrize(
    ("source_labels", "target_labels", "expected"),
    [
        ([0, 1, 2, 3], [3, 2, 1, 0], 0),  # one to one
        ([0, 0, 0, 0], [0, 1, 2, 3], -math.log(4)),  # one source class
        ([0, 1, 2, 3], [1, 1, 1, 1], 0),  # one target class
        ([0, 0, 1, 1], [0, 1, 2, 2], -math.log(2) / 2),
    ],
)
def test_known_answers_where_pixels_lie_on_each_other(source_labels, target_labels, expected, device):
    features = torch.tensor([[0.0], [10.0], [20.0], [30.0]], device=device)
    source, target = ((features, torch.tensor(labels, device=device)) for labels in (source_labels, target_labels))
    assert_close(otce(source, target), expected)


def test_sinkhorn_is_within_hundredths_of_the_exact_score(device):
    source, target = (random_pixels(80, 3, 4, seed=seed, device=device) for seed in (1, 2))
    assert_close(otce(source, target, solver="sinkhorn"), otce(source, target, solver="exact"), rtol=0, atol=0.02)


@pytest.mark.parametrize("repeats", [1, 3])
def test_every_repeat_of_a_sample_has_a_score(repeats, device):
    source, target = (
        PixelSample.from_pixels(
            *random_pixels(60, 3, 4, seed=seed, device=device), size=20, num_classes=4, num_repeats=repeats, seed=seed
        )
        for seed in (1, 2)
    )
    scores = otce((source.features, source.labels), (target.features, target.labels))
    assert scores.shape == (repeats,)
    for score, one, other in zip(scores, source, target, strict=True):
        assert_close(score, references.otce(*arrays(*one.drawn(), *other.drawn())))


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
@pytest.mark.parametrize("empty", ["source", "target"])
def test_without_pixels_it_is_nan(empty, solver, device):
    pixels = random_pixels(5, 3, 3, device=device)
    ignored = pixels[0], torch.full_like(pixels[1], -1)
    assert otce(*((ignored, pixels) if empty == "source" else (pixels, ignored)), solver=solver).isnan()


# What no score may depend on


def two_sides(size, device):
    """Source and target, which has half as many pixels."""
    source, target = random_pixels(**size, device=device), random_pixels(**size | {"seed": 1}, device=device)
    half = (len(target[1]) + 1) // 2
    return source, (target[0][:half] + 0.3, target[1][:half])


@every_gamma
@settings(max_examples=15)
@given(size=SIZES, data=st.data())
def test_order_of_pixels(gamma, size, data, device):
    sides = two_sides(size, device)
    orders = [data.draw(st.permutations(range(len(labels)))) for _, labels in sides]
    shuffled = [(features[order], labels[order]) for (features, labels), order in zip(sides, orders, strict=True)]
    assert_close(otce(*shuffled, gamma=gamma), otce(*sides, gamma=gamma))


@every_gamma
@settings(max_examples=15)
@given(size=SIZES, data=st.data())
def test_numbers_of_classes(gamma, size, data, device):
    sides = two_sides(size, device)
    numbers = [torch.tensor(data.draw(st.permutations(range(9))), device=device) for _ in sides]
    renumbered = [(features, number[labels]) for (features, labels), number in zip(sides, numbers, strict=True)]
    options = {"gamma": gamma, "num_classes": 9, "num_source_classes": 9}
    assert_close(otce(*renumbered, **options), otce(*sides, gamma=gamma))


@every_gamma
@settings(max_examples=15)
@given(size=SIZES, copies=st.integers(2, 3))
def test_pixels_repeated_alike(gamma, size, copies, device):
    source, target = two_sides(size, device)
    repeated = [tensor.repeat_interleave(copies, 0) for tensor in target]
    assert_close(otce(source, repeated, gamma=gamma), otce(source, target, gamma=gamma))


@every_gamma
@settings(max_examples=15)
@given(size=SIZES, scale=st.sampled_from([1e-3, 0.7, 1e3]))
def test_units_of_the_features(gamma, size, scale, device):
    sides = two_sides(size, device)
    scaled = [(scale * features, labels) for features, labels in sides]
    assert_close(otce(*scaled, gamma=gamma), otce(*sides, gamma=gamma))
