"""Scores against accuracies: coefficients, regrets, intervals, and what chance alone gives."""

import re
from dataclasses import astuple, fields
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from torch_trf.ranking import Agreement, Estimate, correlation
from torch_trf.ranking._correlation import _measures

from ..references import correlation as reference

MEASURES = [field.name for field in fields(Agreement)]
RANK_MEASURES = [name for name in MEASURES if name != "pearson"]
GOOD = {"a": 0.4, "b": 0.5, "c": 0.6, "d": 0.7, "e": 0.8}


def named(values):
    """Values of the models "a", "b", ..."""
    return {chr(ord("a") + index): float(value) for index, value in enumerate(values)}


def values(agreement):
    return [getattr(agreement, name).value for name in MEASURES]


def agreement(scores, accuracies, **options):
    options = {"num_resamples": 40} | options
    return correlation({"m": named(scores)}, named(accuracies), **options).agreements["m"]


@st.composite
def problems(draw, least=3):
    """Scores and accuracies of some models, with ties, but not all equal."""
    count = draw(st.integers(least, 8))
    several = st.lists(st.integers(-4, 4), min_size=count, max_size=count).filter(lambda numbers: len(set(numbers)) > 1)
    return draw(several), draw(several)


@given(problem=problems(), top=st.integers(1, 3))
def test_matches_definition(problem, top):
    assert values(agreement(*problem, top=top)) == pytest.approx(reference.measures(*problem, top), abs=1e-12)


@given(problem=problems())
def test_matches_scipy(problem):
    functions = stats.spearmanr, stats.weightedtau, stats.kendalltau, stats.pearsonr
    expected = [function(*map(np.float64, problem)).statistic for function in functions]
    assert values(agreement(*problem))[:4] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1.0, 1e200])
@pytest.mark.parametrize(("order", "expected"), [(1, 1.0), (-1, -1.0)])
def test_a_perfect_order_is_1_and_a_reversed_one_minus_1(order, expected, scale):
    result = agreement([order * scale * x for x in (1, 2, 3, 4, 5)], [0.1, 0.2, 0.3, 0.4, 0.5], top=2)
    assert values(result)[:4] == pytest.approx([expected] * 4, abs=1e-12)
    for name in MEASURES[:4]:
        assert astuple(getattr(result, name)) == pytest.approx([expected] * 3, abs=1e-12)
    assert values(result)[4:] == pytest.approx([0.0, 0.0] if order > 0 else [0.4, 0.3])


def test_regret_by_hand():
    accuracies = [0.5, 0.9, 0.7, 0.8]
    result = agreement([4, 1, 3, 2], accuracies, top=2)
    assert (result.top_1_regret.value, result.top_k_regret.value) == pytest.approx((0.4, 0.2))
    assert agreement([4, 1, 3, 2], accuracies, top=3).top_k_regret.value == pytest.approx(0.1)
    assert agreement([4, 1, 3, 2], accuracies, top=4).top_k_regret.value == 0


def test_equal_scores_do_not_flatter():
    result = agreement([2, 2, 2, 1], [0.5, 0.9, 0.7, 0.8], top=2)
    assert (result.top_1_regret.value, result.top_k_regret.value) == pytest.approx((0.4, 0.2))


@pytest.mark.slow
@given(problem=problems(), order=st.randoms())
def test_the_order_of_models_does_not_matter(problem, order):
    scores, accuracies = named(problem[0]), named(problem[1])
    shuffled = list(scores)
    order.shuffle(shuffled)
    result = correlation({"m": scores}, accuracies, num_resamples=40)
    again = correlation(
        {"m": {name: scores[name] for name in shuffled}},
        {name: accuracies[name] for name in reversed(shuffled)},
        num_resamples=40,
    )
    assert result == again


@given(problem=problems())
def test_a_monotone_change_of_scores_changes_nothing_but_pearson(problem):
    scores, accuracies = problem
    before, after = agreement(scores, accuracies), agreement([np.exp(x) + x**3 for x in scores], accuracies)
    for name in RANK_MEASURES:
        assert astuple(getattr(before, name)) == pytest.approx(astuple(getattr(after, name)), abs=1e-12)


@given(problem=problems())
def test_regret_is_in_units_of_accuracy(problem):
    scores, accuracies = problem
    before, after = agreement(scores, accuracies), agreement(scores, [100 * x + 7 for x in accuracies])
    for name in MEASURES[:4]:
        assert astuple(getattr(before, name)) == pytest.approx(astuple(getattr(after, name)), abs=1e-9)
    for name in MEASURES[4:]:
        scaled = [100 * x for x in astuple(getattr(before, name))]
        assert scaled == pytest.approx(astuple(getattr(after, name)))


