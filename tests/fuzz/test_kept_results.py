"""What is kept of a candidate is read as it was written, or said to be damaged."""

import json
from pathlib import Path

import pytest
import torch

from torch_trf import Score
from torch_trf.ranking import Result
from torch_trf.ranking._reading import Reading
from torch_trf.ranking._store import Store
from torch_trf.statistics import PixelSample

from .damage import damaged_bytes, damaged_value

SETTINGS = {"model": {"layer": "mix"}, "versions": {"torch": "2.14"}}
RESULT = Result(
    name="a",
    scores={"logme": Score(score=0.25, values=(0.125, 0.375), pixels=9, unit="nats", by_class=(0.5, None))},
    map=[[0.5, None], [-1.5, 2.0]],
    settings=SETTINGS,
    seconds={"all": 2.0, "forward": 1.0},
)


@pytest.fixture
def store(tmp_path):
    """A folder in which everything is kept."""
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(20, 3, generator=generator), torch.arange(20) % 4
    sample = PixelSample.from_pixels(features, labels, size=12, num_classes=4, num_repeats=2)
    store = Store(tmp_path / "a")
    store.save_reading(Reading({"features_sample": sample}, torch.rand(2, 3).double(), {"all": 1.0}), SETTINGS)
    store.save_result(RESULT)
    return store


def assert_told(kept, path):
    assert kept.value is None
    [difference] = kept.differences
    assert difference.startswith(f"{path} cannot be read: ")


def test_what_the_model_gave(store, chances):
    path = store.folder / "reading.pt"
    contents = path.read_bytes()
    assert store.reading(SETTINGS).value is not None
    for chance in chances(200):
        damaged = damaged_bytes(contents, chance)
        if damaged == contents:
            continue
        path.write_bytes(damaged)
        assert_told(store.reading(SETTINGS), path)


def told_or_same(store: Store, path: Path) -> bool:
    """Whether the scores are those that were kept; otherwise they are said to be damaged."""
    kept = store.result(SETTINGS)
    if kept.value is None:
        assert_told(kept, path)
        return False
    assert kept.value == RESULT
    return True


def test_the_scores(store, chances):
    path = store.folder / "scores.json"
    contents = path.read_bytes()
    assert told_or_same(store, path)
    for chance in chances(300):
        path.write_bytes(damaged_bytes(contents, chance))
        told_or_same(store, path)


def test_scores_that_are_json_but_no_result(store, chances):
    path = store.folder / "scores.json"
    value = json.loads(path.read_text())
    for chance in chances(300):
        damaged = damaged_value(value, chance)
        path.write_text(json.dumps(damaged))
        same = told_or_same(store, path)
        assert not same or damaged == value
