"""Feature folders: what is read, in which order, and what is refused."""

import json
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch

from torch_trf import FeatureFolder
from torch_trf.features import natural_files

from .helpers import every_kind_of_no_file, put_what_is_no_file


def write(folder, features=None, labels=None, name="0"):
    """One image of a feature folder."""
    for subfolder, array in (("final", features), ("label", labels)):
        (folder / subfolder).mkdir(exist_ok=True)
        if array is not None:
            np.save(folder / subfolder / f"{name}.npy", array)


@pytest.fixture
def folder(tmp_path):
    """Three images whose natural order is not that of their names as text, each of its own size."""
    for name, height in (("2", 4), ("10", 5), ("1", 3)):
        write(tmp_path, np.full((3, height, 6), int(name), np.float32), np.zeros((height, 6), np.int64), name)
    return tmp_path


def test_reads_images_in_natural_order(folder):
    images = list(FeatureFolder(folder))
    assert [image.features[0, 0, 0, 0].item() for image in images] == [1, 2, 10]
    assert [image.labels.shape for image in images] == [(1, 3, 6), (1, 4, 6), (1, 5, 6)]
    assert [image.stream for image in images] == [0, 1, 2]
    assert all(image.logits is None for image in images)


def test_features_are_class_scores_where_that_is_said(folder):
    features = FeatureFolder(folder, logits="final")
    assert features.has_logits
    assert all(image.logits is image.features for image in features)
    assert all(image.logits is image.features for image in features.rows(slice(1, 2)))
    without = features.without_logits()
    assert (without.has_logits, features.has_logits) == (False, True)
    assert all(image.logits is None for image in without)
    assert not FeatureFolder(folder).has_logits


def test_subfolders_have_other_names(folder):
    (folder / "final").rename(folder / "layer4")
    (folder / "label").rename(folder / "truth")
    images = list(FeatureFolder(folder, features="layer4", labels="truth"))
    assert [image.features[0, 0, 0, 0].item() for image in images] == [1, 2, 10]
    for options, missing in (({}, "final"), ({"features": "layer4"}, "label")):
        with pytest.raises(ValueError, match=f"{missing} is not a folder"):
            FeatureFolder(folder, **options)


@pytest.mark.parametrize("kind", [str, Path, PurePath], ids=["text", "path", "path-like"])
def test_paths_of_every_kind(folder, kind):
    assert FeatureFolder(kind(folder)).path == folder


def test_logits_may_lie_elsewhere(folder):
    (folder / "logits").mkdir()
    for name, height in (("2", 4), ("10", 5), ("1", 3)):
        np.save(folder / "logits" / f"{name}.npy", np.ones((7, height, 6), np.float16))
    assert next(iter(FeatureFolder(folder, logits="logits"))).logits.shape == (1, 7, 3, 6)
    assert next(iter(FeatureFolder(folder, logits=None))).logits is None


@pytest.mark.parametrize("rows", [slice(0, 2), slice(1, 3), slice(2, 100), slice(None)])
def test_reads_rows_of_every_image(tmp_path, rows):
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(2, 3, 4, 5)), random.integers(0, 9, (2, 4, 5))
    for k in range(2):
        write(tmp_path, features[k], labels[k], str(k))
    for k, image in enumerate(FeatureFolder(tmp_path).rows(rows)):
        assert np.array_equal(image.features.numpy(), features[k : k + 1, :, rows])
        assert np.array_equal(image.labels.numpy(), labels[k : k + 1, rows])
        assert (image.stream, image.name) == (k, str(tmp_path / "final" / f"{k}.npy"))


def test_reads_rows_of_logits_too(folder):
    (folder / "logits").mkdir()
    for name, height in (("2", 4), ("10", 5), ("1", 3)):
        np.save(folder / "logits" / f"{name}.npy", np.arange(height * 6.0).reshape(1, height, 6))
    rows = [image.logits for image in FeatureFolder(folder, logits="logits").rows(slice(1, 2))]
    assert all(torch.equal(logits.flatten(), torch.arange(6.0, 12.0).double()) for logits in rows)


def test_sizes_that_differ_are_named(folder, tmp_path_factory):
    with pytest.raises(ValueError, match=r"label/2\.npy has 4 x 6 pixels, the first image 3 x 6: a map needs images"):
        FeatureFolder(folder).image_size()
    path = tmp_path_factory.mktemp("equal")
    for name in ("0", "1"):
        write(path, IMAGE, LABELS, name)
    assert FeatureFolder(path).image_size() == (3, 4)


