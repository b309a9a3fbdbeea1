"""Pixels on one grid: checks, batches, boundaries, keys."""

import pytest
import torch

import torch_trf
from torch_trf.pixels import LARGEST_KEY, Pixels, as_images, boundary, classes_up_to, count_classes, pixel_keys

MASK = 2**64 - 1


def test_rows_are_one_image_of_one_row_and_nothing_is_copied(device):
    rows, labels = torch.randn(6, 3, device=device), torch.arange(6, device=device)
    features, image_labels = as_images(rows, labels)
    assert features.shape == (1, 3, 1, 6)
    assert torch.equal(features[0, :, 0].T, rows)
    assert features.data_ptr() == rows.data_ptr()
    assert image_labels.data_ptr() == labels.data_ptr()


def test_features_are_detached(device):
    features = torch.zeros(2, 3, device=device, requires_grad=True)
    assert not as_images(features, torch.zeros(2, dtype=torch.int64, device=device))[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_other_integers_become_int64(dtype, device):
    features, labels = torch.zeros(3, 1, device=device), torch.tensor([0, -1, 2], dtype=dtype, device=device)
    assert torch.equal(as_images(features, labels)[1].flatten(), torch.tensor([0, -1, 2], device=device))


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), "not torch.int64"),
        (torch.zeros(2, 3).to(torch.float8_e4m3fn), torch.zeros(2, dtype=torch.int64), "not torch.float8"),
        (torch.zeros(2, 3).numpy(), torch.zeros(2), r"features must be a tensor, not ndarray: .*as_tensor\(features\)"),
        (torch.zeros(2, 3), [0, 1], r"labels must be a tensor, not list: give torch.as_tensor\(labels\)"),
        (torch.zeros(2, 3), torch.zeros(2), "integers, not torch.float32"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool), "integers, not torch.bool"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64, device="meta"), "features are on cpu, labels on meta"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64), r"\[2, 3, 4\] and labels \[2, 4\]"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), r"\[2, 3\] and labels \[3\] do not lie on one grid"),
        (torch.zeros(2, 3, 4, 5), torch.zeros(2, 5, 4, dtype=torch.int64), "do not lie on one grid"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "hold no pixel"),
        (torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64), "hold no pixel"),
    ],
)
def test_what_does_not_fit_is_an_error(features, labels, message):
    with pytest.raises(ValueError, match=message):
        as_images(features, labels)


def test_moving_pixels_keeps_logits_that_are_the_features(device):
    features, labels = torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4, dtype=torch.int64)
    moved = Pixels(features, labels, logits=features).to(device)
    assert moved.logits is moved.features
    assert moved.features.device.type == moved.labels.device.type == device.type


@pytest.fixture(params=["logits are the features", "logits of their own", "no logits"])
def batch(request, device):
    """Five images whose tensors hold the number of each pixel."""
    labels = torch.arange(5 * 3 * 4, device=device).reshape(5, 3, 4)
    features = labels.unsqueeze(1).float().expand(5, 2, 3, 4)
    logits = {"logits are the features": features, "logits of their own": -features[:, :1], "no logits": None}
    return Pixels(features, labels, logits[request.param], stream=2, offset=7, name="a file")


def assert_same_pixels(actual, features, labels, logits):
    assert torch.equal(actual.features, features)
    assert torch.equal(actual.labels, labels)
    assert (actual.logits is None) if logits is None else torch.equal(actual.logits, logits)


def test_rows_are_those_of_every_image(batch):
    rows = batch.rows(slice(1, 3))
    logits = None if batch.logits is None else batch.logits[:, :, 1:]
    assert_same_pixels(rows, batch.features[:, :, 1:], batch.labels[:, 1:], logits)
    assert (rows.logits is rows.features) == (batch.logits is batch.features)
    assert (rows.stream, rows.name) == (2, "a file")


