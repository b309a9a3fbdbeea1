"""Accuracy of nearest neighbors against a slow loop, known answers, and what no score may depend on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_trf.metrics import KNN, _knn
from torch_trf.statistics import PixelSample

from .. import references
from ..helpers import SIZES, arrays, assert_close, nest, random_pixels


def sample(features, labels, size=None, **options):
    size = size or max(len(labels), 1)
    return PixelSample.from_pixels(features, labels, **{"size": size, "num_classes": 20} | options)[0]


def knn(features, labels, **options):
    return KNN(**options).score(sample(features, labels))


def lattice(count, channels, classes, *, device, seed=0):
    """Pixels of which many are equal, or equally far from each other."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(0, 3, (count, channels), generator=generator).double()
    return features.to(device), torch.randint(0, classes, (count,), generator=generator).to(device)


@pytest.mark.parametrize("neighbors", [1, 2, 5, 11, 1000])
def test_matches_definition(pixels, neighbors):
    assert_close(knn(*pixels, neighbors=neighbors), references.knn(*arrays(*pixels), neighbors))


@pytest.mark.parametrize("neighbors", [1, 3, 5])
@pytest.mark.parametrize("offset", [0.0, 1 / 3, 1e3])
def test_ties_match_definition(neighbors, offset, device):
    features, labels = lattice(60, 4, 3, device=device)
    expected = references.knn(*arrays(features, labels), neighbors)
    assert_close(knn(features + offset, labels, neighbors=neighbors), expected)