@pytest.mark.parametrize("feature_type", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("label_type", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, ">i4"])
def test_reads_every_type(tmp_path, feature_type, label_type):
    write(tmp_path, np.full((2, 3, 4), 1.5, feature_type), np.full((3, 4), 7, label_type))
    image = next(iter(FeatureFolder(tmp_path)))
    assert (image.features == 1.5).all()
    assert (image.labels == 7).all()


def test_draws_images_by_seed(tmp_path):
    for k in range(12):
        write(tmp_path, np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.uint8), str(k))
    folder = FeatureFolder(tmp_path)
    drawn = [folder.draw(5, seed=seed).names for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 5
    assert drawn[0] == sorted(drawn[0], key=int)
    assert [image.stream for image in folder.draw(5)] == list(range(5))
    assert len(folder) == len(folder.draw(100)) == len(folder.draw(None)) == 12


def test_parts_share_the_images(tmp_path):
    for k in range(5):
        write(tmp_path, np.full((1, 1, 1), k, np.float32), np.zeros((1, 1), np.uint8), str(k))
    parts = [FeatureFolder(tmp_path).part(index, 3) for index in range(3)]
    read = [(image.stream, int(image.features.item())) for part in parts for image in part]
    assert sorted(read) == [(k, k) for k in range(5)]  # a file is the same stream in every part
    assert [len(part) for part in parts] == [2, 2, 1]
    assert len(FeatureFolder(tmp_path).draw(2).part(2, 3)) == 0


def test_counts_classes(tmp_path):
    write(tmp_path, np.zeros((1, 2, 2), np.float32), np.array([[0, 3], [3, 250]], np.uint8))
    assert FeatureFolder(tmp_path).class_counts(ignore_index=250) == {0: 1, 3: 2}


IMAGE, LABELS = np.zeros((2, 3, 4), np.float32), np.zeros((3, 4), np.int64)


@pytest.mark.parametrize(
    ("features", "labels", "word"),
    [
        (IMAGE, None, "no partner"),
        (None, LABELS, "no .npy file"),
        (IMAGE, LABELS[:2], "grid of 3 x 4"),
        (IMAGE[0], LABELS, r"\[3, 4\], expected"),
        (IMAGE, LABELS[None], r"\[1, 3, 4\], expected"),
        (IMAGE.astype(np.int32), LABELS, "int32"),
        (IMAGE, LABELS.astype(np.float32), "float32"),
        (IMAGE, LABELS.astype(bool), "bool"),
        (IMAGE.astype(np.complex64), LABELS, "complex64"),
        (IMAGE.astype(object), LABELS, "not a whole .npy array"),
    ],
)
def test_refuses_what_does_not_fit_and_names_the_file(tmp_path, features, labels, word):
    if features is not None and labels is None:
        write(tmp_path, features, LABELS, "1")
    write(tmp_path, features, labels)
    with pytest.raises(ValueError, match=word) as error:
        FeatureFolder(tmp_path)
    assert str(tmp_path) in str(error.value)


BROKEN = [
    b"",
    b"\x93NUMPY",
    b"not an array",
    b"PK\x03\x04junk",
    b"\x93NUMPY\x01\x00\x20\x00{'descr': '<f4', 'fortran_ord    \n",
    b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, -4, 6), }        \n",
]


