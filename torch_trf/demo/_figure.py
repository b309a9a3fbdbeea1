"""A figure of the experiment: what each model has learned, and where in a picture of the target it transfers."""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from ..datasets import IGNORED, ROAD_CLASSES, LabeledData
from ..plots import COLORS, PERCENTILES, blank_figure
from ..ranking import Candidate
from ._training import Tuned

MOST_COLUMNS = 5  # of models
CLASS_COLORS = colormaps["tab10"]
PANEL = (2.1, 1.6)  # inches


def draw_scenes(
    ranking: dict[str, Any], target: LabeledData, candidates: Sequence[Candidate], tuned: Sequence[Tuned]
) -> Figure:
    """Draws a picture of the target, and of each model one of its own domain and its map over the target's.

    Args:
        ranking: what `ranking.json` holds.
        target: the labeled pictures of the target domain.
        candidates: the models, with their source domains.
        tuned: what became of them; the best one is drawn first.

    Returns:
        A Matplotlib figure; `plots.save_figure` writes it.
    """
    by, shown = ranking["by"], target.make().read(ranking["shown"])
    ranks = {row["name"]: row["rank"] for row in ranking["ranking"]}
    maps = {each["name"]: np.array(each["map"], dtype=np.float64) for each in ranking["candidates"]}
    sources = {each.name: each.source for each in candidates}
    best_first = sorted(tuned, key=lambda each: -each.accuracy)
    norm = Normalize(*np.nanpercentile(np.stack(list(maps.values())), PERCENTILES))
    rows = math.ceil(len(best_first) / MOST_COLUMNS)
    columns = math.ceil(len(best_first) / rows)
    figure = blank_figure((columns + 1) * PANEL[0], 2 * rows * PANEL[1] + 0.7)
    panels = figure.subplots(2 * rows, columns + 1, squeeze=False)
    for axis in panels.flat:
        axis.set_axis_off()

    _draw_picture(panels[0, 0], shown.image, "the target domain")
    classes = CLASS_COLORS(shown.labels.numpy(), bytes=True)[..., :3]
    classes[shown.labels.numpy() == IGNORED] = 255
    panels[1, 0].imshow(classes, interpolation="nearest")
    panels[1, 0].set_title("its labels", fontsize=9)
    legend = [Patch(color=CLASS_COLORS(k), label=name) for k, name in enumerate(ROAD_CLASSES)]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(ROAD_CLASSES), fontsize=8, frameon=False)
    for place, each in enumerate(best_first):
        row, column = 2 * (place // columns), 1 + place % columns
        picture = cast(LabeledData, sources[each.name]).make().read(0).image
        _draw_picture(panels[row, column], picture, f"{each.name}\n{each.accuracy:.3f}, no. {ranks[each.name]} by {by}")
        panels[row + 1, column].imshow(maps[each.name], cmap=COLORS, norm=norm, interpolation="nearest")
    bar = figure.colorbar(ScalarMappable(norm, COLORS), ax=panels[:, -1].tolist(), extend="both", aspect=40)
    bar.set_label("{name} over the target ({unit}); higher is better".format(**ranking["map_metric"]), fontsize=8)
    bar.ax.tick_params(labelsize=7)
    title = "What each model has learned, and where it transfers; best first by mean IoU on it after fine-tuning"
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_picture(axis: Axes, picture: UInt8[Tensor, "3 H W"], title: str) -> None:
    axis.imshow(picture.movedim(0, -1).numpy())
    axis.set_title(title, fontsize=9)
