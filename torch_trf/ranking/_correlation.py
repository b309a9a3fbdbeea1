"""How well scores predicted the accuracies after fine-tuning, and how sure that is with so few models."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, Int64

from ..metrics import METRICS

SOURCE_ACCURACY = "source accuracy"
RANDOM_ORDER = "random order"
LEAST_MODELS = 3
MOST_MODELS = 5000  # all pairs of which are compared, again in each resample
PERCENTILES = (2.5, 97.5)  # between which an interval lies
LEAST_RESAMPLES = 40  # of which 2.5 % are one
MOST_RESAMPLES = 1_000_000
PAIRS_AT_ONCE = 2**17  # of models, in several resamples; these fit into a cache


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the 95 % interval around it; of random orders, the mean and where 95 % of them lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.text(decimals=2)

    def text(self, *, decimals: int) -> str:
        """The value and, in brackets, the interval; never -0.00."""
        rounded = (round(number, decimals) + 0.0 for number in (self.value, self.low, self.high))
        value, low, high = (f"{number:.{decimals}f}" for number in rounded)
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well one predictor predicted the accuracies.

    Attributes:
        spearman: correlation of the ranks, equals sharing their mean rank; in [-1, 1], as the other coefficients.
        weighted_kendall: Vigna's tau, to which the best models matter most.
        kendall: Kendall's tau-b.
        pearson: linear correlation.
        top_1_regret: what is lost by fine-tuning only the model of the highest score, in units of accuracy; 0 is best.
        top_k_regret: what is lost by fine-tuning the k models of the highest scores and keeping the best of them.
    """

    spearman: Estimate
    weighted_kendall: Estimate
    kendall: Estimate
    pearson: Estimate
    top_1_regret: Estimate
    top_k_regret: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """What came of a comparison of scores with accuracies.

    Attributes:
        predictors: the value that each predictor gave each model: metrics and, where given, "source accuracy".
        accuracies: after fine-tuning, of each model.
        units: of the metrics, where they are known.
        agreements: of each predictor, and of "random order".
        top: k of the top-k regret.
        num_resamples: of the models, and random orders.
        seed: of both.
    """

    predictors: dict[str, dict[str, float]]
    accuracies: dict[str, float]
    units: dict[str, str]
    agreements: dict[str, Agreement]
    top: int
    num_resamples: int
    seed: int

    def rows(self) -> list[dict[str, Any]]:
        """A row of plain values for each predictor: `predictor`, `spearman`, `spearman_low`, `spearman_high`, ...

        Where k is 1, there is one regret.
        """
        rows = []
        for predictor, agreement in self.agreements.items():
            row: dict[str, Any] = {"predictor": predictor}
            for field in fields(Agreement):
                name, estimate = field.name.replace("_k_", f"_{self.top}_"), getattr(agreement, field.name)
                row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            rows.append(row)
        return rows


