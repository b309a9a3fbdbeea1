"""One score from tensors: layouts, dtypes, and every input that means nothing."""

import pytest
import torch

import torch_trf
from torch_trf import metrics
from torch_trf.statistics import PixelSample
from torch_trf.transport import JC_GAMMA, ConvergenceError, ConvergenceWarning

from .helpers import METRICS, assert_close, random_images, random_pixels


def otce_from_itself(features, labels, **options):
    """OTCE whose source is the target."""
    return torch_trf.otce(features, labels, features, labels, **options)


def jc_otce_from_itself(features, labels, **options):
    """JC-OTCE whose source is the target."""
    return torch_trf.jc_otce(features, labels, features, labels, **options)


COUPLED = {"otce": otce_from_itself, "jc_otce": jc_otce_from_itself}
SCORES = {name: getattr(torch_trf, name) for name in (*METRICS, "knn")} | COUPLED
every_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())


@pytest.mark.parametrize("name", METRICS)
def test_is_the_metric_of_its_statistic(name, pixels):
    build, metric = METRICS[name]
    assert_close(SCORES[name](*pixels), metric(build(*pixels, num_classes=int(pixels[1].max()) + 1)), rtol=0, atol=0)


@every_score
def test_returns_float64_without_dimensions_or_gradient(score, device):
    features, labels = random_pixels(20, 3, 3, dtype=torch.float32, device=device)
    result = score(features.requires_grad_(), labels)
    assert (result.dtype, result.shape, result.requires_grad) == (torch.float64, (), False)
    assert result.device.type == device.type


@every_score
def test_rows_and_images_are_the_same_pixels(score, device):
    features, labels = random_pixels(24, 3, 3, device=device)
    images = features.reshape(2, 3, 4, 3).permute(0, 3, 1, 2)
    for layout in (images, images.contiguous()):
        assert_close(score(layout, labels.reshape(2, 3, 4)), score(features, labels))


@every_score
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_label_dtypes(score, dtype, device):
    features, labels = random_pixels(24, 3, 3, device=device)
    labels[:2] = 100
    assert_close(score(features, labels.to(dtype), ignore_index=100), score(features[2:], labels[2:]))


@every_score
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_feature_dtypes(score, dtype, device):
    features, labels = random_pixels(24, 3, 3, dtype=dtype, device=device)
    assert_close(score(features, labels), score(features.double(), labels))


@every_score
def test_uint8_ignored_at_255(score, device):
    features, labels = random_pixels(24, 3, 3, device=device)
    labels[:4], features[:4] = 255, torch.nan
    assert_close(score(features, labels.to(torch.uint8)), score(features[4:], labels[4:]))


@every_score
@pytest.mark.parametrize("labels", [[0, 1, 1, 3], [3, 0, 0, 1]])
def test_absent_classes_are_skipped(score, labels, device):
    features = torch.tensor([[0.1, 1.0], [2.0, 0.3], [1.9, 0.1], [0.4, 5.0]], device=device)
    compact = torch.tensor(labels, device=device).unique(return_inverse=True)[1]
    assert_close(score(features, torch.tensor(labels, device=device), num_classes=19), score(features, compact))


def test_published_treatment_of_absent_classes_depends_on_the_largest_label(device):
    features, labels = random_pixels(60, 4, 3, device=device)
    renumbered = torch.tensor([0, 1, 18], device=device)[labels]
    assert_close(torch_trf.logme(features, renumbered), torch_trf.logme(features, labels))
    include = [torch_trf.logme(features, y, absent_classes="include").item() for y in (labels, renumbered)]
    assert include[1] > include[0] + 1


@every_score
def test_no_labeled_pixel_is_an_error(score, device):
    features, labels = torch.ones(3, 2, device=device), torch.full((3,), 250, device=device)
    with pytest.raises(ValueError, match="no labeled pixel: every label is ignore_index=250"):
        score(features, labels, ignore_index=250)


@every_score
def test_no_pixel_is_an_error(score, device):
    features, labels = torch.ones(0, 2, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match=r"features \[0, 2\] and labels \[0\] hold no pixel"):
        score(features, labels)


@every_score
def test_labels_outside_the_classes_are_named_and_counted(score, device):
    features, labels = random_pixels(30, 3, 3, device=device)
    labels[:4], labels[4:6] = -2, 40
    message = r"labels from -2 to 40 on 6 pixels: outside \[0, 3\) and not ignore_index=255"
    with pytest.raises(ValueError, match=message):
        score(features, labels, num_classes=3, **({"num_source_classes": 3} if score in COUPLED.values() else {}))


