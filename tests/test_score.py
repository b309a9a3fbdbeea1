"""Scores over streams: one pass or two, sampled or whole, cut into any batches."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torch_trf
from torch_trf import Scorer
from torch_trf.pixels import Pixels
from torch_trf.table import METRICS, MetricName

ALL = get_args(MetricName)
ONE_PASS = ("leep", "logme", "hscore", "regularized_hscore", "nce")
K, Z, D = 4, 6, 5


@pytest.fixture(scope="module")
def images(device):
    """Five images whose features and logits tell something of their labels; a tenth of the pixels is ignored."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, K, (5, 16, 20), generator=generator)
    labels[:, :, ::10] = 255

    def scores(channels):
        means = 2 * torch.randn(256, channels, generator=generator)
        return (means[labels] + torch.randn(*labels.shape, channels, generator=generator)).movedim(-1, 1)

    return tuple(tensor.to(device) for tensor in (scores(D), labels, scores(Z)))


def batches(images, *cuts):
    """The images in batches, cut before the given ones."""
    return list(zip(*(torch.tensor_split(tensor, cuts) for tensor in images), strict=True))


def values(scores):
    return {name: score.score for name, score in scores.items()}


def test_table_holds_every_metric_by_its_public_name():
    for name in METRICS:
        assert callable(getattr(torch_trf, name))
        assert callable(getattr(torch_trf.metrics, name))


@pytest.mark.parametrize("once", [False, True])
def test_stream_gives_the_scores_of_the_whole(images, once):
    features, labels, logits = images
    stream = batches(images, 1, 3)
    scores = Scorer(metrics=ONE_PASS, num_classes=K)(iter(stream) if once else stream)
    for name in ONE_PASS:
        whole = getattr(torch_trf, name)(logits if name in ("leep", "nce") else features, labels, num_classes=K)
        assert math.isclose(scores[name].score, whole.item(), rel_tol=1e-10)
        assert scores[name].pixels == (labels != 255).sum()
        assert scores[name].std is None
    assert scores["leep"].standard_error == (0 if once else None)


@given(cuts=st.sets(st.integers(1, 4)))
def test_scores_do_not_depend_on_the_batches(images, cuts):
    scorer = Scorer(metrics=ALL, num_classes=K, num_source_classes=K, num_pixels=60, num_repeats=2)
    source = [(images[0] + 1, images[1])]
    whole, cut = values(scorer([images], source)), values(scorer(batches(images, *sorted(cuts)), source))
    assert cut == pytest.approx(whole, rel=1e-10)


def test_leep_over_a_stream_estimates_with_its_error(images):
    exact = Scorer(metrics=("leep",), num_classes=K)([images])["leep"].score
    deviations = []
    for seed in range(40):
        score = Scorer(metrics=("leep",), num_classes=K, stream_pixels=300, seed=seed)(iter([images]))["leep"]
        assert score.pixels == 300
        deviations.append((score.score - exact) / score.standard_error)
    assert 0.6 < torch.tensor(deviations).square().mean().sqrt() < 1.5


def test_leep_over_a_stream_is_uniform_however_otce_samples(images):
    options = {"num_classes": K, "num_source_classes": K, "stream_pixels": 300}
    alone = Scorer(metrics=("leep",), **options)(iter([images]))["leep"]
    beside = Scorer(metrics=("leep", "otce"), sampling="per_class", num_repeats=2, **options)(iter([images]), [images])
    assert beside["leep"].repeats == alone.repeats


def test_repeats_are_independent_samples(images):
    score = Scorer(metrics=("logme",), num_classes=K, num_pixels=100, num_repeats=8)([images])["logme"]
    assert len(set(score.repeats)) == 8
    assert score.pixels == 100
    assert score.score == pytest.approx(sum(score.repeats) / 8)
    assert score.std == pytest.approx(torch.tensor(score.repeats, dtype=torch.float64).std().item())


def test_seed_decides_the_sample(images):
    scores = [
        Scorer(metrics=("logme",), num_classes=K, num_pixels=100, seed=seed)([images])["logme"].score
        for seed in (0, 0, 1)
    ]
    assert scores[0] == scores[1] != scores[2]


def test_too_large_a_sample_takes_all_and_says_so(images):
    scorer = Scorer(metrics=("logme",), num_classes=K, num_pixels=10**5)
    with pytest.warns(UserWarning, match=r"target: uniform sampling finds 1,440 of the 100,000 pixels asked for"):
        score = scorer([images])["logme"].score
    assert score == pytest.approx(torch_trf.logme(*images[:2], num_classes=K).item(), rel=1e-10)


def test_per_class_sampling_is_balanced(device):
    labels = torch.zeros(1, 40, 40, dtype=torch.int64, device=device)
    labels[0, :4] = 1
    features = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).double()
    scorer = Scorer(metrics=("nce", "hscore"), num_classes=2, num_pixels=100, sampling="per_class")
    constant = torch.zeros_like(features)  # the model tells nothing, so NCE is minus the entropy of the labels
    assert scorer([(features, labels, constant)])["nce"].score == pytest.approx(-math.log(2))


