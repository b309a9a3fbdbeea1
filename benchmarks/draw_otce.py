"""Draws OTCE of one sample of the made-up data by its epsilon, with couplings that converged and others: docs/otce.png.

python benchmarks/draw_otce.py
"""

import tempfile
import warnings
from functools import partial
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import torch
from made_up import CLASSES, IGNORE_INDEX, make_feature_folder

import torch_trf
from torch_trf.transport import _sinkhorn

PICTURE = Path(__file__).parent.parent / "docs" / "otce.png"
EPSILONS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)  # shares of the mean cost
FEW = 100  # iterations
TOLERANCE = 1e-3


def draw_otce() -> None:
    """OTCE of one sample by exact and entropic couplings, converged and not."""
    options = {"size": 1000, "num_classes": len(CLASSES), "ignore_index": IGNORE_INDEX}
    with tempfile.TemporaryDirectory() as temporary:
        pixels = []
        for seed, shift in enumerate((0.0, 0.5)):
            make_feature_folder(Path(temporary) / str(shift), shift=shift, seed=seed)
            samples = [
                torch_trf.statistics.PixelSample.from_pixels(
                    image.features, image.labels, stream=image.stream, seed=seed, **options
                )
                for image in torch_trf.FeatureFolder(Path(temporary) / str(shift))
            ]
            pixels += sum(samples[1:], samples[0])[0].drawn()
    exact = torch_trf.otce(*pixels).item()
    sinkhorn = partial(torch_trf.otce_result, *pixels, solver="sinkhorn", tolerance=TOLERANCE)
    drawn = {
        "converged": [sinkhorn(epsilon=epsilon) for epsilon in EPSILONS],
        f"stopped after {FEW} plain iterations": [],
    }
    with warnings.catch_warnings(), mock.patch.dict(vars(_sinkhorn), {"MOST_RELAXED": 1.0, "_annealed": _from_zero}):
        warnings.simplefilter("ignore", torch_trf.transport.ConvergenceWarning)
        drawn[f"stopped after {FEW} plain iterations"] = [sinkhorn(epsilon=e, max_iterations=FEW) for e in EPSILONS]

    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    above.axhline(exact, color="0.25", lw=1.2, ls="--")
    above.annotate(
        f"exact: {exact:.3f}", (EPSILONS[0], exact), (0, 5), textcoords="offset points", ha="right", color="0.25"
    )
    below.axhline(TOLERANCE, color="0.25", lw=1.2, ls=":")
    below.annotate("tolerance", (EPSILONS[0], TOLERANCE), (0, 5), textcoords="offset points", ha="right", color="0.25")
    for (name, found), marker, color in zip(drawn.items(), "os", ("tab:blue", "tab:red"), strict=True):
        style = {"marker": marker, "ms": 5, "color": color, "label": f"Sinkhorn, {name}"}
        above.plot(EPSILONS, [result.score for result in found], **style)
        below.plot(EPSILONS, [result.coupling.marginal_error for result in found], **style)
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


def _from_zero(problem: _sinkhorn.Problem, *_: object) -> torch.Tensor:
    """What Sinkhorn begins with where nothing is annealed."""
    return torch.zeros_like(problem.target_weight)


if __name__ == "__main__":
    draw_otce()
