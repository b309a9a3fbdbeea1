"""A folder of features with a damaged file is refused by the file's name, or read with the shapes it had.

A number inside a file that is another one is not noticed: the layout has no place for a digest. Nor is the order of
bytes, which is a single bit of a header.
"""

import json

import numpy as np
import pytest

from torch_trf import FeatureFolder

from .damage import damaged_bytes, damaged_value, read_unless_told

HEADER = 128  # bytes of a file of these shapes


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for k in range(2):
        for name, array in (
            ("final", random.normal(size=(3, 4, 5)).astype(np.float32)),
            ("label", random.integers(0, 3, (4, 5))),
            ("logits", random.normal(size=(2, 4, 5)).astype(np.float16)),
        ):
            (tmp_path / name).mkdir(exist_ok=True)
            np.save(tmp_path / name / f"{k}.npy", array)
    (tmp_path / "extract.json").write_text(json.dumps({"images": ["a.png", "b.png"], "dtype": "float32"}))
    return tmp_path


def read(folder):
    """All arrays of a folder, as read by what a score and a map need."""
    images = FeatureFolder(folder, logits="logits")
    images.image_size()
    images.class_counts(255)
    return [array.numpy() for image in images for array in (image.features, image.labels, image.logits)]


def test_a_damaged_array(folder, chances):
    whole = read(folder)
    paths = sorted(folder.rglob("*.npy"))
    for chance in chances(300):
        path = chance.choice(paths)
        contents = path.read_bytes()
        damaged = damaged_bytes(contents, chance)
        path.write_bytes(damaged)
        arrays = read_unless_told(lambda: read(folder), str(path))
        if arrays is not None:
            assert len(damaged) == len(contents)
            assert [array.shape for array in arrays] == [array.shape for array in whole]
            if damaged[HEADER:] == contents[HEADER:] and b">" not in damaged[:HEADER]:
                assert all(map(np.array_equal, arrays, whole))
        path.write_bytes(contents)


def test_a_damaged_manifest(folder, chances):
    whole = read(folder)
    path = folder / "extract.json"
    contents = path.read_bytes()
    for chance in chances(200):
        if chance.random() < 0.5:
            path.write_bytes(damaged_bytes(contents, chance))
        else:
            path.write_text(json.dumps(damaged_value(json.loads(contents), chance)))
        arrays = read_unless_told(lambda: read(folder), str(path))
        assert arrays is None or all(map(np.array_equal, arrays, whole))
