"""Features, labels and logits of different strides on one grid; tokens as images."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from torch_trf.pixels import fold_tokens, on_one_grid

every_grid = pytest.mark.parametrize("grid", ["features", "labels"])
ROUNDINGS = {"down": lambda size, stride: size // stride, "up": lambda size, stride: -(-size // stride)}
SIZES = [  # of labels and of features
    ((16, 24), (8, 12)),
    ((15, 21), (5, 7)),
    ((64, 96), (4, 6)),
    ((33, 47), (17, 24)),
    ((33, 47), (16, 23)),
    ((513, 513), (65, 65)),
    ((375, 500), (23, 31)),
    ((375, 500), (24, 32)),
    ((5, 7), (20, 28)),
    ((5, 7), (15, 21)),
    ((9, 12), (65, 90)),
]
ROUNDED_BY_PILLOW = [  # a center on the edge of a pixel, which Pillow's floating point puts before it
    ((375, 500), (23, 31)),
    ((9, 12), (65, 90)),
]
every_size = pytest.mark.parametrize(("labels_size", "features_size"), SIZES)


@pytest.fixture
def random_labels(device):
    def make(*size, classes=256, dtype=torch.int64):
        return torch.randint(0, classes, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)

    return make


@pytest.fixture
def random_features(device):
    def make(*size, dtype=torch.float64):
        return torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device, dtype)

    return make


def bilinear(features, size):
    return torch.nn.functional.interpolate(features, size, mode="bilinear", align_corners=False)


@every_grid
def test_equal_grids_copy_nothing(grid, random_features, random_labels):
    features, labels, logits = random_features(2, 3, 6, 8), random_labels(2, 6, 8), random_features(2, 5, 6, 8)
    pixels = on_one_grid(features, labels, logits, grid=grid, stream=3, offset=7)
    for given_tensor, tensor in ((features, pixels.features), (labels, pixels.labels), (logits, pixels.logits)):
        assert tensor.shape == given_tensor.shape
        assert tensor.data_ptr() == given_tensor.data_ptr()
    assert (pixels.stream, pixels.offset) == (3, 7)


@every_size
def test_labels_are_read_at_the_pixel_that_holds_the_center_of_a_feature(
    labels_size, features_size, random_features, random_labels
):
    features, labels = random_features(2, 3, *features_size), random_labels(2, *labels_size)
    pixels = on_one_grid(features, labels)
    assert pixels.features.data_ptr() == features.data_ptr()
    rows, columns = (
        [int((new + Fraction(1, 2)) * old / count) for new in range(count)]
        for old, count in zip(labels_size, features_size, strict=True)
    )
    assert torch.equal(pixels.labels, labels[:, rows][:, :, columns])


@pytest.mark.parametrize(("labels_size", "features_size"), [size for size in SIZES if size not in ROUNDED_BY_PILLOW])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labels_go_to_the_features_as_a_nearest_resize(
    labels_size, features_size, dtype, random_features, random_labels
):
    labels = random_labels(1, *labels_size, dtype=dtype)
    resized = on_one_grid(random_features(1, 3, *features_size), labels).labels
    assert resized.dtype == dtype
    picture = Image.fromarray(labels[0].cpu().numpy().astype(np.uint8))
    expected = np.asarray(picture.resize(features_size[::-1], Image.Resampling.NEAREST))
    assert np.array_equal(resized[0].cpu().numpy(), expected)


@every_size
def test_features_go_to_the_labels_bilinearly(labels_size, features_size, random_features, random_labels):
    features, labels = random_features(2, 3, *features_size), random_labels(2, *labels_size)
    pixels = on_one_grid(features, labels, grid="labels")
    assert pixels.labels.data_ptr() == labels.data_ptr()
    torch.testing.assert_close(pixels.features, bilinear(features, labels_size), rtol=0, atol=0)


@every_grid
def test_logits_on_a_third_grid_go_where_features_and_labels_meet(grid, random_features, random_labels):
    features, logits = random_features(2, 3, 8, 12), random_features(2, 5, 4, 6)
    pixels = on_one_grid(features, random_labels(2, 16, 24), logits, grid=grid)
    size = (8, 12) if grid == "features" else (16, 24)
    assert pixels.features.shape == (2, 3, *size)
    torch.testing.assert_close(pixels.logits, bilinear(logits, size), rtol=0, atol=0)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    stride=st.integers(1, 32),
    rounding=st.sampled_from(sorted(ROUNDINGS)),
)
@example(height=375, width=1242, stride=32, rounding="down")
@example(height=47, width=64, stride=16, rounding="down")
@example(height=33, width=512, stride=32, rounding="up")
@example(height=1, width=64, stride=8, rounding="up")
def test_every_integer_stride_is_taken_rounded_down_or_up(height, width, stride, rounding):
    size = ROUNDINGS[rounding](height, stride), ROUNDINGS[rounding](width, stride)
    assume(min(size) > 0)
    features, labels = torch.zeros(1, 1, *size), torch.zeros(1, height, width, dtype=torch.int64)
    assert on_one_grid(features, labels).labels.shape == (1, *size)


@given(rows=st.integers(1, 5), columns=st.integers(1, 5), stride=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_blocks_of_one_label_meet_the_features_of_their_own(rows, columns, stride, seed):
    blocks = torch.randint(0, 9, (2, rows, columns), generator=torch.Generator().manual_seed(seed))
    whole = blocks.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    coarse = on_one_grid(blocks.unsqueeze(1).float(), whole)
    assert torch.equal(coarse.labels, blocks)
    fine = on_one_grid(whole.unsqueeze(1).float(), blocks)
    assert torch.equal(fine.labels, whole)


@every_grid
@pytest.mark.parametrize("tokens", [False, True])
def test_logits_that_are_the_features_stay_the_same_tensor(grid, tokens, random_features, random_labels):
    features = random_features(2, 1 + 4 * 6, 3) if tokens else random_features(2, 3, 4, 6)
    pixels = on_one_grid(features, random_labels(2, 16, 24), features, grid=grid)
    assert pixels.logits is pixels.features


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_and_is_read_to_its_rounding(dtype, random_features, random_labels):
    features = random_features(2, 3, 4, 6, dtype=dtype)
    read = on_one_grid(features, random_labels(2, 16, 24), grid="labels").features
    assert read.dtype == dtype
    tolerance = torch.finfo(dtype).eps * features.abs().max().item()
    torch.testing.assert_close(read.double(), bilinear(features.double(), (16, 24)), rtol=0, atol=tolerance)


@every_grid
@pytest.mark.parametrize("channels", [None, 5])
def test_rows_are_one_image_of_one_row(grid, channels, random_features, random_labels):
    features, labels = random_features(6, 3), random_labels(6)
    logits = None if channels is None else random_features(6, channels)
    pixels = on_one_grid(features, labels, logits, grid=grid)
    assert torch.equal(pixels.features[0, :, 0].T, features)
    assert torch.equal(pixels.labels[0, 0], labels)
    assert (pixels.logits is None) if logits is None else torch.equal(pixels.logits[0, :, 0].T, logits)


@every_grid
def test_nothing_remembers_a_graph(grid, random_features, random_labels):
    features, logits = random_features(1, 3, 4, 6).requires_grad_(), random_features(1, 5, 8, 12).requires_grad_()
    pixels = on_one_grid(features * 2, random_labels(1, 16, 24), logits * 2, grid=grid)
    assert not pixels.features.requires_grad
    assert not pixels.logits.requires_grad


def test_an_unknown_grid_is_an_error(random_features, random_labels, annotations_unchecked):
    with pytest.raises(ValueError, match="grid: 'label' is none of features, labels"):
        on_one_grid(random_features(1, 3, 4, 6), random_labels(1, 4, 6), grid="label")


@every_grid
@pytest.mark.parametrize("size", [(12, 8), (6, 4), (12, 18), (8, 24), (10, 15)])
def test_grids_that_are_not_at_an_integer_stride_are_errors(size, grid, random_features, random_labels):
    labels = random_labels(1, 16, 24)
    wrong, right = random_features(1, 3, *size), random_features(1, 5, 8, 12)
    with pytest.raises(ValueError, match=f"features on {size[0]} x {size[1]} and labels on 16 x 24 pixels"):
        on_one_grid(wrong, labels, grid=grid)
    with pytest.raises(ValueError, match=f"logits on {size[0]} x {size[1]} and labels on 16 x 24 pixels"):
        on_one_grid(right, labels, wrong, grid=grid)


@every_grid
def test_batches_of_different_sizes_are_errors(grid, random_features, random_labels):
    features, labels = random_features(3, 5, 8, 12), random_labels(2, 16, 24)
    with pytest.raises(ValueError, match=r"features \[3, 5, .* and labels \[2, .* do not lie on one grid"):
        on_one_grid(features, labels, grid=grid)
    with pytest.raises(ValueError, match=r"\[3, 5, .* and labels \[2, .* do not lie on one grid"):
        on_one_grid(features[:2], labels, features, grid=grid)


@every_grid
@pytest.mark.parametrize("elsewhere", ["features", "labels", "logits"])
def test_different_devices_are_errors(elsewhere, grid):
    tensors = {"features": torch.zeros(1, 3, 8, 12), "labels": torch.zeros(1, 16, 24, dtype=torch.int64)}
    tensors["logits"] = torch.zeros(1, 5, 4, 6)
    tensors[elsewhere] = tensors[elsewhere].to("meta")
    with pytest.raises(ValueError, match=r"features are on \w+, labels on \w+: put them on one device"):
        on_one_grid(**tensors, grid=grid)


@every_grid
@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(1, 3, 8, 12, dtype=torch.int64), torch.zeros(1, 16, 24, dtype=torch.int64), "not torch.int64"),
        (torch.zeros(1, 3, 8, 12), torch.zeros(1, 16, 24), "integers, not torch.float32"),
        (torch.zeros(8, 12), torch.zeros(1, 16, 24, dtype=torch.int64), r"features \[8, 12\]"),
        (torch.zeros(8), torch.zeros(1, 16, 24, dtype=torch.int64), r"features \[8\]"),
        (torch.zeros(1, 3, 2, 8, 12), torch.zeros(1, 16, 24, dtype=torch.int64), r"features \[1, 3, 2, 8, 12\]"),
        (torch.zeros(1, 3, 8, 12), torch.zeros(16, 24, dtype=torch.int64), r"labels \[16, 24\]"),
        (torch.zeros(1, 0, 8, 12), torch.zeros(1, 16, 24, dtype=torch.int64), "hold no pixel"),
        (torch.zeros(0, 3, 8, 12), torch.zeros(0, 16, 24, dtype=torch.int64), "hold no pixel"),
    ],
)
def test_what_is_no_image_is_an_error(features, labels, message, grid):
    with pytest.raises(ValueError, match=message):
        on_one_grid(features, labels, grid=grid)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(
    ("image_size", "grid"),
    [
        ((224, 224), (14, 14)),
        ((518, 518), (37, 37)),
        ((256, 512), (16, 32)),
        ((375, 500), (23, 31)),
        ((513, 1025), (33, 65)),
        ((64, 128), (4, 8)),
        ((20, 20), (5, 5)),
    ],
    ids=str,
)
def test_tokens_are_folded_row_by_row_without_those_before_them(image_size, grid, prefix, device):
    count = grid[0] * grid[1]
    image = torch.arange(count, device=device).float()
    tokens = torch.cat([torch.full((prefix,), -1.0, device=device), image])
    folded = fold_tokens(torch.stack([tokens, -tokens], -1).expand(3, -1, -1), image_size)
    assert folded.shape == (3, 2, *grid)
    assert torch.equal(folded[2, 0], image.reshape(grid))
    assert torch.equal(folded[1, 1], -image.reshape(grid))


@pytest.mark.parametrize(
    ("count", "image_size", "grid"),
    [(36, (90, 120), (5, 7)), (37, (100, 100), (6, 6)), (10, (50, 50), (3, 3)), (16, (30, 30), (4, 4))],
)
def test_tokens_of_patches_that_leave_a_rest_are_not_folded_at_a_stride_that_leaves_none(
    count, image_size, grid, device
):
    assert fold_tokens(torch.zeros(1, count, 3, device=device), image_size).shape == (1, 3, *grid)


@pytest.mark.parametrize(("count", "image_size"), [(8, (60, 100)), (18, (50, 90)), (9, (36, 60))])
def test_tokens_that_fit_several_grids_are_an_error(count, image_size, device):
    with pytest.raises(ValueError, match=f"{count} tokens fit several grids over {image_size[0]} x {image_size[1]}"):
        fold_tokens(torch.zeros(1, count, 3, device=device), image_size)


def test_tokens_meet_the_labels_of_their_patch(device):
    blocks = torch.arange(14 * 14, device=device).reshape(1, 14, 14)
    tokens = torch.nn.functional.pad(blocks.reshape(1, -1, 1).float(), (0, 0, 1, 0), value=-1)
    pixels = on_one_grid(tokens, blocks.repeat_interleave(16, 1).repeat_interleave(16, 2))
    assert torch.equal(pixels.features[:, 0], pixels.labels.float())


@pytest.mark.parametrize(
    ("count", "image_size"),
    [(100, (128, 128)), (100, (480, 640)), (100, (640, 640)), (100, (96, 96))],
)
def test_queries_are_no_image(count, image_size, device):
    with pytest.raises(ValueError, match=f"{count} tokens fit no grid over .*queries and masked tokens are no image"):
        fold_tokens(torch.zeros(1, count, 3, device=device), image_size)


@pytest.mark.parametrize("count", [0, 165, 195, 600])
def test_a_number_of_tokens_that_fits_no_grid_is_an_error(count, device):
    with pytest.raises(ValueError, match=f"{count} tokens fit no grid over 224 x 224 pixels"):
        fold_tokens(torch.zeros(1, count, 3, device=device), (224, 224))
