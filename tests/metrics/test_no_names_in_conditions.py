"""No condition of the package asks which metric or statistic it has: what differs between them, they say themselves."""

import ast
import re
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

import torch_trf
from torch_trf import statistics
from torch_trf.metrics import METRICS
from torch_trf.statistics import Statistic

ROOT = Path(torch_trf.__file__).parent


def is_statistic(value):
    """Whether it is the class of a particular statistic."""
    return isinstance(value, type) and issubclass(value, Statistic) and value is not Statistic


OF_STATISTICS = {name for name in statistics.__all__ if is_statistic(getattr(statistics, name))} | {
    f"{tensor}_sample" for tensor in ("features", "logits", "source")
}
OF_METRICS = {metric.name: {metric.name, type(metric).__name__} for metric in METRICS.values()}


def conditions(tree):
    """What decides which way a program goes: tests, filters, cases, comparisons, and what a dispatch is keyed by."""
    for node in ast.walk(tree):
        match node:
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) | ast.Assert(test=test):
                yield test
            case ast.comprehension(ifs=tests) | ast.BoolOp(values=tests):
                yield from tests
            case ast.Compare(left=left, comparators=others):
                yield from (left, *others)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield operand
            case ast.Match(subject=subject):
                yield subject
            case ast.match_case(pattern=pattern, guard=guard):
                yield from (pattern, *([guard] if guard else []))
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=arguments):
                yield from arguments
            case ast.Dict(keys=keys):
                yield from filter(None, keys)


def constants(tree):
    """The strings that a program calls by a name."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


@cache
def constants_of_the_package():
    """Those of all its modules, which import them from one another."""
    return dict(chain.from_iterable(constants(ast.parse(path.read_text())).items() for path in ROOT.rglob("*.py")))


def words(node, constants):
    """The names and the words of strings in a piece of a program."""
    for inner in ast.walk(node):
        match inner:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield from (name, constants.get(name, name))
            case ast.Constant(value=str(text)):
                yield from re.findall(r"\w+", text)


def allowed(path):
    """The names that a file may ask for: a metric's file its own, the package of statistics those of statistics."""
    parts = path.relative_to(ROOT).parts
    return {
        *(OF_STATISTICS if parts[0] == "statistics" else ()),
        *chain.from_iterable(own for name, own in OF_METRICS.items() if parts == ("metrics", f"_{name}.py")),
    }


def asked_for(source):
    """Names of metrics and statistics in the conditions of a program, with their lines."""
    names = OF_STATISTICS.union(*OF_METRICS.values())
    tree = ast.parse(source)
    named = constants_of_the_package() | constants(tree)
    return sorted({(c.lineno, word) for c in conditions(tree) for word in words(c, named) if word in names})


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_asks_for_a_metric_or_statistic(path):
    assert [(line, name) for line, name in asked_for(path.read_text()) if name not in allowed(path)] == []


@pytest.mark.parametrize(
    "source",
    [
        "if name == 'leep': pass",
        "while leep: pass",
        "assert isinstance(metric, LEEP)",
        "score = 1 if 'leep' in metrics else 0",
        "[score for name, score in scores if name != 'leep']",
        "reads_twice = metric.name == 'leep'",
        "given = mass or leep(pixels)",
        "once = not metrics.LEEP",
        "match name:\n    case 'leep': pass",
        "match metric:\n    case LEEP(): pass",
        "match metric:\n    case _ if metric is torch_trf.leep: pass",
        "builds = {'leep': one, 'nce': two}",
        "issubclass(look.statistic, JointMass)",
        "look.statistic is not Moments",
        "if 'Moments(features)' in statistics: pass",
        "if name in ('features_sample', 'source_sample'): pass",
        "KEPT = 'source_sample'\nif name == KEPT: pass",
    ],
)
def test_the_test_sees(source):
    assert asked_for(source)


@pytest.mark.parametrize(
    "source",
    [
        "from ..metrics import LEEP",
        "look = Look(JointMass, 'logits')",
        "if name == 'leepy': default = 'leep'",
        "'''If 'leep' is in metrics.'''",
        "if metric.needs_source: leep(pixels)",
        "def f(sample: PixelSample) -> Moments: return Moments(sample)",
    ],
)
def test_the_test_lets_pass(source):
    assert asked_for(source) == []
