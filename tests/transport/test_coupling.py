"""Couplings as values: plain values for JSON and back, parts of a whole, the mass as a statistic."""

import json
import math

import pytest
import torch

from torch_trf.statistics import JointMass
from torch_trf.transport import Coupling

from .cases import every_solver, random_problem, sinkhorn, solve, stack

FIELDS = ("mass", "cost", "duality_gap", "marginal_error", "epsilon", "iterations", "converged")


def some(count, device, solver="exact"):
    return solve(stack([random_problem(device=device, seed=seed) for seed in range(count)]), solver)


def assert_identical(coupling, other):
    assert coupling.solver == other.solver
    for name in FIELDS:
        value, expected = getattr(coupling, name), getattr(other, name).cpu()
        assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
        assert torch.equal(value.nan_to_num(-1.0), expected.nan_to_num(-1.0))


@every_solver
@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 2), (1, 4, 1)])
def test_json_and_back(solver, batch, device):
    problems = [random_problem(device=device, seed=seed) for seed in range(math.prod(batch))]
    problems[-1][1][:] = -1  # without pixels: NaN
    coupling = solve([t.reshape((*batch, *t.shape[1:])) for t in stack(problems)], solver)
    assert_identical(Coupling.from_json(json.loads(json.dumps(coupling.as_json()))), coupling)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
def test_json_and_back_where_a_leading_dimension_is_empty(shape, device):
    coupling = Coupling.nothing(0, 4, 3, "exact", device)._map(lambda t: t.reshape((*shape, *t.shape[1:])))
    assert_identical(Coupling.from_json(json.loads(json.dumps(coupling.as_json()))), coupling)


def test_plain_values_for_a_report(device):
    coupling = solve(random_problem(device=device), sinkhorn())
    values = coupling.as_json()
    assert values == {name: getattr(coupling, name).tolist() for name in FIELDS} | {
        "solver": "sinkhorn",
        "shape": [4, 3],
    }
    assert isinstance(values["iterations"], int)
    assert values["converged"] is True


def test_parts_of_a_whole(device):
    whole, other = some(4, device), some(2, device, sinkhorn())
    assert_identical(Coupling.cat([whole[:1], whole[1:]]).to("cpu"), whole)
    together = Coupling.cat([other, whole, other])
    assert together.solver == "exact, sinkhorn"
    assert together.cost.shape == (8,)
    assert Coupling.cat([together, other]).solver == "exact, sinkhorn"
    assert Coupling.stack([other, whole[:2]]).solver == "exact, sinkhorn"
    assert_identical(together[2:6].to("cpu"), Coupling(**whole.tensors(), solver="exact, sinkhorn"))


def test_parts_along_another_dimension(device):
    whole = some(6, device)._map(lambda t: t.reshape((2, 3, *t.shape[1:])))
    assert_identical(Coupling.cat([whole[:, :2], whole[:, 2:]], dim=1).to("cpu"), whole)


def test_the_mass_is_a_statistic_without_faults(device):
    coupling = some(2, device)
    statistic = coupling.joint_mass
    assert isinstance(statistic, JointMass)
    assert statistic.mass is coupling.mass
    assert statistic.batch_shape == (2,)
    assert not statistic.faults.bad_labels.any()
    assert not statistic.faults.non_finite.any()
