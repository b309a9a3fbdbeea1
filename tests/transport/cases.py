"""What the tests of transport share: one number of classes and channels, and problems of many kinds."""

import pytest
import torch
from hypothesis import strategies as st

from torch_trf.transport import joint_label_mass

from .. import references
from ..helpers import arrays, random_pixels

CHANNELS, CLASSES, SOURCE_CLASSES = 3, 4, 3
NUM_CLASSES = {"num_classes": CLASSES, "num_source_classes": SOURCE_CLASSES}
SIZES = st.fixed_dictionaries(
    {"source_count": st.integers(1, 12), "target_count": st.integers(1, 12), "seed": st.integers(0, 2**32 - 1)}
)
EPSILON = 0.2  # so large that Sinkhorn converges to a tolerance that only tests ask for
OPTIONS = {"exact": {"solver": "exact"}, "sinkhorn": {"solver": "sinkhorn", "epsilon": EPSILON, "tolerance": 1e-11}}
CLOSE = {"rtol": 1e-8, "atol": 1e-9}  # of Sinkhorn's results at this tolerance
every_solver = pytest.mark.parametrize("solver", list(OPTIONS))
POINTS = {  # from random ones, of either side
    "random": lambda x, side: x,
    "duplicated": lambda x, side: x[torch.arange(len(x)) // 4 * 4],
    "grid": lambda x, side: x.round(),
    "one side identical": lambda x, side: x * side,
    "all identical": lambda x, side: torch.ones_like(x),
    "clusters of unequal size": lambda x, side: x + 100 * (torch.arange(len(x)) < (3, len(x) - 3)[side]).unsqueeze(-1),
    "outlier": lambda x, side: x + 1e3 * (torch.arange(len(x)) < 1 - side).unsqueeze(-1),
    "moved": lambda x, side: x + 1e3 * side,
}
every_kind = pytest.mark.parametrize("kind", list(POINTS))


def random_problem(source_count=30, target_count=40, *, device, kind="random", dtype=torch.float64, seed=0):
    """Features and labels of both sides; the features of one side lie a little apart from those of the other."""
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


def solve(pixels, solver="exact", **options):
    """The label mass of a problem, by a solver at its options."""
    return joint_label_mass(*pixels, **NUM_CLASSES | OPTIONS[solver] | options)


def expected(pixels, label_cost=None, epsilon=0.0):
    """Mass and cost of the reference's coupling."""
    source_features, source_labels, target_features, target_labels = arrays(*pixels)
    labels = None if label_cost is None else label_cost.cpu().numpy()
    cost = references.transport.ground_cost(source_features, source_labels, target_features, target_labels, labels)
    plan = references.transport.sinkhorn_plan(cost, epsilon) if epsilon else references.transport.exact_plan(cost)
    mass = references.transport.label_mass(plan, source_labels, target_labels, CLASSES, SOURCE_CLASSES)
    return mass, (plan * cost).sum()


def shares(labels, num_classes):
    """The share of each class in the pixels."""
    drawn = labels[labels >= 0]
    return drawn.bincount(minlength=num_classes).double() / len(drawn)


def random_label_cost(device, scale=1.0, seed=0):
    """Costs of pairs of classes, `[K, Z]`."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.rand(CLASSES, SOURCE_CLASSES, generator=generator, dtype=torch.float64)).to(device)
