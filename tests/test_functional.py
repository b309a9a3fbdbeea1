"""One score from tensors: layouts, dtypes, and every input that means nothing."""

import pytest
import torch

import torch_trf

from .helpers import METRICS, assert_close, random_pixels


def otce_from_itself(features, labels, **options):
    """OTCE whose source is the target."""
    return torch_trf.otce(features, labels, features, labels, **options)


SCORES = {name: getattr(torch_trf, name) for name in METRICS} | {"otce": otce_from_itself}
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
def test_no_labelled_pixel_is_an_error(score, device):
    features, labels = torch.ones(3, 2, device=device), torch.full((3,), 250, device=device)
    with pytest.raises(ValueError, match="no labelled pixel: every label is ignore_index=250"):
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
        score(features, labels, num_classes=3, **({"num_source_classes": 3} if score is otce_from_itself else {}))


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
    with pytest.raises(ValueError, match="features of 2 labelled pixels are NaN or infinite"):
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


def test_otce_counts_faults_of_the_source_too(device):
    features, labels = random_pixels(9, 3, 3, device=device)
    bad = labels.clone()
    bad[:2] = 7
    with pytest.raises(ValueError, match=r"label 7 on 2 pixels: outside \[0, 3\)"):
        torch_trf.otce(features, bad, features, labels, num_source_classes=3)


def test_otce_of_different_channels_is_an_error(device):
    source, target = (random_pixels(9, channels, 3, device=device) for channels in (3, 4))
    with pytest.raises(ValueError, match="source features of 3 channels, target features of 4"):
        torch_trf.otce(*source, *target)


def test_otce_of_itself_is_zero(device):
    assert otce_from_itself(*random_pixels(50, 3, 4, device=device)).item() == 0