@every_score
def test_negative_labels_are_an_error_without_num_classes(score, device):
    features, labels = random_pixels(30, 3, 3, device=device)
    labels[7] = -1
    with pytest.raises(ValueError, match="label -1 on 1 pixels"):
        score(features, labels)


@every_score
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_are_counted(score, value, device):
    features, labels = random_pixels(30, 3, 3, device=device)
    features[5, 0] = features[9, 2] = value
    with pytest.raises(ValueError, match="features of 2 labeled pixels are NaN or infinite"):
        score(features, labels)


@every_score
@pytest.mark.parametrize("shape", [(31,), (30, 1), (1, 5, 6)], ids=str)
def test_grids_that_do_not_fit_are_an_error(score, shape, device):
    features, _ = random_pixels(30, 3, 3, device=device)
    with pytest.raises(ValueError, match=r"features \[30, 3\] and labels \["):
        score(features, torch.zeros(shape, dtype=torch.int64, device=device))


@every_score
def test_two_devices_are_an_error(score, device):
    features, labels = random_pixels(30, 3, 3, device=device)
    with pytest.raises(ValueError, match="put them on one device"):
        score(features.to("meta"), labels)


@pytest.mark.usefixtures("annotations_unchecked")
@every_score
@pytest.mark.parametrize(
    ("feature_dtype", "label_dtype", "message"),
    [
        (torch.int64, torch.int64, "features must be floating point"),
        (torch.float32, torch.bool, "labels must be integers"),
    ],
)
def test_other_types_are_an_error(score, feature_dtype, label_dtype, message, device):
    features = torch.ones(3, 2, dtype=feature_dtype, device=device)
    with pytest.raises(ValueError, match=message):
        score(features, torch.ones(3, dtype=label_dtype, device=device))


def test_knn_is_that_of_all_labeled_pixels(device):
    features, labels = random_images(2, 3, 6, 7, ignore_index=250, device=device)
    rows = features.movedim(1, -1)[labels != 250], labels[labels != 250]
    for options in ({}, {"neighbors": 1}):
        sample = PixelSample.from_pixels(*rows, size=1000, num_classes=4)
        assert_close(torch_trf.knn(features, labels, ignore_index=250, **options), metrics.knn(sample[0], **options))


def test_knn_of_a_single_pixel_is_an_error(device):
    features, labels = random_pixels(3, 3, 3, device=device)
    labels[1:] = 255
    with pytest.raises(ValueError, match="knn needs at least 2 labeled pixels, not 1"):
        torch_trf.knn(features, labels)


def test_knn_without_neighbors_is_an_error(device):
    with pytest.raises(ValueError, match="neighbors must be at least 1, not 0"):
        torch_trf.knn(*random_pixels(9, 3, 3, device=device), neighbors=0)


def test_knn_of_features_that_overflow_is_an_error(device):
    features, labels = random_pixels(9, 3, 3, device=device)
    with pytest.raises(ValueError, match="the features are too large for double precision"):
        torch_trf.knn(1e200 * features, labels)


# OTCE and JC-OTCE with two sides


every_coupled = pytest.mark.parametrize("name", COUPLED)


def two_sides(device, count=24, dtype=torch.float64):
    """Source and target: features and labels of each, of a different number of pixels and classes."""
    source = random_pixels(count, 3, 3, device=device, dtype=dtype, seed=1)
    return *source, *random_pixels(count + 8, 3, 4, device=device, dtype=dtype, seed=2)


@every_coupled
def test_coupled_score_is_the_metric_of_the_coupling(name, device):
    pixels = two_sides(device)
    gamma = {"otce": 1.0, "jc_otce": JC_GAMMA}[name]
    result = torch_trf.otce_result(*pixels, gamma=gamma)
    assert result.coupling.mass.shape == (4, 3)
    assert_close(result.score, metrics.otce(result.coupling), rtol=0, atol=0)
    assert_close(getattr(torch_trf, name)(*pixels), result.score, rtol=0, atol=0)
    assert result.score < -0.1


def test_gamma_of_one_is_otce(device):
    pixels = two_sides(device)
    costs = [torch_trf.otce_result(*pixels, gamma=gamma).coupling.cost.item() for gamma in (1.0, JC_GAMMA)]
    assert costs[0] != costs[1]
    assert_close(torch_trf.jc_otce(*pixels, gamma=1.0), torch_trf.otce(*pixels), rtol=0, atol=0)
    assert_close(torch_trf.jc_otce(*pixels), torch_trf.jc_otce(*pixels, gamma=JC_GAMMA), rtol=0, atol=0)


