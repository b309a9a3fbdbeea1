"""A stream of batches adds up to the statistic of all pixels, in few parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_trf.statistics import PixelSample, Running

from ..helpers import assert_same, random_pixels
from .test_statistic import BUILDERS, CLASSES, every_statistic


@pytest.mark.slow
@every_statistic
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), data=st.data())
def test_any_batches_in_any_order_add_up_to_the_whole(build, sizes, data, device):
    features, labels = random_pixels(sum(sizes), 3, CLASSES, device=device)
    offsets = [sum(sizes[:k]) for k in range(len(sizes))]
    stream = list(zip(features.split(sizes), labels.split(sizes), offsets, strict=True))
    running = Running()
    for batch in data.draw(st.permutations(stream)):
        running += build(*batch)
    assert_same(running.total, build(features, labels))


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "sample"])
def test_statistics_of_one_size_are_one_part(name, device):
    features, labels = random_pixels(40, 3, CLASSES, device=device)
    running = Running()
    for x, y in zip(features.split(4), labels.split(4), strict=True):
        running += BUILDERS[name](x, y)
    assert len(running.parts) == 1


@pytest.mark.slow
def test_a_large_sample_is_held_in_few_parts(device):
    features, labels = random_pixels(1000, 3, CLASSES, device=device)
    running = Running()
    for start in range(0, 1000, 5):
        batch = slice(start, start + 5)
        running += PixelSample.from_pixels(features[batch], labels[batch], size=300, num_classes=CLASSES, offset=start)
        assert len(running.parts) <= 9  # 300 / 5 is below 2^6
    assert sum(part.key.shape[-1] for part in running.parts) < 2 * 300
    assert running.total.count == 300


def test_samples_of_ever_smaller_batches_are_held_in_few_parts(device):
    running = Running()
    for count in range(60, 0, -1):
        running += PixelSample.from_pixels(*random_pixels(count, 3, 4, device=device), size=300, num_classes=CLASSES)
    assert len(running.parts) <= 9
    assert sum(part.key.shape[-1] for part in running.parts) < 2 * 300


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (lambda build, x, y: build(torch.cat([x, x], 1), y), "6 channels, those before had 3"),
        (lambda build, x, y: build(x, y).to("meta"), "are on meta, those before were on"),
        (lambda build, x, y: build(x, y)[None], r"entries \[1\], those before were \[\]"),
    ],
    ids=["channels", "device", "entries"],
)
@pytest.mark.parametrize("name", ["moments", "soft mass", "sample"])
def test_batches_that_are_not_alike_are_errors(name, other, word, device):
    build, pixels = BUILDERS[name], random_pixels(9, 3, CLASSES, device=device)
    with pytest.raises(ValueError, match=word):
        _ = Running() + build(*pixels) + other(build, *pixels)


def test_samples_of_other_sizes_are_errors(device):
    small, large = (
        PixelSample.from_pixels(*random_pixels(9, 3, 4, device=device), size=n, num_classes=4) for n in (3, 5)
    )
    with pytest.raises(ValueError, match="size 5, those before had 3"):
        _ = Running() + small + large
