"""Which pixels are drawn: by which options, whatever the batches that they come in."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_trf import Sampling, Scorer
from torch_trf.pixels import Pixels, boundary
from torch_trf.sampling import DRAWN_PIXELS

from .helpers import random_images

K = 4
STRATEGIES = ("uniform", "per_class", "boundary")
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@pytest.fixture(scope="module")
def pixels(device):
    """Six images, a feature of which is the number of its pixel."""
    features, labels = random_images(6, 1, 5, 7, device=device, skew=0.5)
    return Pixels(torch.arange(labels.numel(), device=device).double().reshape(features.shape), labels)


def drawn_numbers(sample):
    """The numbers of the drawn pixels, and their labels, of every repeat."""
    return [(rows.flatten().tolist(), labels.tolist()) for rows, labels in (each.drawn() for each in sample)]


@every_strategy
@given(cuts=st.sets(st.integers(1, 5)), order=st.randoms())
def test_draws_do_not_depend_on_batches(pixels, strategy, cuts, order):
    sampling = Sampling(num_pixels=24, num_repeats=2, strategy=strategy, seed=3)
    whole = sampling.draw(pixels.features, pixels, num_classes=K)
    size, parts = pixels.labels[0].numel(), []
    bounds = [0, *sorted(cuts), len(pixels.labels)]
    for start, end in pairwise(bounds):
        batch = Pixels(pixels.features[start:end], pixels.labels[start:end], offset=start * size)
        parts.append(sampling.draw(batch.features, batch, num_classes=K))
    order.shuffle(parts)
    merged = sum(parts[1:], parts[0])
    assert drawn_numbers(merged) == drawn_numbers(whole)
    assert merged.population.equal(whole.population)


@pytest.mark.parametrize("strategy", ["uniform", "boundary"])
def test_so_many_distinct_pixels_in_every_repeat(pixels, strategy):
    sampling = Sampling(num_pixels=30, num_repeats=3, strategy=strategy)
    sample = sampling.draw(pixels.features, pixels, num_classes=K)
    assert sample.batch_shape == (3,)
    numbers = [numbers for numbers, _ in drawn_numbers(sample)]
    assert all(len(set(each)) == len(each) == 30 for each in numbers)
    assert len({tuple(sorted(each)) for each in numbers}) == 3
    for each, labels in drawn_numbers(sample):
        assert pixels.labels.flatten()[torch.tensor(each).long()].tolist() == labels
        assert 255 not in labels


def test_equally_many_of_each_class(pixels):
    sampling = Sampling(num_pixels=23, num_repeats=2, strategy="per_class")
    for num_classes in (K, 20):  # those that are not there take nothing
        sample = sampling.draw(pixels.features, pixels, num_classes=num_classes)
        assert sample.batch_shape == (2,)
        for _, labels in drawn_numbers(sample):
            assert sorted(torch.bincount(torch.tensor(labels)).tolist()) == [5, 6, 6, 6]


@pytest.mark.parametrize("radius", [1, 2])
def test_near_a_change_of_label(device, radius):
    labels = torch.zeros(1, 6, 20, dtype=torch.int64, device=device)
    labels[..., 10:] = 1
    pixels = Pixels(torch.arange(120.0, device=device).reshape(1, 1, 6, 20), labels)
    sampling = Sampling(num_pixels=1000, strategy="boundary", boundary_radius=radius)
    sample = sampling.draw(pixels.features, pixels, num_classes=2)
    near = pixels.features.squeeze(1)[boundary(labels, radius, 255)]
    assert sorted(drawn_numbers(sample)[0][0]) == near.tolist()
    assert {number % 20 for number in near.tolist()} == set(range(10 - radius, 10 + radius))


def test_ignored_pixels_are_not_drawn(pixels):
    labels = pixels.labels.where(pixels.labels != 255, 9)
    sample = Sampling(num_pixels=1000).draw(
        pixels.features, Pixels(pixels.features, labels), num_classes=K, ignore_index=9
    )
    numbers = drawn_numbers(sample)[0][0]
    assert sorted(numbers) == pixels.features.squeeze(1)[pixels.labels != 255].tolist()


def test_the_seed_and_nothing_else_decides(pixels):
    numbers = [
        drawn_numbers(Sampling(num_pixels=30, seed=seed).draw(pixels.features, pixels, num_classes=K))
        for seed in (0, 0, 1)
    ]
    assert numbers[0] == numbers[1] != numbers[2]


def test_a_sample_may_hold_other_values_of_the_pixels(pixels):
    sampling = Sampling(num_pixels=30)
    twice = sampling.draw(2 * pixels.features, pixels, num_classes=K)
    assert twice.features.equal(2 * sampling.draw(pixels.features, pixels, num_classes=K).features)


def test_sizes():
    assert (Sampling().size, Sampling(num_pixels=7).size) == (DRAWN_PIXELS, 7)
    Sampling(num_pixels=2).check_classes(3)
    Sampling(num_pixels=3, strategy="per_class").check_classes(3)
    with pytest.raises(ValueError, match="num_pixels=2 is less than a pixel for each of 3 classes"):
        Sampling(num_pixels=2, strategy="per_class").check_classes(3)


def test_whole_numbers_of_numpy(annotations_unchecked):
    options = {"num_pixels": 9, "num_repeats": 2, "boundary_radius": 1, "seed": 5}
    of_numpy = Sampling(**{name: np.int64(value) for name, value in options.items()})
    assert repr(of_numpy) == repr(Sampling(**options))  # so that results kept with one are those of the other


@pytest.mark.parametrize("seed", [-(2**63), -1, 2**63 - 1])
def test_every_seed_makes_a_sample_of_its_own(pixels, seed):
    sampling = Sampling(num_pixels=30, seed=seed)
    drawn = [
        drawn_numbers(each.draw(pixels.features, pixels, num_classes=K))
        for each in (sampling, sampling.of_source, Sampling(num_pixels=30, seed=1))
    ]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "perclass"}, "strategy: 'perclass' is none of uniform, per_class, boundary"),
        ({"num_pixels": 0}, "num_pixels must be at least 1, not 0"),
        ({"num_repeats": 0}, "num_repeats must be at least 1, not 0"),
        ({"boundary_radius": 0}, "boundary_radius must be at least 1, not 0"),
        *(
            ({"seed": seed}, rf"seed must be a whole number from -2\*\*63 to 2\*\*63 - 1, not {seed!r}")
            for seed in (2**70, 2**63, -(2**63) - 1, 0.5, None, "1")
        ),
    ],
)
def test_refuses_options(options, message, annotations_unchecked):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_misspelt_options_name_what_was_called(annotations_unchecked):
    with pytest.raises(TypeError, match=r"Sampling\.__init__\(\) got an unexpected keyword argument 'sampling'"):
        Sampling(sampling="uniform")
    with pytest.raises(TypeError, match=r"Sampling\.__init__\(\) takes 1 positional argument but 2 were given"):
        Sampling(100)


def test_bad_pixels_are_an_error(pixels):
    with pytest.raises(ValueError, match=r"outside \[0, 2\)"):
        Sampling(num_pixels=9).draw(pixels.features, pixels, num_classes=2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        Sampling(num_pixels=9).draw(pixels.features / 0, pixels, num_classes=K)


def test_equal_options_are_equal():
    assert Sampling(num_pixels=9) == Sampling(num_pixels=9) != Sampling(num_pixels=8)
    assert Scorer(metrics="knn", num_classes=2).sampling == Sampling()