def test_intervals_are_percentiles_over_resampled_models():
    scores, accuracies = [3.0, 1.0, 2.0, 2.0, 5.0], [0.5, 0.1, 0.6, 0.4, 0.7]
    result = agreement(scores, accuracies, top=2, num_resamples=60, seed=4)
    draws = np.random.default_rng(4).integers(5, size=(60, 5))
    resampled = [reference.measures([scores[i] for i in drawn], [accuracies[i] for i in drawn], 2) for drawn in draws]
    for name, column in zip(MEASURES, np.array(resampled).T, strict=True):
        defined = column[~np.isnan(column)]
        estimate = getattr(result, name)
        assert [estimate.low, estimate.high] == pytest.approx(np.percentile(defined, [2.5, 97.5]), abs=1e-12)


def test_resamples_without_an_order_are_left_out():
    result = agreement([0, 0, 1], [0.1, 0.2, 0.3], num_resamples=200)  # a third of them draws equal scores
    assert np.isfinite([astuple(getattr(result, name)) for name in MEASURES]).all()


def test_intervals_hold_the_value_and_narrow_with_more_models():
    generator = np.random.default_rng(0)
    widths = []
    for count in (10, 60):
        accuracies = generator.normal(size=count)
        named = {str(k): float(x) for k, x in enumerate(accuracies)}
        scores = {str(k): float(x + 0.7 * generator.normal()) for k, x in enumerate(accuracies)}
        result = correlation({"m": scores}, named, num_resamples=100).agreements["m"]
        for name in MEASURES[:4]:
            estimate = getattr(result, name)
            assert estimate.low < estimate.value < estimate.high
        widths.append(result.spearman.high - result.spearman.low)
    assert widths[1] < widths[0]


def test_seeds_repeat():
    problem = [5, 1, 2, 3], [0.4, 0.1, 0.3, 0.2]
    first = agreement(*problem, seed=3)
    assert agreement(*problem, seed=3) == first
    assert agreement(*problem, seed=4) != first
    assert values(agreement(*problem, seed=4)) == values(first)


def test_a_random_order_of_3_models():
    """Its six orders have Spearman's coefficients 1, 1/2, 1/2, -1/2, -1/2, -1, and so on."""
    accuracies = {"a": 0.0, "b": 1.0, "c": 2.0}
    result = correlation({"m": accuracies}, accuracies, top=2, num_resamples=1000).agreements["random order"]
    every = np.array([reference.measures(order, (0, 1, 2), 2) for order in permutations((0, 1, 2))])
    assert values(result) == pytest.approx(every.mean(0), abs=0.05)
    assert values(result) == pytest.approx([0, 0, 0, 0, 1, 1 / 3], abs=0.05)
    for name, column in zip(MEASURES, every.T, strict=True):
        estimate = getattr(result, name)
        assert (estimate.low, estimate.high) == pytest.approx((column.min(), column.max()), abs=1e-12)


def test_a_mean_of_large_regrets_is_finite():
    accuracies = {"a": 0.0, "b": 1.0, "c": 1e308}
    result = correlation({"m": accuracies}, accuracies, num_resamples=1000).agreements["random order"]
    assert result.top_1_regret.value == pytest.approx(2 / 3 * 1e308, rel=0.1)


def test_many_models_are_compared_in_parts(monkeypatch):
    """The random numbers are the same, and so are the results to the last digit."""
    generator = np.random.default_rng(0)
    scores, accuracies = (generator.integers(0, 9, 20).tolist() for _ in range(2))
    whole = agreement(scores, accuracies, num_resamples=101)
    for pairs in (1, 400, 1300):
        monkeypatch.setattr("torch_trf.ranking._correlation.PAIRS_AT_ONCE", pairs)
        assert agreement(scores, accuracies, num_resamples=101) == whole


def test_squares_of_the_ranks_of_thousands_fit():
    values = np.arange(4000.0)[np.newaxis]
    assert _measures(values, values, 1)[0] == pytest.approx([1, 1, 1, 1, 0, 0], abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 1e308])
def test_a_metric_without_an_order_is_told_and_left_out(value):
    expected = correlation({"m": GOOD}, GOOD, num_resamples=40)
    flat = dict.fromkeys(GOOD, value)
    with pytest.warns(UserWarning, match=rf"^flat is left out: all models have {re.escape(str(value))}, so that there"):
        assert correlation({"flat": flat, "m": GOOD}, GOOD, num_resamples=40) == expected
    with pytest.warns(UserWarning, match="^source accuracy is left out"):
        assert correlation({"m": GOOD}, GOOD, source_accuracies=flat, num_resamples=40) == expected
    with pytest.raises(ValueError, match="no metric to compare"), pytest.warns(UserWarning, match="^flat is left out"):
        correlation({"flat": flat}, GOOD)