def correlation(
    scores: Mapping[str, Mapping[str, float]],
    accuracies: Mapping[str, float],
    *,
    source_accuracies: Mapping[str, float] | None = None,
    units: Mapping[str, str] | None = None,
    top: int = 3,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Correlation:
    r"""Compares scores of models with their accuracies after fine-tuning.

    All four coefficients are Daniels' general one, over all pairs i, j of the M models,

    $$ \frac{\sum_{ij} w_{ij} a_{ij} b_{ij}}{\sqrt{\sum_{ij} w_{ij} a_{ij}^2 \sum_{ij} w_{ij} b_{ij}^2}} $$

    where a and b are the differences of scores and of accuracies (Pearson), of their ranks (Spearman) or the signs of
    these (Kendall's tau-b), and w is 1. Vigna's tau weighs the signs by w = 1/r_i + 1/r_j, r the rank from 1 for the
    best, and is the mean of two: ranks by scores, equals by accuracies, and the other way round. This is what LogME's
    authors report, and `scipy.stats.weightedtau`.

    The top-k regret is the best accuracy of all models minus the best among the k that score highest. Of models of
    equal score those of lower accuracy count as chosen first, so that ties never flatter.

    Each interval holds the central 95 % of the values over bootstrap resamples, M models drawn with replacement, the
    same for all predictors. Resamples in which a coefficient is undefined, because all scores or all accuracies are
    equal, are left out of it. "random order" is what chance gives: mean and central 95 % over random orders.

    A metric that gives all models the same score has no order to compare: it is left out, with a warning.

    Args:
        scores: by metric, of each model; higher is better.
        accuracies: after fine-tuning, of each model, in any unit in which higher is better.
        source_accuracies: of each model on its own source data set: the baseline "source accuracy".
        units: of the metrics, for figures; those of this package's metrics are known.
        top: k of the top-k regret.
        num_resamples: how many resamples, and how many random orders; from 40 to 1,000,000.
        seed: of both.

    Returns:
        The agreement of each metric, of "source accuracy" where it is given, and of "random order". It does not depend
        on the order in which the models are given.

    Raises:
        ValueError: fewer than 3 models or more than 5,000, a model without a score or an accuracy, a value that is not
            finite, values whose range is not, accuracies that are all equal, or scores of every metric, a metric called
            as a baseline, `top` or `num_resamples` out of range, or a negative seed.

    Example:
        >>> accuracies = {"resnet": 0.61, "unet": 0.48, "vit": 0.70, "fcn": 0.55}
        >>> result = correlation({"logme": {"resnet": 0.3, "unet": -0.1, "vit": 0.2, "fcn": 0.1}}, accuracies)
        >>> agreement = result.agreements["logme"]
        >>> round(agreement.spearman.value, 6), round(agreement.top_1_regret.value, 6), agreement.top_k_regret.value
        (0.8, 0.09, 0.0)

    Source: H. E. Daniels, "The relation between measures of correlation in the universe of sample permutations",
    Biometrika, 1944; S. Vigna, "A weighted correlation index for rankings with ties", WWW 2015, used by You et al.,
    "LogME", ICML 2021, and Agostinelli et al., "How stable are transferability metrics evaluations?", ECCV 2022;
    B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics, 1979.
    """
    predictors = dict(scores)
    if reserved := predictors.keys() & {SOURCE_ACCURACY, RANDOM_ORDER}:
        raise ValueError(f"a metric cannot be called {reserved.pop()!r}, which is a baseline")
    if source_accuracies is not None:
        predictors[SOURCE_ACCURACY] = source_accuracies
    models = sorted(accuracies)  # in whatever order they are given, the same are drawn
    _check_options(models, top=top, num_resamples=num_resamples, seed=seed)
    outcome = _in_order("accuracy", accuracies, models)
    if _all_equal(outcome):
        raise ValueError(f"accuracy: all models have {outcome[0]}, so that there is no order to compare")
    ordered = {name: _in_order(name, of_models, models) for name, of_models in predictors.items()}
    for name in [name for name, of_models in ordered.items() if _all_equal(of_models)]:
        value = ordered.pop(name)[0]
        warnings.warn(f"{name} is left out: all models have {value}, so that there is no order", stacklevel=2)
    if not ordered:
        raise ValueError("there is no metric to compare with the accuracies")
    values = np.stack(list(ordered.values()))
    estimates = _estimates(values, outcome, top=top, num_resamples=num_resamples, seed=seed)
    all_units = {name: metric.unit for name, metric in METRICS.items()} | dict(units or {})
    return Correlation(
        predictors={name: dict(zip(models, of_models.tolist(), strict=True)) for name, of_models in ordered.items()},
        accuracies=dict(zip(models, outcome.tolist(), strict=True)),
        units={name: unit for name, unit in all_units.items() if name in ordered},
        agreements=dict(zip([*ordered, RANDOM_ORDER], estimates, strict=True)),
        top=top,
        num_resamples=num_resamples,
        seed=seed,
    )


def _check_options(models: Sequence[str], *, top: int, num_resamples: int, seed: int) -> None:
    if len(models) < LEAST_MODELS:
        raise ValueError(
            f"accuracies of {len(models)} models ({', '.join(models)}), at least {LEAST_MODELS} are needed"
        )
    if len(models) > MOST_MODELS:
        raise ValueError(f"accuracies of {len(models):,} models, at most {MOST_MODELS:,} can be compared")
    if not 1 <= top <= len(models):
        raise ValueError(f"top={top} of {len(models)} models is outside [1, {len(models)}]")
    if not LEAST_RESAMPLES <= num_resamples <= MOST_RESAMPLES:
        raise ValueError(f"num_resamples={num_resamples} is outside [{LEAST_RESAMPLES}, {MOST_RESAMPLES:,}]")
    if seed < 0:
        raise ValueError(f"seed={seed} is less than 0")


def _estimates(
    values: Float[np.ndarray, "predictors M"],
    accuracies: Float[np.ndarray, "M"],
    *,
    top: int,
    num_resamples: int,
    seed: int,
) -> list[Agreement]:
    """The agreement of each predictor, and at last that of random orders."""
    generator = np.random.default_rng(seed)
    count = len(accuracies)
    rows = max(1, PAIRS_AT_ONCE // count**2)
    sizes = [min(rows, num_resamples - first) for first in range(0, num_resamples, rows)]
    resampled, by_chance = [], []
    for size in sizes:
        draws = generator.integers(count, size=(size, count))
        resampled.append(np.stack([_measures(each[draws], accuracies[draws], top) for each in values]))
    for size in sizes:
        orders = np.broadcast_to(np.arange(count, dtype=np.float64), (size, count))
        by_chance.append(_measures(generator.permuted(orders, axis=1), accuracies, top))
    chance = np.concatenate(by_chance)
    mean = (chance / num_resamples).sum(0)  # in this order no sum of large regrets overflows
    measured = [*(_measures(each[np.newaxis], accuracies, top)[0] for each in values), mean]
    samples = np.concatenate([np.concatenate(resampled, axis=1), chance[np.newaxis]])
    estimates = np.stack([measured, *np.nanpercentile(samples, PERCENTILES, axis=1)], -1).tolist()
    return [Agreement(*(Estimate(*each) for each in row)) for row in estimates]


def _in_order(what: str, values: Mapping[str, float], models: Sequence[str]) -> Float[np.ndarray, "M"]:
    """The values of the models, in their order."""
    if missing := [model for model in models if model not in values]:
        raise ValueError(f"{what}: none of {', '.join(missing)}")
    if unknown := sorted(values.keys() - set(models)):
        raise ValueError(f"{what} is there of {', '.join(unknown)}, which have no accuracy")
    ordered = np.array([values[model] for model in models], dtype=np.float64)
    for model, value in zip(models, ordered, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"{what} of {model} is {value}")
    low, high = float(ordered.min()), float(ordered.max())
    if math.isinf(high - low):
        raise ValueError(f"{what} ranges from {low} to {high}: the difference is too large for a number")
    return ordered


def _all_equal(values: Float[np.ndarray, "M"]) -> bool:
    return bool((values == values[0]).all())


def _measures(
    scores: Float[np.ndarray, "*batch M"], accuracies: Float[np.ndarray, "*#batch M"], top: int
) -> Float[np.ndarray, "*batch 6"]:
    """The fields of `Agreement`; NaN where they are undefined."""
    scores, accuracies = np.broadcast_arrays(scores, accuracies)
    a, b = _signs(scores), _signs(accuracies)
    squares = (a * b).sum(-1), (a * a).sum(-1), (b * b).sum(-1)  # over the pairs of each model
    weighted = [_kendall(*squares, 1 / _ranks(*values)) for values in ((scores, accuracies), (accuracies, scores))]
    measures = [
        _cosine(a.sum(-1, np.float64), b.sum(-1, np.float64)),  # twice the mean ranks, less their mean
        sum(weighted) / 2,
        _kendall(*squares, np.ones_like(scores)),
        _cosine(_centered(scores), _centered(accuracies)),
        _regret(scores, accuracies, 1),
        _regret(scores, accuracies, top),
    ]
    return np.stack(measures, -1)


def _signs(values: Float[np.ndarray, "*batch M"]) -> Int8[np.ndarray, "*batch M M"]:
    """Of the differences of all pairs."""
    i, j = values[..., :, None], values[..., None, :]
    return (i > j).astype(np.int8) - (i < j).astype(np.int8)


def _ranks(values: Float[np.ndarray, "*batch M"], ties: Float[np.ndarray, "*batch M"]) -> Int64[np.ndarray, "*batch M"]:
    """The ranks by value, equals by `ties`, from 1 for the best."""
    return 1 + np.lexsort((-ties, -values)).argsort(-1)


def _kendall(
    ab: Int64[np.ndarray, "*batch M"],
    aa: Int64[np.ndarray, "*batch M"],
    bb: Int64[np.ndarray, "*batch M"],
    weights: Float[np.ndarray, "*batch M"],
) -> Float[np.ndarray, "*batch"]:
    """Daniels' coefficient of signs, of which the products are summed over the pairs of each model.

    The weight of a pair is the sum of its models' weights, so each model's sums count twice, above and below.
    """
    product, a_square, b_square = ((weights * each).sum(-1) for each in (ab, aa, bb))
    with np.errstate(invalid="ignore"):  # NaN where all are equal
        return product / np.sqrt(a_square * b_square)


def _centered(values: Float[np.ndarray, "*batch M"]) -> Float[np.ndarray, "*batch M"]:
    """Around their mean, in units of their range, so that no square is too large or too small."""
    from_least = values - values.min(-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # NaN where all are equal
        shares = from_least / from_least.max(-1, keepdims=True)
    return shares - shares.mean(-1, keepdims=True)


def _cosine(a: Float[np.ndarray, "*batch M"], b: Float[np.ndarray, "*batch M"]) -> Float[np.ndarray, "*batch"]:
    """Daniels' coefficient of differences, of values whose mean is zero."""
    product, a_square, b_square = ((x * y).sum(-1) for x, y in ((a, b), (a, a), (b, b)))
    with np.errstate(invalid="ignore"):  # NaN where all are equal
        return product / np.sqrt(a_square * b_square)


def _regret(
    scores: Float[np.ndarray, "*batch M"], accuracies: Float[np.ndarray, "*batch M"], top: int
) -> Float[np.ndarray, "*batch"]:
    """The best accuracy less the best of the models that score highest, of equal scores the least accurate first."""
    chosen = np.lexsort((accuracies, -scores))[..., :top]
    return accuracies.max(-1) - np.take_along_axis(accuracies, chosen, -1).max(-1)
