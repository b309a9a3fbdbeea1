"""What every statistic can do: add, merge, sum, stack, index, move, save and load."""

import io
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_trf.pixels import as_images
from torch_trf.statistics import NOT_DRAWN, Faults, JointMass, LogLikelihood, Moments, PixelSample

from ..helpers import SIZES, assert_same, nest, random_images, random_pixels

CLASSES = 4


def joint_mass(device, channels=3):
    """That a log-likelihood is given."""
    mass = torch.arange(1.0, CLASSES * channels + 1, dtype=torch.float64, device=device).reshape(CLASSES, -1)
    return JointMass(mass, faults=Faults.none().to(device))


def options_of(statistic, device):
    """What a statistic must be told of pixels of 3 channels."""
    return {"joint_mass": joint_mass(device)} if statistic is LogLikelihood else {"num_classes": CLASSES}


def likelihood(x, y, offset=0):
    return LogLikelihood.from_pixels(x, y, joint_mass=joint_mass(x.device, x.shape[1]))


BUILDERS = {
    "moments": lambda x, y, offset=0: Moments.from_pixels(x, y, num_classes=CLASSES),
    "soft mass": lambda x, y, offset=0: JointMass.from_pixels(x, y, num_classes=CLASSES),
    "hard mass": lambda x, y, offset=0: JointMass.from_pixels(x, y, num_classes=CLASSES, hard=True),
    "log-likelihood": likelihood,
    "sample": lambda x, y, offset=0: PixelSample.from_pixels(x, y, size=7, num_classes=CLASSES, offset=offset)[0],
}
STATISTICS = [Moments, JointMass, LogLikelihood, PixelSample]
every_statistic = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


def build_parts(build, features, labels, parts):
    """The statistic of all pixels, and those of `parts` runs of pixels."""
    size = -(-len(labels) // parts)
    starts = range(0, len(labels), size)
    return build(features, labels), [build(features[i : i + size], labels[i : i + size], i) for i in starts]


@pytest.mark.slow
@every_statistic
@given(size=SIZES, data=st.data())
def test_split_anywhere_and_merged_in_any_order_is_the_whole(build, size, data, device):
    features, labels = random_pixels(**size, device=device)
    cut = data.draw(st.integers(1, len(labels) - 1))
    whole = build(features, labels)
    first, second = build(features[:cut], labels[:cut]), build(features[cut:], labels[cut:], cut)
    assert_same(first + second, whole)
    assert_same(second + first, whole)


@pytest.mark.slow
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
    features, labels = random_pixels(20, 3, CLASSES, device=device)
    _, (first, second) = build_parts(build, features, labels, 2)
    monkeypatch.setattr(type(first), "from_pixels", lambda *pixels, **options: second)
    assert_same(first.add(features, labels), first + second, rtol=0, atol=0)


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
    removed = list(state)[-1]
    spare = state | {"spare": state[removed]}
    del spare[removed]
    with pytest.raises(ValueError, match=rf"missing \['{removed}'\], unknown \['spare'\]"):
        statistic.from_state(spare)
    del state["faults.non_finite"]
    with pytest.raises(ValueError, match=r"not the state of Faults: missing \['non_finite'\], unknown \[\]"):
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


@every_statistic
def test_every_entry_must_have_a_pixel_where_a_score_is_asked_for(build, device):
    features, labels = random_pixels(9, 3, CLASSES, device=device)
    statistic, ignored = build(features, labels), build(features, torch.full_like(labels, 255))
    statistic.stack([statistic, statistic]).require_pixels(CLASSES, 255)
    with pytest.raises(ValueError, match="no labeled pixel: every label is ignore_index=255"):
        statistic.stack([statistic, ignored]).require_pixels(CLASSES, 255)
    bad = replace(statistic, faults=replace(statistic.faults, non_finite=statistic.faults.non_finite + 3))
    with pytest.raises(ValueError, match="features of 3 labeled pixels are NaN or infinite"):
        bad.require_pixels(CLASSES, 255)


# Pixels and images


@every_statistic
def test_rows_are_an_image_of_one_row(build, device):
    features, labels = random_pixels(20, 3, CLASSES, device=device)
    images, image_labels = as_images(features, labels)
    assert_same(build(images, image_labels), build(features, labels), rtol=0, atol=0)


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda statistic: statistic.__name__)
def test_images_are_trusted_and_pixels_are_checked(statistic, device):
    features, labels = random_images(2, 3, 4, 5, classes=CLASSES, device=device)
    options = options_of(statistic, device)
    of_images, of_pixels = (
        make(features, labels, **options) for make in (statistic.from_images, statistic.from_pixels)
    )
    assert_same(of_images, of_pixels, rtol=0, atol=0)
    with pytest.raises(ValueError, match="do not lie on one grid"):
        statistic.from_pixels(features, labels[:, :3], **options)
    rows = features.movedim(1, -1).flatten(0, -2), labels.flatten()
    assert statistic.from_pixels(*rows, **options).count.sum() == of_images.count.sum()


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("statistic", [Moments, JointMass, LogLikelihood])
def test_an_unknown_pool_is_an_error(statistic, device):
    features, labels = random_images(2, 3, 4, 5, classes=CLASSES, device=device)
    options = options_of(statistic, device)
    with pytest.raises(ValueError, match="pool: 'batch' is none of dataset, image"):
        statistic.from_images(features, labels, pool="batch", **options)


