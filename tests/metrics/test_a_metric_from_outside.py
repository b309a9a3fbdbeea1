"""A metric with a statistic of its own, neither of which the package has: scores, samples and maps take it as theirs.

GBC, the Gaussian Bhattacharyya coefficient: M. Pándy et al., "Transferability estimation using Bhattacharyya class
separability", CVPR 2022.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from torch_trf import Mapper, Sampling, Scorer, transferability_map
from torch_trf.metrics import METRICS, Look, TransferabilityMetric, as_metric
from torch_trf.pixels import Pixels
from torch_trf.statistics import Running, Statistic

from ..helpers import arrays, assert_close, assert_same, random_images, random_pixels

CLASSES = 4
FLOOR = 1e-4  # of a variance
PATH = f"{__name__}.GBC"
every_softmax = pytest.mark.parametrize("softmax", [False, True])


@dataclass(frozen=True, slots=True, eq=False)
class ClassSquares(Statistic):
    """Count, sum and sum of squares of the pixels of each class."""

    class_count: Tensor  # [*batch, K]
    class_sum: Tensor  # [*batch, K, D]
    class_square: Tensor  # [*batch, K, D]

    @classmethod
    def from_images(cls, images, labels, **options):
        features, one_hot, faults = cls.cells(images, labels, **options)
        return cls(one_hot.sum(-2).long(), one_hot.mT @ features, one_hot.mT @ features.square(), faults=faults)

    @classmethod
    def numbers(cls, channels, num_classes, pixels):
        return 2 * channels * num_classes

    @property
    def batch_shape(self):
        return self.class_count.shape[:-1]

    @property
    def channels(self):
        return self.class_sum.shape[-1]

    @property
    def count(self):
        return self.class_count.sum(-1)


@dataclass(frozen=True, kw_only=True)
class GBC(TransferabilityMetric):
    """How little the classes overlap as Gaussians of independent channels."""

    name: ClassVar = "class_overlap"
    unit: ClassVar = "pairs of classes"

    softmax: bool = False

    @property
    def looks(self):
        return (Look(ClassSquares, softmax=self.softmax),)

    def score(self, squares):
        count = squares.class_count.clamp(min=1).unsqueeze(-1)
        mean = squares.class_sum / count
        variance = (squares.class_square / count - mean.square()).clamp(min=FLOOR)
        difference = mean.unsqueeze(-2) - mean.unsqueeze(-3)
        both = (variance.unsqueeze(-2) + variance.unsqueeze(-3)) / 2
        logarithm = both.log() - (variance.log().unsqueeze(-2) + variance.log().unsqueeze(-3)) / 2
        distance = (difference.square() / both / 8 + logarithm / 2).sum(-1)
        present = squares.class_count > 0
        pairs = present.unsqueeze(-1) & present.unsqueeze(-2)
        pairs = pairs & ~torch.eye(present.shape[-1], dtype=torch.bool, device=present.device)
        return torch.where(pairs, -(-distance).exp(), 0).sum((-2, -1)).where(squares.count > 0, torch.nan)

    def bounds(self, num_classes, channels):
        return -float(num_classes * (num_classes - 1)), 0.0


def slow_gbc(features, labels):
    """From the definition, pair by pair and channel by channel."""
    score = 0.0
    for i in np.unique(labels):
        for j in np.unique(labels):
            distance = 0.0
            for x, y in zip(features[labels == i].T, features[labels == j].T, strict=True):
                one, other = max(x.var(), FLOOR), max(y.var(), FLOOR)
                mean = (one + other) / 2
                distance += (x.mean() - y.mean()) ** 2 / mean / 8 + np.log(mean / np.sqrt(one * other)) / 2
            score -= np.exp(-distance) if i != j else 0
    return score


@pytest.fixture
def images(device):
    """Features and labels, of which none is NaN, so that a softmax may be taken of all."""
    features, labels = random_images(3, 5, 9, 11, classes=CLASSES, dtype=torch.float64, device=device)
    return features.nan_to_num(7), labels


def softened(images, softmax):
    """What the metric reads, taken outside of it."""
    features, labels = images
    return (features.softmax(1) if softmax else features), labels


def scorer(softmax=False, **options):
    return Scorer(metrics=GBC(softmax=softmax), num_classes=CLASSES, **options)


def test_it_is_not_in_the_package():
    assert "class_overlap" not in METRICS
    assert as_metric(PATH).name == "class_overlap"
    assert as_metric({"class_path": PATH, "init_args": {"softmax": True}}).softmax


def test_matches_definition(pixels):
    assert_close(GBC()(*pixels), slow_gbc(*arrays(*pixels)))


def test_known_answers(device):
    features = torch.tensor([[0.0], [2.0], [4.0], [6.0]], device=device)  # variances 1 around 1 and 5
    assert_close(GBC()(features, torch.tensor([0, 0, 1, 1], device=device)), -2 * np.exp(-(4**2) / 8))
    assert GBC()(features, torch.zeros(4, dtype=torch.int64, device=device)) == 0
    assert_close(GBC()(features[:1].repeat(4, 1), torch.tensor([0, 1, 2, 2], device=device)), -6)


@every_softmax
def test_softmax_is_that_of_the_tensor(softmax, images):
    score = GBC(softmax=softmax)(*images)
    assert_close(score, GBC()(*softened(images, softmax)))
    assert (abs(score - GBC()(*images)) > 1e-3) == softmax


@every_softmax
def test_a_stream_has_the_score_of_its_pixels(softmax, images):
    batches = list(zip(*(tensor.split(1) for tensor in images), strict=True))
    expected = GBC()(*softened(images, softmax), num_classes=CLASSES)
    for data in (batches, iter(batches), [images]):
        score = scorer(softmax)(data)["class_overlap"]
        assert_close(torch.tensor(score.score, dtype=torch.float64), expected.cpu())
        assert (score.unit, score.pixels) == ("pairs of classes", int((images[1] != 255).sum()))


def test_two_softmaxes_and_metrics_of_the_package_share_a_stream(images):
    scores = Scorer(metrics=[GBC(softmax=True), "logme", "hscore"], num_classes=CLASSES)([images])
    assert list(scores) == ["class_overlap", "logme", "hscore"]
    assert scores["class_overlap"] == scorer(softmax=True)([images])["class_overlap"]
    assert scores["logme"] == Scorer(metrics="logme", num_classes=CLASSES)([images])["logme"]


@every_softmax
@pytest.mark.parametrize("strategy", ["uniform", "per_class"])
def test_a_sample_has_the_score_of_its_pixels(strategy, softmax, images):
    sampling = Sampling(num_pixels=40, num_repeats=3, strategy=strategy)
    score = scorer(softmax, sampling=sampling)([images])["class_overlap"]
    sample = sampling.draw(images[0], Pixels.of(*images), num_classes=CLASSES)
    expected = [GBC()(*softened(repeat.drawn(), softmax)).item() for repeat in sample]
    assert score.values == pytest.approx(expected, rel=1e-9)
    assert len(set(score.values)) == 3


@pytest.mark.slow
@every_softmax
@pytest.mark.parametrize("pool", ["dataset", "image"])
@pytest.mark.parametrize(("patch_size", "stride"), [((3, 5), None), ((4, 6), (2, 3)), ((2, 2), (3, 5)), ((9, 11), 1)])
def test_a_patch_of_a_map_has_the_score_of_its_pixels(patch_size, stride, pool, softmax, images):
    options = {"patch_size": patch_size, "stride": stride, "pool": pool, "min_pixels": 2, "num_classes": CLASSES}
    score_map = Mapper(metric=GBC(softmax=softmax), **options)([images])
    features, labels = softened(images, softmax)
    groups = [slice(None)] if pool == "dataset" else [slice(k, k + 1) for k in range(3)]
    compared = 0
    for values, group in zip(score_map.values.reshape(len(groups), *score_map.values.shape[-2:]), groups, strict=True):
        for i, j in values.isfinite().nonzero().tolist():
            top, left = i * score_map.stride[0], j * score_map.stride[1]
            place = (..., slice(top, top + patch_size[0]), slice(left, left + patch_size[1]))
            expected = GBC()(features[group][place], labels[group][place], num_classes=CLASSES)
            assert_close(values[i, j], expected, rtol=1e-7, atol=1e-9)
            compared += 1
    assert compared == score_map.valid.sum() > 0
    again = transferability_map(GBC(softmax=softmax), *images, **options)
    torch.testing.assert_close(again.values, score_map.values, rtol=0, atol=0, equal_nan=True)
    assert score_map.name == "class_overlap"


def test_pixels_that_should_not_be_there_are_errors(images):
    features, labels = images
    bad = labels.clone()
    bad[0, 0, :2] = 9
    infinite = features.where((labels != 255).unsqueeze(1), 0).clone()
    infinite[0, 2][labels[0] != 255] = torch.inf
    for front_end in (GBC(), lambda *pixels, num_classes: scorer()([pixels])):
        with pytest.raises(ValueError, match=r"label 9 on 2 pixels: outside \[0, 4\)"):
            front_end(features, bad, num_classes=CLASSES)
        with pytest.raises(ValueError, match="labeled pixels are NaN or infinite"):
            front_end(infinite, labels, num_classes=CLASSES)
        with pytest.raises(ValueError, match="no labeled pixel"):
            front_end(features, torch.full_like(labels, 255), num_classes=CLASSES)


def test_its_statistic_merges_and_is_saved_as_any_other(device):
    features, labels = random_pixels(40, 3, CLASSES, device=device)
    whole = ClassSquares.from_pixels(features, labels, num_classes=CLASSES)
    running = Running()
    for part in zip(features.split(7), labels.split(7), strict=True):
        running += ClassSquares.from_pixels(*part, num_classes=CLASSES)
    assert_same(running.total, whole)
    assert_same(ClassSquares.from_state(whole.state()), whole, rtol=0, atol=0)
    assert_same(whole + whole.nothing(device), whole, rtol=0, atol=0)
    with pytest.raises(ValueError, match="of 2 channels, those before had 3"):
        _ = running + ClassSquares.from_pixels(features[:, :2], labels, num_classes=CLASSES)
