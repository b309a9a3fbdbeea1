"""What every statistic can do: add, merge, sum, stack, index, move, save and load."""

import io
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_trf.statistics import Faults, JointMass, LogLikelihood, Moments, PixelSample

from ..helpers import SIZES, assert_same, nest, random_pixels

CLASSES = 4


def likelihood(x, y, offset=0):
    mass = torch.arange(1.0, CLASSES * x.shape[1] + 1, dtype=torch.float64, device=x.device).reshape(CLASSES, -1)
    return LogLikelihood.from_pixels(x, y, joint_mass=JointMass(mass, Faults.none().to(x.device)))


BUILDERS = {
    "moments": lambda x, y, offset=0: Moments.from_pixels(x, y, num_classes=CLASSES),
    "soft mass": lambda x, y, offset=0: JointMass.from_pixels(x, y, num_classes=CLASSES),
    "hard mass": lambda x, y, offset=0: JointMass.from_pixels(x, y, num_classes=CLASSES, hard=True),
    "log-likelihood": likelihood,
    "sample": lambda x, y, offset=0: PixelSample.from_pixels(x, y, size=7, num_classes=CLASSES, offset=offset)[0],
}
every_statistic = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


def build_parts(build, features, labels, parts):
    """The statistic of all pixels, and those of `parts` runs of pixels."""
    size = -(-len(labels) // parts)
    starts = range(0, len(labels), size)
    return build(features, labels), [build(features[i : i + size], labels[i : i + size], i) for i in starts]


@every_statistic
@given(size=SIZES, data=st.data())
def test_split_anywhere_and_merged_in_any_order_is_the_whole(build, size, data, device):
    features, labels = random_pixels(**size, device=device)
    cut = data.draw(st.integers(1, len(labels) - 1))
    whole = build(features, labels)
    first, second = build(features[:cut], labels[:cut]), build(features[cut:], labels[cut:], cut)
    assert_same(first + second, whole)
    assert_same(second + first, whole)


@pytest.mark.parametrize("build", [BUILDERS[name] for name in BUILDERS if name != "sample"], ids=lambda build: "")
@given(size=SIZES, data=st.data())
def test_does_not_depend_on_the_order_of_pixels(build, size, data, device):
    features, labels = random_pixels(**size, device=device)
    order = data.draw(st.permutations(range(len(labels))))
    assert_same(build(features[order], labels[order]), build(features, labels))


@every_statistic
@pytest.mark.parametrize("batch", [(), (2,), (1, 2), (2, 3)])
def test_leading_dimensions(build, batch, device):
    parts = torch.Size(batch).numel()
    whole, entries = build_parts(build, *random_pixels(36, 3, CLASSES, device=device), parts)
    statistic = nest(entries, batch)
    assert statistic.batch_shape == batch
    assert_same(statistic.sum(), whole)
    assert_same(statistic + statistic, nest([entry + entry for entry in entries], batch))


@every_statistic
def test_sum_over_some_dimensions(build, device):
    _, entries = build_parts(build, *random_pixels(36, 3, CLASSES, device=device), 6)
    statistic = nest(entries, (2, 3))
    for index in range(3):
        assert_same(statistic.sum(0)[index], entries[index] + entries[index + 3])
    assert_same(statistic.sum(-1)[1], entries[3] + entries[4] + entries[5])
    assert_same(statistic.sum(1, 0), statistic.sum())


@every_statistic
def test_stack_cat_and_index(build, device):
    _, (first, second) = build_parts(build, *random_pixels(20, 3, CLASSES, device=device), 2)
    stacked = first.stack([first, second])
    assert stacked.batch_shape == (2,)
    assert_same(stacked[1], second, rtol=0, atol=0)
    joined = first.cat([stacked, first[None]])
    assert joined.batch_shape == (3,)
    assert_same(joined[2], first, rtol=0, atol=0)


@every_statistic
def test_images_pooled_are_the_sum_of_images(build, device):
    features, labels = random_pixels(60, 3, CLASSES, device=device)
    images, image_labels = features.reshape(3, 4, 5, 3).permute(0, 3, 1, 2), labels.reshape(3, 4, 5)
    parts = [build(images[i : i + 1], image_labels[i : i + 1], 20 * i) for i in range(3)]
    assert_same(build(images, image_labels), build(features, labels))
    assert_same(parts[0].stack(parts).sum(), build(features, labels))


@every_statistic
def test_ignored_pixels_merge_to_nothing(build, device):
    features, labels = random_pixels(9, 3, CLASSES, device=device)
    ignored = build(torch.full_like(features, torch.nan), torch.full_like(labels, 255))
    statistic = build(features, labels)
    assert_same(statistic + ignored, statistic)
    assert_same(ignored + statistic, statistic)


@every_statistic
def test_add_builds_and_merges(build, device, monkeypatch):
    _, (first, second) = build_parts(build, *random_pixels(20, 3, CLASSES, device=device), 2)
    monkeypatch.setattr(type(first), "from_pixels", lambda *pixels, **options: second)
    assert_same(first.add(None, None), first + second, rtol=0, atol=0)


@every_statistic
def test_state_survives_a_checkpoint(build, device):
    statistic = build(*random_pixels(20, 3, CLASSES, device=device))
    file = io.BytesIO()
    torch.save(statistic.state(), file)
    file.seek(0)
    assert_same(statistic.from_state(torch.load(file, weights_only=True)), statistic, rtol=0, atol=0)


@every_statistic
def test_state_of_something_else_is_an_error(build, device):
    statistic = build(*random_pixels(20, 3, CLASSES, device=device))
    state = statistic.state()
    removed = next(iter(state))
    state["spare"] = state.pop(removed)
    with pytest.raises(ValueError, match=rf"missing \['{removed}'\], unknown \['spare'\]"):
        statistic.from_state(state)


@every_statistic
def test_frozen(build, device):
    statistic = build(*random_pixels(20, 3, CLASSES, device=device))
    for field in fields(statistic):
        with pytest.raises(FrozenInstanceError):
            setattr(statistic, field.name, None)


@every_statistic
def test_moves_to_a_device(build, device):
    moved = build(*random_pixels(20, 3, CLASSES, device="cpu")).to(device)
    assert {tensor.device.type for tensor in moved.state().values()} == {device.type}


@every_statistic
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_update_does_not_wait_for_the_gpu(build):
    features, labels = random_pixels(5000, 3, CLASSES, device="cuda", dtype=torch.float32)
    statistic = build(features, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        statistic += build(features, labels, len(labels))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same(statistic.sum(), statistic)
