"""What no score may depend on: the order of pixels, the numbers of classes, how pixels were cut into parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ..helpers import METRICS, SIZES, assert_close, nest, random_pixels

every_metric = pytest.mark.parametrize(("build", "metric"), METRICS.values(), ids=METRICS.keys())


@every_metric
@given(size=SIZES, data=st.data())
def test_order_of_pixels(build, metric, size, data, device):
    features, labels = random_pixels(**size, device=device)
    order = data.draw(st.permutations(range(len(labels))))
    scores = [metric(build(features[i], labels[i], num_classes=4)) for i in (order, slice(None))]
    assert_close(*scores)


@every_metric
@given(size=SIZES, data=st.data())
def test_numbers_of_classes(build, metric, size, data, device):
    features, labels = random_pixels(**size, device=device)
    number = torch.tensor(data.draw(st.permutations(range(19))), device=device)
    renumbered = metric(build(features, number[labels], num_classes=19))
    assert_close(renumbered, metric(build(features, labels, num_classes=4)))


@every_metric
@given(size=SIZES, data=st.data())
def test_cuts_into_parts(build, metric, size, data, device):
    features, labels = random_pixels(**size, device=device)
    cut = data.draw(st.integers(1, len(labels) - 1))
    options = {"num_classes": 4}
    whole = build(features, labels, **options)
    if build is METRICS["leep"][0]:  # the second look needs what the first saw of all pixels
        joint_mass = METRICS["nce"][0].func(features, labels, **options)
        build, options = type(whole).from_pixels, {"joint_mass": joint_mass}
    first, second = build(features[:cut], labels[:cut], **options), build(features[cut:], labels[cut:], **options)
    assert_close(metric(second + first), metric(whole))


@every_metric
@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_leading_dimensions_are_independent(build, metric, batch, device):
    entries = [build(*random_pixels(30, 4, 3, seed=i, device=device), num_classes=3) for i in range(2)]
    entries = entries[: torch.Size(batch).numel()]
    score = metric(nest(entries, batch))
    assert score.shape == batch
    assert_close(score.flatten(), torch.stack([metric(entry) for entry in entries]))


@every_metric
def test_a_map_of_images_is_the_score_of_each(build, metric, device):
    features, labels = random_pixels(36, 4, 3, device=device)
    images, image_labels = features.reshape(3, 3, 4, 4).permute(0, 3, 1, 2), labels.reshape(3, 3, 4)
    image_labels[1] = 255
    scores = metric(build(images, image_labels, num_classes=3, pool_batch=False))
    assert scores.isnan().tolist() == [False, True, False]
    for i, rows in ((0, slice(12)), (2, slice(24, 36))):
        assert_close(scores[i], metric(build(features[rows], labels[rows], num_classes=3)))
