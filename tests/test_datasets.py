"""Labeled images from folders and data sets of any kind: what is read, and what is refused."""

import re
import warnings
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from torch_trf.datasets import (
    IGNORED,
    LabeledData,
    LabeledImage,
    LabeledImages,
    SegmentationFolder,
    as_image,
    as_labels,
    read_batches,
)

from .helpers import every_kind_of_no_file, put_what_is_no_file

COLORS = {"#000000": 0, "#804080": 1, "#ff0000": 255}
RGB = np.array([[[0, 0, 0], [128, 64, 128]], [[255, 0, 0], [128, 64, 128]]], np.uint8)
CLASSES = [[0, 1], [255, 1]]


class Pairs(Dataset):
    """What it is given."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def images(*pairs, **options):
    return LabeledImages(dataset=Pairs(pairs), **{"num_classes": 3} | options)


def save(folder, name, array, palette=None):
    """An array as a picture in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(array))
    if palette is not None:
        picture.putpalette(palette)
    picture.save(folder / name)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three images of their own sizes, whose natural order is not that of their names as text."""
    for name, height in (("2", 4), ("10", 5), ("1", 3)):
        save(tmp_path / "images", f"{name}.png", noise(height, 6, int(name)))
        save(tmp_path / "labels", f"{name}_L.png", np.full((height, 6), int(name) % 3, np.uint8))
    return tmp_path


def folder_data(folder, **options):
    arguments = {"images": str(folder / "images"), "labels": str(folder / "labels"), "label_suffix": "_L"}
    dataset = {"class_path": "torch_trf.datasets.SegmentationFolder", "init_args": arguments}
    return LabeledData(dataset=dataset, **{"num_classes": 3} | options)


def every(images):
    return [images[index] for index in range(len(images))]


def test_reads_a_folder_in_natural_order(folder):
    labeled = every(folder_data(folder).make())
    assert [(each.index, each.image.shape, each.labels.unique().tolist()) for each in labeled] == [
        (0, (3, 3, 6), [1]),
        (1, (3, 4, 6), [2]),
        (2, (3, 5, 6), [1]),
    ]
    assert all(each.labels.shape == each.image.shape[1:] for each in labeled)
    assert torch.equal(labeled[1].image, torch.from_numpy(noise(4, 6, 2)).movedim(-1, 0))


def test_iterates_over_all_images(folder):
    assert [each.index for each in islice(folder_data(folder).make(), 5)] == [0, 1, 2]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16"])
def test_images_of_any_kind_have_three_channels(tmp_path, mode):
    save(tmp_path / "labels", "a.png", np.zeros((3, 2), np.uint8))
    (tmp_path / "images").mkdir()
    Image.new(mode, (2, 3)).save(tmp_path / "images" / "a.png")
    [(image, _)] = SegmentationFolder(tmp_path / "images", tmp_path / "labels")
    assert as_image(image).shape == (3, 3, 2)


def test_images_may_have_another_ending_than_their_labels(tmp_path):
    save(tmp_path / "images", "a.b.jpg", noise(8, 8))
    save(tmp_path / "labels", "a.b.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "images" / ".hidden").touch()
    assert len(SegmentationFolder(tmp_path / "images", str(tmp_path / "labels"))) == 1


def test_an_image_without_labels_is_named(folder):
    (folder / "labels" / "10_L.png").unlink()
    with pytest.raises(ValueError, match=r"images/10\.png has no labels .*labels/10_L\.\*"):
        folder_data(folder).make()


@pytest.mark.parametrize(("part", "of_one_name"), [("images", "2.bmp"), ("labels", "2_L.tif")])
def test_two_pictures_of_one_name_are_an_error(folder, part, of_one_name):
    save(folder / part, of_one_name, np.zeros((4, 6), np.uint8))
    with pytest.raises(ValueError, match=r"2.*\.bmp and .*2\.png|2_L\.png and .*2_L\.tif|2_L\.tif and .*2_L\.png"):
        folder_data(folder).make()


@pytest.mark.parametrize("part", ["images", "labels"])
def test_what_is_no_picture_by_its_name_is_told(folder, part):
    for name in ("Thumbs.db", "2.png.aux.xml", "classes.txt"):
        (folder / part / name).touch()
    (folder / part / "others").mkdir()
    (folder / part / ".hidden").touch()
    with pytest.warns(UserWarning, match=rf"3 of the files in .*/{part} are no pictures .* left out, as .*\.") as told:
        assert len(folder_data(folder).make()) == 3
    assert len(told) == 1
    for path in (folder / part).glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=f"{part} holds no picture that Pillow reads, but files as"):
        folder_data(folder).make()


@every_kind_of_no_file
def test_what_is_no_file_is_named(folder, kind):
    path = folder / "images" / "2.png"
    path.unlink()
    put_what_is_no_file(path, kind)
    with pytest.raises(ValueError, match=r"images/2\.png is no file, but a folder, a link to nothing"):
        folder_data(folder).make()


@pytest.mark.parametrize(
    "names",
    [
        ("caf\u00e9", "cafe\u0301"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\u00b2", "a\u00b2"),
        ("\u00b2", "\u00b2"),
        ("\u2460",) * 2,
    ],
)
def test_names_in_unicode_are_paired(tmp_path, names):
    for part, name in zip(("images", "labels"), names, strict=True):
        for number in (10, 2):
            save(tmp_path / part, f"{number}{name}.png", np.zeros((number, 3), np.uint8))
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "labels")
    assert [(image.height, labels.height) for image, labels in map(dataset.__getitem__, range(2))] == [(2, 2), (10, 10)]


@pytest.mark.parametrize("part", ["images", "labels"])
def test_empty_and_missing_folders_are_named(folder, part):
    for path in list((folder / part).iterdir()):
        path.unlink()
    with pytest.raises(ValueError, match=f"{part} is empty"):
        folder_data(folder).make()
    (folder / part).rmdir()
    with pytest.raises(ValueError, match=f"{part} is not a folder"):
        folder_data(folder).make()


@pytest.mark.parametrize("path", ["images/2.png", "labels/2_L.png"])
@pytest.mark.parametrize("kept", [0, 20, 0.6])
def test_a_picture_that_is_cut_off_is_named(folder, path, kept):
    save(folder / "images", "2.png", noise(40, 60))
    save(folder / "labels", "2_L.png", noise(40, 60)[..., 0])
    contents = (folder / path).read_bytes()
    (folder / path).write_bytes(contents[: int(kept * len(contents)) if kept < 1 else kept])
    error = folder_data(folder).make()[1]
    assert isinstance(error, ValueError)
    assert str(error).startswith(f"image 1: {folder / path} is not a whole picture: ")


def test_a_file_that_is_no_picture_is_named(folder):
    (folder / "images" / "2.png").write_text("notes")
    with pytest.raises(ValueError, match=r"^image 1: .*images/2\.png is not a whole picture"):
        list(read_batches(folder_data(folder).make(), batch_size=2, num_workers=0))


def labeled(image, **options):
    return as_labels(image, **options).tolist()


def test_labels_are_values_or_what_the_map_says():
    gray = Image.fromarray(np.array([[7, 8], [255, 7]], np.uint8))
    assert labeled(gray) == [[7, 8], [255, 7]]
    assert labeled(gray, label_map={7: 0, 8: 1, 255: 255, 9: 2}) == [[0, 1], [255, 0]]


def test_labels_of_16_bits(tmp_path):
    save(tmp_path, "labels.png", np.array([[300, 65535], [0, 256]], np.uint16))
    picture = Image.open(tmp_path / "labels.png")
    assert labeled(picture) == [[300, 65535], [0, 256]]
    assert labeled(picture, label_map={300: 2, 65535: 255, 0: 0, 256: 1}) == [[2, 255], [0, 1]]


@pytest.fixture
def palette_image():
    """Colors of a palette in which numbers are in another order than the classes."""
    picture = Image.fromarray(np.array([[2, 0], [1, 0]], np.uint8))
    picture.putpalette([128, 64, 128, 255, 0, 0, 0, 0, 0])
    return picture


def test_labels_of_a_palette_are_numbers_or_colors(palette_image):
    assert labeled(palette_image) == [[2, 0], [1, 0]]
    assert labeled(palette_image, label_map={0: 1, 1: 255, 2: 0}) == CLASSES
    assert labeled(palette_image, label_map=COLORS) == CLASSES


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_labels_of_colors(mode):
    picture = Image.fromarray(RGB).convert(mode)
    assert labeled(picture, label_map=COLORS) == CLASSES
    assert labeled(picture, label_map={name.upper(): number for name, number in COLORS.items()}) == CLASSES
    for label_map in (None, {0: 0}):
        with pytest.raises(ValueError, match="a label image of colors needs a label map"):
            as_labels(picture, label_map)


def test_gray_labels_by_color():
    assert labeled(Image.new("L", (2, 1), 7), label_map={"#070707": 4}) == [[4, 4]]


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([[0, 2], [1, 1]], dtype=torch.uint8),
        torch.tensor([[0, 2], [1, 1]], dtype=torch.int16),
        torch.tensor([[[0, 2], [1, 1]]]),
        tv_tensors.Mask(torch.tensor([[0, 2], [1, 1]])),
    ],
)
def test_labels_may_be_tensors(labels):
    classes = as_labels(labels)
    assert classes.dtype == torch.int64
    assert classes.tolist() == labels.reshape(-1, 2).tolist()
    assert (as_labels(labels, {0: 5, 1: 6, 2: 7}) == classes + 5).all()


@given(values=arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5))), seed=st.integers(0, 99))
def test_a_label_map_is_looked_up_at_every_pixel(values, seed):
    numbers = np.random.default_rng(seed).integers(0, 1000, 256).tolist()
    expected = [[numbers[value] for value in row] for row in values.tolist()]
    assert labeled(Image.fromarray(values), label_map=dict(enumerate(numbers))) == expected


def test_colors_that_the_map_does_not_name_are_counted():
    error = images((torch.zeros(3, 2, 2), Image.fromarray(RGB)), label_map={"#000000": 0})[0]
    unknown = "labels hold #804080, #ff0000, on 3 pixels, which the label map does not name"
    assert str(error) == f"image 0: {unknown}"
    error = images((torch.zeros(3, 2, 2), torch.tensor([[7, 8], [8, 8]])), label_map={7: 0})[0]
    assert str(error) == "image 0: labels hold 8, on 3 pixels, which the label map does not name"


@pytest.mark.parametrize("name", ["red", "#80408g", "", "#fff"])
def test_a_name_that_is_no_color_is_an_error(name):
    with pytest.raises(ValueError, match=f"{name!r} is neither a number nor a color like '#804080'"):
        as_labels(Image.new("L", (2, 2)), {"#000000": 0, name: 1})


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((torch.zeros(3, 4, 6), torch.zeros(2, 6, dtype=torch.int64)), "an image of 4 x 6 pixels with labels on 2 x 6"),
        ((torch.zeros(3, 0, 6), torch.zeros(0, 6, dtype=torch.int64)), "an image of 0 x 6 pixels with labels on 0 x 6"),
        (
            (torch.zeros(4, 6), torch.zeros(4, 6, dtype=torch.int64)),
            r"torch.float32 tensor \[4, 6\], expected a Pillow",
        ),
        ((torch.zeros(3, 4, 6), torch.zeros(4, 6)), r"labels are a torch.float32 tensor \[4, 6\], expected"),
        (
            (torch.zeros(3, 4, 6), torch.zeros(2, 4, 6, dtype=torch.int64)),
            r"labels are a torch.int64 tensor \[2, 4, 6\]",
        ),
        ((torch.zeros(3, 4, 6), 7), "labels are a int, expected a Pillow image or integers"),
        (("a.png", torch.zeros(4, 6, dtype=torch.int64)), "an image is a str, expected a Pillow image or a tensor"),
        ({"image": 0, "label": 1}, r"the data set gives a dict, expected a pair \(image, labels\)"),
        ((torch.zeros(3, 4, 6),), r"the data set gives a tuple, expected a pair \(image, labels\)"),
    ],
)
def test_what_is_no_labeled_image_is_named(pair, message):
    with pytest.raises(ValueError, match=f"image 1: .*{message}"):
        list(read_batches(images(GOOD, pair, GOOD), batch_size=2, num_workers=0))


GOOD = torch.zeros(3, 4, 6), torch.zeros(4, 6, dtype=torch.int64)


def row(*values, **options):
    """The labels of an image of two equal rows."""
    labeled = images((torch.zeros(3, 2, len(values)), torch.tensor([values] * 2)), **options)[0]
    return labeled.labels[0].tolist() if isinstance(labeled, LabeledImage) else str(labeled)


def test_ignored_pixels_are_labeled_alike():
    assert row(0, 250, 2, ignore_index=250) == [0, IGNORED, 2]
    assert row(0, -1, 2, ignore_index=-1) == [0, IGNORED, 2]
    assert row(0, 1, 2, ignore_index=1) == [0, IGNORED, 2]
    assert row(8, 7, label_map={8: 1, 7: 250}, ignore_index=250) == [1, IGNORED]


@pytest.mark.parametrize(
    ("labels", "ignore_index", "message"),
    [
        ((0, 3, 4, 3), 255, "image 0: label 3, 4 on 6 pixels: outside [0, 3) and not ignore_index=255"),
        ((0, -1, 255, 2), 255, "image 0: label -1 on 2 pixels: outside [0, 3) and not ignore_index=255"),
        ((0, 255, 250, 2), 250, "image 0: label 255 on 2 pixels: outside [0, 3) and not ignore_index=250"),
    ],
)
def test_labels_outside_the_classes_are_counted(labels, ignore_index, message):
    assert row(*labels, ignore_index=ignore_index) == message


@pytest.mark.parametrize("number", [3, -1, 2**70, 1.0, "road", None])
def test_a_label_map_leads_to_classes(number):
    with pytest.raises(
        ValueError, match=rf"label map: 7 is class {number!r}, outside \[0, 3\) and not ignore_index=255"
    ):
        images(GOOD, label_map={0: 0, 7: number})


def test_a_label_map_names_a_color_once():
    with pytest.raises(ValueError, match="label map: two of #00FF00, #00ff00 are the same"):
        as_labels(Image.new("RGB", (2, 2)), {"#00FF00": 0, "#00ff00": 1})


@pytest.mark.parametrize("num_classes", [0, 256])
def test_more_classes_than_a_byte_has_are_an_error(num_classes):
    with pytest.raises(ValueError, match=f"num_classes={num_classes}: at least 1 and at most 255 classes"):
        images((torch.zeros(3, 1, 1), torch.zeros(1, 1, dtype=torch.int64)), num_classes=num_classes)


def test_an_image_of_one_row():
    assert isinstance(images((torch.zeros(3, 1, 4), torch.zeros(1, 4, dtype=torch.int64)))[0], LabeledImage)


def test_an_error_of_the_data_set_is_told_with_its_image():
    class Broken(Pairs):
        def __getitem__(self, index):
            raise KeyError("city")

    error = LabeledImages(dataset=Broken([GOOD]), num_classes=3)[0]
    assert isinstance(error, ValueError)
    assert str(error) == "image 0: KeyError: 'city'"


def test_a_transform_is_of_images_alone():
    labeled = images(GOOD, transform=v2.Resize([2, 3]))[0]
    assert (labeled.image.shape, labeled.labels.shape) == ((3, 2, 3), (4, 6))


def test_a_data_set_without_images_is_refused():
    with pytest.raises(ValueError, match="the data set is empty"):
        images()


def test_names_are_as_many_as_classes(folder):
    folder_data(folder, class_names=["road", "person", "sky"])
    with pytest.raises(ValueError, match="2 class_names for num_classes=3"):
        folder_data(folder, class_names=["road", "person"])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("only", "expected"), [(None, [[0, 1], [2]]), ([2, 0], [[2, 0]]), ([], [])])
def test_batches_are_in_the_order_asked_for(folder, num_workers, only, expected):
    labeled = folder_data(folder).make()
    batches = list(read_batches(labeled, batch_size=2, num_workers=num_workers, only=only))
    assert [[each.index for each in batch] for batch in batches] == expected
    for each in (each for batch in batches for each in batch):
        assert torch.equal(each.image, labeled[each.index].image)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_is_one_line_whoever_reads_it(folder, num_workers):
    save(folder / "labels", "10_L.png", np.full((5, 6), 9, np.uint8))
    batches = read_batches(folder_data(folder).make(), batch_size=1, num_workers=num_workers)
    assert [batch[0].index for batch in (next(batches), next(batches))] == [0, 1]
    with pytest.raises(
        ValueError, match=r"^image 2 \(.*10\.png\): label 9 on 30 pixels: outside \[0, 3\) and not ignore_index=255$"
    ):
        next(batches)


class Told(LabeledImages):
    """Images about which there is something to say."""

    def read(self, index):
        return LabeledImage(index, *GOOD, ("all are so",) if index else (), {0: "#000000", 1: f"#00000{index // 3}"})


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("function", [None, lambda image: image.index])
def test_what_is_doubtful_is_told_once(num_workers, function):
    labeled = Told(dataset=Pairs([GOOD] * 5), num_classes=3)
    with pytest.warns(UserWarning, match="all are so|palettes") as told:
        batches = list(read_batches(labeled, function, batch_size=2, num_workers=num_workers))
    assert sorted(str(each.message) for each in told) == [
        "all are so (first in image 1)",
        "palettes of label images differ: 1 is #000000 in image 0 and #000001 in image 3; "
        "the numbers are taken as classes",
    ]
    indices = [image if function else image.index for batch in batches for image in batch]
    assert indices == [0, 1, 2, 3, 4]


def test_python_tells_it_once_however_often_images_are_read():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for only in (None, [0, 1, 3], None):
            list(read_batches(Told(dataset=Pairs([GOOD] * 5), num_classes=3), batch_size=2, num_workers=0, only=only))
    assert len(told) == 2


def test_progress_counts_images(folder, capsys):
    list(read_batches(folder_data(folder).make(), batch_size=2, num_workers=0, title="labels"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "labels: 100%" in err
    assert "3/3" in err
    list(read_batches(folder_data(folder).make(), batch_size=2, num_workers=0))
    assert capsys.readouterr() == ("", "")


def test_reads_voc_of_torchvision(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000032\n2007_000039\n")
    for name in ("2007_000032", "2007_000039"):
        save(root / "JPEGImages", f"{name}.jpg", noise(4, 6))
        labels = np.array([[0, 1, 15, 20, 255, 0]] * 4, np.uint8)
        save(root / "SegmentationClass", f"{name}.png", labels, palette=noise(16, 16).flatten().tolist())
    arguments = {"root": str(tmp_path), "image_set": "train"}
    dataset = {"class_path": "torchvision.datasets.VOCSegmentation", "init_args": arguments}
    labeled = every(LabeledData(dataset=dataset, num_classes=21).make())
    assert [each.labels[0].tolist() for each in labeled] == [[0, 1, 15, 20, 255, 0]] * 2
    arguments["root"] = str(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"VOCSegmentation cannot be made: .*not found or corrupted"):
        LabeledData(dataset=dataset, num_classes=21).make()


def test_reads_cityscapes_of_torchvision(tmp_path):
    name = "aachen_000000_000019"
    save(tmp_path / "leftImg8bit" / "val" / "aachen", f"{name}_leftImg8bit.png", noise(2, 4))
    ids = np.array([[7, 8, 0, 33]] * 2, np.uint8)
    save(tmp_path / "gtFine" / "val" / "aachen", f"{name}_gtFine_labelIds.png", ids)
    colors = np.array([[[128, 64, 128], [244, 35, 232], [0, 0, 0], [119, 11, 32]]] * 2, np.uint8)
    Image.fromarray(colors).convert("RGBA").save(tmp_path / "gtFine" / "val" / "aachen" / f"{name}_gtFine_color.png")

    def classes_of(target_type, label_map):
        arguments = {"root": str(tmp_path), "split": "val", "mode": "fine", "target_type": target_type}
        dataset = {"class_path": "torchvision.datasets.Cityscapes", "init_args": arguments}
        image = LabeledData(dataset=dataset, num_classes=19, label_map=label_map).make()[0]
        return image.labels[0].tolist()

    assert classes_of("semantic", {7: 0, 8: 1, 33: 18, 0: 255}) == [0, 1, 255, 18]
    by_color = {"#804080": 0, "#f423e8": 1, "#770b20": 18, "#000000": 255}
    assert classes_of("color", by_color) == [0, 1, 255, 18]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(3, 4, 5), torch.zeros(4, 5, dtype=torch.int64)


def test_a_data_set_without_a_length_is_refused():
    with pytest.raises(ValueError, match="the data set, a Stream, is iterable without a length"):
        LabeledImages(dataset=Stream(), num_classes=2)


def test_sizes_that_differ_are_told_with_the_file(tmp_path):
    for name, size in (("images", (6, 4)), ("labels", (6, 3))):
        (tmp_path / name).mkdir()
        Image.new("L", size).save(tmp_path / name / "a.png")
    images = LabeledImages(dataset=SegmentationFolder(tmp_path / "images", tmp_path / "labels"), num_classes=2)
    assert re.fullmatch(r"image 0 \(.*images.a\.png\): an image of 4 x 6 pixels with labels on 3 x 6", str(images[0]))