@pytest.mark.parametrize(("images", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_what_is_split_joins_to_the_whole(images, sizes, batch):
    parts = batch.split(images)
    assert [len(part.labels) for part in parts] == sizes
    assert {part.name for part in parts} == {"a file"}
    joined = Pixels.join(parts)
    assert_same_pixels(joined, batch.features, batch.labels, batch.logits)
    assert (joined.logits is joined.features) == (batch.logits is batch.features)


def test_joined_files_are_named_from_the_first_to_the_last():
    features, labels = torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4, dtype=torch.int64)
    files = [Pixels(features, labels, name=name) for name in ("1.npy", "2.npy", "3.npy")]
    assert Pixels.join(files).name == "1.npy to 3.npy"
    assert Pixels.join(files[:1]) is files[0]
    assert Pixels.join([Pixels(features, labels)] * 2).name == ""


@pytest.mark.parametrize(("name", "message"), [("1.npy", "1.npy: label 7"), ("", "label 7")])
def test_errors_name_the_batch_where_there_is_one(name, message):
    pixels = Pixels(torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4, dtype=torch.int64), name=name)
    with pytest.raises(ValueError, match=f"^{message}$"), pixels.named_errors():
        raise ValueError("label 7")


@pytest.mark.parametrize("radius", [1, 2])
def test_boundary_matches_definition(radius, device):
    labels = torch.randint(0, 2, (2, 7, 9), generator=torch.Generator().manual_seed(0))
    labels[torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(1)) < 0.3] = 255
    actual = boundary(labels.to(device), radius, 255)
    for (image, y, x), label in zip(
        torch.cartesian_prod(*map(torch.arange, labels.shape)), labels.flatten(), strict=True
    ):
        rows, columns = (slice(max(0, place - radius), place + radius + 1) for place in (y, x))
        near = labels[image, rows, columns]
        assert actual[image, y, x].item() == (label != 255 and bool(((near != label) & (near != 255)).any()))


def test_boundary_of_radius_zero_is_an_error(device):
    with pytest.raises(ValueError, match="at least 1 pixel, not 0"):
        boundary(torch.zeros(1, 2, 2, dtype=torch.int64, device=device), 0, 255)


def mix(state):
    """SplitMix64 of Steele, Lea and Flood, OOPSLA 2014, in unbounded integers."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
    return state ^ state >> 31


def test_mix_is_splitmix64():
    gamma = 0x9E3779B97F4A7C15
    first = [mix(1234567 + i * gamma & MASK) for i in (1, 2, 3)]
    assert first == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_keys_hash_seed_repeat_stream_and_position(seed, device):
    gamma, stream, offset = 0x9E3779B97F4A7C15, 3, 1000
    keys = pixel_keys(5, seed=seed, num_repeats=2, stream=stream, offset=offset, device=device)
    for repeat, row in enumerate(keys.tolist()):
        start = mix(mix(repeat + seed * gamma & MASK) + (stream + 1) * gamma & MASK)
        assert [key & MASK for key in row] == [mix(start + (offset + i) * gamma & MASK) for i in range(5)]
    assert keys.max() < LARGEST_KEY


@pytest.mark.parametrize(
    ("labels", "num_classes", "expected"), [([0, 4, 255], None, 5), ([255], None, 1), ([-3], None, 1), ([70_000], 9, 9)]
)
def test_classes_are_counted_up_to_the_largest_label(labels, num_classes, expected):
    assert count_classes(torch.tensor(labels), num_classes, ignore_index=255) == expected


def test_a_label_too_large_for_a_class_is_an_error():
    assert classes_up_to(65_535) == 65_536
    message = "label 65536 is the largest, .*: give ignore_index=65536 where it marks pixels to leave out"
    with pytest.raises(ValueError, match=message):
        count_classes(torch.tensor([0, 65_536, 255]), None, ignore_index=255)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("ignore_index", [None, 255.0, "255"])
def test_a_label_to_ignore_that_is_none_is_an_error(ignore_index):
    message = f"ignore_index must be a whole number, not {ignore_index!r}: one that is no label, as -1, ignores nothing"
    for make in (
        lambda: count_classes(torch.tensor([0]), None, ignore_index),
        lambda: torch_trf.Scorer(num_classes=2, ignore_index=ignore_index),
        lambda: torch_trf.Mapper(metric="nce", patch_size=4, num_classes=2, ignore_index=ignore_index),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.usefixtures("annotations_unchecked")
def test_a_number_of_classes_that_is_none_is_an_error():
    with pytest.raises(ValueError, match=r"num_classes must be a whole number, not 3\.5"):
        count_classes(torch.tensor([0]), 3.5, ignore_index=255)