# How many numbers


@pytest.mark.parametrize(
    ("statistic", "expected"), [(Moments, 3 * (3 + 5)), (JointMass, 3 * 5), (LogLikelihood, 3), (PixelSample, 3 * 20)]
)
def test_numbers_of_an_entry(statistic, expected):
    assert statistic.numbers(3, 5, 20) == expected


@pytest.mark.parametrize("channels", [8, 40])
def test_numbers_are_about_as_many_as_are_held(channels, device):
    """The leading terms: faults and what grows with one of D, K and pixels alone are left out."""
    features, labels = random_pixels(200, channels, CLASSES, device=device)
    for statistic in (Moments, JointMass, PixelSample):
        numel = statistic.from_pixels(features, labels, num_classes=CLASSES).numel
        assert statistic.numbers(channels, CLASSES, 200) <= numel < 1.5 * statistic.numbers(channels, CLASSES, 200) + 10


@pytest.mark.parametrize(
    ("statistic", "channels", "num_classes"), [(JointMass, 20_000, 20_000), (Moments, 2048, 70_000)]
)
def test_more_classes_than_fit_are_an_error(statistic, channels, num_classes):
    message = (
        rf"{num_classes:,} classes \(labels up to {num_classes - 1}\) against {channels:,} channels .* take \d\.\d GiB"
    )
    with pytest.raises(ValueError, match=message):
        statistic.require_fits(channels, num_classes)
    statistic.require_fits(channels, 1000)
    LogLikelihood.require_fits(channels, num_classes)


def test_more_channels_than_fit_are_nobodys_error():
    Moments.require_fits(30_000, 19)


# Samples


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda statistic: statistic.__name__)
def test_a_sample_has_the_statistic_of_its_pixels(statistic, softmax, device):
    """An entry for each repeat; the second repeat has a place that no pixel fills."""
    features, labels = random_pixels(20, 3, CLASSES, device=device)
    sample = PixelSample.from_pixels(features, labels, num_classes=CLASSES, size=8, num_repeats=2)
    sample = replace(sample, labels=sample.labels.index_fill(-1, sample.labels.new_tensor([3]), NOT_DRAWN))
    options = options_of(statistic, device)
    of_sample = statistic.from_sample(sample, softmax=softmax, **options)
    assert of_sample.batch_shape == (2,)
    assert of_sample.count.tolist() == [7, 7]
    for entry, repeat in zip(of_sample, sample, strict=True):
        x, y = repeat.drawn()
        x = x.softmax(-1) if softmax else x
        if statistic.draws:
            assert torch.equal(entry.drawn()[0], x)
        else:
            assert_same(entry, statistic.from_pixels(x, y, **options))
