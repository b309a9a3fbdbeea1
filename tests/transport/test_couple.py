"""Couplings whose ground cost holds label distances, and these distances, against loops over classes and pixels."""

import math

import pytest
import torch

from torch_trf.transport import SolverOptions, couple, label_distances

from .. import references
from ..helpers import arrays, assert_close
from .cases import CLASSES, NUM_CLASSES, OPTIONS, SOURCE_CLASSES, every_solver, expected, random_problem, stack


def distances(pixels):
    return references.transport.label_distances(*arrays(*pixels), CLASSES, SOURCE_CLASSES)


@pytest.mark.parametrize(("source_count", "target_count"), [(1, 1), (3, 20), (20, 24)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_distances_match_assignment_class_by_class(source_count, target_count, scale, device):
    pixels = random_problem(source_count, target_count, device=device)
    pixels[0], pixels[2] = scale * pixels[0], scale * pixels[2]
    assert_close(label_distances(*pixels, **NUM_CLASSES), distances(pixels), atol=1e-10 * scale**2)


def test_distances_of_one_data_set_from_itself(device):
    features, labels, *_ = random_problem(device=device)
    found = label_distances(features, labels, features, labels, num_classes=3, num_source_classes=3)
    assert_close(found.diagonal(), torch.zeros(3))
    assert_close(found, found.T)
    assert (found.fill_diagonal_(1) > 0).all()


@every_solver
def test_a_class_without_pixels_is_no_distance_away(solver, device):
    pixels = random_problem(device=device)
    pixels[0][pixels[1] == 1], pixels[1][pixels[1] == 1] = math.nan, -1
    pixels[2][pixels[3] == 2], pixels[3][pixels[3] == 2] = math.nan, -1
    found = label_distances(*pixels, **NUM_CLASSES | OPTIONS[solver])
    assert torch.equal(found == 0, (torch.arange(4) == 2).unsqueeze(-1).logical_or(torch.arange(3) == 1).to(device))


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5, 0.01])
def test_ground_cost_is_shared_between_features_and_labels(gamma, device):
    pixels = random_problem(20, 24, device=device)
    scaled = [gamma**0.5 * pixels[0], pixels[1], gamma**0.5 * pixels[2], pixels[3]]
    mass, cost = expected(scaled, torch.as_tensor((1 - gamma) * distances(pixels)))
    found = couple(*pixels, **NUM_CLASSES, gamma=gamma)
    assert_close(found.mass, mass)
    assert_close(found.cost, cost)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_leading_dimensions_are_independent_and_the_source_is_shared(gamma, batch, device):
    source, targets = random_problem(device=device)[:2], []
    for seed in range(math.prod(batch)):
        targets.append(random_problem(device=device, seed=seed)[2:])
        targets[-1][1][: 5 * seed] = -1
    stacked = stack(targets)
    options = {"gamma": gamma, **NUM_CLASSES}
    found = couple(*source, *(t.reshape((*batch, *t.shape[1:])) for t in stacked), **options)
    assert found.cost.shape == batch
    for mass, target in zip(found.mass.reshape(-1, CLASSES, SOURCE_CLASSES), targets, strict=True):
        assert_close(mass, couple(*source, *target, **options).mass)


def test_solver_options_hold_for_both_couplings(device):
    pixels = random_problem(device=device)
    found = couple(*pixels, **NUM_CLASSES, gamma=0.5, solver="sinkhorn", epsilon=1e3, relative_epsilon=False)
    assert found.solver == "sinkhorn"
    assert_close(found.epsilon, 1e3)
    mean_cost = torch.cdist(pixels[0], pixels[2]).square().mean()  # so much entropy couples all with all
    assert_close(found.cost, mean_cost, rtol=0.05)


def test_absolute_epsilon_has_a_default(device):
    pixels = random_problem(device=device)
    found = couple(*pixels, **NUM_CLASSES, gamma=0.5, solver="sinkhorn", relative_epsilon=False)
    assert_close(found.epsilon, SolverOptions().epsilon)


def test_more_leading_dimensions_of_the_source_are_an_error(device):
    source, target = stack([random_problem(device=device)] * 5), stack([random_problem(device=device)] * 4)
    with pytest.raises(ValueError, match=r"leading dimensions \[5\] of the source do not broadcast to .* \[4\]"):
        couple(*source[:2], *target[2:], **NUM_CLASSES)


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.01, math.nan])
def test_gamma_out_of_range_is_an_error(gamma, device):
    with pytest.raises(ValueError, match=f"gamma must be above 0 and at most 1, not {gamma}"):
        couple(*random_problem(device=device), **NUM_CLASSES, gamma=gamma)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("function", [couple, label_distances])
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
        function(*pixels, **NUM_CLASSES)
