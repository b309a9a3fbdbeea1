"""Imports point one way, and importing the package is silent and light."""

import ast
from pathlib import Path

import pytest

import torch_trf

from .helpers import run_python

ROOT = Path(torch_trf.__file__).parent
LAYERS = [  # a part imports from earlier lines alone, and from none of its own line
    {"__version__"},
    {"_errors"},
    {"_checks", "_class_path", "_collectives", "_entries", "_files", "_ops", "_versions"},
    {"_digest", "_meeting"},
    {"pixels"},
    {"statistics"},
    {"transport"},
    {"metrics"},
    {"features", "sampling"},
    {"batches", "datasets"},
    {"score", "maps", "inference"},
    {"folders", "integrations", "plots"},
    {"ranking"},
    {"demo"},
    {"cli"},
    {"__init__", "__main__"},
]
LAYER_OF = {part: number for number, layer in enumerate(LAYERS) for part in layer}
MODULES = sorted(ROOT.rglob("*.py"))
HEAVY = ["geomloss", "jsonargparse", "lightning", "matplotlib", "ot", "pykeops", "torchmetrics", "torchvision"]


def top_level(path):
    """The part of the package that a file belongs to."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(path):
    """The parts of the package that a file imports, wherever in the file."""
    package = ("torch_trf", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "torch_trf":
                is_module = len(name) > 1 and any((ROOT / part).exists() for part in (name[1], f"{name[1]}.py"))
                yield name[1] if is_module or name[1:] == ["__version__"] else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    layer = LAYER_OF[top_level(path)]  # a new module is placed here deliberately
    assert not {name for name in imported(path) if name != top_level(path) and LAYER_OF[name] >= layer}


def test_every_layer_is_of_parts_that_there_are():
    assert set(LAYER_OF) - {"__version__"} == {top_level(path) for path in MODULES}


@pytest.mark.slow
@pytest.mark.parametrize("package", ["torch_trf", "torch_trf.transport", "torch_trf.metrics", "torch_trf.statistics"])
def test_import_is_silent_and_light(package, tmp_path):
    code = f"import sys, {package}; print(sorted(sys.modules.keys() & {set(HEAVY)}))"
    result = run_python(code, folder=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")


PUBLIC = """
import torch_trf
assert dir(torch_trf) == sorted(torch_trf.__all__), dir(torch_trf)
assert len(set(torch_trf.__all__)) == len(torch_trf.__all__)
for name in torch_trf.__all__:
    assert getattr(torch_trf, name) is not None
from torch_trf import *
from torch_trf import TransferabilityMap, TransferabilityScore
from torch_trf.integrations import torchmetrics
assert TransferabilityScore is torchmetrics.TransferabilityScore
assert TransferabilityMap is torchmetrics.TransferabilityMap
for name, metric in torch_trf.metrics.METRICS.items():
    assert globals()[name] is metric
"""


@pytest.mark.slow
def test_dir_shows_only_what_is_public_and_all_of_it_is_there(tmp_path):
    result = run_python(PUBLIC, folder=tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(AttributeError, match="module 'torch_trf' has no attribute 'leap'"):
        _ = torch_trf.leap