@pytest.mark.parametrize("content", BROKEN)
def test_refuses_a_broken_file(folder, content):
    (folder / "final" / "2.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"final/2\.npy is not a whole \.npy array"):
        FeatureFolder(folder)


def test_refuses_an_archive(folder):
    np.savez(folder / "final" / "2", np.zeros(3))
    (folder / "final" / "2.npz").replace(folder / "final" / "2.npy")
    with pytest.raises(ValueError, match=r"final/2\.npy is not a whole \.npy array"):
        FeatureFolder(folder)


def test_refuses_to_draw_no_image(folder):
    with pytest.raises(ValueError, match="num_images must be at least 1, not 0"):
        FeatureFolder(folder).draw(0)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("name", ["logit_name", "feature_name", "num_images"])
def test_misspelt_options_name_what_was_called(folder, name):
    with pytest.raises(TypeError, match=rf"FeatureFolder\.__init__\(\) got an unexpected keyword argument '{name}'"):
        FeatureFolder(folder, **{name: None})
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        FeatureFolder(folder, "final")


def test_refuses_a_file_that_is_cut_off(folder):
    path = folder / "final" / "10.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"final/10\.npy is not a whole \.npy array"):
        FeatureFolder(folder)


def test_refuses_a_stray_file(folder):
    (folder / "label" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"label/notes\.txt does not belong here"):
        FeatureFolder(folder)


def test_hidden_files_are_not_looked_at(folder):
    whole = [image.features for image in FeatureFolder(folder)]
    (folder / "final" / ".DS_Store").touch()
    (folder / "label" / "._2.npy").write_bytes(b"of another system")
    (folder / "label" / ".5.tmp.npy").write_bytes(b"half")  # of a process that was killed
    assert [image.name for image in FeatureFolder(folder)] == [str(folder / "final" / f"{k}.npy") for k in (1, 2, 10)]
    assert all(torch.equal(a.features, b) for a, b in zip(FeatureFolder(folder), whole, strict=True))


@every_kind_of_no_file
def test_refuses_what_is_no_file(folder, kind):
    path = folder / "final" / "3.npy"
    put_what_is_no_file(path, kind)
    with pytest.raises(ValueError, match=r"final/3\.npy does not belong here: the folder must hold \.npy files alone"):
        FeatureFolder(folder)


def test_a_file_may_be_a_link(folder):
    path = folder / "final" / "2.npy"
    path.rename(folder / "elsewhere.npy")
    path.symlink_to(folder / "elsewhere.npy")
    assert len(FeatureFolder(folder)) == 3


def test_refuses_a_file_of_which_the_header_tells_a_part(tmp_path):
    write(tmp_path, IMAGE, LABELS)
    path = tmp_path / "final" / "0.npy"
    path.write_bytes(path.read_bytes().replace(b"(2, 3, 4)", b"(1, 3, 4)"))
    with pytest.raises(ValueError, match=r"0\.npy is not a whole .*\[1, 3, 4\] float32, behind which are 48 bytes"):
        FeatureFolder(tmp_path)


@pytest.mark.parametrize("shape", [b"(9**999,)", b"(99999999,99999999,99999999)", b"(-1,3,4)", b"(True,3,8)", b"1"])
def test_refuses_hostile_headers(tmp_path, shape):
    write(tmp_path, IMAGE, LABELS)
    path = tmp_path / "final" / "0.npy"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b", }"
    path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117) + b"\n" + IMAGE.tobytes())
    with pytest.raises(ValueError, match=r"final/0\.npy"):
        FeatureFolder(tmp_path)


def extracted(folder, images):
    """Three images 0, 1 and 2, beside which stands of how many `extract` was to write."""
    for k in range(3):
        write(folder, IMAGE, LABELS, str(k))
    (folder / "extract.json").write_text(json.dumps({"images": images}))
    return folder


@pytest.mark.parametrize("images", [4, 1002, ["a.png", "b.png", "c.png", "d.png"]])
def test_an_extraction_that_has_not_finished_is_not_read(tmp_path, images):
    count = f"{images:,}" if isinstance(images, int) else len(images)
    with pytest.raises(ValueError, match=f"holds 3 of the {count} images that extract was to write: it has not finish"):
        FeatureFolder(extracted(tmp_path, images))


@pytest.mark.parametrize("subfolder", ["label", "final"])
def test_an_image_that_is_not_whole_has_not_finished(tmp_path, subfolder):
    (extracted(tmp_path, 3) / subfolder / "1.npy").unlink()
    with pytest.raises(ValueError, match="holds 2 of the 3 images that extract was to write"):
        FeatureFolder(tmp_path)


def test_an_extraction_that_has_finished_is_read(tmp_path):
    assert len(FeatureFolder(extracted(tmp_path, 3))) == len(FeatureFolder(extracted(tmp_path, ["a", "b", "c"]))) == 3


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": null}', '{"images": 1e3}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (extracted(tmp_path, 3) / "extract.json").write_text(text)
    with pytest.raises(ValueError, match=r"extract\.json cannot be read: "):
        FeatureFolder(tmp_path)


def test_refuses_other_channels(folder):
    write(folder, np.zeros((4, 4, 6), np.float32), np.zeros((4, 6), np.int64), "2")
    with pytest.raises(ValueError, match=r"final/2\.npy has 4 channels, the first file has 3"):
        FeatureFolder(folder)


def test_refuses_a_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        FeatureFolder(tmp_path / "none")


def test_tensors_own_their_memory(folder):
    image = next(iter(FeatureFolder(folder)))
    image.features.add_(1)
    assert torch.equal(next(iter(FeatureFolder(folder))).features, image.features - 1)


def test_files_of_a_folder_in_natural_order(tmp_path):
    for name in ("b10.png", "b2.jpg", "a.png"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert [path.name for path in natural_files(tmp_path)] == ["a.png", "b2.jpg", "b10.png"]
    for folder, message in (("empty", "empty is empty"), ("none", "none is not a folder")):
        with pytest.raises(ValueError, match=message):
            natural_files(tmp_path / folder)
