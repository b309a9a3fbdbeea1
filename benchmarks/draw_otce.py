"""Draws OTCE of one sample of the made-up data by its epsilon, with couplings that converged and others: docs/otce.png.

python benchmarks/draw_otce.py
"""

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import torch
from made_up import CLASSES, IGNORE_INDEX, make_feature_folder

import torch_trf
from torch_trf.statistics import PixelSample
from torch_trf.transport import ConvergenceWarning, Coupling, Sinkhorn, _iterations, couple
from torch_trf.transport._problem import Problem

PICTURE = Path(__file__).parent.parent / "docs" / "otce.png"
EPSILONS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)  # shares of the mean cost
FEW = 100  # iterations
TOLERANCE = 1e-3
PIXELS = 1000  # a side


def draw_otce() -> None:
    """Draws OTCE of one sample by exact and entropic couplings, converged and not."""
    target, source = (_sample(shift, seed) for seed, shift in ((1, 0.5), (0, 0.0)))
    solvers = [Sinkhorn(epsilon=epsilon, tolerance=TOLERANCE) for epsilon in EPSILONS]
    couplings = {"converged": [couple(*target, source=source, solver=solver) for solver in solvers]}
    with warnings.catch_warnings(), mock.patch.dict(vars(_iterations), {"MOST_RELAXED": 1.0, "_annealed": _from_zero}):
        warnings.simplefilter("ignore", ConvergenceWarning)
        couplings[f"stopped after {FEW} plain iterations"] = [
            couple(*target, source=source, solver=replace(solver, max_iterations=FEW)) for solver in solvers
        ]
    _draw(torch_trf.otce(*target, source=source).item(), couplings)


def _sample(shift: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of pixels of made-up data."""
    options = {"size": PIXELS, "num_classes": len(CLASSES), "ignore_index": IGNORE_INDEX, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        make_feature_folder(folder, shift=shift, seed=seed)
        samples = [
            PixelSample.from_pixels(image.features, image.labels, stream=image.stream, **options)
            for image in torch_trf.FeatureFolder(folder)
        ]
    return sum(samples[1:], samples[0])[0].drawn()


def _draw(exact: float, couplings: dict[str, list[Coupling]]) -> None:
    """Scores above, marginal errors below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    above.axhline(exact, color="0.25", lw=1.2, ls="--")
    above.annotate(
        f"exact: {exact:.3f}", (EPSILONS[0], exact), (0, 5), textcoords="offset points", ha="right", color="0.25"
    )
    below.axhline(TOLERANCE, color="0.25", lw=1.2, ls=":")
    below.annotate("tolerance", (EPSILONS[0], TOLERANCE), (0, 5), textcoords="offset points", ha="right", color="0.25")
    for (name, of_name), marker, color in zip(couplings.items(), "os", ("tab:blue", "tab:red"), strict=True):
        style = {"marker": marker, "ms": 5, "color": color, "label": f"Sinkhorn, {name}"}
        above.plot(EPSILONS, [torch_trf.otce.score(coupling) for coupling in of_name], **style)
        below.plot(EPSILONS, [coupling.marginal_error for coupling in of_name], **style)
    above.set_ylabel("OTCE, nats")
    above.margins(y=0.14)
    above.legend(loc="lower center", frameon=False)
    below.set_xscale("log")
    below.set_yscale("log")
    below.set_xticks(EPSILONS, [f"{100 * epsilon:g} %" for epsilon in EPSILONS])
    below.set_xticks([], minor=True)
    below.set_xlabel("epsilon, share of the mean cost")
    below.set_ylabel("marginal error, L1 (weights sum to 1)")
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.savefig(PICTURE, dpi=110)


def _from_zero(problem: Problem, *_: object) -> torch.Tensor:
    """What Sinkhorn begins with where nothing is annealed."""
    return torch.zeros_like(problem.target_weight)


if __name__ == "__main__":
    draw_otce()
