"""Metrics that couple two data sets, called on tensors."""

import pytest
import torch

import torch_trf
from torch_trf.metrics import JCOTCE
from torch_trf.transport import JC_GAMMA, ConvergenceError, ConvergenceWarning, Sinkhorn

from ..helpers import assert_close, metrics_that, random_images, random_pixels

every_coupled = metrics_that(lambda metric: metric.needs_source)


def two_sides(device, count=24, dtype=torch.float64):
    """Target, and source as `source=`: features and labels of each, of different numbers of pixels and classes."""
    target = random_pixels(count + 8, 3, 4, device=device, dtype=dtype, seed=2)
    return target, {"source": random_pixels(count, 3, 3, device=device, dtype=dtype, seed=1)}


@every_coupled
def test_is_the_score_of_the_coupling(metric, device):
    target, source = two_sides(device)
    coupling = metric.couple(*target, **source)
    assert coupling.mass.shape == (4, 3)
    assert_close(metric(*target, **source), metric.score(coupling), rtol=0, atol=0)
    assert metric.score(coupling) < -0.1


@every_coupled
def test_couples_the_pixels_as_couple_pixels_does(metric, device):
    target, source = two_sides(device)
    coupling = metric.couple_pixels(*target, **source, num_classes=4, num_source_classes=3)
    tensors = metric.couple(*target, **source).tensors(), coupling.tensors()
    torch.testing.assert_close(*tensors, rtol=0, atol=0)


def test_gamma_of_one_is_otce(device):
    target, source = two_sides(device)
    costs = [JCOTCE(gamma=gamma).couple(*target, **source).cost.item() for gamma in (1.0, JC_GAMMA)]
    assert costs[0] != costs[1]
    assert_close(JCOTCE(gamma=1.0)(*target, **source), torch_trf.otce(*target, **source), rtol=0, atol=0)
    assert torch_trf.jc_otce == JCOTCE(gamma=JC_GAMMA)


@every_coupled
def test_images_are_their_labeled_pixels(metric, device):
    target, source = [random_images(2, 3, 4, 5 + k, ignore_index=250, device=device, seed=1 - k) for k in (1, 0)]
    rows = [(x.movedim(1, -1)[y != 250], y[y != 250]) for x, y in (target, source)]
    assert_close(metric(*target, source=source, ignore_index=250), metric(*rows[0], source=rows[1]))


@every_coupled
def test_more_classes_than_there_are_change_nothing(metric, device):
    target, source = two_sides(device)
    assert_close(metric(*target, **source, num_classes=9, num_source_classes=7), metric(*target, **source))


@every_coupled
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_couplings_are_had_in_double_precision(metric, dtype, device):
    target, source = two_sides(device, dtype=dtype)
    coupling = metric.couple(*target, **source)
    doubled = [(features.double(), labels) for features, labels in (target, source["source"])]
    expected = metric.couple(*doubled[0], source=doubled[1])
    assert_close(coupling.cost, expected.cost)
    assert_close(coupling.mass, expected.mass)


@pytest.mark.slow
@every_coupled
def test_passes_the_solver_on(metric, device):
    target, source = two_sides(device)
    solver = Sinkhorn(epsilon=1.5, relative_epsilon=False, tolerance=1e-9)
    coupling = metric.couple(*target, **source, solver=solver)
    assert coupling.solver == "sinkhorn"
    assert_close(coupling.epsilon, 1.5)
    assert coupling.marginal_error <= 1e-9
    assert_close(metric(*target, **source, solver=solver), metric.score(coupling), rtol=0, atol=0)
    assert abs(metric(*target, **source) - metric.score(coupling)) > 1e-3
    hasty = {"max_iterations": 1, "epsilon": 1e-3}
    with pytest.warns(ConvergenceWarning, match="did not converge: after 1 Sinkhorn iterations at epsilon = 0.001"):
        metric(*target, **source, solver=Sinkhorn(**hasty))
    with pytest.raises(ConvergenceError, match="did not converge"):
        metric(*target, **source, solver=Sinkhorn(**hasty, strict=True))


@pytest.mark.slow
@every_coupled
@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
def test_takes_features_that_require_gradients(metric, solver, device):
    target, source = two_sides(device, count=9)
    detached = metric(*target, **source, solver=solver)
    for features, _ in (target, source["source"]):
        features.requires_grad_()
    coupling = metric.couple(*target, **source, solver=solver)
    assert not any(tensor.requires_grad for tensor in coupling.tensors().values())
    score = metric(*target, **source, solver=solver)
    assert not score.requires_grad
    assert_close(score, detached, rtol=0, atol=0)


@every_coupled
def test_counts_faults_of_the_source_too(metric, device):
    features, labels = random_pixels(9, 3, 3, device=device)
    bad = labels.clone()
    bad[:2] = 7
    with pytest.raises(ValueError, match=r"label 7 on 2 pixels: outside \[0, 3\)"):
        metric(features, labels, source=(features, bad), num_source_classes=3)
    with pytest.raises(ValueError, match="no labeled pixel: every label is ignore_index=255"):
        metric(features, labels, source=(features, torch.full_like(labels, 255)))
    infinite = features.clone()
    infinite[:3, 1] = torch.inf
    with pytest.raises(ValueError, match="features of 3 labeled pixels are NaN or infinite"):
        metric(features, labels, source=(infinite, labels))


@pytest.mark.usefixtures("annotations_unchecked")
@every_coupled
def test_different_channels_are_an_error(metric, device):
    source, target = (random_pixels(9, channels, 3, device=device) for channels in (3, 4))
    with pytest.raises(ValueError, match="source features of 3 channels, target features of 4"):
        metric(*target, source=source)


@every_coupled
def test_a_data_set_coupled_with_itself_scores_zero(metric, device):
    pixels = random_pixels(50, 3, 4, device=device)
    assert metric(*pixels, source=pixels).item() == 0


def test_more_pairs_of_classes_than_fit_are_an_error(device):
    features, labels = random_pixels(20, 3, 3, device=device)
    labels[0] = 65_535
    message = r"65,536 classes \(labels up to 65535\) against 65,536 channels or source classes take 32\.0 GiB"
    with pytest.raises(ValueError, match=message):
        torch_trf.otce(features, labels, source=(features, labels))
