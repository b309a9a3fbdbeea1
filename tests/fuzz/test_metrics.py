"""Metrics of hostile features: the score that exact arithmetic gives, an error, or a warning."""

import warnings

import pytest
import torch

from torch_trf.metrics import METRICS

from ..references import precise

WRONG = 1e-3  # of a score, or of 1 where it is less
FROM_PRECISE = ["hscore", "knn", "leep", "logme", "nce", "regularized_hscore"]


def pixels(chance):
    """Features and labels of a few classes that lie a little apart, and two kinds of harm done to the features."""
    generator = torch.Generator().manual_seed(chance.getrandbits(32))
    count, channels, classes = chance.randint(6, 24), chance.randint(2, 4), chance.randint(1, 3)
    labels = torch.randint(0, classes, (count,), generator=generator)
    means, noise = (torch.randn(size, channels, generator=generator, dtype=torch.float64) for size in (classes, count))
    features = means[labels] + noise
    for harm in chance.choices(HARMS, k=chance.randint(1, 2)):
        features = harm(features, chance)
    return features, labels


def size(chance, least=-40.0, most=40.0):
    return chance.choice([-1, 1]) * 10 ** chance.uniform(least, most)


def scaled(x, chance):
    return x * size(chance, -150, 150)


def channel_scaled(x, chance):
    x[:, chance.randrange(x.shape[1])] *= size(chance)
    return x


def channel_moved(x, chance):
    x[:, chance.randrange(x.shape[1])] += size(chance)
    return x


def moved(x, chance):
    return x + size(chance, 0, 20)


def constant_channel(x, chance):
    return torch.cat([x, torch.full_like(x[:, :1], size(chance, 0, 150))], 1)


def masked_channel(x, chance):
    x[:: chance.randint(2, 5), chance.randrange(x.shape[1])] = size(chance, 0, 38)
    return x


def diverged_value(x, chance):
    x[chance.randrange(len(x)), chance.randrange(x.shape[1])] = size(chance)
    return x


def diverged_pixel(x, chance):
    x[chance.randrange(len(x))] *= size(chance, 0, 12)
    return x


def pixels_twice(x, chance):
    x[1::2] = x[: len(x) // 2 * 2 : 2]
    return x


def channel_twice(x, chance):
    return torch.cat([x, x[:, :1] * chance.choice([1, -1, 3, size(chance)])], 1)


def all_equal(x, chance):
    return x[:1].expand_as(x).clone()


def in_half_precision(x, chance):
    return x.clamp(-6e4, 6e4).half().double()


HARMS = [
    scaled,
    channel_scaled,
    channel_moved,
    moved,
    constant_channel,
    masked_channel,
    diverged_value,
    diverged_pixel,
    pixels_twice,
    channel_twice,
    all_equal,
    in_half_precision,
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_PRECISE)
def test_a_score_is_right_or_somebody_is_told(name, chances):
    for number, chance in enumerate(chances(20)):
        tensor, labels = pixels(chance)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                score = METRICS[name](tensor, labels).item()
            except ValueError:
                continue
        if not told:
            expected = getattr(precise, name)(tensor, labels.tolist())
            assert score == pytest.approx(expected, abs=WRONG * max(1, abs(expected))), f"try {number}"
