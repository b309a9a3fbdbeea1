"""Couplings whose ground cost holds label distances, and these distances, against loops over classes and pixels."""

import math

import pytest
import torch

from torch_trf.transport import Auto, Sinkhorn, _auto, couple, couple_jointly, label_distances

from .. import references
from ..helpers import arrays, assert_close
from .cases import CLASSES, NUM_CLASSES, SOURCE_CLASSES, every_solver, expected, random_problem, sides, stack

every_function = pytest.mark.parametrize("function", [couple, couple_jointly, label_distances])


def distances(pixels):
    return references.transport.label_distances(*arrays(*pixels), CLASSES, SOURCE_CLASSES)


@pytest.mark.parametrize(("source_count", "target_count"), [(1, 1), (3, 20), (20, 24)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_distances_match_assignment_class_by_class(source_count, target_count, scale, device):
    pixels = random_problem(source_count, target_count, device=device)
    pixels[0], pixels[2] = scale * pixels[0], scale * pixels[2]
    assert_close(label_distances(**sides(pixels), **NUM_CLASSES), distances(pixels), atol=1e-10 * scale**2)


def test_distances_of_one_data_set_from_itself(device):
    features, labels, *_ = random_problem(device=device)
    distance = label_distances(features, labels, source=(features, labels), num_classes=3, num_source_classes=3)
    assert_close(distance.diagonal(), torch.zeros(3))
    assert_close(distance, distance.T)
    assert (distance.fill_diagonal_(1) > 0).all()


@every_solver
def test_a_class_without_pixels_is_no_distance_away(solver, device):
    pixels = random_problem(device=device)
    pixels[0][pixels[1] == 1], pixels[1][pixels[1] == 1] = math.nan, -1
    pixels[2][pixels[3] == 2], pixels[3][pixels[3] == 2] = math.nan, -1
    distance = label_distances(**sides(pixels), **NUM_CLASSES, solver=solver)
    assert torch.equal(distance == 0, (torch.arange(4) == 2).unsqueeze(-1).logical_or(torch.arange(3) == 1).to(device))


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5, 0.01])
def test_ground_cost_is_shared_between_features_and_labels(gamma, device):
    pixels = random_problem(20, 24, device=device)
    scaled = [gamma**0.5 * pixels[0], pixels[1], gamma**0.5 * pixels[2], pixels[3]]
    mass, cost = expected(scaled, torch.as_tensor((1 - gamma) * distances(pixels)))
    coupling = couple_jointly(**sides(pixels), **NUM_CLASSES, gamma=gamma)
    assert_close(coupling.mass, mass)
    assert_close(coupling.cost, cost)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_leading_dimensions_are_independent_and_the_source_is_shared(gamma, batch, device):
    source, targets = tuple(random_problem(device=device)[:2]), []
    for seed in range(math.prod(batch)):
        targets.append(random_problem(device=device, seed=seed)[2:])
        targets[-1][1][: 5 * seed] = -1
    stacked = stack(targets)
    options = {"gamma": gamma, **NUM_CLASSES}
    coupling = couple_jointly(*(t.reshape((*batch, *t.shape[1:])) for t in stacked), source=source, **options)
    assert coupling.cost.shape == batch
    for mass, target in zip(coupling.mass.reshape(-1, CLASSES, SOURCE_CLASSES), targets, strict=True):
        assert_close(mass, couple_jointly(*target, source=source, **options).mass)


def test_the_solver_is_that_of_both_couplings(device):
    pixels = random_problem(device=device)
    solver = Sinkhorn(epsilon=1e3, relative_epsilon=False)
    coupling = couple_jointly(**sides(pixels), **NUM_CLASSES, gamma=0.5, solver=solver)
    assert coupling.solver == "sinkhorn"
    assert_close(coupling.epsilon, 1e3)
    mean_cost = torch.cdist(pixels[0], pixels[2]).square().mean()  # so much entropy couples all with all
    assert_close(coupling.cost, mean_cost, rtol=0.05)


@pytest.mark.slow
def test_absolute_epsilon_has_a_default(device):
    pixels = random_problem(device=device)
    solver = Sinkhorn(relative_epsilon=False)
    coupling = couple_jointly(**sides(pixels), **NUM_CLASSES, gamma=0.5, solver=solver)
    assert_close(coupling.epsilon, solver.epsilon)


@every_function
def test_more_leading_dimensions_of_the_source_are_an_error(function, device):
    source, target = stack([random_problem(device=device)] * 5), stack([random_problem(device=device)] * 4)
    with pytest.raises(ValueError, match=r"leading dimensions \[5\] of the source do not broadcast to .* \[4\]"):
        function(*target[2:], source=tuple(source[:2]), **NUM_CLASSES)


def test_absolute_epsilon_that_is_left_to_auto(device, monkeypatch):
    monkeypatch.setattr(_auto, "EXACT_PIXELS", 0)
    pixels, solver = random_problem(device=device), Sinkhorn(epsilon=2.0, relative_epsilon=False)
    left, given = (
        couple_jointly(**sides(pixels), **NUM_CLASSES, gamma=0.5, solver=each)
        for each in (Auto(sinkhorn=solver), solver)
    )
    assert_close(left.epsilon, 2.0)
    assert_close(left.mass, given.mass, rtol=0, atol=0)


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.01, math.nan])
def test_gamma_out_of_range_is_an_error(gamma, device):
    with pytest.raises(ValueError, match=f"gamma must be above 0 and at most 1, not {gamma}"):
        couple_jointly(**sides(random_problem(device=device)), **NUM_CLASSES, gamma=gamma)


@pytest.mark.usefixtures("annotations_unchecked")
@every_function
@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (1, lambda y: y + 7, r"source label 9 is outside \[0, 3\)"),
        (3, lambda y: y + 7, r"target label 10 is outside \[0, 4\)"),
        (2, lambda x: x[:, :2], "source features of 3 channels, target features of 2"),
        (3, lambda y: y[1:], r"target features \[.*40, 3\] and labels \[.*39\]"),
        (0, lambda x: x / 0, "source features of 30 labeled pixels are NaN or infinite"),
    ],
)
def test_bad_pixels_are_errors(function, index, change, message, device):
    pixels = random_problem(device=device)
    pixels[index] = change(pixels[index])
    with pytest.raises(ValueError, match=message):
        function(**sides(pixels), **NUM_CLASSES)


@every_function
def test_a_source_that_is_shared_by_all_problems(function, device):
    source, *target = tuple(random_problem(device=device)[:2]), *stack([random_problem(device=device)] * 3)[2:]
    shared = function(*target, source=source, **NUM_CLASSES)
    repeated = function(*target, source=tuple(torch.stack([t] * 3) for t in source), **NUM_CLASSES)
    if function is label_distances:
        assert torch.equal(shared, repeated)
    else:
        assert_close(shared.mass, repeated.mass, rtol=0, atol=0)
        assert_close(shared.cost, repeated.cost, rtol=0, atol=0)


@pytest.mark.usefixtures("annotations_unchecked")
@every_function
@pytest.mark.parametrize("argument", ["epsilon", "solvr", "target_labels"])
def test_a_misspelt_argument_is_an_error_of_the_function_that_was_called(function, argument, device):
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\).*'{argument}'"):
        function(**sides(random_problem(device=device)), **NUM_CLASSES, **{argument: 1})
