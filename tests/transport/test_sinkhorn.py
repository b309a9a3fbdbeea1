"""Entropic couplings against Sinkhorn's algorithm as it is written, one logarithm at a time."""

import pytest
import torch

from torch_trf.transport import _iterations, _sinkhorn

from ..helpers import assert_close
from .cases import (
    CLASSES,
    CLOSE,
    EPSILON,
    SOURCE_CLASSES,
    cast,
    every_kind,
    expected,
    mean_cost,
    random_label_cost,
    random_problem,
    shares,
    sinkhorn,
    solve,
    stack,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@every_kind
@pytest.mark.parametrize(("source_count", "target_count"), [(1, 1), (1, 7), (7, 1), (24, 24), (30, 40)])
def test_matches_reference(kind, source_count, target_count, device):
    pixels = random_problem(source_count, target_count, device=device, kind=kind)
    coupling = solve(pixels, sinkhorn())
    epsilon = EPSILON * (mean_cost(pixels) or 1.0)
    mass, cost = expected(pixels, epsilon=epsilon)
    assert_close(coupling.mass, mass, **CLOSE)
    assert_close(coupling.cost, cost, rtol=1e-8, atol=1e-9 * epsilon)
    assert_close(coupling.epsilon, epsilon)


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_matches_reference_where_labels_cost(epsilon, scale, device):
    pixels, label_cost = random_problem(device=device), random_label_cost(device, scale)
    coupling = solve(pixels, sinkhorn(epsilon=epsilon), label_cost=label_cost)
    mass, cost = expected(pixels, label_cost, epsilon * mean_cost(pixels, label_cost))
    assert_close(coupling.mass, mass, **CLOSE)
    assert_close(coupling.cost, cost, **CLOSE)


def test_nears_the_exact_coupling_as_epsilon_falls(device):
    pixels = random_problem(device=device)
    exact = solve(pixels)
    couplings = [solve(pixels, sinkhorn(epsilon=epsilon, tolerance=1e-4)) for epsilon in (0.1, 0.01, 0.001)]
    distance = [(coupling.mass - exact.mass).abs().sum().item() for coupling in couplings]
    excess = [(coupling.cost - exact.cost).item() for coupling in couplings]
    assert distance == sorted(distance, reverse=True)
    assert excess == sorted(excess, reverse=True)
    assert distance[-1] < 0.02
    assert excess[-1] < 2e-3 * exact.cost


@pytest.mark.parametrize("dtype", DTYPES)
def test_precision_of_the_features(dtype, device):
    pixels = random_problem(device=device, dtype=dtype)
    double = solve(cast(pixels, torch.float64), sinkhorn(tolerance=1e-5))
    coupling = solve(pixels, sinkhorn(tolerance=1e-5))
    assert_close(coupling.mass, double.mass, rtol=1e-4, atol=1e-5)
    assert_close(coupling.cost, double.cost, rtol=1e-5)
    margin = 1e-12 if dtype == torch.float64 else 1e-6
    assert_close(coupling.mass.sum(0), shares(pixels[1], SOURCE_CLASSES), rtol=0, atol=margin)
    assert_close(coupling.mass.sum(1), shares(pixels[3], CLASSES), rtol=0, atol=margin)


def test_without_a_matrix(device, monkeypatch):
    pixels = [
        torch.stack(sides) for sides in zip(*(random_problem(device=device, seed=s) for s in (0, 7)), strict=True)
    ]
    pixels[1][0, :5], pixels[3][1, 3:10] = -1, -1
    dense = solve(pixels, sinkhorn())
    monkeypatch.setattr(_sinkhorn, "DENSE_PAIRS", {"cpu": 0, "cuda": 0})
    online = solve(pixels, sinkhorn())
    assert_close(online.mass, dense.mass, **CLOSE)
    assert_close(online.cost, dense.cost, **CLOSE)


def test_where_keops_does_not_run_pytorch_does_and_says_so_once(device, monkeypatch):
    def without_compiler(*_):
        raise OSError("no compiler in /bin")

    pixels = stack([random_problem(device=device, seed=seed) for seed in (0, 7)])
    dense = solve(pixels, sinkhorn())
    monkeypatch.setattr(_sinkhorn, "DENSE_PAIRS", {"cpu": 0, "cuda": 0})
    monkeypatch.setattr(_iterations, "KeopsKernel", without_compiler)
    monkeypatch.setattr(_iterations, "FEW", 10)
    _iterations.keops_runs.cache_clear()
    try:
        with pytest.warns(
            UserWarning, match="KeOps does not run here .*no compiler in /bin.* chunks of plain PyTorch"
        ) as met:
            chunks = solve(pixels, sinkhorn())
        assert len(met) == 1
    finally:
        _iterations.keops_runs.cache_clear()
    assert_close(chunks.mass, dense.mass, **CLOSE)
    assert_close(chunks.cost, dense.cost, **CLOSE)


def test_memory_does_not_change_the_result(device, monkeypatch):
    together = stack([random_problem(device=device, seed=seed) for seed in range(3)])
    coupling = solve(together, sinkhorn())
    monkeypatch.setattr(_sinkhorn, "DENSE_PAIRS", dict.fromkeys(("cpu", "cuda"), 2 * 30 * 40))
    assert_close(solve(together, sinkhorn()).mass, coupling.mass, **CLOSE)


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_precision_that_the_caller_allows_changes_nothing(precision, device):
    pixels = random_problem(device=device, dtype=torch.float32)
    before, expected_mass = torch.get_float32_matmul_precision(), solve(pixels, sinkhorn(tolerance=1e-5)).mass
    torch.set_float32_matmul_precision(precision)
    try:
        coupling = solve(pixels, sinkhorn(tolerance=1e-5))
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert_close(coupling.mass, expected_mass, rtol=0, atol=0)


def test_precision_that_the_caller_sets_for_one_backend_is_no_error(device):
    pixels = random_problem(device=device, dtype=torch.float32)
    expected_mass = solve(pixels, sinkhorn(tolerance=1e-5)).mass
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        coupling = solve(pixels, sinkhorn(tolerance=1e-5))
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
    assert_close(coupling.mass, expected_mass, rtol=0, atol=0)
