"""A uniform sample without replacement, whatever the order in which its pixels arrive."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_trf.statistics import PixelSample
from torch_trf.statistics._pixel_sample import NOT_DRAWN

from ..helpers import assert_same


def numbered(count, device):
    """Pixels whose feature is their number, of three classes in turn."""
    number = torch.arange(count, device=device)
    return number.to(torch.float64).unsqueeze(-1), number % 3


def draw(features, labels, size, **options):
    return PixelSample.from_pixels(features, labels, size=size, num_classes=3, **options)


@given(
    cuts=st.lists(st.integers(1, 49), max_size=4, unique=True),
    labels=st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 255]), min_size=50, max_size=50),
    size=st.integers(1, 60),
    per_class=st.booleans(),
    seed=st.integers(0, 2**64),
)
def test_does_not_depend_on_batches_or_their_order(cuts, labels, size, per_class, seed, device):
    features, labels = numbered(50, device)[0], torch.tensor(labels, device=device)
    options = {"size": size, "per_class": per_class, "num_repeats": 2, "seed": seed}
    whole = draw(features, labels, **options)
    bounds = [0, *sorted(cuts), 50]
    parts = [draw(features[a:b], labels[a:b], **options, offset=a) for a, b in pairwise(bounds)]
    for ordered in (parts, parts[::-1]):
        merged = sum(ordered[1:], ordered[0])
        count = int(whole.count.max())  # in whole there are no fewer places
        for name in ("key", "features", "labels"):
            assert torch.equal(getattr(merged, name)[:, :count], getattr(whole, name)[:, :count])
        assert torch.equal(merged.count, whole.count)
        assert torch.equal(merged.population, whole.population)


def test_does_not_depend_on_the_layout_of_images(device):
    features, labels = numbered(60, device)
    images, image_labels = features.reshape(3, 4, 5, 1).permute(0, 3, 1, 2), labels.reshape(3, 4, 5)
    assert_same(draw(images, image_labels, 20), draw(features, labels, 20), rtol=0, atol=0)


def test_features_and_labels_stay_together_and_nothing_is_drawn_twice(device):
    sample = draw(*numbered(500, device), 200, num_repeats=3)
    numbers = sample.features.squeeze(-1).long()
    assert torch.equal(numbers % 3, sample.labels)
    assert all(len(row.unique()) == 200 for row in numbers)


def test_every_pixel_is_equally_likely(device):
    repeats, count, size = 400, 50, 10
    sample = draw(*numbered(count, device), size, num_repeats=repeats)
    drawn = sample.features.long().flatten().bincount(minlength=count).double()
    p = size / count
    chi_square = ((drawn - repeats * p).square().sum() / (repeats * p * (1 - p)) * (count - 1) / count).item()
    assert abs(chi_square - (count - 1)) < 4 * (2 * (count - 1)) ** 0.5  # mean and deviation of chi-square


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"stream": 1}, {"num_repeats": 2}], ids=lambda option: next(iter(option))
)
def test_seeds_streams_and_repeats_are_independent(other, device):
    pixels = numbered(2000, device)
    first, second = draw(*pixels, 400)[0], draw(*pixels, 400, **other)[-1]
    shared = torch.isin(first.features, second.features).sum().item()
    assert abs(shared - 80) < 4 * (80 * 0.8 * 0.8) ** 0.5  # hypergeometric, to two digits


@pytest.mark.parametrize(
    ("counts", "size", "shares"),
    [
        ((40, 30, 20), 15, (5, 5, 5)),
        ((40, 3, 20), 15, (6, 3, 6)),  # what the rare class lacks goes to the others
        ((40, 0, 20), 15, (8, 7)),  # and so does all that an absent class lacks, to the last pixel
        ((4, 3, 2), 15, (4, 3, 2)),
        ((40, 1, 1), 15, (13, 1, 1)),
        ((40, 0, 0), 15, (15,)),
    ],
)
def test_classes_that_are_present_share_equally(counts, size, shares, device):
    labels = torch.arange(3, device=device).repeat_interleave(torch.tensor(counts, device=device)).flip(0)
    features = numbered(len(labels), device)[0]
    sample = draw(features, labels, size, per_class=True, num_repeats=4)
    assert sample.population.tolist() == [len(labels)] * 4
    for repeat in sample:
        rows, classes = repeat.drawn()
        assert sorted(classes.bincount()[classes.unique()].tolist()) == sorted(shares)
        assert torch.equal(labels[rows.flatten().long()], classes)
        assert len(rows.unique()) == len(rows)


def test_each_class_is_drawn_as_it_is_alone(device):
    """Of each class a uniform sample: the pixels of smallest key."""
    features, labels = numbered(300, device)
    sample = draw(features, labels, 30, per_class=True, num_repeats=3, seed=4)
    for k in range(3):
        alone = draw(features, labels, 10, eligible=labels.reshape(1, 1, -1) == k, num_repeats=3, seed=4)
        for one, other in zip(sample, alone, strict=True):
            assert torch.equal(one.features[one.labels == k], other.features)


def test_more_places_than_pixels(device):
    features, labels = numbered(7, device)
    labels[2], features[2] = 255, torch.nan
    sample = draw(features, labels, 10)[0]
    assert sample.count.item() == sample.population.item() == 6
    assert sample.size == 10
    assert sample.labels[6:].tolist() == [NOT_DRAWN]  # as many places as there were pixels
    assert not sample.features[6:].any()
    drawn_features, drawn_labels = sample.drawn()
    assert drawn_features.flatten().sort().values.tolist() == [0, 1, 3, 4, 5, 6]
    assert torch.equal(drawn_features.flatten().long() % 3, drawn_labels)


def test_as_images_keeps_repeats_apart(device):
    sample = draw(*numbered(20, device), 5, num_repeats=3)
    features, labels = sample.as_images()
    assert features.shape == (3, 1, 1, 5)
    assert torch.equal(features[:, 0, 0], sample.features[..., 0])
    assert torch.equal(labels[:, 0], sample.labels)


def test_bad_labels_are_counted_once_whatever_the_number_of_repeats(device):
    features, labels = numbered(9, device)
    labels[4] = 77
    with pytest.raises(ValueError, match="label 77 on 1 pixels"):
        draw(features, labels, 3, num_repeats=5).faults.check(3, 255)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 1, "num_repeats": 0}])
def test_nothing_to_draw_is_an_error(options, device):
    with pytest.raises(ValueError, match="at least 1 pixel and 1 repeat"):
        draw(*numbered(3, device), **options)
