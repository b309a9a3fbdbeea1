"""Pixels on one grid: checks, classes, blocks, boundaries, keys."""

import pytest
import torch

from torch_trf.pixels import (
    LARGEST_KEY,
    Pixels,
    as_images,
    blocks,
    boundary,
    class_index,
    class_probabilities,
    pixel_keys,
)

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


@pytest.mark.parametrize("ignore_index", [255, -1, 1])
def test_class_index(ignore_index, device):
    labels = torch.tensor([0, 1, 2, -1, 255, 3], dtype=torch.int16, device=device)
    index, bad = class_index(labels, 3, ignore_index)
    classes = {0, 1, 2} - {ignore_index}
    assert index.tolist() == [y if y in classes else -1 for y in labels.tolist()]
    assert bad.tolist() == [y not in classes | {ignore_index} for y in labels.tolist()]


@pytest.mark.parametrize(
    "shape", [(5, 2, 3, 4), (3, 1024, 20, 20), (2, 4096, 2, 100)], ids=["several images", "some rows", "some columns"]
)
def test_blocks_hold_every_pixel_once_with_its_image(shape, device):
    labels = torch.arange(shape[0] * shape[2] * shape[3], device=device).reshape(shape[0], *shape[2:])
    features = labels.unsqueeze(1).to(torch.float32).expand(shape)
    seen = []
    for block, block_labels, image in (part for group in blocks(features, labels, labels) for part in group):
        assert torch.equal(block[:, -1].long(), block_labels)
        assert (block_labels.unsqueeze(-1) == image.flatten(1).unsqueeze(1)).any(-1).all()
        seen.append(block_labels.flatten())
    assert torch.equal(torch.cat(seen).sort().values, labels.flatten())


@pytest.mark.parametrize("hard", [True, False])
def test_class_probabilities_do_not_read_what_does_not_count(hard, device):
    logits = torch.tensor([[[2.0, torch.nan, torch.inf], [1.0, 0.0, 0.0]]], device=device)
    theta, non_finite = class_probabilities(logits, torch.tensor([[True, False, True]], device=device), hard=hard)
    expected = [1.0, 0.0] if hard else torch.tensor([2.0, 1.0]).double().softmax(0).tolist()
    assert theta[0, :, 0].tolist() == pytest.approx(expected)
    assert theta[0, :, 1].isfinite().all()
    assert non_finite.tolist() == [[False, False, True]]


def test_prediction_of_equal_scores_is_the_lowest_class(device):
    theta, _ = class_probabilities(torch.zeros(1, 3, 1, device=device), torch.ones(1, 1, device=device) > 0, hard=True)
    assert theta.flatten().tolist() == [1, 0, 0]


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
