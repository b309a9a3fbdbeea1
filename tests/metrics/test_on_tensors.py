"""Metrics called on tensors: layouts, dtypes, and every input that means nothing."""

from dataclasses import replace

import pytest
import torch

import torch_trf
from torch_trf.metrics import KNN, METRICS, LogME

from ..helpers import assert_close, every_metric, last_look, metrics_that, random_images, random_pixels


def score(metric, features, labels, **options):
    """The score of tensors; the source of a metric that needs one is the target."""
    return metric(features, labels, **options, **({"source": (features, labels)} if metric.needs_source else {}))


@metrics_that(lambda metric: not metric.needs_source)
def test_is_the_metric_of_what_it_looks_at(metric, pixels):
    statistic = last_look(metric, *pixels, num_classes=int(pixels[1].max()) + 1)
    assert_close(metric(*pixels), metric.score(statistic), rtol=0, atol=0)


@every_metric
def test_is_in_the_package_by_name(metric):
    assert getattr(torch_trf, metric.name) is metric is METRICS[metric.name]


@metrics_that(lambda metric: hasattr(metric, "softmax"))
def test_softmax_is_taken_over_channels_in_double_precision(metric, device):
    features, labels = random_pixels(40, 4, 3, dtype=torch.float32, device=device)
    softened = score(replace(metric, softmax=True), 3 * features, labels)
    assert_close(softened, score(metric, (3 * features).double().softmax(1), labels))


@every_metric
def test_returns_float64_without_dimensions_or_gradient(metric, device):
    features, labels = random_pixels(20, 3, 3, dtype=torch.float32, device=device)
    result = score(metric, features.requires_grad_(), labels)
    assert (result.dtype, result.shape, result.requires_grad) == (torch.float64, (), False)
    assert result.device.type == device.type


@every_metric
def test_rows_and_images_are_the_same_pixels(metric, device):
    features, labels = random_pixels(24, 3, 3, device=device)
    images = features.reshape(2, 3, 4, 3).permute(0, 3, 1, 2)
    for layout in (images, images.contiguous()):
        assert_close(score(metric, layout, labels.reshape(2, 3, 4)), score(metric, features, labels))


@every_metric
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_label_dtypes(metric, dtype, device):
    features, labels = random_pixels(24, 3, 3, device=device)
    labels[:2] = 100
    assert_close(score(metric, features, labels.to(dtype), ignore_index=100), score(metric, features[2:], labels[2:]))


@every_metric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_feature_dtypes(metric, dtype, device):
    features, labels = random_pixels(24, 3, 3, dtype=dtype, device=device)
    assert_close(score(metric, features, labels), score(metric, features.double(), labels))


@every_metric
def test_uint8_ignored_at_255(metric, device):
    features, labels = random_pixels(24, 3, 3, device=device)
    labels[:4], features[:4] = 255, torch.nan
    assert_close(score(metric, features, labels.to(torch.uint8)), score(metric, features[4:], labels[4:]))


@every_metric
@pytest.mark.parametrize("labels", [[0, 1, 1, 3], [3, 0, 0, 1]])
def test_absent_classes_are_skipped(metric, labels, device):
    features = torch.tensor([[0.1, 1.0], [2.0, 0.3], [1.9, 0.1], [0.4, 5.0]], device=device)
    compact = torch.tensor(labels, device=device).unique(return_inverse=True)[1]
    assert_close(
        score(metric, features, torch.tensor(labels, device=device), num_classes=19), score(metric, features, compact)
    )


def test_published_treatment_of_absent_classes_depends_on_the_largest_label(device):
    features, labels = random_pixels(60, 4, 3, device=device)
    renumbered = torch.tensor([0, 1, 18], device=device)[labels]
    assert_close(torch_trf.logme(features, renumbered), torch_trf.logme(features, labels))
    include = [LogME(absent_classes="include")(features, y).item() for y in (labels, renumbered)]
    assert include[1] > include[0] + 1


