"""A figure of scores against accuracies."""

import math

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plots import blank_figure
from ._correlation import Correlation

MOST_COLUMNS = 5
PANEL_SIZE = 3.2  # inches
COLORS = "tab10"  # over and over; numbers tell models of one color apart
MOST_TICKS = 5
MARKER_AREA = 170  # points², around a number


def draw_scatter(correlation: Correlation) -> Figure:
    """Draws the accuracies of models over what each predictor gave them, a panel for each predictor.

    Models are numbered by accuracy, from 1 for the best; the legend names them. The title of a panel tells Spearman's
    coefficient and Vigna's weighted tau with their 95 % intervals.

    Args:
        correlation: scores and accuracies, and how well they agree.

    Returns:
        A Matplotlib figure; `plots.save_figure` writes it.

    Example:
        >>> from torch_trf.ranking import correlation
        >>> accuracies = {"resnet": 0.61, "unet": 0.48, "vit": 0.70}
        >>> result = correlation({"logme": {"resnet": 0.3, "unet": -0.1, "vit": 0.2}}, accuracies)
        >>> draw_scatter(result).axes[0].get_xlabel()
        'logme (nats)'
    """
    count = len(correlation.predictors)
    rows = math.ceil(count / MOST_COLUMNS)
    columns = math.ceil(count / rows)
    figure = blank_figure(columns * PANEL_SIZE + 2, rows * PANEL_SIZE + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in panels.flat[count:]:
        axis.set_axis_off()
    for axis, predictor in zip(panels.flat, correlation.predictors, strict=False):
        _draw_panel(axis, correlation, predictor)
    for axis in panels[:, 0]:
        axis.set_ylabel("accuracy after fine-tuning")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside right upper", title="models by accuracy", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may have a $
    return figure


def _draw_panel(axis: Axes, correlation: Correlation, predictor: str) -> None:
    accuracies, scores = correlation.accuracies, correlation.predictors[predictor]
    best_first = sorted(accuracies, key=lambda model: -accuracies[model])
    colors = colormaps[COLORS]
    for number, model in enumerate(best_first, 1):
        place = scores[model], accuracies[model]
        color = colors((number - 1) % colors.N)
        axis.scatter(*place, s=MARKER_AREA, color=color, edgecolor="white", label=f"{number}  {model}", zorder=2)
        axis.annotate(str(number), place, color="white", fontsize=7, weight="bold", ha="center", va="center_baseline")
    agreement = correlation.agreements[predictor]
    coefficients = f"Spearman {agreement.spearman}\nweighted Kendall {agreement.weighted_kendall}"
    units = correlation.units
    label = f"{predictor} ({units[predictor]})" if predictor in units else predictor
    axis.set_title(f"{predictor}\n{coefficients}", fontsize=9, parse_math=False)
    axis.set_xlabel(label, parse_math=False)
    axis.margins(0.1)
    axis.locator_params(axis="x", nbins=MOST_TICKS)
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
