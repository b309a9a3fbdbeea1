"""What no score may depend on: the order of pixels, the numbers of classes, how pixels were cut into parts."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from torch_trf.pixels import Pixels

from ..helpers import (
    DTYPES,
    SIZES,
    assert_close,
    every_metric,
    last_look,
    metrics_that,
    nest,
    random_pixels,
    score_of,
    score_of_pixels,
)


@pytest.mark.slow
@every_metric
@settings(max_examples=20)
@given(size=SIZES, data=st.data())
def test_order_of_pixels(metric, size, data, device):
    assume(size["channels"] > 1 or metric.reads == "features")
    features, labels = random_pixels(**size, device=device)
    order = data.draw(st.permutations(range(len(labels))))
    scores = [score_of_pixels(metric, features[i], labels[i], num_classes=4) for i in (order, slice(None))]
    assert_close(*scores)


@pytest.mark.slow
@every_metric
@settings(max_examples=20)
@given(size=SIZES, data=st.data())
def test_numbers_of_classes(metric, size, data, device):
    assume(size["channels"] > 1 or metric.reads == "features")
    features, labels = random_pixels(**size, device=device)
    number = torch.tensor(data.draw(st.permutations(range(19))), device=device)
    renumbered = score_of_pixels(metric, features, number[labels], num_classes=19)
    assert_close(renumbered, score_of_pixels(metric, features, labels, num_classes=4))


@pytest.mark.slow
@every_metric
@settings(max_examples=20)
@given(size=SIZES, data=st.data())
def test_cuts_into_parts(metric, size, data, device):
    """Each look is merged of its parts, given what the look before was of all pixels."""
    assume(size["channels"] > 1 or metric.reads == "features")
    features, labels = random_pixels(**size, device=device)
    cut = data.draw(st.integers(1, len(labels) - 1))
    parts = [
        replace(Pixels.of(features[part], labels[part], features[part]), offset=part.start or 0)
        for part in (slice(cut), slice(cut, None))
    ]
    options = {"num_classes": 4, "ignore_index": 255} | ({"size": len(labels)} if metric.draws else {})
    statistic = None
    for look in metric.looks:
        first, second = (look(part, statistic, **options) for part in parts)
        statistic = second + first
    score = score_of(metric, statistic[0] if metric.draws else statistic, num_classes=4)
    assert_close(score, score_of_pixels(metric, features, labels, num_classes=4))


@every_metric
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_dtypes_of_the_features(metric, dtype, device):
    features, labels = random_pixels(30, 4, 3, dtype=dtype, device=device)
    scores = [score_of_pixels(metric, tensor, labels, num_classes=3) for tensor in (features, features.double())]
    assert_close(*scores)


@every_metric
@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_leading_dimensions_are_independent(metric, batch, device):
    entries = [last_look(metric, *random_pixels(30, 4, 3, seed=i, device=device), num_classes=3) for i in range(2)]
    entries = entries[: torch.Size(batch).numel()]
    score = score_of(metric, nest(entries, batch), num_classes=3)
    assert (score.shape, score.dtype) == (batch, torch.float64)
    assert_close(score.flatten(), torch.stack([score_of(metric, entry, num_classes=3) for entry in entries]))


@metrics_that(lambda metric: not metric.draws)
def test_images_apart_are_the_score_of_each(metric, device):
    features, labels = random_pixels(36, 4, 3, device=device)
    images, image_labels = features.reshape(3, 3, 4, 4).permute(0, 3, 1, 2), labels.reshape(3, 3, 4)
    image_labels[1] = 255
    scores = score_of_pixels(metric, images, image_labels, num_classes=3, pool="image")
    assert scores.isnan().tolist() == [False, True, False]
    for i, rows in ((0, slice(12)), (2, slice(24, 36))):
        assert_close(scores[i], score_of_pixels(metric, features[rows], labels[rows], num_classes=3))