@every_metric
def test_no_labeled_pixel_is_an_error(metric, device):
    features, labels = torch.ones(3, 2, device=device), torch.full((3,), 250, device=device)
    with pytest.raises(ValueError, match="no labeled pixel: every label is ignore_index=250"):
        score(metric, features, labels, ignore_index=250)


@every_metric
def test_no_pixel_is_an_error(metric, device):
    features, labels = torch.ones(0, 2, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match=r"features \[0, 2\] and labels \[0\] hold no pixel"):
        score(metric, features, labels)


@every_metric
def test_labels_outside_the_classes_are_named_and_counted(metric, device):
    features, labels = random_pixels(30, 3, 3, device=device)
    labels[:4], labels[4:6] = -2, 40
    message = r"labels from -2 to 40 on 6 pixels: outside \[0, 3\) and not ignore_index=255"
    with pytest.raises(ValueError, match=message):
        score(metric, features, labels, num_classes=3, **({"num_source_classes": 3} if metric.needs_source else {}))


@every_metric
def test_negative_labels_are_an_error_without_num_classes(metric, device):
    features, labels = random_pixels(30, 3, 3, device=device)
    labels[7] = -1
    with pytest.raises(ValueError, match="label -1 on 1 pixels"):
        score(metric, features, labels)


@every_metric
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_are_counted(metric, value, device):
    features, labels = random_pixels(30, 3, 3, device=device)
    features[5, 0] = features[9, 2] = value
    with pytest.raises(ValueError, match="features of 2 labeled pixels are NaN or infinite"):
        score(metric, features, labels)


@every_metric
@pytest.mark.parametrize("shape", [(31,), (30, 1), (1, 5, 6)], ids=str)
def test_grids_that_do_not_fit_are_an_error(metric, shape, device):
    features, _ = random_pixels(30, 3, 3, device=device)
    with pytest.raises(ValueError, match=r"features \[30, 3\] and labels \["):
        score(metric, features, torch.zeros(shape, dtype=torch.int64, device=device))


@every_metric
def test_two_devices_are_an_error(metric, device):
    features, labels = random_pixels(30, 3, 3, device=device)
    with pytest.raises(ValueError, match="put them on one device"):
        score(metric, features.to("meta"), labels)


@pytest.mark.usefixtures("annotations_unchecked")
@every_metric
@pytest.mark.parametrize(
    ("feature_dtype", "label_dtype", "message"),
    [
        (torch.int64, torch.int64, "features must be floating point"),
        (torch.float32, torch.bool, "labels must be integers"),
    ],
)
def test_other_types_are_an_error(metric, feature_dtype, label_dtype, message, device):
    features = torch.ones(3, 2, dtype=feature_dtype, device=device)
    with pytest.raises(ValueError, match=message):
        score(metric, features, torch.ones(3, dtype=label_dtype, device=device))


@metrics_that(lambda metric: metric.least_pixels > 1)
def test_fewer_pixels_than_it_needs_are_an_error(metric, device):
    features, labels = random_pixels(3, 3, 3, device=device)
    labels[metric.least_pixels - 1 :] = 255
    with pytest.raises(ValueError, match=f"{metric.name} needs at least {metric.least_pixels} labeled pixels, not 1"):
        score(metric, features, labels)


def test_features_that_overflow_are_an_error(device):
    features, labels = random_pixels(9, 3, 3, device=device)
    with pytest.raises(ValueError, match="knn: the score is nan: the features, or powers of them, are beyond double"):
        torch_trf.knn(1e200 * features, labels)


def test_pixels_are_the_labeled_ones_of_all_images(device):
    features, labels = random_images(2, 3, 6, 7, ignore_index=250, device=device)
    rows = features.movedim(1, -1)[labels != 250], labels[labels != 250]
    for metric in (KNN(), KNN(neighbors=1)):
        statistic = last_look(metric, *rows, num_classes=4)
        assert_close(metric(features, labels, ignore_index=250), metric.score(statistic))
