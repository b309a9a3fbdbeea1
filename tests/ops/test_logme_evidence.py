"""LogME's fixed point: against the reference, and against the regression solved directly."""

import numpy as np
import pytest
import torch

from torch_trf._ops import logme_evidence
from torch_trf._ops._logme_evidence import logme_evidence_reference

from ..helpers import assert_close, assert_same_bits, random_pixels
from ..references.logme import evidence

CONSTANTS = {"epsilon": 1e-5, "tolerance": 1e-3, "max_iterations": 100}
PROBLEMS = {
    "many pixels": {"count": 300, "channels": 6, "classes": 3},
    "few pixels": {"count": 5, "channels": 12, "classes": 3},
    "one pixel": {"count": 1, "channels": 4, "classes": 1},
    "as many pixels as channels": {"count": 8, "channels": 8, "classes": 2},
    "one channel": {"count": 40, "channels": 1, "classes": 4},
    "many channels": {"count": 400, "channels": 80, "classes": 5},
    "rare classes": {"count": 400, "channels": 5, "classes": 7, "skew": 2.0},
}


def regressions(features, labels, classes):
    """What the op takes, from the singular values of the features."""
    one_hot = torch.nn.functional.one_hot(labels, classes).double()
    left, singular, _ = torch.linalg.svd(features, full_matrices=False)
    missing = features.shape[1] - len(singular)
    sigma = torch.nn.functional.pad(singular.square(), (0, missing))
    projected = torch.nn.functional.pad((one_hot.T @ left).square(), (0, missing)).where(sigma > 0, 0)
    outside = (one_hot.sum(0) - projected.sum(-1)).clamp(min=0)
    count = torch.tensor(len(labels), dtype=torch.float64, device=labels.device)
    return sigma, projected, outside, count, one_hot.any(0)


def random_problem(device, *, scale=1.0, **size):
    features, labels = random_pixels(**size, device=device)
    return regressions(scale * features, labels, size["classes"])


def assert_matches(*problem, **constants):
    constants = CONSTANTS | constants
    expected = logme_evidence_reference(*problem, *constants.values())
    assert_close(logme_evidence(*problem, **constants), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-8, 1e8])
@pytest.mark.parametrize("size", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_matches_reference(size, scale, device):
    assert_matches(*random_problem(device, scale=scale, **size))


@pytest.mark.parametrize("size", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_matches_the_regression_itself(size, device):
    features, labels = random_pixels(**size, device=device)
    actual = logme_evidence(*regressions(features, labels, size["classes"]), **CONSTANTS)
    x, y = features.cpu().numpy(), labels.cpu().numpy()
    for k in np.unique(y):  # LU factors of A are good to about 1e-9 here
        assert_close(actual[k], evidence(x, (y == k).astype(float)) / len(y), rtol=1e-7)


@pytest.mark.parametrize("max_iterations", [1, 2, 100])
def test_iterations_and_constants(max_iterations, device):
    problem = random_problem(device, count=50, channels=6, classes=3)
    assert_matches(*problem, max_iterations=max_iterations, tolerance=1e-9, epsilon=1e-3)


def test_what_is_not_included_is_zero(device):
    sigma, projected, outside, count, included = random_problem(device, count=50, channels=6, classes=3)
    every_class = logme_evidence(sigma, projected, outside, count, torch.ones_like(included), **CONSTANTS)
    some = logme_evidence(sigma, projected, outside, count, torch.arange(3, device=device) == 1, **CONSTANTS)
    assert some[1] == every_class[1]
    assert some[[0, 2]].tolist() == [0, 0]


def test_an_absent_class_may_be_included(device):
    features, labels = random_pixels(50, 6, 3, device=device)
    sigma, projected, outside, count, _ = regressions(features, labels, 5)
    included = torch.ones(5, dtype=torch.bool, device=device)
    assert_matches(sigma, projected, outside, count, included)
    actual = logme_evidence(sigma, projected, outside, count, included, **CONSTANTS)
    assert actual[3] == actual[4] > actual[:3].max()


def test_no_pixel_is_nan(device):
    zeros = torch.zeros(2, 3, dtype=torch.float64, device=device)
    count = torch.zeros((), dtype=torch.float64, device=device)
    included = torch.tensor([True, False], device=device)
    actual = logme_evidence(zeros[0], zeros, zeros[:, 0], count, included, **CONSTANTS)
    assert actual[0].isnan()
    assert actual[1] == 0


@pytest.mark.parametrize("batch", [(), (2,), (1, 2), (3, 2), (0,)])
def test_leading_dimensions_are_independent(batch, device):
    number = torch.Size(batch).numel()
    problems = [random_problem(device, count=30 + 9 * i, channels=6, classes=3, seed=i) for i in range(number or 1)]
    problem = [torch.stack(part)[:number].reshape((*batch, *part[0].shape)) for part in zip(*problems, strict=True)]
    actual = logme_evidence(*problem, **CONSTANTS)
    assert actual.shape == (*batch, 3)
    for row, alone in zip(actual.reshape(-1, 3), problems, strict=False):
        assert torch.equal(row, logme_evidence(*alone, **CONSTANTS))


@pytest.mark.usefixtures("kernel")
def test_same_bits_on_any_number_of_threads(device):
    problems = [random_problem(device, count=60, channels=9, classes=8, seed=i) for i in range(40)]
    problem = [torch.stack(part) for part in zip(*problems, strict=True)]
    assert_same_bits(lambda: logme_evidence(*problem, **CONSTANTS))