def test_every_predictor_has_an_agreement():
    scores = {"logme": GOOD, "leep": {name: -value for name, value in GOOD.items()}}
    result = correlation(scores, GOOD, source_accuracies=GOOD | {"a": 0.9}, num_resamples=40)
    assert list(result.agreements) == ["logme", "leep", "source accuracy", "random order"]
    assert result.predictors == scores | {"source accuracy": GOOD | {"a": 0.9}}
    assert result.accuracies == GOOD
    assert result.agreements["source accuracy"].top_1_regret.value == pytest.approx(0.4)
    assert list(correlation(scores, GOOD, num_resamples=40).agreements) == ["logme", "leep", "random order"]


def test_a_row_tells_all_of_a_predictor():
    result = correlation({"logme": GOOD}, GOOD, top=2, num_resamples=40)
    first, second = result.rows()
    measures = ["spearman", "weighted_kendall", "kendall", "pearson", "top_1_regret", "top_2_regret"]
    assert list(first) == ["predictor", *(f"{name}{end}" for name in measures for end in ("", "_low", "_high"))]
    assert (first["predictor"], second["predictor"]) == ("logme", "random order")
    assert first["top_2_regret"] == 0
    chance = result.agreements["random order"].top_k_regret
    assert (second["top_2_regret_low"], second["top_2_regret_high"]) == (chance.low, chance.high)


def test_a_row_has_a_regret_once():
    row = correlation({"logme": GOOD}, GOOD, top=1, num_resamples=40).rows()[0]
    assert [name for name in row if "regret" in name] == ["top_1_regret", "top_1_regret_low", "top_1_regret_high"]


def test_an_estimate_is_printed_with_as_many_decimals_as_asked():
    result = Estimate(value=0.125, low=-0.00001, high=0.99999)
    assert result.text(decimals=4) == "0.1250 [0.0000, 1.0000]"
    assert str(result) == "0.12 [0.00, 1.00]"


@pytest.mark.parametrize(
    ("scores", "accuracies", "options", "message"),
    [
        ({"m": GOOD}, GOOD | {"f": 0.1}, {}, "^m: none of f$"),
        ({"m": GOOD | {"f": 0.1, "g": 0.2}}, GOOD, {}, "^m is there of f, g, which have no accuracy$"),
        ({"m": GOOD}, GOOD, {"source_accuracies": {"a": 0.1}}, "^source accuracy: none of b, c, d, e$"),
        (
            {"m": {"a": 1.0, "b": 2.0}},
            {"a": 1.0, "b": 2.0},
            {},
            "accuracies of 2 models \\(a, b\\), at least 3 are needed",
        ),
        ({"m": GOOD | {"b": float("nan")}}, GOOD, {}, "^m of b is nan$"),
        ({"m": GOOD}, GOOD | {"c": float("inf")}, {}, "^accuracy of c is inf$"),
        ({"m": GOOD}, dict.fromkeys(GOOD, 0.5), {}, r"^accuracy: all models have 0\.5"),
        ({"m": GOOD}, GOOD, {"top": 0}, r"top=0 of 5 models is outside \[1, 5\]"),
        ({"m": GOOD}, GOOD, {"top": 6}, r"top=6 of 5 models is outside \[1, 5\]"),
        ({"m": GOOD}, GOOD, {"num_resamples": 39}, r"num_resamples=39 is outside \[40, 1,000,000\]"),
        ({"m": GOOD}, GOOD, {"num_resamples": 10**9}, r"num_resamples=1000000000 is outside \[40, 1,000,000\]"),
        ({"m": GOOD}, {str(k): k / 7 for k in range(5001)}, {}, "of 5,001 models, at most 5,000 can be compared"),
        ({"m": GOOD}, GOOD, {"seed": -1}, "^seed=-1 is less than 0$"),
        ({"m": GOOD | {"a": 1e308, "b": -1e308}}, GOOD, {}, r"^m ranges from -1e\+308 to 1e\+308: "),
        ({"m": GOOD}, GOOD | {"a": 1e308, "b": -1e308}, {}, r"^accuracy ranges from -1e\+308 to 1e\+308: "),
        ({"random order": GOOD}, GOOD, {}, "a metric cannot be called 'random order'"),
        ({}, GOOD, {}, "there is no metric"),
    ],
)
def test_what_cannot_be_compared_is_an_error(scores, accuracies, options, message):
    with pytest.raises(ValueError, match=message):
        correlation(scores, accuracies, **options)
