"""Reduced costs and c-transforms against loops over all pairs."""

import pytest
import torch

from torch_trf.transport import _costs

from ..helpers import assert_close

every_chunk = pytest.mark.parametrize("numbers", [1, 50, 2**20])  # a row, some rows, all rows
every_batch = pytest.mark.parametrize("batch", [(), (2,), (1, 2)])


def problem(batch, device):
    """Points and potentials of either side, and what every pair costs."""
    generator = torch.Generator().manual_seed(0)
    shapes = (7, 3), (9, 3), (7,), (9,)
    tensors = [torch.randn(*batch, *shape, generator=generator, dtype=torch.float64).to(device) for shape in shapes]
    source, target, *_ = tensors
    return *tensors, -2 * source @ target.mT


@every_chunk
@every_batch
def test_reduced_costs_are_costs_less_potentials(numbers, batch, device, monkeypatch):
    monkeypatch.setattr(_costs, "CHUNK_NUMBERS", numbers)
    *arguments, costs = problem(batch, device)
    expected = costs - arguments[2].unsqueeze(-1) - arguments[3].unsqueeze(-2)
    place = 0
    for rows, reduced in _costs.reduced_costs(*arguments):
        assert rows.start == place
        assert_close(reduced, expected[..., rows, :], atol=1e-13)
        place = rows.stop
    assert place == 7


@every_chunk
@every_batch
def test_c_transform_is_the_largest_feasible_potential(numbers, batch, device, monkeypatch):
    monkeypatch.setattr(_costs, "CHUNK_NUMBERS", numbers)
    source, target, _, potential, costs = problem(batch, device)
    potential_of_source = _costs.c_transform(source, target, potential)
    assert_close(potential_of_source, (costs - potential.unsqueeze(-2)).amin(-1), atol=1e-13)


def test_where_nothing_is_there_is_no_bound(device):
    source, target, _, potential, costs = problem((), device)
    potential[3:] = -torch.inf
    assert_close(_costs.c_transform(source, target, potential), (costs - potential)[:, :3].amin(-1), atol=1e-13)
