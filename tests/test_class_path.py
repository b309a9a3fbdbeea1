"""What paths and arguments of a configuration make, and how they fail."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from torchvision.models import _api, segmentation
from torchvision.transforms import v2

from torch_trf._class_path import instantiate, trusting
from torch_trf.ranking._candidate import torchvision_models


def named(path, **arguments):
    return {"class_path": path, "init_args": arguments}


@pytest.mark.parametrize("what", ["torch.nn.ReLU", {"class_path": "torch.nn.ReLU"}, named("torch.nn.ReLU")])
def test_a_class_without_arguments(what):
    assert isinstance(instantiate(what), nn.ReLU)


def test_arguments_may_be_made_too():
    inner = [named("torchvision.transforms.v2.Resize", size=[4, 5]), "torchvision.transforms.v2.RandomHorizontalFlip"]
    result = instantiate(named("torchvision.transforms.v2.Compose", transforms=[inner[0], named(inner[1], p=1.0)]))
    assert isinstance(result, v2.Compose)
    assert [type(each) for each in result.transforms] == [v2.Resize, v2.RandomHorizontalFlip]
    assert result(torch.zeros(3, 8, 8)).shape == (3, 4, 5)


def test_arguments_may_be_types_of_tensors():
    result = instantiate(named("torchvision.transforms.v2.ToDtype", dtype="torch.float32", scale=True))
    assert result(torch.full((3, 1, 1), 255, dtype=torch.uint8)).flatten().tolist() == [1.0] * 3


def kept(**arguments):
    return arguments


@pytest.mark.parametrize("text", ["torch.pt", "torch.", "torch.nowhere.float32", "torch.nn", "torchvision"])
def test_other_arguments_are_as_they_are(text):
    assert instantiate(named(f"{__name__}.kept", text=text, folder=None, sizes=[1, [2]])) == {
        "text": text,
        "folder": None,
        "sizes": [1, [2]],
    }


class Sizes(NamedTuple):
    height: int
    width: int

    @classmethod
    def square(cls, side):
        return cls(side, side)


def test_functions_and_what_lies_inside_classes_make_too():
    assert isinstance(instantiate(named("torchvision.models.resnet.resnet18", num_classes=3)), nn.Module)
    assert instantiate(named(f"{__name__}.Sizes.square", side=2)) == Sizes(2, 2)


NAMED = {"relu": nn.ReLU, "conv": nn.Conv2d, "chain": nn.Sequential}


@pytest.mark.parametrize("what", ["relu", {"class_path": "relu"}, named("relu", inplace=True)])
def test_a_short_name_is_what_the_caller_says(what):
    assert isinstance(instantiate(what, NAMED), nn.ReLU)


def test_short_names_hold_inside_arguments_and_beside_paths():
    result = instantiate(named("torch.nn.ModuleList", modules=[{"class_path": "relu"}, named("torch.nn.Tanh")]), NAMED)
    assert [type(each) for each in result] == [nn.ReLU, nn.Tanh]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rleu", "'rleu' is none of relu, conv, chain, nor the dotted path of a class"),
        ("nothing_alike", "'nothing_alike' is none of relu, conv, chain, nor the dotted path of a class"),
        ("conv", "conv cannot be made: TypeError: .* missing 3 required .* 'in_channels'"),
        (named("relu", depth=3), "relu cannot be made: TypeError: .* unexpected keyword argument 'depth'"),
    ],
)
def test_a_short_name_that_cannot_be_made_is_an_error(name, message):
    with pytest.raises(ValueError, match=message):
        instantiate(name, NAMED)


@pytest.fixture
def no_downloads(monkeypatch):
    """Fails where torchvision would fetch weights."""

    def fetch(url, *arguments, **options):
        raise AssertionError(f"{url} is fetched")

    monkeypatch.setattr(_api, "load_state_dict_from_url", fetch)


@pytest.mark.usefixtures("no_downloads")
def test_a_short_name_of_a_torchvision_model_is_one_without_weights():
    model = instantiate(named("lraspp_mobilenet_v3_large", num_classes=3), torchvision_models())
    assert isinstance(model, segmentation.LRASPP)
    assert model.classifier.high_classifier.out_channels == 3
    with pytest.raises(ValueError, match=r"resnet18 cannot be made: AssertionError: https.* is fetched"):
        instantiate(named("resnet18", weights="DEFAULT"), torchvision_models())  # where they are asked for
    with pytest.raises(ValueError, match=r"resnet18 cannot be made: TypeError: .* unexpected keyword argument 'depth'"):
        instantiate(named("resnet18", depth=3), torchvision_models())
    with pytest.raises(ValueError, match=r"'resnet1000' is none of resnet101, .*, nor the dotted path of a class"):
        instantiate("resnet1000", torchvision_models())


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("relu", "'relu' is none of .*, nor the dotted path of a class"),
        ("nowhere.to.be.Found", "there is no module 'nowhere': install its package, or put its folder on PYTHONPATH"),
        ("torch.nowhere.Found", "cannot be made: .* has no attribute 'nowhere'"),
        ("torch.nn.Conv9d", "torch.nn.Conv9d cannot be made: AttributeError: .* no attribute 'Conv9d'"),
        ("torch.nn.Conv2d", "torch.nn.Conv2d cannot be made: TypeError: .* missing 3 required .* 'in_channels'"),
        (named("torch.nn.ReLU", depth=3), "ReLU cannot be made: TypeError: .* unexpected keyword argument 'depth'"),
        (named("torch.nn.Conv2d", in_channels=3, out_channels=4, kernel_size=1, groups=2), "must be divisible"),
        ("torch.float32", "torch.float32 is neither a class nor a function, but of a dtype"),
        (".relative", "cannot be made"),
        ({}, "neither a path nor"),
        ({"class_path": "torch.nn.ReLU", "args": {}}, "neither a path nor .*class_path: ..., init_args"),
        ({"class_path": 3}, "neither a path nor"),
        ({"class_path": "torch.nn.ReLU", "init_args": [True]}, "neither a path nor"),
        (named("torch.nn.Sequential", args=[named("torch.nn.Conv9d")]), "torch.nn.Conv9d cannot be made"),
    ],
)
def test_what_cannot_be_made_is_named(what, message):
    with pytest.raises(ValueError, match=message):
        instantiate(what)


def test_a_package_that_a_module_needs_is_named(tmp_path, monkeypatch):
    (tmp_path / "needs_another.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="No module named 'a_package_that_nobody_has'"):
        instantiate("needs_another.Model")


RUN = []  # of what must not run


def runs(*_, **__) -> None:
    RUN.append("runs")


def tells(path: str) -> "str | None":
    RUN.append(path)


class Runner:
    def run(self):
        RUN.append("run")

    __call__ = run


RUNNER = Runner()
PARTIAL = functools.partial(nn.ReLU, inplace=True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("os.getcwd", r"os.getcwd is of Python's standard library \(os\), which a configuration may not run"),
        ("shutil.rmtree", "of Python's standard library"),
        ("builtins.eval", "of Python's standard library"),
        ("torch.os.system", r"of Python's standard library \(posix\)"),
        ("torch.nn.modules.module.functools.partial", r"of Python's standard library \(functools\)"),
        ("collections.OrderedDict.fromkeys", r"of Python's standard library \(collections\)"),
        (f"{__name__}.RUNNER", "is neither a class nor a function, but of a Runner"),
        (f"{__name__}.RUNNER.run", "is neither a class nor a function, but of a Runner"),
        (f"{__name__}.RUN.clear", "is neither a class nor a function, but of a list"),
        (f"{__name__}.runs", "runs makes a NoneType, not a object"),
        ("torch.save", "cannot be made|makes a NoneType"),
    ],
)
def test_what_makes_nothing_is_not_run(path, message):
    RUN[:] = ["before"]
    with pytest.raises(ValueError, match=message):
        instantiate(path)
    with pytest.raises(ValueError, match=message):
        instantiate(named("torch.nn.Sequential", inner={"class_path": path}))
    assert RUN == ["before"]


@pytest.mark.parametrize("path", [f"{__name__}.tells", "torch.nn.ReLU", f"{__name__}.kept"])
def test_what_makes_another_kind_is_an_error(path):
    with pytest.raises(ValueError, match=f"{path} (makes a .*, not a Dataset|cannot be made)"):
        instantiate(path, kinds=(Dataset,))


def test_a_partial_function_is_what_it_calls():
    assert instantiate(f"{__name__}.PARTIAL", kinds=(nn.Module,)).inplace
    assert callable(instantiate("torchvision.models.ResNet18_Weights.DEFAULT.transforms", kinds=(Callable,)))


@pytest.mark.parametrize("path", ["torch.nn.ReLU", "torchvision.models._utils.nn.ReLU", "collections.Counter"])
def test_what_is_not_trusted_is_not_run(path):
    with trusting(["torchvision"]), pytest.raises(ValueError, match=r"ReLU is of torch, .* modules: torchvision|stand"):
        instantiate(path)


def test_what_is_trusted_is_run():
    with trusting(["torchvision"]):
        assert isinstance(instantiate("torchvision.transforms.v2.Identity"), nn.Module)
        assert isinstance(instantiate("relu", NAMED), nn.ReLU)
        assert instantiate("torch_trf.metrics.LogME").name == "logme"
        with pytest.raises(ValueError, match=r"nowhere\.Model is of nowhere, which is none of"):
            instantiate("nowhere.Model")
    assert isinstance(instantiate("torch.nn.ReLU"), nn.ReLU)


def makes_what_it_says_nowhere():
    return nn.ReLU()


@pytest.mark.parametrize("kinds", [(nn.Module,), (Dataset, nn.Module), (object,)])
def test_a_function_that_does_not_say_what_it_makes_is_run(kinds):
    assert isinstance(instantiate(f"{__name__}.makes_what_it_says_nowhere", kinds=kinds), nn.ReLU)
    with pytest.raises(ValueError, match="makes a ReLU, not a Dataset"):
        instantiate(f"{__name__}.makes_what_it_says_nowhere", kinds=(Dataset,))


def trusts_all(what):
    """As code that a configuration names might, to run what it may not."""
    with trusting(None):
        return instantiate(what)


def test_trust_inside_trust_is_never_more():
    own = __name__.partition(".")[0]
    with trusting([own]), pytest.raises(ValueError, match="ReLU is of torch, which is none of the trusted modules"):
        instantiate(named(f"{__name__}.trusts_all", what="torch.nn.ReLU"))
    with trusting(["torch"]), trusting([own, "torch"]):
        instantiate("torch.nn.ReLU")
        with pytest.raises(ValueError, match="none of the trusted modules: torch"):
            instantiate(f"{__name__}.trusts_all")


@pytest.mark.parametrize(
    "path", ["torch_trf.cli.main", "torch_trf.cli._main.main", "torch_trf._class_path.instantiate"]
)
def test_what_is_internal_is_not_named(path):
    with pytest.raises(ValueError, match="is no part of torch_trf that others may name"):
        instantiate(path)
