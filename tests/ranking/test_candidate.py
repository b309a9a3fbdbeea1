"""Candidates: models by name, and the weights that go into them, whatever training put around these."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from torch_trf.ranking import Candidate
from torch_trf.ranking._candidate import load_weights

from .helpers import named


def make_model(seed=1, channels=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels))


WEIGHTS = make_model().state_dict()


def prefixed(prefix):
    return {f"{prefix}{name}": value for name, value in WEIGHTS.items()}


def assert_loads(path):
    model = make_model(seed=2)
    load_weights(model, path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, WEIGHTS[name])


PREFIXES = ["", "module.", "model.", "_orig_mod.", "module.model.", "model.module.", "model.net.", "module._orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("nested", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("ending", ["pt", "pth"])
def test_loads_what_training_saves(tmp_path, prefix, nested, ending):
    path = tmp_path / f"weights.{ending}"
    torch.save(prefixed(prefix) if nested is None else {nested: prefixed(prefix), "epoch": 3, "lr": 1e-3}, path)
    assert_loads(path)


@pytest.mark.parametrize("inner", ["state_dict", "model"])
def test_loads_what_is_nested_twice(tmp_path, inner):
    outer = {"state_dict": "model", "model": "state_dict"}[inner]
    torch.save({outer: {inner: prefixed("module."), "step": 7}}, tmp_path / "weights.pt")
    assert_loads(tmp_path / "weights.pt")


def test_loads_what_lightning_saves(tmp_path):
    """Losses and metrics beside the model are no part of it."""
    state = prefixed("model.") | {"loss.weight": torch.ones(3), "train_accuracy.sum": torch.zeros(())}
    checkpoint = {"state_dict": state, "epoch": 3, "optimizer_states": [{"state": {0: {"step": torch.ones(1)}}}]}
    torch.save(checkpoint, tmp_path / "last.pt")
    assert_loads(tmp_path / "last.pt")


def test_finds_the_model_beside_another(tmp_path):
    torch.save(prefixed("model.") | {"module.teacher.weight": torch.ones(3)}, tmp_path / "weights.pt")
    assert_loads(tmp_path / "weights.pt")


def test_a_model_may_have_a_prefix_of_its_own(tmp_path):
    """Names that fit as they are stay as they are."""
    model = nn.ModuleDict({"model": make_model(), "module": nn.Linear(2, 2)})
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "weights.pt")
    other = nn.ModuleDict({"model": make_model(seed=2), "module": nn.Linear(2, 2)})
    for path in ("weights.pt", "plain.pt"):
        torch.save(model.state_dict(), tmp_path / "plain.pt")
        load_weights(other, tmp_path / path)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())


def test_loads_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(prefixed("model."), tmp_path / "weights.safetensors")
    assert_loads(tmp_path / "weights.safetensors")
    contents = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(contents[:-8])
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a whole file of weights alone"):
        load_weights(make_model(), tmp_path / "weights.safetensors")


def test_weights_of_another_precision_are_those_of_the_model(tmp_path):
    torch.save({name: value.double() for name, value in WEIGHTS.items()}, tmp_path / "weights.pt")
    assert_loads(tmp_path / "weights.pt")


def test_a_number_that_changed_in_a_file_is_told(tmp_path):
    path, whole = tmp_path / "weights.pt", tmp_path / "whole.pt"
    torch.save(WEIGHTS, whole)
    contents = bytearray(whole.read_bytes())
    contents[contents.index(WEIGHTS["0.weight"].numpy().tobytes()) + 5] ^= 1
    path.write_bytes(contents)
    with pytest.raises(
        ValueError, match=r"weights\.pt is not a whole .*: whole/data/0 in it does not have its checksum"
    ):
        load_weights(make_model(), path)


def test_a_file_without_checksums_is_loaded(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(WEIGHTS, tmp_path / "weights.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_loads(tmp_path / "weights.pt")


def test_a_file_that_claims_to_be_large_is_not_unpacked(tmp_path):
    torch.save(WEIGHTS, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "weights.pt", "w") as packed:
        for part in whole.namelist():
            content = bytes(2**24) if part.endswith("data/0") else whole.read(part)
            packed.writestr(part, content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"weights\.pt is not a whole file .*: it claims to hold more than there is"):
        load_weights(make_model(), tmp_path / "weights.pt")


def holds_itself():
    contents = {"epoch": 3}
    contents["state_dict"] = contents
    return contents


OF_NO_NUMBERS = {
    "sparse": torch.Tensor.to_sparse,
    "without data": lambda value: value.to("meta"),
    "integers": lambda value: (100 * value).to(torch.int8),
    "complex": lambda value: value.to(torch.complex64),
}
NO_WEIGHTS = {
    "itself": (holds_itself, "holds no tensors by name"),
    "numbers": (lambda: dict(enumerate(WEIGHTS.values())), "holds no tensors by name"),
    "long name": (lambda: {"model." * 100_000 + "weight": torch.ones(1)}, "is of another model: .{1,600}$"),
    "many prefixes": (lambda: {"module.model." * 50 + str(k): torch.ones(1) for k in range(500)}, "of another model"),
    **{
        name: (lambda to=to: {k: to(v) if v.ndim else v for k, v in WEIGHTS.items()}, "not as plain numbers 6: 0.bias")
        for name, to in OF_NO_NUMBERS.items()
    },
}


@pytest.mark.filterwarnings("default")  # of PyTorch, about kinds of tensors
@pytest.mark.parametrize(("make", "message"), NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_odd_contents_are_told(tmp_path, make, message):
    torch.save(make(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=f"weights.pt .*{message}"):
        load_weights(make_model(), tmp_path / "weights.pt")


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "weights.pt")
    for ask in (lambda c: c.settings, Candidate.make):
        with pytest.raises(ValueError, match=r"weights\.pt is not a file"):
            ask(candidate(checkpoint=tmp_path / "weights.pt"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_named(tmp_path, kept, zipped):
    path = tmp_path / "weights.pt"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(kept * len(contents))])
    with pytest.raises(ValueError, match=r"weights\.pt is not a whole file of weights alone: ."):
        load_weights(make_model(), path)


@pytest.mark.parametrize("contents", [b"not weights", b"\x80", b"PK\x03\x04junk", b"\0" * 1000])
def test_a_file_that_is_none_is_named(tmp_path, contents):
    (tmp_path / "weights.pt").write_bytes(contents)
    with pytest.raises(
        ValueError, match=r"weights\.pt is (not a whole file of weights alone: .|damaged or holds code)"
    ):
        load_weights(make_model(), tmp_path / "weights.pt")
    for missing in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ValueError, match=f"{missing} is not a file"):
            load_weights(make_model(), missing)


class Touch:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, zipped):
    path, witness = tmp_path / "weights.pt", tmp_path / "witness"
    pickle.loads(pickle.dumps(Touch(witness)))
    witness.unlink()  # the code would have worked
    torch.save(WEIGHTS | {"code": Touch(witness)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"weights\.pt is damaged or holds .* beside tensors, which is not loaded"):
        load_weights(make_model(), path)
    assert not witness.exists()


def test_a_whole_model_is_not_loaded(tmp_path):
    torch.save(make_model(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"holds .*Conv2d.* beside tensors, which is not loaded"):
        load_weights(make_model(), tmp_path / "model.pt")


@pytest.mark.parametrize("contents", [{}, [torch.ones(3)], torch.ones(3), {"epoch": 3}, {"state_dict": {}}, 7])
def test_a_file_without_names_of_tensors_is_named(tmp_path, contents):
    torch.save(contents, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt holds no tensors by name"):
        load_weights(make_model(), tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"0.bias": None}, "it lacks 1: 0.bias"),
        ({"2.weight": torch.ones(1)}, "it has beyond them 1: 2.weight"),
        ({"0.weight": torch.ones(4, 3, 3, 3)}, "it has in another shape 1: 0.weight"),
        (
            {"0.bias": None, "1.bias": None, "x": torch.ones(1), "0.weight": torch.ones(1)},
            "it lacks 2: 0.bias, 1.bias; has beyond them 1: x; has in another shape 1: 0.weight",
        ),
        ({f"{k}.extra": torch.ones(1) for k in range(7)}, "7: 0.extra, 1.extra, 2.extra, 3.extra, 4.extra, ..."),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_does_not_fit_is_named(tmp_path, prefix, changed, message):
    weights = {name: value for name, value in (WEIGHTS | changed).items() if value is not None}
    torch.save({f"{prefix}{name}": value for name, value in weights.items()}, tmp_path / "weights.pt")
    model = make_model(seed=2)
    with pytest.raises(ValueError, match=r"weights\.pt is of another model: of the 7 entries of this Seq") as error:
        load_weights(model, tmp_path / "weights.pt")
    assert message in str(error.value)
    for name, value in model.state_dict().items():  # nothing was loaded
        assert torch.equal(value, make_model(seed=2).state_dict()[name])


def test_weights_of_another_model_altogether_are_named(tmp_path):
    torch.save(prefixed("encoder."), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"lacks 7: 0\.bias, .*, \.\.\.; has beyond them 7: encoder\.0\.bias, "):
        load_weights(make_model(), tmp_path / "weights.pt")


def candidate(**options):
    return Candidate(**{"name": "a", "model": named("Model"), "layer": "mix"} | options)


def test_a_model_is_made_alike_every_time_and_evaluates():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    conv = {"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 3, "out_channels": 8, "kernel_size": 1}}
    first, second = candidate(model=conv).make(), candidate(model=conv).make()
    assert torch.equal(first.weight, second.weight)
    assert not first.training
    assert torch.equal(torch.rand(1), expected)  # the caller's random numbers are as they were


def test_a_torchvision_model_takes_its_checkpoint(tmp_path):
    saved = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    torch.save({"state_dict": {f"module.{k}": v for k, v in saved.state_dict().items()}}, tmp_path / "weights.pth")
    model = {"class_path": "lraspp_mobilenet_v3_large", "init_args": {"num_classes": 5}}
    loaded = candidate(model=model, checkpoint=str(tmp_path / "weights.pth")).make()
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_what_is_no_model_is_an_error():
    with pytest.raises(ValueError, match="makes a Scenes, not a Module"):
        candidate(model=named("Scenes")).make()


NO_NAMES = ["", ".", "..", ".hidden", "a/b", "a\\b", "a\n/../../b", "a\n", "\x1b[2J", "a\0", "\ud800", "a\u202eb"]
NO_NAMES += [" a", "a ", "a.", "ranking.json", "Report.html", "x" * 300, "é" * 128]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_is_that_of_a_folder(name):
    with pytest.raises(
        ValueError, match=r"candidate .*: a name (must be that of a folder|of a folder has at most 255 bytes)"
    ):
        candidate(name=name)


def test_images_are_scaled_as_imagenet_by_default():
    image = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    transformed = candidate().make_transform()(image)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(transformed, expected.reshape(3, 1, 1).expand(3, 2, 2))


def test_transforms_are_done_one_after_the_other():
    image = torch.full((3, 4, 4), 51, dtype=torch.uint8)
    resize = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [2, 3]}}
    scale = {"class_path": "torchvision.transforms.v2.ToDtype", "init_args": {"dtype": "torch.float64", "scale": True}}
    transformed = candidate(transform=[resize, scale]).make_transform()(image)
    torch.testing.assert_close(transformed, torch.full((3, 2, 3), 0.2, dtype=torch.float64))
    assert torch.equal(candidate(transform=[]).make_transform()(image), image)
    with pytest.raises(ValueError, match=r"v2\.Nothing cannot be made"):
        candidate(transform=["torchvision.transforms.v2.Nothing"]).make_transform()