@every_coupled
def test_coupled_images_are_their_labeled_pixels(name, device):
    sides = [random_images(2, 3, 4, 5 + seed, ignore_index=250, device=device, seed=seed) for seed in (0, 1)]
    rows = [(x.movedim(1, -1)[y != 250], y[y != 250]) for x, y in sides]
    score = getattr(torch_trf, name)
    assert_close(score(*sides[0], *sides[1], ignore_index=250), score(*rows[0], *rows[1]))


@every_coupled
def test_more_classes_than_there_are_change_nothing(name, device):
    pixels = two_sides(device)
    score = getattr(torch_trf, name)
    assert_close(score(*pixels, num_classes=9, num_source_classes=7), score(*pixels))


@pytest.mark.parametrize("gamma", [1.0, JC_GAMMA])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_couplings_are_found_in_double_precision(dtype, gamma, device):
    pixels = two_sides(device, dtype=dtype)
    doubled = [tensor.double() if tensor.is_floating_point() else tensor for tensor in pixels]
    found, expected = (torch_trf.otce_result(*each, gamma=gamma).coupling for each in (pixels, doubled))
    assert_close(found.cost, expected.cost)
    assert_close(found.mass, expected.mass)


@every_coupled
def test_coupled_score_passes_options_on(name, device):
    pixels = two_sides(device)
    options = {"solver": "sinkhorn", "epsilon": 1.5, "relative_epsilon": False, "tolerance": 1e-9}
    gamma = {"otce": 1.0, "jc_otce": JC_GAMMA}[name]
    found = torch_trf.otce_result(*pixels, gamma=gamma, **options)
    assert found.coupling.solver == "sinkhorn"
    assert_close(found.coupling.epsilon, 1.5)
    assert found.coupling.marginal_error <= 1e-9
    score = getattr(torch_trf, name)
    assert_close(score(*pixels, **options), found.score, rtol=0, atol=0)
    assert abs(score(*pixels) - found.score) > 1e-3
    hasty = {"solver": "sinkhorn", "max_iterations": 1, "epsilon": 1e-3}
    with pytest.warns(ConvergenceWarning, match="did not converge: after 1 Sinkhorn iterations at epsilon = 0.001"):
        score(*pixels, **hasty)
    with pytest.raises(ConvergenceError, match="did not converge"):
        score(*pixels, strict=True, **hasty)


@every_coupled
@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
def test_coupled_score_takes_features_that_require_gradients(name, solver, device):
    source, source_labels, target, target_labels = two_sides(device)
    pixels = source.requires_grad_(), source_labels, target.requires_grad_(), target_labels
    result = torch_trf.otce_result(*pixels, gamma={"otce": 1.0, "jc_otce": JC_GAMMA}[name], solver=solver)
    assert not any(tensor.requires_grad for tensor in (result.score, *result.coupling.tensors().values()))
    detached = source.detach(), source_labels, target.detach(), target_labels
    assert_close(result.score, getattr(torch_trf, name)(*detached, solver=solver), rtol=0, atol=0)


@every_coupled
def test_coupled_score_counts_faults_of_the_source_too(name, device):
    features, labels = random_pixels(9, 3, 3, device=device)
    bad = labels.clone()
    bad[:2] = 7
    with pytest.raises(ValueError, match=r"label 7 on 2 pixels: outside \[0, 3\)"):
        getattr(torch_trf, name)(features, bad, features, labels, num_source_classes=3)
    with pytest.raises(ValueError, match="no labeled pixel: every label is ignore_index=255"):
        getattr(torch_trf, name)(features, torch.full_like(labels, 255), features, labels)


@pytest.mark.usefixtures("annotations_unchecked")
@every_coupled
def test_coupled_score_of_different_channels_is_an_error(name, device):
    source, target = (random_pixels(9, channels, 3, device=device) for channels in (3, 4))
    with pytest.raises(ValueError, match="source features of 3 channels, target features of 4"):
        getattr(torch_trf, name)(*source, *target)


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_gamma_out_of_range_is_an_error(gamma, device):
    with pytest.raises(ValueError, match=f"gamma must be above 0 and at most 1, not {gamma}"):
        torch_trf.jc_otce(*two_sides(device), gamma=gamma)


@pytest.mark.parametrize("score", COUPLED.values(), ids=COUPLED.keys())
def test_coupled_score_of_itself_is_zero(score, device):
    assert score(*random_pixels(50, 3, 4, device=device)).item() == 0
