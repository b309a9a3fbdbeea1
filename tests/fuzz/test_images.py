"""Damaged pictures in folders of images and labels: the same pixels, or an error that names the file."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from torch_trf.datasets import LabeledImage, LabeledImages, SegmentationFolder

from .damage import damaged_bytes

HEIGHT, WIDTH, CLASSES = 24, 36, 5
MOST_PIXELS = 1 << 24  # so that no try takes long; Pillow refuses what is far larger than its own limit

# Of PNG a checksum tells what is damaged; of the others any pixels may come out that a file of theirs can hold.
IMAGES = {"png": {}, "jpg": {"quality": 95}, "tif": {"compression": "tiff_lzw"}, "bmp": {}, "gif": {}, "webp": {}}
LABELS = {"png": {}, "tif": {"compression": "tiff_adobe_deflate"}, "bmp": {}, "gif": {}}
WITH_CHECKSUM = ("png",)


def _file(array, ending, **options):
    buffer = io.BytesIO()
    kind = Image.registered_extensions()[f".{ending}"]
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def contents(tmp_path):
    """A folder of one image and its labels, both as PNG, and what to put in their place."""
    chance = np.random.default_rng(0)
    image = chance.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    labels = chance.integers(0, CLASSES, (HEIGHT, WIDTH), np.uint8)
    for part, array in (("images", image), ("labels", labels)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "7.png").write_bytes(_file(array, "png"))
    return tmp_path, {"images": (image, IMAGES), "labels": (labels, LABELS)}


def _read(folder):
    dataset = SegmentationFolder(folder / "images", folder / "labels")
    return LabeledImages(dataset=dataset, num_classes=CLASSES)[0]


@pytest.mark.parametrize("part", ["images", "labels"])
@pytest.mark.filterwarnings("ignore")  # Pillow's, of tags that it leaves out
def test_a_damaged_picture_is_the_same_or_is_named(contents, chances, part, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", MOST_PIXELS // 2)  # refused is what has twice as many
    folder, arrays = contents
    array, formats = arrays[part]
    (folder / part / "7.png").unlink()
    whole = {ending: _file(array, ending, **options) for ending, options in formats.items()}
    undamaged = {}
    for ending, data in whole.items():
        path = folder / part / f"7.{ending}"
        path.write_bytes(data)
        undamaged[ending] = _read(folder)
        path.unlink()
        assert isinstance(undamaged[ending], LabeledImage)
    for chance in chances(300):
        ending = chance.choice(list(whole))
        path = folder / part / f"7.{ending}"
        path.write_bytes(damaged_bytes(whole[ending], chance))
        found = _read(folder)
        path.unlink()
        if isinstance(found, ValueError):
            assert str(path) in str(found) or "pixels" in str(found), found  # of labels outside, or of another size
            continue
        assert isinstance(found, LabeledImage)
        assert found.image.shape == (3, HEIGHT, WIDTH)
        assert found.labels.shape == (HEIGHT, WIDTH)
        if ending in WITH_CHECKSUM:
            assert torch.equal(found.image, undamaged[ending].image), chance
            assert torch.equal(found.labels, undamaged[ending].labels), chance
