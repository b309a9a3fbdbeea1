"""What the tests of transport share: one number of classes and channels, and problems of many kinds."""

import pytest
import torch
from hypothesis import strategies as st

from torch_trf.transport import Exact, Sinkhorn, couple
from torch_trf.transport._problem import Problem

from .. import references
from ..helpers import arrays, random_pixels

CHANNELS, CLASSES, SOURCE_CLASSES = 3, 4, 3
NUM_CLASSES = {"num_classes": CLASSES, "num_source_classes": SOURCE_CLASSES}
SIZES = st.fixed_dictionaries(
    {"source_count": st.integers(1, 12), "target_count": st.integers(1, 12), "seed": st.integers(0, 2**32 - 1)}
)
EPSILON = 0.2  # so large that Sinkhorn converges to a tolerance that only tests ask for
CLOSE = {"rtol": 1e-8, "atol": 1e-9}  # of Sinkhorn's results at this tolerance
POINTS = {  # from random ones, of either side
    "random": lambda x, side: x,
    "duplicated": lambda x, side: x[torch.arange(len(x)) // 4 * 4],
    "grid": lambda x, side: x.round(),
    "one side identical": lambda x, side: x * side,
    "all identical": lambda x, side: torch.ones_like(x),
    "clusters of unequal size": lambda x, side: x + 100 * (torch.arange(len(x)) < (3, len(x) - 3)[side]).unsqueeze(-1),
    "outlier": lambda x, side: x + 1e3 * (torch.arange(len(x)) < 1 - side).unsqueeze(-1),
    "moved": lambda x, side: x + 300 * side,
}
equal_features = pytest.mark.filterwarnings("ignore:the features of all .* pixels are equal")
every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=equal_features if "identical" in kind else ()) for kind in POINTS]
)


def sinkhorn(**options):
    """Sinkhorn, which converges so far that its result can be compared."""
    return Sinkhorn(**{"epsilon": EPSILON, "tolerance": 1e-11} | options)


def every_solver_with(**options):
    """The exact solver, and Sinkhorn with these options."""
    return pytest.mark.parametrize("solver", [Exact(), sinkhorn(**options)], ids=["exact", "sinkhorn"])


every_solver = every_solver_with()


def random_problem(source_count=30, target_count=40, *, device, kind="random", dtype=torch.float64, seed=0):
    """Features and labels of the source, then of the target, whose features lie a little apart."""
    source = random_pixels(source_count, CHANNELS, SOURCE_CLASSES, device="cpu", seed=seed)
    target = random_pixels(target_count, CHANNELS, CLASSES, device="cpu", seed=seed + 1)
    source, target = ((POINTS[kind](x, side), y) for side, (x, y) in enumerate((source, target)))
    return cast([t.to(device) for t in (*source, *target)], dtype)


def cast(pixels, dtype):
    """The same pixels with features of another precision."""
    return [t.to(dtype) if t.is_floating_point() else t for t in pixels]


def stack(problems):
    """Problems of equal size, along a leading dimension."""
    return [torch.stack(tensors) for tensors in zip(*problems, strict=True)]


def sides(pixels):
    """The arguments of `couple` and its like, of a problem."""
    source_features, source_labels, features, labels = pixels
    return {"features": features, "labels": labels, "source": (source_features, source_labels)}


def solve(pixels, solver="exact", **options):
    """The coupling of a problem."""
    return couple(**sides(pixels), **NUM_CLASSES | {"solver": solver} | options)


def problem_of(pixels, label_cost=None):
    """What a solver is given of problems side by side."""
    source_features, source_labels, features, labels = pixels
    source = source_features, source_labels
    return Problem.of(features, labels, source=source, **NUM_CLASSES, label_cost=label_cost)


def expected(pixels, label_cost=None, epsilon=0.0):
    """Mass and cost of the reference's coupling."""
    source_features, source_labels, target_features, target_labels = arrays(*pixels)
    labels = None if label_cost is None else label_cost.cpu().numpy()
    cost = references.transport.ground_cost(source_features, source_labels, target_features, target_labels, labels)
    plan = references.transport.sinkhorn_plan(cost, epsilon) if epsilon else references.transport.exact_plan(cost)
    mass = references.transport.label_mass(plan, source_labels, target_labels, CLASSES, SOURCE_CLASSES)
    return mass, (plan * cost).sum()


def mean_cost(pixels, label_cost=None):
    """What a pair of pixels costs on average."""
    labels = [] if label_cost is None else [label_cost]
    return references.transport.ground_cost(*arrays(*pixels, *labels)).mean()


def shares(labels, num_classes):
    """The share of each class in the pixels."""
    drawn = labels[labels >= 0]
    return drawn.bincount(minlength=num_classes).double() / len(drawn)


def random_label_cost(device, scale=1.0, seed=0):
    """Costs of pairs of classes, `[K, Z]`."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.rand(CLASSES, SOURCE_CLASSES, generator=generator, dtype=torch.float64)).to(device)
