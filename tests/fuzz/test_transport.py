"""Exact couplings of hostile pixels against all assignments, in rational numbers."""

import warnings
from fractions import Fraction
from itertools import permutations

import pytest
import torch

from torch_trf.transport import ConvergenceWarning, _optimal, couple

MOST = 6  # pixels a side
EXCESS = 1e-3  # of what half of the pixels cost at most, by which a coupling that is not told may cost too much
SHARES = 3600  # a multiple of every number of pixels and of points that lie on each other


def far_pixel(x, other, chance, size):
    x[chance.randrange(len(x)), chance.randrange(x.shape[1])] = size * chance.choice([1, -1, 1.25])


def far_half(x, other, chance, size):
    x[:, chance.randrange(x.shape[1])] += size * torch.tensor([chance.randrange(2) for _ in x])


def constant_channel(x, other, chance, size):
    x[:, chance.randrange(x.shape[1])] = -size


def large_channel(x, other, chance, size):
    x[:, chance.randrange(x.shape[1])] *= size


def moved_channel(x, other, chance, size):
    x[:, chance.randrange(x.shape[1])] += size


def twin(x, other, chance, size):
    x[chance.randrange(len(x))] = x[chance.randrange(len(x))].clone()


def grid(x, other, chance, size):
    x.round_()


def all_equal(x, other, chance, size):
    x[:] = x[0].clone()


def no_negative(x, other, chance, size):
    x.clamp_(min=0)


def the_other(x, other, chance, size):
    x.copy_(other)


KINDS = (
    far_pixel,
    far_half,
    constant_channel,
    large_channel,
    moved_channel,
    twin,
    grid,
    all_equal,
    no_negative,
    the_other,
)


def hostile(chance):
    """Features of the source and of the target, as many of both."""
    count, channels = chance.randint(2, MOST), chance.randint(1, 4)
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    sides = [torch.randn(count, channels, generator=generator, dtype=torch.float64) for _ in range(2)]
    for _ in range(chance.randint(1, 3)):
        kind, size = chance.choice(KINDS), 10 ** chance.uniform(0, chance.choice([4, 9, 20, 38]))
        for side in chance.choice([(0,), (1,), (0, 1)]):
            kind(sides[side], sides[1 - side], chance, size)
    if chance.random() < 0.7:
        return [side.to(torch.float32).nan_to_num() for side in sides]
    scale = chance.choice([1.0, 1.0, 1e-100, 1e100])
    return [scale * side for side in sides]


def costs_of(source, target):
    """Squared distances, exactly."""
    rows = [[[Fraction(value) for value in row] for row in side.double().tolist()] for side in (source, target)]
    return [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in rows[1]] for x in rows[0]]


@pytest.mark.filterwarnings("ignore:the features of all .* pixels are equal")
@pytest.mark.parametrize("dense_points", [_optimal.DENSE_POINTS, 2])
def test_a_coupling_is_the_best_or_said_to_be_uncertain(dense_points, chances, monkeypatch):
    monkeypatch.setattr(_optimal, "DENSE_POINTS", dense_points)
    for number, chance in enumerate(chances(150)):
        source, target = hostile(chance)
        labels = torch.arange(len(source))
        with warnings.catch_warnings(record=True) as met:
            warnings.simplefilter("always", ConvergenceWarning)
            try:
                coupling = couple(target, labels, source=(source, labels), solver="exact")
            except ValueError as error:
                if "double precision" in str(error):
                    continue
                raise
        assert bool(met) != coupling.converged.item(), number
        costs = costs_of(source, target)
        best = min(
            ([row[j] for row, j in zip(costs, order, strict=True)] for order in permutations(range(len(source)))),
            key=sum,
        )
        flow = [
            [Fraction(share).limit_denominator(SHARES) for share in row]
            for row in (coupling.mass.T * len(source)).tolist()
        ]
        cost = sum(
            share * c for shares, row in zip(flow, costs, strict=True) for share, c in zip(shares, row, strict=True)
        )
        if not met:
            assert cost - sum(best) <= EXCESS * sorted(best)[len(best) // 2], number
            assert abs(coupling.cost.item() * len(source) - float(cost)) <= 1e-6 * float(cost), number