@pytest.mark.parametrize(
    ("features", "labels", "neighbors", "expected"),
    [
        ([0, 1, 2, 100, 101, 102], [0, 0, 0, 1, 1, 1], 2, 1),  # two clusters
        ([0, 1, 2, 100, 101, 102], [0, 0, 0, 1, 1, 1], 5, 0),  # the others have the majority
        ([0, 1, 2, 100, 101, 102], [0, 0, 0, 1, 1, 1], 9, 0),  # five others are all there are
        ([0, 1, 3], [0, 1, 1], 1, 1 / 3),
        ([0, 1, 3], [2, 2, 2], 1, 1),  # one class
        ([0, 5], [0, 1], 1, 0),
        ([-1, 0, 1], [0, 0, 1], 1, 1.5 / 3),  # the one in the middle has two nearest, and a vote for each class
        ([-1, 0, 1], [0, 2, 1], 1, 0),
        ([7, 7, 7, 7], [0, 0, 0, 1], 1, 3 / 4),  # all are nearest
        ([7, 7, 7, 7], [0, 0, 1, 1], 1, 0),
        ([0, 1, 1, 1, 1], [0, 0, 0, 1, 1], 1, 1 / 2 / 5),  # for the first alone four have equal votes
        ([0, 2, 3, -4], [0, 0, 1, 0], 2, (1 / 2 + 1 / 2 + 0 + 1) / 4),
    ],
)
def test_known_answers(features, labels, neighbors, expected, device):
    rows = torch.tensor(features, dtype=torch.float64, device=device).unsqueeze(-1)
    assert_close(knn(rows, torch.tensor(labels, device=device), neighbors=neighbors), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_offset_of_the_features_costs_no_digits(dtype, device):
    features, labels = random_pixels(400, 8, 4, device=device)
    moved = (features + 1000).to(dtype)
    score = knn(moved, labels)
    assert_close(score, references.knn(*arrays(moved, labels)))
    assert_close(score, knn(features, labels), rtol=0, atol=2 / 400)  # float32 itself holds the features less exactly


def test_equal_pixels_are_equally_near_wherever_they_stand(device):
    """Of four copies of a pixel one has another class than three: all others vote on each."""
    features, _ = random_pixels(200, 67, 1, device=device)
    labels = (torch.arange(800, device=device) < 200).long()
    assert_close(knn(features.repeat(4, 1), labels, neighbors=1), 3 / 4)


@pytest.mark.parametrize("distances", [1, 400, 4_100, 30_000])
def test_blocks_of_pixels_change_nothing(distances, device, monkeypatch):
    drawn = sample(*random_pixels(200, 5, 4, device=device), size=101, num_repeats=2, seed=3)
    whole = KNN().score(drawn)
    monkeypatch.setattr(_knn, "DISTANCES", distances)
    assert_close(KNN().score(drawn), whole)


# Samples


def test_places_without_a_pixel_do_not_count(device):
    features, labels = random_pixels(40, 3, 3, device=device)
    ignored = labels.clone()
    ignored[::3], features[::3] = 255, torch.nan
    drawn = sample(features, ignored)
    assert drawn.count < len(drawn.labels)
    expected = references.knn(*arrays(features[ignored != 255], labels[ignored != 255]))
    assert_close(KNN().score(drawn), expected)
    nothing_there = (drawn.labels < 0).unsqueeze(-1)
    assert_close(KNN().score(drawn.with_features(drawn.features.masked_fill(nothing_there, torch.nan))), expected)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_leading_dimensions_are_independent(batch, device):
    entries = [sample(*random_pixels(30, 4, 3, seed=i, device=device)) for i in range(torch.Size(batch).numel())]
    score = KNN().score(nest(entries, batch))
    assert score.shape == batch
    assert_close(score.flatten(), torch.stack([KNN().score(entry) for entry in entries]))


@pytest.mark.parametrize("count", [0, 1])
def test_without_another_pixel_it_is_nan(count, device):
    features, labels = random_pixels(9, 3, 3, device=device)
    alone = labels.clone()
    alone[count:] = 255
    both = nest([sample(features, alone), sample(features, labels)], (2,))
    assert KNN().score(both).isnan().tolist() == [True, False]
    assert KNN().score(both.nothing(device)).isnan().all()


def test_distances_that_overflow_are_nan(device):
    features, labels = random_pixels(9, 3, 3, device=device)
    features[4] *= 1e200
    assert knn(features, labels).isnan()


@pytest.mark.parametrize("neighbors", [0, -1])
def test_refuses_no_neighbor(neighbors, device):
    with pytest.raises(ValueError, match=f"neighbors must be at least 1, not {neighbors}"):
        knn(*random_pixels(9, 3, 3, device=device), neighbors=neighbors)


# What no score may depend on

KINDS = {"random": random_pixels, "lattice": lattice}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
few_neighbors = st.integers(1, 6)


@every_kind
@settings(max_examples=20)
@given(size=SIZES, neighbors=few_neighbors, data=st.data())
def test_order_of_pixels(kind, size, neighbors, data, device):
    features, labels = kind(**size, device=device)
    order = data.draw(st.permutations(range(len(labels))))
    shuffled = knn(features[order], labels[order], neighbors=neighbors)
    assert_close(shuffled, knn(features, labels, neighbors=neighbors))


@every_kind
@settings(max_examples=20)
@given(size=SIZES, neighbors=few_neighbors, data=st.data())
def test_numbers_of_classes(kind, size, neighbors, data, device):
    features, labels = kind(**size, device=device)
    number = torch.tensor(data.draw(st.permutations(range(19))), device=device)
    assert_close(knn(features, number[labels], neighbors=neighbors), knn(features, labels, neighbors=neighbors))


@every_kind
@settings(max_examples=20)
@given(
    size=SIZES,
    neighbors=few_neighbors,
    offset=st.sampled_from([0.0, 0.1, 30.0]),
    scale=st.sampled_from([1e-6, 0.7, 1e6]),
)
def test_rotation_offset_and_scale_of_the_features(kind, size, neighbors, offset, scale, device):
    features, labels = kind(**size, device=device)
    generator = torch.Generator().manual_seed(size["seed"])
    square = torch.randn(size["channels"], size["channels"], generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(square)[0].to(device)
    moved = scale * (features @ rotation + offset)
    assert_close(knn(moved, labels, neighbors=neighbors), knn(features, labels, neighbors=neighbors))


@given(size=SIZES, neighbors=few_neighbors)
def test_is_a_share(size, neighbors, device):
    score = knn(*random_pixels(**size, device=device), neighbors=neighbors).item()
    assert 0 <= score <= 1
    assert score == 1 or size["classes"] > 1
