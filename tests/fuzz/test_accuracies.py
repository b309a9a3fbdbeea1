"""Scores and accuracies that are damaged are refused by the file's name, or read as what they are: finite numbers."""

import json
import math

from torch_trf.ranking import ModelScores, read_accuracies, read_scores

from .damage import HOSTILE, damaged_bytes, damaged_value, read_unless_told

TABLE = 'name,accuracy,source_accuracy,epochs\nresnet,0.61,0.8,4\nunet,.48,7e-1,5\n"v,i,t",70,0.9,\n\'=1+1,0.5,0.5,x\n'
SCORES = {
    "resnet": {"logme": 0.3, "leep": -0.5},
    "unet": {"logme": -0.1, "leep": -0.6},
    "=1+1": {"logme": 2, "leep": 0},
}
RANKING = {
    "candidates": [
        {"name": "resnet", "failure": None, "scores": {"logme": {"score": 0.3, "unit": "nats", "values": [0.3]}}},
        {"name": "unet", "failure": "no weights", "scores": {}},
    ],
    "versions": {"torch": "2.14"},
}


def assert_numbers(values):
    assert all(isinstance(name, str) and math.isfinite(value) for name, value in values.items())


def assert_told_or_numbers(read, path):
    table = read_unless_told(lambda: read(path), str(path))
    if isinstance(table, ModelScores):
        for of_models in table.scores.values():
            assert_numbers(of_models)
    elif table is not None:
        accuracies, of_source = table
        assert_numbers(accuracies)
        assert_numbers(of_source or {})
        assert of_source is None or of_source.keys() == accuracies.keys()


def test_accuracies(tmp_path, chances):
    path = tmp_path / "accuracies.csv"
    for chance in chances(500):
        path.write_bytes(damaged_bytes(TABLE.encode(), chance))
        assert_told_or_numbers(read_accuracies, path)


def test_hostile_cells(tmp_path):
    path = tmp_path / "accuracies.csv"
    for value in [*HOSTILE, "\0", "1" * 200_000, "0x1p3", "1_0", "١"]:
        path.write_text(f"name,accuracy\na,{value}\n")
        assert_told_or_numbers(read_accuracies, path)


def test_scores(tmp_path, chances):
    path = tmp_path / "scores.json"
    for chance in chances(500):
        value = chance.choice([SCORES, RANKING])
        if chance.random() < 0.5:
            path.write_bytes(damaged_bytes(json.dumps(value).encode(), chance))
        else:
            path.write_text(json.dumps(damaged_value(value, chance)))
        assert_told_or_numbers(read_scores, path)
