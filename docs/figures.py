"""Draws the pictures: scores as the target domain moves away from the model's own, maps, and OTCE by its epsilon.

python docs/figures.py
"""

import tempfile
import warnings
from functools import partial
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import torch

import torch_trf
from torch_trf.demo import CLASSES, IGNORE_INDEX, make_feature_folder
from torch_trf.plots import draw_map, save_figure
from torch_trf.score import Scorer
from torch_trf.table import METRICS
from torch_trf.transport import _sinkhorn

FOLDER = Path(__file__).parent

SHIFTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOWN = (0.0, 0.5, 1.0)  # whose predictions are drawn
EPSILONS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)  # shares of the mean cost
FEW = 100  # iterations
TOLERANCE = 1e-3


def predictions(image: torch_trf.pixels.Pixels) -> torch.Tensor:
    """The most probable target class of every pixel, given what the source model's classes turned out to mean."""
    options = {"num_classes": len(CLASSES), "ignore_index": IGNORE_INDEX}
    joint_mass = torch_trf.statistics.JointMass.from_pixels(image.features, image.labels, **options)
    theta = image.features[0].double().softmax(0)
    best = torch.einsum("kz,zhw->khw", joint_mass.target_given_source, theta).argmax(0)
    return best.masked_fill(image.labels[0] == IGNORE_INDEX, IGNORE_INDEX)


def draw_scores() -> None:
    """Scores the domains and draws them: docs/scores.png."""
    scorer = Scorer(
        metrics=tuple(METRICS),
        num_classes=len(CLASSES),
        num_source_classes=len(CLASSES),
        ignore_index=IGNORE_INDEX,
        num_pixels=2000,
        num_repeats=5,
        progress=True,
    )
    scores, images = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_feature_folder(folder / "source", shift=0.0, seed=0)
        for shift in SHIFTS:
            make_feature_folder(folder / str(shift), shift=shift, seed=1)
            target = torch_trf.FeatureFolder(folder / str(shift))
            scores.append(scorer(target, torch_trf.FeatureFolder(folder / "source")))
            images[shift] = next(iter(target))

    colors = plt.get_cmap("tab10", len(CLASSES)).with_extremes(over="white")
    figure = plt.figure(figsize=(11, 6.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.25))
    pictures = [("labels of the target", images[0.0].labels[0])]
    pictures += [(f"predictions at distance {shift:g}", predictions(images[shift])) for shift in SHOWN]
    axes = above.subplots(1, len(pictures))
    for axis, (title, picture) in zip(axes, pictures, strict=True):
        drawn = axis.imshow(picture, cmap=colors, vmin=-0.5, vmax=len(CLASSES) - 0.5, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    bar = above.colorbar(drawn, ax=axes, ticks=range(len(CLASSES)), shrink=0.95, extend="neither")
    bar.ax.set_yticklabels(CLASSES, fontsize=8)
    for axis, (name, metric) in zip(below.subplots(1, len(METRICS)), METRICS.items(), strict=True):
        axis.errorbar(
            SHIFTS, [row[name].score for row in scores], [row[name].std for row in scores], marker="o", ms=4, capsize=3
        )
        axis.set_title(name, fontsize=10)
        axis.set_ylabel(metric.unit, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    below.supxlabel("distance of the target domain from the model's own", fontsize=10)
    figure.savefig(FOLDER / "scores.png", dpi=110)


def draw_maps() -> None:
    """LEEP around every second pixel of three street scenes, over their labels: docs/map.png."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_feature_folder(folder / "target", shift=0.5, seed=1, num_images=3)
        target = torch_trf.FeatureFolder(folder / "target")
        pictures = [folder / f"{k}.png" for k in range(len(target))]
        for picture, image in zip(pictures, target, strict=True):
            plt.imsave(picture, image.labels[0].clamp(max=len(CLASSES)), cmap="gray", vmin=-2)
        options = {"num_classes": len(CLASSES), "ignore_index": IGNORE_INDEX}
        made = torch_trf.Mapper(metric="leep", patch_size=10, stride=2, pool="image", **options)(target)
        title = "leep around every second pixel, in patches of 10 x 10 pixels, over the labels in grey"
        save_figure(draw_map(made, title=title, pictures=pictures), FOLDER / "map.png")


def draw_otce() -> None:
    """OTCE of one sample by exact and entropic couplings, converged and not: docs/otce.png."""
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
    figure.savefig(FOLDER / "otce.png", dpi=110)


def _from_zero(problem: _sinkhorn.Problem, *_: object) -> torch.Tensor:
    """What Sinkhorn begins with where nothing is annealed."""
    return torch.zeros_like(problem.target_weight)


if __name__ == "__main__":
    draw_scores()
    draw_maps()
    draw_otce()
