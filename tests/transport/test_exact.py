"""The exact coupling against an assignment of copies, over all pairs and over those that matter."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given

from torch_trf.transport import _optimal

from ..helpers import assert_close
from .cases import SIZES, equal_features, every_kind, expected, random_label_cost, random_problem, solve, stack

every_size = pytest.mark.parametrize(("source_count", "target_count"), [(1, 1), (1, 7), (50, 2), (24, 24), (40, 30)])
every_kind_of_one_coupling = pytest.mark.parametrize("kind", ["random", "outlier", "clusters of unequal size", "moved"])


@pytest.fixture(params=[_optimal.DENSE_POINTS, 3], ids=["all pairs", "some pairs"])
def pairs(request, monkeypatch):
    """Gives the simplex all pairs at once, or few and more of them when they turn out to matter."""
    monkeypatch.setattr(_optimal, "DENSE_POINTS", request.param)
    monkeypatch.setattr(_optimal, "NEAREST", 2)  # so few that some are missed


def assert_optimal(coupling, mean_cost):
    """By the certificate: no coupling costs less."""
    assert coupling.duality_gap <= 1e-9 * mean_cost
    assert coupling.marginal_error <= 1e-12
    assert coupling.converged
    assert coupling.solver == "exact"
    assert coupling.epsilon == 0


@pytest.mark.usefixtures("pairs")
@pytest.mark.parametrize("label_cost_scale", [0.0, 3.0])
@every_size
@every_kind_of_one_coupling
def test_matches_assignment(kind, source_count, target_count, label_cost_scale, device):
    pixels = random_problem(source_count, target_count, device=device, kind=kind)
    label_cost = random_label_cost(device, label_cost_scale)
    coupling = solve(pixels, label_cost=label_cost)
    mass, cost = expected(pixels, label_cost)
    assert_close(coupling.mass, mass)
    assert_close(coupling.cost, cost)


@pytest.mark.slow
@equal_features
@pytest.mark.usefixtures("pairs")
@every_kind
@every_size
def test_costs_least_and_proves_it(kind, source_count, target_count, device):
    pixels = random_problem(source_count, target_count, device=device, kind=kind)
    coupling = solve(pixels)
    mean_cost = torch.cdist(pixels[0], pixels[2]).square().mean()
    assert_close(coupling.cost, expected(pixels)[1], atol=1e-9 * mean_cost.item())
    assert_optimal(coupling, mean_cost)


@pytest.mark.slow
@given(sizes=SIZES)
def test_some_pairs_suffice(sizes, device):
    pixels = random_problem(device=device, **sizes)
    coupling = solve(pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_optimal, "DENSE_POINTS", 2)
        patch.setattr(_optimal, "NEAREST", 1)
        of_some = solve(pixels)
    assert_close(of_some.mass, coupling.mass)
    assert_close(of_some.cost, coupling.cost)


@every_kind
def test_hundreds_of_pixels_need_few_rounds(kind, device, monkeypatch):
    monkeypatch.setattr(_optimal, "DENSE_POINTS", 50)
    pixels = random_problem(600, 500, device=device, kind=kind)
    coupling = solve(pixels)
    mean_cost = torch.cdist(pixels[0], pixels[2]).square().mean()
    assert_optimal(coupling, mean_cost)
    assert coupling.iterations <= 20


def test_problems_side_by_side_are_solved_alone(device):
    problems = [random_problem(device=device, seed=seed) for seed in range(8)]
    coupling = solve(stack(problems))
    for mass, cost, pixels in zip(coupling.mass, coupling.cost, problems, strict=True):
        alone = solve(pixels)
        assert_close(mass, alone.mass, rtol=0, atol=0)
        assert_close(cost, alone.cost)


def test_unfinished_simplex_is_an_error(device, monkeypatch):
    monkeypatch.setattr(_optimal, "MAX_PIVOTS", 1)
    with pytest.raises(RuntimeError, match="the exact coupling was not found: numItermax reached"):
        solve(random_problem(device=device))


def test_threads_are_left_as_they_were(device):
    before = torch.get_num_threads()
    solve(stack([random_problem(device=device, seed=seed) for seed in range(4)]))
    with ThreadPoolExecutor(1) as pool:
        assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == before
