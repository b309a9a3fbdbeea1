"""Sinkhorn's iteration: what its result says of the plan, how it is relaxed, and what it does where that diverges."""

from dataclasses import replace

import pytest
import torch

from torch_trf.transport import ConvergenceWarning, _iterations, _kernels

from .. import references
from ..helpers import arrays, assert_close
from .cases import CLASSES, SOURCE_CLASSES, cast, expected, mean_cost, problem_of, random_problem, sinkhorn, solve


@pytest.mark.parametrize("tolerance", [0.3, 0.03, 1e-3, 1e-6])
def test_marginal_error_and_mass_are_those_of_the_plan(tolerance, device):
    pixels = random_problem(device=device)
    problem = problem_of([t[None] for t in pixels])
    problem = replace(problem, source=problem.source / 0.02**0.5, target=problem.target / 0.02**0.5)
    rounded = _iterations.iterate(problem, tolerance, max_iterations=1000, dense=True)
    source, source_labels, target, target_labels, potential = arrays(
        problem.source[0], pixels[1], problem.target[0], pixels[3], rounded.target_potential[0]
    )
    cost = references.transport.ground_cost(source, None, target, None)
    plan = references.transport.plan_of(cost, 1.0, potential)
    coupling = references.transport.rounded(plan)
    mass = references.transport.label_mass(coupling, source_labels, target_labels, CLASSES, SOURCE_CLASSES)
    assert_close(rounded.marginal_error[0], references.transport.marginal_error(plan), atol=1e-13)
    assert rounded.marginal_error <= tolerance
    assert_close(rounded.mass[0], mass)
    assert_close(rounded.cost[0], (coupling * cost).sum())


def test_over_relaxation_takes_fewer_iterations(device, monkeypatch):
    pixels = random_problem(device=device)
    relaxed = solve(pixels, sinkhorn(epsilon=0.002, tolerance=1e-3))
    monkeypatch.setattr(_iterations, "MOST_RELAXED", 1.0)
    plain = solve(pixels, sinkhorn(epsilon=0.002, tolerance=1e-3))
    assert relaxed.converged
    assert 2 * relaxed.iterations < plain.iterations


@pytest.mark.parametrize("omega", [2.0, 2.5, 4.0])
def test_a_relaxation_that_diverges_is_taken_back(omega, device, monkeypatch):
    rates, best = [], _iterations._best_relaxation

    def too_much_at_first(now, rate):
        rates.append(rate.item())
        return torch.full_like(now, omega) if len(rates) < 6 else best(now, rate)

    monkeypatch.setattr(_iterations, "_best_relaxation", too_much_at_first)
    monkeypatch.setattr(_iterations, "MOST_RELAXED", omega)
    coupling = solve(random_problem(device=device), sinkhorn(epsilon=0.005, tolerance=1e-3))
    assert not all(rate**_iterations.CHECKED <= _iterations.WORSE for rate in rates)
    assert coupling.converged


@pytest.mark.parametrize("limit", range(11, 60, 10))
def test_the_best_look_counts_where_the_last_one_diverged(limit, device, monkeypatch):
    errors, look = [], _iterations._look

    def recorded(*arguments):
        state = look(*arguments)
        errors.append(state.error.item())
        return state

    monkeypatch.setattr(_iterations, "_look", recorded)
    monkeypatch.setattr(_iterations, "_best_relaxation", lambda omega, rate: torch.full_like(omega, 4.0))
    monkeypatch.setattr(_iterations, "MOST_RELAXED", 4.0)
    with pytest.warns(ConvergenceWarning):
        coupling = solve(random_problem(device=device), sinkhorn(epsilon=0.005, max_iterations=limit))
    assert_close(coupling.marginal_error, min(error for error in errors if error == error))


def test_rounding_does_not_hold_a_problem_back_that_was_within_the_tolerance(device):
    potential, one = torch.zeros(1, 5, dtype=torch.float64, device=device), torch.ones(1, dtype=torch.float64)
    state = _iterations._State(
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
    assert (_iterations._relax(state, tolerance=1e-3).target_potential == 1).all()


def test_potentials_that_move_far_are_absorbed_on_the_way(device, monkeypatch):
    monkeypatch.setattr(_iterations, "_annealed", lambda problem, dense: torch.zeros_like(problem.target_weight))
    pixels = random_problem(device=device)
    coupling = solve(cast(pixels, torch.float32), sinkhorn(epsilon=0.005, tolerance=1e-5))
    assert_close(coupling.mass, expected(pixels, epsilon=0.005 * mean_cost(pixels))[0], rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(_kernels, "FAR", 0.0)
    again = solve(cast(pixels, torch.float32), sinkhorn(epsilon=0.005, tolerance=1e-5))
    assert_close(again.mass, coupling.mass, rtol=1e-3, atol=1e-5)
