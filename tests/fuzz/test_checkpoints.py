"""Damaged checkpoints: the very same weights, or an error that names the file."""

import io

import pytest
import torch
from safetensors.torch import save
from torch import nn

from torch_trf.ranking._candidate import load_weights

from .damage import damaged_bytes, damaged_value


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


STATE = model().state_dict()
TRAINED = {"state_dict": {f"module.{name}": value for name, value in STATE.items()}, "epoch": 3, "args": {"lr": [1e-3]}}


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def weights_in(path):
    """The weights that a model has of a file; none where the file is refused by its name."""
    other = model()
    for parameter in other.state_dict().values():
        parameter.zero_()
    message = ""
    try:
        load_weights(other, path)
    except ValueError as error:
        message = str(error)
    assert not message or str(path) in message
    assert len(message) < 3000
    return None if message else other.state_dict()


def are_the_same(weights):
    return all(torch.equal(weights[name], value) for name, value in STATE.items())


@pytest.mark.filterwarnings("default")  # of PyTorch, about files that nobody made by its means
@pytest.mark.parametrize("value", [STATE, TRAINED], ids=["weights", "training"])
def test_a_damaged_file_is_told_from_the_whole_one(tmp_path, chances, value):
    whole, path = saved(value), tmp_path / "weights.pt"
    for chance in chances(150):
        path.write_bytes(damaged_bytes(whole, chance))
        weights = weights_in(path)
        assert weights is None or are_the_same(weights)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["old", "safetensors"])
def test_a_damaged_file_without_checksums_is_loaded_whole_or_not_at_all(tmp_path, chances, kind):
    whole = save(STATE) if kind == "safetensors" else saved(STATE, _use_new_zipfile_serialization=False)
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    for chance in chances(150):
        path.write_bytes(damaged_bytes(whole, chance))
        weights_in(path)  # a number may be another one, which the file does not tell


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_damaged_in_its_pickle_alone_is_told(tmp_path, chances, zipped):
    """Checksums are right here: somebody made the file so."""
    path = tmp_path / "weights.pt"
    for chance in chances(100):
        torch.save(damaged_value(TRAINED, chance), path, _use_new_zipfile_serialization=zipped)
        weights = weights_in(path)
        assert weights is None or are_the_same(weights)
