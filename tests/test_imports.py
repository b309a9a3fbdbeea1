"""Imports point one way, and importing the package is silent and light."""

import ast
from pathlib import Path

import pytest

import torch_trf

from .helpers import run_python

ROOT = Path(torch_trf.__file__).parent
LAYERS = {
    "__version__": -1,
    "_ops": 0,
    "pixels": 1,
    "statistics": 2,
    "transport": 3,
    "metrics": 4,
    "_digest": 5,
    "_files": 5,
    "_versions": 5,
    "_class_path": 5,
    "features": 6,
    "table": 5,
    "functional": 5,
    "datasets": 7,
    "score": 7,
    "maps": 8,
    "plots": 9,
    "integrations": 9,
    "ranking": 10,
    "demo": 11,
    "cli": 12,
    "__init__": 13,
    "__main__": 13,
}
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
    layer = LAYERS[top_level(path)]  # a new module is placed here deliberately
    assert not {name for name in imported(path) if name != top_level(path) and LAYERS[name] >= layer}


def test_import_is_silent_and_light(tmp_path):
    result = run_python(f"import sys, torch_trf; print(sorted(sys.modules.keys() & {set(HEAVY)}))", folder=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")
