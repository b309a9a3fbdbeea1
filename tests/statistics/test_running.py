"""A stream of batches adds up to the statistic of all pixels, in few parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_trf.statistics import JointMass, Moments, PixelSample, Running

from ..helpers import assert_same, random_pixels
from .test_statistic import BUILDERS, CLASSES, every_statistic


@every_statistic
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_any_batches_add_up_to_the_whole(build, sizes, device):
    features, labels = random_pixels(sum(sizes), 3, CLASSES, device=device)
    running, offset = Running(), 0
    for x, y in zip(features.split(sizes), labels.split(sizes), strict=True):
        running += build(x, y, offset)
        offset += len(y)
    assert_same(running.total, build(features, labels))


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "sample"])
def test_statistics_of_one_size_are_one_part(name, device):
    features, labels = random_pixels(40, 3, CLASSES, device=device)
    running = Running()
    for x, y in zip(features.split(4), labels.split(4), strict=True):
        running += BUILDERS[name](x, y)
    assert len(running.parts) == 1


def test_a_large_sample_is_held_in_few_parts(device):
    features, labels = random_pixels(1000, 3, CLASSES, device=device)
    running = Running()
    for start in range(0, 1000, 5):
        batch = slice(start, start + 5)
        running += PixelSample.from_pixels(features[batch], labels[batch], size=300, num_classes=CLASSES, offset=start)
        assert len(running.parts) <= 9  # 300 / 5 is below 2^6
    assert sum(part.key.shape[-1] for part in running.parts) < 2 * 300
    assert running.total.count == 300


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (lambda x, y: (torch.cat([x, x], 1), y), "6 channels, those before had 3"),
        (lambda x, y: (x.to("meta"), y.to("meta")), "are on meta, those before were on"),
    ],
)
@pytest.mark.parametrize("statistic", [Moments, JointMass])
def test_batches_that_are_not_alike_are_errors(statistic, other, word, device):
    features, labels = random_pixels(9, 3, CLASSES, device=device)
    running = Running() + statistic.from_pixels(features, labels, num_classes=CLASSES)
    x, y = other(features, labels)
    second = running.total.to("meta") if x.is_meta else statistic.from_pixels(x, y, num_classes=CLASSES)
    with pytest.raises(ValueError, match=word):
        _ = running + second
