"""A problem's points: their squared distances, in its unit and less its surplus, are the costs."""

import pytest
import torch

from .. import references
from ..helpers import arrays, assert_close
from .cases import every_kind, problem_of, random_label_cost, random_problem


def single(pixels, label_cost=None):
    return problem_of([t[None] for t in pixels], None if label_cost is None else label_cost[None])[0]


def costs(problem):
    return (torch.cdist(problem.source + problem.shift, problem.target).square() - problem.surplus) * problem.unit


@every_kind
@pytest.mark.parametrize("scale", [None, 1e-3, 1.0, 1e3])
def test_every_coupling_pays_the_ground_cost(kind, scale, device):
    pixels = random_problem(device=device, kind=kind)
    label_cost = None if scale is None else random_label_cost(device, scale)
    expected = references.transport.ground_cost(*arrays(*pixels), None if scale is None else label_cost.cpu().numpy())
    extra = costs(single(pixels, label_cost)) - torch.as_tensor(expected, device=device)
    tolerance = 1e-11 * max(expected.mean(), 1e-30)
    assert_close(extra, extra.mean(1, keepdim=True) + extra.mean(0), atol=tolerance)  # parts for single pixels
    assert_close(extra.mean(), 0.0, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1.0, 1e6, 1e100])
def test_unit_is_about_the_mean_cost_of_centered_sides(scale, device):
    source, source_labels, target, target_labels = random_problem(device=device)
    problem = single([scale * source, source_labels, scale * target + scale * 1e5, target_labels])
    assert 1 <= torch.cdist(problem.source, problem.target).square().mean() < 4
    expected = sum(x.var(0, correction=0).sum() for x in (source, target))
    assert expected / 4.5 < problem.unit / scale**2 < 1.1 * expected  # medians for means


def test_places_without_pixel_have_no_weight_and_are_not_read(device):
    source, source_labels, target, target_labels = random_problem(device=device)
    whole = single([source[:20], source_labels[:20], target[5:], target_labels[5:]])
    source[20:], source_labels[20:], target[:5], target_labels[:5] = torch.nan, -1, torch.inf, -7
    problem = single([source, source_labels, target, target_labels])
    assert_close(costs(problem)[:20, 5:], costs(whole))
    for weight, drawn in ((problem.source_weight, 20), (problem.target_weight, 35)):
        assert_close(weight.sort().values, [0.0] * (len(weight) - drawn) + [1 / drawn] * drawn)


def test_where_nothing_costs_anything_the_unit_is_one(device):
    problem = single(random_problem(device=device, kind="all identical"))
    assert problem.unit == 1
    assert not problem.source.any()
    assert not problem.target.any()
