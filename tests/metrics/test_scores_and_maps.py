"""Every metric over streams, over samples and patch by patch: the same as on tensors."""

from dataclasses import replace

import pytest
import torch

from torch_trf import Mapper, Sampling, Scorer
from torch_trf.metrics import METRICS
from torch_trf.pixels import Pixels

from ..helpers import SOURCE_CLASSES, assert_close, every_metric, metrics_that, random_images

CLASSES = 4
TOLERANCES = {"rtol": 1e-7, "atol": 1e-9}  # a patch of a map is a sum of cells


def data_set(device, seed=0, classes=CLASSES, size=(6, 9)):
    """Two images: features, labels, logits."""
    features, labels = random_images(2, 3, *size, classes=classes, dtype=torch.float64, device=device, seed=seed)
    return features, labels, random_images(2, 5, *size, dtype=torch.float64, device=device, seed=seed)[0]


@pytest.fixture
def target(device):
    return data_set(device)


@pytest.fixture
def source(device):
    return data_set(device, seed=1, classes=SOURCE_CLASSES)[:2]


def read_by(metric, features, labels, logits):
    """What the metric reads, and the labels."""
    return {"features": features, "logits": logits}[metric.looks[0].reads], labels


def scored(metric, tensor, labels, source):
    """The metric's score of tensors."""
    options = {"source": source, "num_source_classes": SOURCE_CLASSES} if metric.needs_source else {}
    return metric(tensor, labels, num_classes=CLASSES, **options)


def scorer_of(metric, **options):
    return Scorer(metrics=metric, num_classes=CLASSES, num_source_classes=SOURCE_CLASSES, **options)


def source_of(metric, source):
    return [source] if metric.needs_source else None


@every_metric
def test_a_data_set_has_the_score_of_its_pixels(metric, target, source):
    expected = scored(metric, *read_by(metric, *target), source)
    batches = [tuple(tensor[k : k + 1] for tensor in target) for k in range(2)]
    for data in (batches, iter(batches)):
        score = scorer_of(metric)(data, source=source_of(metric, source))[metric.name]
        assert_close(torch.tensor(score.score, dtype=torch.float64), expected.cpu())
        assert (score.unit, score.pixels) == (metric.unit, int((target[1] != 255).sum()))
        assert (score.coupling is not None) == metric.needs_source
        assert (score.by_class is None) == (metric.mean_over != "classes")


def test_all_metrics_at_once_score_as_each_alone(target, source):
    together = Scorer(metrics=list(METRICS.values()), num_classes=CLASSES, num_source_classes=SOURCE_CLASSES)
    scores = together([target], source=[source])
    assert list(scores) == list(METRICS)
    for metric in METRICS.values():
        assert (
            scores[metric.name].score
            == scorer_of(metric)([target], source=source_of(metric, source))[metric.name].score
        )


@pytest.mark.slow
@every_metric
@pytest.mark.parametrize("strategy", ["uniform", "per_class", "boundary"])
def test_a_sample_has_the_score_of_its_pixels(metric, strategy, target, source):
    sampling = Sampling(num_pixels=24, num_repeats=3, strategy=strategy, boundary_radius=1, seed=5)
    scorer = scorer_of(metric, sampling=sampling)
    score = scorer([target], source=source_of(metric, source))[metric.name]
    assert len(score.values) == 3

    def drawn(sampling, tensor, labels, classes):
        sample = sampling.draw(tensor, Pixels.of(tensor, labels), num_classes=classes)
        return [repeat.drawn() for repeat in sample]

    of_target = drawn(sampling, *read_by(metric, *target), CLASSES)
    of_source = drawn(replace(sampling, seed=~sampling.seed), *source, SOURCE_CLASSES)
    for value, pixels, other in zip(score.values, of_target, of_source, strict=True):
        expected = scored(metric, *pixels, other)
        assert_close(torch.tensor(value, dtype=torch.float64), expected.cpu())
    assert score.score == pytest.approx(sum(score.values) / 3)


@metrics_that(lambda metric: metric.mean_over)
def test_scores_by_class_have_the_score_as_their_mean(metric, target):
    sampling = Sampling(num_pixels=40, num_repeats=1, seed=5)
    score = scorer_of(metric, sampling=sampling)([target])[metric.name]
    tensor, labels = read_by(metric, *target)
    (sample,) = sampling.draw(tensor, Pixels.of(tensor, labels), num_classes=CLASSES)
    pixels = sample.labels.bincount(minlength=CLASSES).tolist()
    weights = {"pixels": pixels, "classes": [float(count > 0) for count in pixels]}[metric.mean_over]
    assert [value is None for value in score.by_class] == [count == 0 for count in pixels]
    total = sum(weight * (value or 0) for weight, value in zip(weights, score.by_class, strict=True))
    assert total / sum(weights) == pytest.approx(score.score, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["dataset", "image"])
@pytest.mark.parametrize(("patch_size", "stride"), [((3, 4), (3, 4)), ((4, 3), (2, 3)), ((6, 9), (1, 1))])
@metrics_that(lambda metric: metric.has_map)
def test_a_patch_of_a_map_has_the_score_of_its_pixels(metric, patch_size, stride, pool, target, source):
    mapper = Mapper(
        metric=metric,
        patch_size=patch_size,
        stride=stride,
        num_classes=CLASSES,
        num_source_classes=SOURCE_CLASSES,
        pool=pool,
        first_look="patch",
        min_pixels=2,
    )
    score_map = mapper([target], source=source_of(metric, source))
    assert score_map.valid.all()
    tensor, labels = read_by(metric, *target)
    groups = [slice(None)] if pool == "dataset" else [slice(k, k + 1) for k in range(2)]
    for values, group in zip(score_map.values.reshape(-1, *score_map.values.shape[-2:]), groups, strict=True):
        for i, j in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
            top, left = i * stride[0], j * stride[1]
            place = (..., slice(top, top + patch_size[0]), slice(left, left + patch_size[1]))
            other = tuple(tensor[place] for tensor in source)
            assert_close(values[i, j], scored(metric, tensor[group][place], labels[group][place], other), **TOLERANCES)


@metrics_that(lambda metric: not metric.has_map)
def test_a_metric_without_a_map_is_an_error(metric):
    with pytest.raises(ValueError, match=f"metric: '{metric.name}' has no map"):
        Mapper(metric=metric, patch_size=2, num_classes=2)


@metrics_that(lambda metric: metric.needs_source)
def test_a_source_that_is_missing_is_an_error(metric, target):
    with pytest.raises(ValueError, match=f"{metric.name} needs num_source_classes"):
        Scorer(metrics=metric, num_classes=CLASSES)
    with pytest.raises(ValueError, match=f"{metric.name} compares two data sets: a source is needed"):
        scorer_of(metric)([target])
