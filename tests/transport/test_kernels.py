"""Sums over the plan of dual potentials, with a matrix of all pairs and without, against the plan itself."""

from dataclasses import replace

import pytest
import torch

from torch_trf.transport import _costs, _kernels
from torch_trf.transport._kernels import ChunkedKernel, DenseKernel, KeopsKernel

from ..helpers import assert_close
from .cases import CHANNELS, CLASSES, problem_of, random_problem

EPSILON = 0.05


@pytest.fixture
def problem(device):
    """A problem in units of epsilon, with places without pixel on either side."""
    pixels = random_problem(device=device)
    pixels[1][3:6], pixels[3][-4:] = -1, -1
    problem = problem_of([t[None] for t in pixels])
    return replace(problem, source=problem.source / EPSILON**0.5, target=problem.target / EPSILON**0.5)


def potentials(problem, size):
    """Random ones of either side, up to `size`."""
    generator = torch.Generator().manual_seed(0)
    sides = (
        torch.rand(w.shape, generator=generator).double().to(w) for w in (problem.source_weight, problem.target_weight)
    )
    return [size * (2 * side - 1) for side in sides]


def plan(problem, source_potential, target_potential):
    """By the definition."""
    costs = (problem.source.unsqueeze(-2) - problem.target.unsqueeze(-3)).square().sum(-1)
    weights = problem.source_weight.unsqueeze(-1) * problem.target_weight.unsqueeze(-2)
    return weights * (source_potential.unsqueeze(-1) + target_potential.unsqueeze(-2) - costs).exp()


def assert_sums_over_the_plan(kernel, problem, source_potential, target_potential, **tolerances):
    source_balanced = kernel.source_potential(target_potential)
    target_balanced = kernel.target_potential(source_potential)
    is_pixel = problem.target_weight > 0
    rows = plan(problem, source_balanced, target_potential).sum(2)
    columns = plan(problem, source_potential, target_balanced).sum(1)
    assert_close(rows, problem.source_weight, **tolerances)
    assert_close(columns[is_pixel], problem.target_weight[is_pixel], **tolerances)
    values = torch.rand(1, len(is_pixel[0]), CHANNELS + CLASSES, dtype=torch.float64, device=is_pixel.device)
    product = kernel.plan_times(source_balanced, target_potential, values)
    assert_close(product, plan(problem, source_balanced, target_potential) @ values, **tolerances)


def test_dense_kernel_sums_over_the_plan(problem):
    kernel = DenseKernel(problem, potentials(problem, 5)[1])
    assert_sums_over_the_plan(kernel, problem, *potentials(problem, 5))


@pytest.mark.parametrize("kernel", [KeopsKernel, ChunkedKernel])
@pytest.mark.parametrize("numbers", [50, 2**20])  # some rows at a time, all rows
def test_online_kernels_sum_over_the_plan(kernel, numbers, problem, monkeypatch):
    monkeypatch.setattr(_costs, "CHUNK_NUMBERS", numbers)
    assert_sums_over_the_plan(kernel(problem), problem, *potentials(problem, 5))


def test_dense_kernel_follows_potentials_that_leave_single_precision(problem):
    source_potential, target_potential = potentials(problem, 5)
    source_potential, target_potential = source_potential - 500, target_potential + 500
    kernel = DenseKernel(replace(problem, precision=torch.float32), torch.zeros_like(target_potential))
    assert not kernel.source_potential(target_potential).isfinite().any()
    kernel.follow(target_potential)
    assert_sums_over_the_plan(kernel, problem, source_potential, target_potential, rtol=1e-4)


def test_absorbing_changes_nothing(problem, monkeypatch):
    source_potential, target_potential = potentials(problem, 5)
    kernel = DenseKernel(problem, torch.zeros_like(target_potential))
    is_pixel, results = problem.target_weight > 0, []
    for far in (_kernels.FAR, 0.0):
        monkeypatch.setattr(_kernels, "FAR", far)
        kernel.follow(target_potential)
        balanced = kernel.target_potential(source_potential)[is_pixel]
        results.append(torch.cat([kernel.source_potential(target_potential).flatten(), balanced]))
    assert_close(*results)
