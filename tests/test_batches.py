"""Batches of a data set: numbered through, read pass after pass, and added up."""

import numpy as np
import pytest
import torch

from torch_trf import FeatureFolder
from torch_trf.batches import Reader, accumulate, as_pixels, grouped
from torch_trf.pixels import Pixels
from torch_trf.statistics import JointMass, Moments

from .helpers import assert_same, random_images

K = 4


def named_batches(images, *sizes):
    """The images in batches of so many, which have names."""
    parts = zip(*(tensor.split(sizes) for tensor in images), strict=True)
    return [Pixels(*part, name=f"batch {k}") for k, part in enumerate(parts)]


@pytest.fixture(scope="module")
def images(device):
    return random_images(6, 3, 4, 5, device=device)


@pytest.fixture
def folder(images, tmp_path):
    """The images, one file each."""
    for name, tensor in zip(("final", "label"), images, strict=True):
        (tmp_path / name).mkdir()
        for k, image in enumerate(tensor.cpu()):
            np.save(tmp_path / name / f"{k}.npy", image.numpy())
    return FeatureFolder(tmp_path)


class Counted(list):
    """Batches that count how often they are read."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


# As pixels


def test_tensors_are_numbered_through(images):
    features, labels = images
    scores = features[2:3]
    batches = [(features[:2], labels[:2]), (scores, labels[2:3], scores), (features[3:], labels[3:])]
    pixels = list(as_pixels(batches, stream=7))
    assert [(each.stream, each.offset) for each in pixels] == [(7, 0), (7, 40), (7, 60)]
    assert [each.logits is None for each in pixels] == [True, False, True]
    assert pixels[1].logits is pixels[1].features


def test_batches_of_no_image_are_left_out(images):
    features, labels = images[:2]
    stream = [(features[:0], labels[:0]), (features, labels), (features[:0], labels[:0]), (features, labels)]
    assert [pixels.offset for pixels in as_pixels(stream)] == [0, labels.numel()]


def test_rows_are_images_of_one_row(images):
    (pixels,) = as_pixels([(torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64))])
    assert (pixels.features.shape, pixels.labels.shape) == ((1, 3, 1, 6), (1, 1, 6))


def test_pixels_are_taken_as_they_are(images):
    pixels = Pixels(*images, stream=3, offset=11, name="a file")
    assert list(as_pixels([pixels], stream=7)) == [pixels]


def test_tensors_are_checked(images):
    features, labels = images
    with pytest.raises(ValueError, match="do not lie on one grid"):
        list(as_pixels([(features, labels[:, 1:])]))


# Added up

BUILDS = {
    "moments": lambda pixels: Moments.from_images(pixels.features, pixels.labels, num_classes=K),
    "mass": lambda pixels: JointMass.from_images(pixels.features, pixels.labels, num_classes=K),
}


@pytest.mark.parametrize("sizes", [[(6,)], [(1, 2), (3,)], [(2,), (2,), (2,)], [(1, 1, 1, 1, 1, 1)]], ids=str)
def test_statistics_of_all_groups(images, sizes):
    batches = iter(named_batches(images, *(size for group in sizes for size in group)))
    groups = [[next(batches) for _ in group] for group in sizes]
    statistics = accumulate(groups, BUILDS)
    assert list(statistics) == ["moments", "mass"]
    for name, statistic in statistics.items():
        assert_same(statistic, BUILDS[name](Pixels(*images)))


def test_no_batch_is_no_statistic():
    assert accumulate([], BUILDS) == {}


def test_groups_are_looked_at_together_where_the_statistics_are_to_be(images, device):
    seen = []

    def build(pixels):
        seen.append((len(pixels.labels), pixels.labels.device))
        return BUILDS["mass"](pixels)

    one, two, three = named_batches([tensor.cpu() for tensor in images], 1, 2, 3)
    accumulate([[one, two], [three]], {"mass": build}, device)
    assert [count for count, _ in seen] == [3, 3]
    assert {where.type for _, where in seen} == {device.type}


@pytest.mark.parametrize("sizes", [(6,), (1, 2, 3)], ids=["alone", "in a group"])
def test_the_batch_that_is_wrong_is_named(images, sizes):
    features, labels = images[0].cpu(), images[1].cpu().clone()
    labels[-1, 0, 0] = 9
    group = named_batches((features, labels), *sizes)
    with pytest.raises(ValueError, match=rf"^batch {len(sizes) - 1}: label 9 on 1 pixels: outside \[0, 4\)"):
        accumulate([group], BUILDS)


@pytest.mark.parametrize(
    ("most", "expected"),
    [(0, [1, 1, 1, 3]), (60, [1, 1, 1, 3]), (120, [2, 1, 3]), (179, [2, 1, 3]), (180, [3, 3]), (999, [6])],
)
def test_groups_hold_at_most_so_many_numbers(images, most, expected):
    """Batches of 60 numbers an image; none is cut."""
    groups = list(grouped(named_batches(images, 1, 1, 1, 3), most))
    assert [sum(len(pixels.labels) for pixels in group) for group in groups] == expected
    assert [pixels.name for group in groups for pixels in group] == [f"batch {k}" for k in range(4)]
    assert list(grouped([], most)) == []


# Pass after pass


def test_a_look_at_the_first_batch_costs_no_pass(images):
    data = Counted(named_batches(images, 2, 2, 2))
    reader = Reader(data)
    assert (reader.once, reader.length) == (False, 3)
    for _ in range(2):
        assert reader.first().name == "batch 0"
        assert reader.first_of_one_size().name == "batch 0"
    assert [pixels.name for pixels in reader.read()] == ["batch 0", "batch 1", "batch 2"]
    assert data.passes == 1
    assert [pixels.name for pixels in reader.read()] == ["batch 0", "batch 1", "batch 2"]
    assert data.passes == 2


def test_an_iterator_is_read_once_whole(images):
    reader = Reader(iter(named_batches(images, 2, 4)))
    assert reader.once
    assert reader.first().name == "batch 0"
    assert [pixels.name for pixels in reader.read()] == ["batch 0", "batch 1"]
    with pytest.raises(ValueError, match="6 images at first and 0 when they were read again: give batches that can be"):
        list(reader.read())


def test_other_images_in_a_later_pass_are_told(images):
    data = named_batches(images, 2, 4)
    reader = Reader(data)
    list(reader.read())
    data.pop()
    with pytest.raises(ValueError, match="6 images at first and 2 when they were read again"):
        list(reader.read())


def test_a_data_set_without_batches_is_told():
    with pytest.raises(ValueError, match="no batch of pixels: the data set is empty"):
        Reader([]).first()


def test_tensors_have_the_stream_of_the_reader(images):
    features, labels = images
    reader = Reader([(features[:2], labels[:2]), (features[2:], labels[2:])], stream=5)
    for _ in range(2):
        assert [(pixels.stream, pixels.offset) for pixels in reader.read()] == [(5, 0), (5, 40)]


def test_images_are_counted_where_that_is_not_known(images, folder):
    data = Counted(named_batches(images, 2, 4))
    reader = Reader(data)
    assert (reader.images(), reader.images(), data.passes) == (6, 6, 1)
    assert Reader(folder).images() == 6


@pytest.mark.parametrize("rows", [slice(0, 4), slice(1, 3)], ids=str)
def test_rows_of_every_batch(images, folder, rows):
    features, labels = images
    checked = []
    for reader in (Reader(named_batches(images, 2, 4)), Reader(folder)):
        parts = list(reader.rows(rows, checked.append))
        assert torch.cat([part.labels for part in parts]).to(labels.device).equal(labels[:, rows])
        both = torch.cat([part.features for part in parts]).to(features.device), features[:, :, rows]
        torch.testing.assert_close(*both, rtol=0, atol=0, equal_nan=True)
    assert [pixels.name for pixels in checked] == ["batch 0", "batch 1"]  # whole, and none of a folder
    assert all(pixels.labels.shape[1:] == (4, 5) for pixels in checked)


def test_progress_is_shown_on_request(images, capsys):
    reader = Reader(named_batches(images, 2, 4))
    list(reader.read())
    assert capsys.readouterr().err == ""
    list(reader.read("target"))
    assert "target: 100%" in capsys.readouterr().err
