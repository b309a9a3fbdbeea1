"""OTCE and JC-OTCE of couplings against an assignment of copies, and known answers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_trf.metrics import OTCE
from torch_trf.statistics import PixelSample

from .. import references
from ..helpers import SIZES, arrays, assert_close, metrics_that, random_pixels

NUM_CLASSES = {"num_classes": 4, "num_source_classes": 4}
every_coupled = metrics_that(lambda metric: metric.needs_source)


def score(metric, target, source, **options):
    return metric.score(metric.couple_pixels(*target, source=source, **NUM_CLASSES | options))


@every_coupled
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("source_count", "target_count"), [(1, 1), (1, 7), (24, 24), (8, 12), (40, 20)])
def test_matches_assignment(source_count, target_count, dtype, metric, device):
    source = random_pixels(source_count, 3, 4, seed=1, dtype=dtype, device=device)
    target = random_pixels(target_count, 3, 3, seed=2, dtype=dtype, device=device)
    expected = getattr(references, metric.name)(*arrays(*target), source=arrays(*source))
    assert_close(score(metric, target, source), expected)


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
    assert_close(score(OTCE(), target, source), expected)


def test_sinkhorn_is_within_hundredths_of_the_exact_score(device):
    source, target = (random_pixels(80, 3, 4, seed=seed, device=device) for seed in (1, 2))
    scores = [score(OTCE(), target, source, solver=solver) for solver in ("sinkhorn", "exact")]
    assert_close(*scores, rtol=0, atol=0.02)


@pytest.mark.parametrize("repeats", [1, 3])
def test_every_repeat_of_a_sample_has_a_score(repeats, device):
    source, target = (
        PixelSample.from_pixels(
            *random_pixels(60, 3, 4, seed=seed, device=device), size=20, num_classes=4, num_repeats=repeats, seed=seed
        )
        for seed in (1, 2)
    )
    scores = score(OTCE(), (target.features, target.labels), (source.features, source.labels))
    assert scores.shape == (repeats,)
    for value, one, other in zip(scores, target, source, strict=True):
        assert_close(value, references.otce(*arrays(*one.drawn()), source=arrays(*other.drawn())))


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
@pytest.mark.parametrize("empty", ["source", "target"])
def test_without_pixels_it_is_nan(empty, solver, device):
    pixels = random_pixels(5, 3, 3, device=device)
    ignored = pixels[0], torch.full_like(pixels[1], -1)
    sides = {"target": pixels, "source": pixels, empty: ignored}
    assert score(OTCE(), **sides, solver=solver).isnan()


# What no score may depend on


def two_sides(size, device):
    """Target and source, which has twice as many pixels."""
    source, target = random_pixels(**size, device=device), random_pixels(**size | {"seed": 1}, device=device)
    half = (len(target[1]) + 1) // 2
    return (target[0][:half] + 0.3, target[1][:half]), source


@pytest.mark.slow
@every_coupled
@settings(max_examples=15)
@given(size=SIZES, data=st.data())
def test_order_of_pixels(metric, size, data, device):
    sides = two_sides(size, device)
    orders = [data.draw(st.permutations(range(len(labels)))) for _, labels in sides]
    shuffled = [(features[order], labels[order]) for (features, labels), order in zip(sides, orders, strict=True)]
    assert_close(score(metric, *shuffled), score(metric, *sides))


@pytest.mark.slow
@every_coupled
@settings(max_examples=15)
@given(size=SIZES, data=st.data())
def test_numbers_of_classes(metric, size, data, device):
    sides = two_sides(size, device)
    numbers = [torch.tensor(data.draw(st.permutations(range(9))), device=device) for _ in sides]
    renumbered = [(features, number[labels]) for (features, labels), number in zip(sides, numbers, strict=True)]
    options = {"num_classes": 9, "num_source_classes": 9}
    assert_close(score(metric, *renumbered, **options), score(metric, *sides))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the features of all .* pixels are equal")
@every_coupled
@settings(max_examples=15)
@given(size=SIZES, copies=st.integers(2, 3))
def test_pixels_repeated_alike(metric, size, copies, device):
    target, source = two_sides(size, device)
    repeated = [tensor.repeat_interleave(copies, 0) for tensor in target]
    assert_close(score(metric, repeated, source), score(metric, target, source))


@pytest.mark.slow
@every_coupled
@settings(max_examples=15)
@given(size=SIZES, scale=st.sampled_from([1e-3, 0.7, 1e3]))
def test_units_of_the_features(metric, size, scale, device):
    sides = two_sides(size, device)
    scaled = [(scale * features, labels) for features, labels in sides]
    assert_close(score(metric, *scaled), score(metric, *sides))
