"""Couplings of numbers of very different size: right, or said to be wrong."""

import math
import warnings

import pytest
import torch

from torch_trf.transport import ConvergenceError, ConvergenceWarning, Exact, Sinkhorn, _optimal, couple

from ..helpers import assert_close
from .cases import CLASSES, NUM_CLASSES, random_label_cost, random_problem, shares, sides, solve, stack

every_way = pytest.mark.parametrize("dense_points", [_optimal.DENSE_POINTS, 10], ids=["all pairs", "some pairs"])


def with_channel(pixels, source, target):
    """The problem with one more channel."""

    def wider(features, values):
        return torch.cat([features, torch.as_tensor(values).to(features).expand(len(features))[:, None]], 1)

    return [wider(pixels[0], source), pixels[1], wider(pixels[2], target), pixels[3]]


@every_way
@pytest.mark.parametrize("size", [1e6, 1e8, 1e10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_far_pixel_on_either_side_is_coupled_with_the_other(size, dtype, dense_points, device, monkeypatch):
    monkeypatch.setattr(_optimal, "DENSE_POINTS", dense_points)
    pixels = random_problem(41, 41, device=device, dtype=dtype)
    rest = solve([t[1:] for t in pixels])
    pixels[0][0, 1], pixels[2][0, 1] = size, 1.25 * size
    coupling = solve(pixels)
    expected = 40 / 41 * rest.mass
    expected[pixels[3][0], pixels[1][0]] += 1 / 41
    assert_close(coupling.mass, expected)
    assert_close(coupling.cost, (40 * rest.cost + (pixels[0][0] - pixels[2][0]).double().square().sum()) / 41)
    assert coupling.duality_gap <= 1e-14 * coupling.cost


@every_way
@pytest.mark.parametrize("size", [1e6, 1e10])
def test_a_far_pixel_of_one_side_takes_the_farthest_of_the_other(size, dense_points, device, monkeypatch):
    monkeypatch.setattr(_optimal, "DENSE_POINTS", dense_points)
    pixels = random_problem(41, 41, device=device)
    farthest = pixels[2][:, 1].argmax()
    others = torch.arange(41, device=device) != farthest
    rest = solve([pixels[0][1:], pixels[1][1:], pixels[2][others], pixels[3][others]])
    pixels[0][0, 1] = size
    expected = 40 / 41 * rest.mass
    expected[pixels[3][farthest], pixels[1][0]] += 1 / 41
    assert_close(solve(pixels).mass, expected)


@pytest.mark.parametrize("solver", ["exact", Sinkhorn(epsilon=0.1)])
@pytest.mark.parametrize("value", [-1e9, torch.finfo(torch.float32).min])
def test_a_constant_channel_changes_nothing(solver, value, device):
    pixels = random_problem(device=device)
    coupling, plain = solve(with_channel(pixels, value, value), solver), solve(pixels, solver)
    assert_close(coupling.mass, plain.mass)
    assert_close(coupling.cost, plain.cost)


def test_a_channel_that_is_constant_on_either_side_changes_the_cost_alone(device):
    pixels = random_problem(device=device)
    coupling, plain = solve(with_channel(pixels, -1e9, 0)), solve(pixels)
    assert_close(coupling.mass, plain.mass)
    assert_close(coupling.cost, plain.cost + 1e18)


def test_beside_a_channel_of_large_numbers_the_others_do_not_count(device):
    pixels = random_problem(device=device)
    coupling = solve(with_channel(pixels, 1e8 * pixels[0][:, 0], 1e8 * pixels[2][:, 0]))
    assert_close(coupling.mass, solve([pixels[0][:, :1], pixels[1], pixels[2][:, :1], pixels[3]]).mass)


def far_clusters(device):
    """Half of the pixels of either side so far away that their distances are rounded."""
    pixels = random_problem(40, 40, device=device)
    far = 1e9 * (torch.arange(40, device=device) % 2)
    return with_channel(pixels, far + pixels[0][:, 0], far + pixels[2][:, 0])


@every_way
def test_digits_that_are_lost_are_a_warning_or_an_error(dense_points, device, monkeypatch):
    monkeypatch.setattr(_optimal, "DENSE_POINTS", dense_points)
    message = r"did not converge: double precision does not tell .* channel 3 has values that lie 1e\+09 apart"
    with pytest.warns(ConvergenceWarning, match=message):
        coupling = solve(far_clusters(device))
    assert not coupling.converged
    with pytest.raises(ConvergenceError, match=message):
        solve(far_clusters(device), Exact(strict=True))


def test_of_problems_side_by_side_the_one_whose_digits_are_lost_is_told(device):
    fine = with_channel(random_problem(40, 40, device=device), 0, 0)
    with pytest.warns(ConvergenceWarning, match="1 of 3 couplings did not converge: double precision"):
        coupling = solve(stack([fine, far_clusters(device), fine]))
    assert coupling.converged.tolist() == [True, False, True]


@pytest.mark.parametrize(("pixel", "side"), [(1e8, 0.0), (0.0, 1e8)])
def test_epsilon_that_blurs_all_but_what_lies_far_apart_is_told(pixel, side, device):
    pixels = with_channel(random_problem(device=device), 0, side)
    pixels[0][0, 3] += pixel
    with pytest.warns(
        ConvergenceWarning, match=r"epsilon = 0.005 of the mean cost blurs all but .* channel 3 .* 1e\+08"
    ):
        assert not solve(pixels, "sinkhorn").converged


def confident(gap, dtype, device):
    """Probabilities of pixels of which most are background, as sure as the gap of their scores."""

    def of(seed):
        generator = torch.Generator().manual_seed(seed)
        classes = torch.randint(0, 3, (100,), generator=generator)
        classes[:70] = 0
        scores = torch.randn(100, 3, generator=generator, dtype=dtype)
        return (scores + gap * torch.eye(3, dtype=dtype)[classes]).softmax(1).to(device), classes.to(device)

    return [*of(0), *of(1)]


@pytest.mark.parametrize(("gap", "dtype"), [(15, torch.float32), (20, torch.float64), (40, torch.float32)])
@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
def test_of_saturated_probabilities_the_scores_are_advised(gap, dtype, solver, device):
    with pytest.warns(ConvergenceWarning, match="far closer together than the farthest, 1 apart .* before softmax"):
        assert not solve(confident(gap, dtype, device), solver).converged


def test_a_single_channel_need_not_be_scaled(device):
    pixels = far_clusters(device)
    with pytest.warns(ConvergenceWarning, match=r"farthest, 1e\+09 apart in channel 0"):
        solve([pixels[0][:, 3:], pixels[1], pixels[2][:, 3:], pixels[3]])


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
def test_saturated_probabilities_that_coincide_are_fine(solver, device):
    assert solve(confident(150, torch.float32, device), solver).converged


@pytest.mark.parametrize("num_equal", [0, 30, 39])
def test_epsilon_is_told_however_many_pixels_coincide(num_equal, device):
    pixels = with_channel(random_problem(50, 50, device=device), 0, 0)
    for features in (pixels[0], pixels[2]):
        features[:num_equal] = pixels[0][0].clone()
        features[-1, 3] = 1e8
    with pytest.warns(ConvergenceWarning, match="blurs all but what lies far apart"):
        assert not solve(pixels, "sinkhorn").converged


def test_numbers_whose_squares_leave_double_precision(device):
    pixels = random_problem(device=device)
    plain = solve(pixels)
    scaled = solve([1e-100 * pixels[0], pixels[1], 1e-100 * pixels[2], pixels[3]])
    assert_close(scaled.mass, plain.mass)
    with pytest.raises(ValueError, match="squared distances exceed double precision"):
        solve([3e238 * pixels[0], pixels[1], 3e238 * pixels[2], pixels[3]])
    with pytest.raises(ValueError, match="squared distances vanish in double precision"):
        solve([1e-200 * pixels[0], pixels[1], 1e-200 * pixels[2], pixels[3]])


# Features that repeat


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
@pytest.mark.parametrize("equal", [("target",), ("source",), ("target", "source")])
def test_where_features_are_equal_pixels_are_coupled_with_all_alike(solver, equal, device):
    pixels = random_problem(device=device)
    for side, place in (("source", 0), ("target", 2)):
        if side in equal:
            pixels[place] = torch.full_like(pixels[place], 0.3)
    with pytest.warns(UserWarning, match=f"features of all {' and all '.join(equal)} pixels are equal") as met:
        coupling = solve(pixels, solver)
    assert len(met) == 1
    assert_close(coupling.mass, shares(pixels[3], CLASSES)[:, None] * shares(pixels[1], 3), atol=1e-6)


def test_some_problems_of_equal_features_are_no_warning(device):
    dead = random_problem(device=device)
    dead[0][:], dead[2][:] = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(stack([dead, random_problem(device=device)]))
        couple(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64), source=(torch.zeros(1, 3), torch.tensor([0])))


@every_way
@pytest.mark.parametrize("kind", ["duplicated", "grid"])
def test_order_of_pixels_that_repeat_does_not_matter(kind, dense_points, device, monkeypatch):
    monkeypatch.setattr(_optimal, "DENSE_POINTS", dense_points)
    pixels, label_cost = random_problem(60, 50, device=device, kind=kind), random_label_cost(device)
    for cost in (None, label_cost):
        coupling = solve(pixels, label_cost=cost)
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            source, target = (torch.randperm(count, generator=generator).to(device) for count in (60, 50))
            moved = [pixels[0][source], pixels[1][source], pixels[2][target], pixels[3][target]]
            assert_close(solve(moved, label_cost=cost).mass, coupling.mass)


@pytest.mark.parametrize("solver", ["exact", Sinkhorn(epsilon=0.1)])
def test_default_device_does_not_matter(solver, device):
    pixels = random_problem(device=device)
    expected = couple(**sides(pixels), **NUM_CLASSES, solver=solver)
    try:
        torch.set_default_device("meta")
        coupling = couple(**sides(pixels), **NUM_CLASSES, solver=solver)
    finally:
        torch.set_default_device(None)
    assert_close(coupling.mass, expected.mass, rtol=0, atol=0)
    assert not math.isnan(coupling.cost)