def test_boundary_sampling_draws_near_a_change_of_label(device):
    labels = torch.zeros(1, 8, 40, dtype=torch.int64, device=device)
    labels[..., 20:] = 1
    column = torch.arange(40.0, device=device).expand(1, 1, 8, 40)
    scorer = Scorer(metrics=("logme",), num_classes=2, num_pixels=48, sampling="boundary", boundary_radius=3)
    near = column[..., 17:23]
    assert scorer([(column, labels)])["logme"].score == pytest.approx(
        torch_trf.logme(near, labels[..., 17:23]).item(), rel=1e-10
    )


def test_softmax_is_taken_where_asked(images):
    features, labels, _ = images
    scorer = Scorer(metrics=("hscore", "logme"), num_classes=K, softmax=("hscore",))
    scores = scorer([images])
    assert scores["hscore"].score == pytest.approx(torch_trf.hscore(features.double().softmax(1), labels).item())
    assert scores["logme"].score == pytest.approx(torch_trf.logme(features, labels).item())


def test_otce_on_all_pixels_is_that_of_the_tensors(images):
    features, labels, _ = images
    score = Scorer(metrics=("otce",), num_classes=K, num_source_classes=K)
    target, source = (features[:1], labels[:1]), (features[1:2], labels[1:2])
    assert score([target], [source])["otce"].score == pytest.approx(torch_trf.otce(*source, *target).item())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"metrics": ("leap",)}, "metrics: 'leap' is none of leep"),
        ({"softmax": ("leep",)}, "softmax: 'leep' is none of logme"),
        ({"metrics": ()}, "no metric"),
        ({"num_pixels": 0}, "num_pixels must be at least 1, not 0"),
        ({"num_repeats": 0, "num_pixels": 5}, "num_repeats must be"),
        ({"num_repeats": 3}, "need num_pixels"),
        ({"sampling": "boundary"}, "need num_pixels"),
        ({"sampling": "perclass", "num_pixels": 5}, "sampling: 'perclass' is none of uniform"),
        ({"sampling": "per_class", "num_pixels": 3}, "num_pixels=3 is less than a pixel for each of 4 classes"),
        ({"absent_classes": "skp"}, "absent_classes: 'skp' is none of skip"),
        ({"num_source_classes": 0}, "num_source_classes must be at least 1, not 0"),
        ({"sampling": "boundary", "num_pixels": 5, "boundary_radius": 0}, "boundary_radius must be"),
    ],
)
def test_refuses_options(images, options, word, annotations_unchecked):
    with pytest.raises(ValueError, match=word):
        Scorer(**({"metrics": ("logme",), "num_classes": K} | options))([images])


def test_names_the_batch_that_is_wrong(images):
    features, labels, _ = images
    bad = labels.clone()
    bad[0, 0, :3] = 9
    stream = [Pixels(features, labels, name="first"), Pixels(features, bad, name="second")]
    with pytest.raises(ValueError, match=r"second: label 9 on 3 pixels: outside \[0, 4\) and not ignore_index=255"):
        Scorer(metrics=("logme",), num_classes=K)(stream)


@pytest.mark.parametrize(
    ("stream", "word"),
    [
        (lambda features, labels, logits: [], "no batch"),
        (lambda features, labels, logits: [(features, labels)], "class scores"),
        (lambda features, labels, logits: [(features, torch.full_like(labels, 255), logits)], "no labelled pixel"),
        (lambda features, labels, logits: [(features, labels, logits * torch.nan)], "NaN or infinite"),
    ],
)
@pytest.mark.parametrize("num_pixels", [None, 50])
@pytest.mark.filterwarnings("ignore:target. uniform sampling")
def test_refuses_pixels(images, stream, word, num_pixels):
    with pytest.raises(ValueError, match=word):
        Scorer(metrics=("leep", "nce"), num_classes=K, num_pixels=num_pixels)(stream(*images))


def test_source_and_target_are_drawn_independently(images):
    scorer = Scorer(metrics=("otce",), num_classes=K, num_source_classes=K, num_pixels=200)
    assert scorer([images], [images])["otce"].score < -0.1  # the same pixels on both sides would couple to themselves


def test_only_an_iterator_is_read_once(images):
    class Counted(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    for metrics, passes in ((("logme", "nce"), 1), (("leep", "logme"), 2)):
        target = Counted([images])
        Scorer(metrics=metrics, num_classes=K)(target)
        assert target.passes == passes


def test_otce_needs_a_source(images):
    with pytest.raises(ValueError, match="a source is needed"):
        Scorer(metrics=("otce",), num_classes=K, num_source_classes=K)([images])
    with pytest.raises(ValueError, match="num_source_classes"):
        Scorer(metrics=("otce",), num_classes=K)([images], [images])
