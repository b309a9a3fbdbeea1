"""The figure of scores against accuracies."""

import numpy as np
import pytest

from torch_trf.ranking import correlation, draw_scatter

ACCURACIES = {"resnet": 0.61, "unet": 0.48, "vit": 0.70, "fcn": 0.55}
LOGME = {"resnet": 0.3, "unet": -0.1, "vit": 0.2, "fcn": 0.1}


def figure(count=1, **options):
    metrics = ["logme", "hscore", "our own", *map(str, range(9))][:count]
    return draw_scatter(correlation(dict.fromkeys(metrics, LOGME), ACCURACIES, num_resamples=40, **options))


def panels(drawn):
    return [axis for axis in drawn.axes if axis.collections]


@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_panel_for_each_predictor(count):
    assert len(panels(figure(count))) == count


def test_source_accuracies_are_a_predictor():
    assert len(panels(figure(4, source_accuracies=LOGME))) == 5


def test_axes_tell_metrics_and_units():
    axes = panels(figure(3, source_accuracies=LOGME))
    assert [axis.get_xlabel() for axis in axes] == [
        "logme (nats)",
        "hscore (directions)",
        "our own",
        "source accuracy",
    ]
    own = panels(figure(3, units={"our own": "bits", "elsewhere": "m"}))
    assert [axis.get_xlabel() for axis in own] == ["logme (nats)", "hscore (directions)", "our own (bits)"]
    assert [axis.get_ylabel() for axis in axes] == ["accuracy after fine-tuning", "", "", ""]
    assert len({axis.get_ylim() for axis in axes}) == 1


def test_titles_tell_coefficients_with_intervals():
    result = correlation({"logme": LOGME}, ACCURACIES, num_resamples=40)
    agreement = result.agreements["logme"]
    name, spearman, kendall = panels(draw_scatter(result))[0].get_title().splitlines()
    low, high = agreement.spearman.low, agreement.spearman.high
    assert (name, spearman) == ("logme", f"Spearman 0.80 [{low + 0.0:.2f}, {high:.2f}]")
    assert kendall == f"weighted Kendall {agreement.weighted_kendall}"


def test_every_model_is_drawn_with_its_number_and_named_once():
    drawn = figure(2)
    for axis in panels(drawn):
        points = np.concatenate([each.get_offsets() for each in axis.collections])
        assert {tuple(point) for point in points} == {(LOGME[name], ACCURACIES[name]) for name in LOGME}
        numbers = {text.get_text(): text.xy for text in axis.texts}
        assert numbers == {
            str(number): (LOGME[name], ACCURACIES[name])
            for number, name in enumerate(("vit", "resnet", "fcn", "unet"), 1)
        }
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["1  vit", "2  resnet", "3  fcn", "4  unet"]


def test_names_are_no_mathematics():
    scores, accuracies = ({rf"$\{name}$": value for name, value in each.items()} for each in (LOGME, ACCURACIES))
    drawn = draw_scatter(correlation({r"$\foo$": scores}, accuracies, num_resamples=40))
    drawn.canvas.draw()  # fails where any of them is


def test_all_lies_within_the_figure():
    drawn = figure(2)
    drawn.canvas.draw()
    for axis in (*panels(drawn), *drawn.legends):
        box = axis.get_tightbbox(drawn.canvas.get_renderer())
        assert drawn.bbox.x0 <= box.x0 < box.x1 <= drawn.bbox.x1
        assert drawn.bbox.y0 <= box.y0 < box.y1 <= drawn.bbox.y1
