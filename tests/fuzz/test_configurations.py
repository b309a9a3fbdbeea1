"""Damaged configurations: what they say is made, or one line says what is wrong."""

import re

import numpy as np
import pytest
import yaml

from torch_trf.cli import _folders, _models, main
from torch_trf.maps import Mapper
from torch_trf.ranking import Ranker

from .damage import damaged_bytes, damaged_value

DATA = {
    "dataset": {
        "class_path": "torch_trf.datasets.RoadScenes",
        "init_args": {"domain": "noon", "num_images": 1, "height": 16, "width": 24},
    },
    "num_classes": 7,
    "label_map": {k: k for k in (*range(7), 255)},
    "ignore_index": 255,
    "class_names": list("abcdefg"),
}
CANDIDATE = {
    "name": "small",
    "model": {"class_path": "torch.nn.ReLU", "init_args": {"inplace": True}},
    "layer": "",
    "logits_layer": "",
    "transform": [{"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [16, 24]}}],
    "source": DATA,
}
KNN = {"class_path": "knn", "init_args": {"neighbors": 3}}
SOLVER = {"class_path": "sinkhorn", "init_args": {"epsilon": 0.1, "strict": False}}
DRAWN = {"num_pixels": 200, "num_repeats": 2, "strategy": "per_class", "seed": 3}
RUN = {"batch_size": 2, "num_workers": 0, "precision": "float32", "device": "cpu"}
FEATURES = {"target": "features", "source": "features", "num_classes": 4, "ignore_index": 255, "logits": "final"}
CONFIGURATIONS = {
    "rank": {"target": DATA, "candidates": [CANDIDATE], "metrics": ["logme", KNN], "by": "knn", "map_metric": "leep"}
    | DRAWN
    | RUN
    | {"solver": SOLVER},
    "extract": {"data": DATA, "candidate": CANDIDATE, "dtype": "float16"} | RUN,
    "score": FEATURES | DRAWN | {"metrics": [KNN, "otce"], "solver": SOLVER},
    "map": FEATURES | {"metric": "logme", "patch_size": [4, 4], "stride": 2, "pool": "image", "min_pixels": 3},
}


TOLD = re.compile(
    r"torch-trf: error: (?!(--config own.yaml: )?\w+Error: ).{1,3000}"
)  # in words, not as an exception of Python


def make_all(candidates, data):
    """Makes what a configuration names, and an image as each model is given it."""
    for candidate in candidates:
        candidate.make()
        image = data.make(candidate.make_transform())[0]
        if isinstance(image, ValueError):
            raise image


class Made(Exception):
    """Everything could be made, which suffices."""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, annotations_unchecked):
    """What a command says of a configuration; it ends where it would begin to compute."""

    def made(*arguments, **options):
        raise Made

    def ranked(ranker, candidates):
        make_all(candidates, ranker.target)
        raise Made

    def extracted(candidate, data, *_, **__):
        make_all([candidate], data)
        raise Made

    monkeypatch.setattr(Ranker, "__call__", ranked)
    monkeypatch.setattr(Mapper, "__call__", made)
    monkeypatch.setattr(_folders, "score_folder", made)
    monkeypatch.setattr(_models, "extract", extracted)
    monkeypatch.chdir(tmp_path)
    for name, array in (("final", np.zeros((3, 8, 8), "f4")), ("label", np.zeros((8, 8), "u1"))):
        (tmp_path / "features" / name).mkdir(parents=True)
        np.save(tmp_path / "features" / name / "0.npy", array)

    def run(command, content):
        (tmp_path / "own.yaml").write_bytes(content)
        code = main([command, "--config", "own.yaml", "--output", "made"])
        shown = capsys.readouterr()
        assert code == 2
        assert "\x1b" not in shown.out + shown.err
        return shown.err.splitlines()[-1]

    return run


def as_bytes(value):
    return yaml.safe_dump(value).encode()


@pytest.mark.parametrize("command", CONFIGURATIONS)
def test_a_whole_configuration_is_made(run, command):
    assert run(command, as_bytes(CONFIGURATIONS[command])) == "torch-trf: error: Made"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", CONFIGURATIONS)
def test_a_damaged_value_is_told(run, chances, command):
    for chance in chances(10):
        line = run(command, as_bytes(damaged_value(CONFIGURATIONS[command], chance)))
        assert TOLD.fullmatch(line), line


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("command", CONFIGURATIONS)
def test_a_damaged_file_is_told(run, chances, command):
    for chance in chances(10):
        line = run(command, damaged_bytes(as_bytes(CONFIGURATIONS[command]), chance))
        assert TOLD.fullmatch(line), line
