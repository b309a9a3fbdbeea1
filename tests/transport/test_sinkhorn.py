"""Entropic couplings against Sinkhorn's algorithm as it is written, one logarithm at a time."""

import pytest
import torch

from torch_trf.transport import ConvergenceWarning, _kernels, _sinkhorn
from torch_trf.transport._problem import Problem

from .. import references
from ..helpers import arrays, assert_close
from .cases import (
    CLASSES,
    CLOSE,
    EPSILON,
    NUM_CLASSES,
    SOURCE_CLASSES,
    cast,
    every_kind,
    expected,
    random_label_cost,
    random_problem,
    shares,
    solve,
    stack,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def mean_cost(pixels, label_cost=None):
    labels = [] if label_cost is None else [label_cost]
    return references.transport.ground_cost(*arrays(*pixels, *labels)).mean()


@every_kind
@pytest.mark.parametrize(("source_count", "target_count"), [(1, 1), (1, 7), (7, 1), (24, 24), (30, 40)])
def test_matches_reference(kind, source_count, target_count, device):
    pixels = random_problem(source_count, target_count, device=device, kind=kind)
    found = solve(pixels, "sinkhorn")
    epsilon = EPSILON * (mean_cost(pixels) or 1.0)
    mass, cost = expected(pixels, epsilon=epsilon)
    assert_close(found.mass, mass, **CLOSE)
    assert_close(found.cost, cost, rtol=1e-8, atol=1e-9 * epsilon)
    assert_close(found.epsilon, epsilon)


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_matches_reference_where_labels_cost(epsilon, scale, device):
    pixels, label_cost = random_problem(device=device), random_label_cost(device, scale)
    found = solve(pixels, "sinkhorn", label_cost=label_cost, epsilon=epsilon)
    mass, cost = expected(pixels, label_cost, epsilon * mean_cost(pixels, label_cost))
    assert_close(found.mass, mass, **CLOSE)
    assert_close(found.cost, cost, **CLOSE)


def test_nears_the_exact_coupling_as_epsilon_falls(device):
    pixels = random_problem(device=device)
    exact = solve(pixels)
    found = [solve(pixels, "sinkhorn", epsilon=epsilon, tolerance=1e-4) for epsilon in (0.1, 0.01, 0.001)]
    distance = [(coupling.mass - exact.mass).abs().sum().item() for coupling in found]
    excess = [(coupling.cost - exact.cost).item() for coupling in found]
    assert distance == sorted(distance, reverse=True)
    assert excess == sorted(excess, reverse=True)
    assert distance[-1] < 0.02
    assert excess[-1] < 2e-3 * exact.cost


@pytest.mark.parametrize("tolerance", [0.3, 0.03, 1e-3, 1e-6])
def test_marginal_error_and_mass_are_those_of_the_plan(tolerance, device):
    pixels = random_problem(device=device)
    problem = Problem.of(*(t[None] for t in pixels))
    found = _sinkhorn.sinkhorn_coupling(
        problem,
        pixels[1][None],
        pixels[3][None],
        **NUM_CLASSES,
        epsilon=torch.full_like(problem.unit, 0.02),
        tolerance=tolerance,
        max_iterations=1000,
        dtype=torch.float64,
        progress=False,
    )
    source, source_labels, target, target_labels, potential = arrays(
        problem.source[0], pixels[1], problem.target[0], pixels[3], found.target_potential[0]
    )
    cost = references.transport.ground_cost(source, None, target, None)
    plan = references.transport.plan_of(cost, 0.02, potential)
    coupling = references.transport.rounded(plan)
    mass = references.transport.label_mass(coupling, source_labels, target_labels, CLASSES, SOURCE_CLASSES)
    assert_close(found.marginal_error[0], references.transport.marginal_error(plan), atol=1e-13)
    assert found.marginal_error <= tolerance
    assert_close(found.mass[0], mass)
    assert_close(found.cost[0], (coupling * cost).sum())


@pytest.mark.parametrize("dtype", DTYPES)
def test_precision_of_the_features(dtype, device):
    pixels = random_problem(device=device, dtype=dtype)
    double = solve(cast(pixels, torch.float64), "sinkhorn", tolerance=1e-5)
    found = solve(pixels, "sinkhorn", tolerance=1e-5)
    assert_close(found.mass, double.mass, rtol=1e-4, atol=1e-5)
    assert_close(found.cost, double.cost, rtol=1e-5)
    margin = 1e-12 if dtype == torch.float64 else 1e-6
    assert_close(found.mass.sum(0), shares(pixels[1], SOURCE_CLASSES), rtol=0, atol=margin)
    assert_close(found.mass.sum(1), shares(pixels[3], CLASSES), rtol=0, atol=margin)


def test_without_a_matrix(device, monkeypatch):
    pixels = [
        torch.stack(sides) for sides in zip(*(random_problem(device=device, seed=s) for s in (0, 7)), strict=True)
    ]
    pixels[1][0, :5], pixels[3][1, 3:10] = -1, -1
    dense = solve(pixels, "sinkhorn")
    monkeypatch.setattr(_sinkhorn, "DENSE_PAIRS", {"cpu": 0, "cuda": 0})
    online = solve(pixels, "sinkhorn")
    assert_close(online.mass, dense.mass, **CLOSE)
    assert_close(online.cost, dense.cost, **CLOSE)


def test_memory_does_not_change_the_result(device, monkeypatch):
    together = stack([random_problem(device=device, seed=seed) for seed in range(3)])
    found = solve(together, "sinkhorn")
    monkeypatch.setattr(_sinkhorn, "DENSE_PAIRS", dict.fromkeys(("cpu", "cuda"), 2 * 30 * 40))
    assert_close(solve(together, "sinkhorn").mass, found.mass, **CLOSE)


def test_over_relaxation_takes_fewer_iterations(device, monkeypatch):
    pixels = random_problem(device=device)
    relaxed = solve(pixels, "sinkhorn", epsilon=0.002, tolerance=1e-3)
    monkeypatch.setattr(_sinkhorn, "MOST_RELAXED", 1.0)
    plain = solve(pixels, "sinkhorn", epsilon=0.002, tolerance=1e-3)
    assert relaxed.converged
    assert 2 * relaxed.iterations < plain.iterations


@pytest.mark.parametrize("omega", [2.0, 2.5, 4.0])
def test_a_relaxation_that_diverges_is_taken_back(omega, device, monkeypatch):
    rates, best = [], _sinkhorn._best_relaxation

    def too_much_at_first(now, rate):
        rates.append(rate.item())
        return torch.full_like(now, omega) if len(rates) < 6 else best(now, rate)

    monkeypatch.setattr(_sinkhorn, "_best_relaxation", too_much_at_first)
    monkeypatch.setattr(_sinkhorn, "MOST_RELAXED", omega)
    found = solve(random_problem(device=device), "sinkhorn", epsilon=0.005, tolerance=1e-3)
    assert not all(rate**_sinkhorn.CHECKED <= _sinkhorn.WORSE for rate in rates)
    assert found.converged


@pytest.mark.parametrize("limit", range(11, 60, 10))
def test_the_best_look_counts_where_the_last_one_diverged(limit, device, monkeypatch):
    errors, look = [], _sinkhorn._look

    def recorded(*arguments):
        state = look(*arguments)
        errors.append(state.error.item())
        return state

    monkeypatch.setattr(_sinkhorn, "_look", recorded)
    monkeypatch.setattr(_sinkhorn, "_best_relaxation", lambda omega, rate: torch.full_like(omega, 4.0))
    monkeypatch.setattr(_sinkhorn, "MOST_RELAXED", 4.0)
    with pytest.warns(ConvergenceWarning):
        found = solve(random_problem(device=device), "sinkhorn", epsilon=0.005, max_iterations=limit)
    assert_close(found.marginal_error, min(error for error in errors if error == error))


def test_rounding_does_not_hold_a_problem_back_that_was_within_the_tolerance(device):
    potential, one = torch.zeros(1, 5, dtype=torch.float64, device=device), torch.ones(1, dtype=torch.float64)
    state = _sinkhorn._State(
        index=torch.arange(1),
        source_potential=potential,
        target_potential=potential,
        balanced=potential + 1,
        error=1.00001e-3 * one,
        iterations=torch.arange(1),
        omega=0 * one,
        most=1.5 * one,
        best_potential=potential,
        best_error=1e-3 * one,
    )
    assert (_sinkhorn._relax(state, tolerance=1e-3).target_potential == 1).all()


def test_potentials_that_move_far_are_absorbed_on_the_way(device, monkeypatch):
    monkeypatch.setattr(_sinkhorn, "_annealed", lambda problem, dtype, dense: torch.zeros_like(problem.target_weight))
    pixels = random_problem(device=device)
    found = solve(cast(pixels, torch.float32), "sinkhorn", epsilon=0.005, tolerance=1e-5)
    assert_close(found.mass, expected(pixels, epsilon=0.005 * mean_cost(pixels))[0], rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(_kernels, "FAR", 0.0)
    again = solve(cast(pixels, torch.float32), "sinkhorn", epsilon=0.005, tolerance=1e-5)
    assert_close(again.mass, found.mass, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_precision_that_the_caller_allows_changes_nothing(precision, device):
    pixels = random_problem(device=device, dtype=torch.float32)
    before, expected_mass = torch.get_float32_matmul_precision(), solve(pixels, "sinkhorn", tolerance=1e-5).mass
    torch.set_float32_matmul_precision(precision)
    try:
        found = solve(pixels, "sinkhorn", tolerance=1e-5)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert_close(found.mass, expected_mass, rtol=0, atol=0)


def test_precision_that_the_caller_sets_for_one_backend_is_no_error(device):
    pixels = random_problem(device=device, dtype=torch.float32)
    expected_mass = solve(pixels, "sinkhorn", tolerance=1e-5).mass
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        found = solve(pixels, "sinkhorn", tolerance=1e-5)
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
    assert_close(found.mass, expected_mass, rtol=0, atol=0)
