"""Scores over streams: one pass or two, sampled or whole, cut into any batches."""

import json
import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torch_trf
from torch_trf import Scorer
from torch_trf.pixels import Pixels
from torch_trf.statistics import PixelSample
from torch_trf.table import METRICS, MetricName
from torch_trf.transport import ConvergenceError, ConvergenceWarning

ALL = get_args(MetricName)
ONE_PASS = ("leep", "logme", "hscore", "regularized_hscore", "nce")
COUPLED = ("otce", "jc_otce")
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
        assert name in torch_trf.__all__


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


@pytest.mark.parametrize("softmax", [(), ("knn",)])
def test_knn_draws_its_pixels(images, softmax):
    features, labels, _ = images
    options = {"metrics": ("knn",), "num_classes": K, "softmax": softmax}
    whole = Scorer(**options)([images])["knn"]
    read = features.double().softmax(1) if softmax else features
    assert whole.score == torch_trf.knn(read, labels).item()
    assert whole.pixels == (labels != 255).sum()  # fewer than are drawn
    drawn = PixelSample.from_pixels(read, labels, size=100, num_classes=K, num_repeats=2)
    expected = [torch_trf.knn(*sample.drawn(), neighbors=3).item() for sample in drawn]
    assert Scorer(num_pixels=100, num_repeats=2, neighbors=3, **options)([images])["knn"].repeats == tuple(expected)


def test_softmax_of_a_sample_is_of_the_metrics_that_ask_for_it(images):
    options = {"num_classes": K, "num_pixels": 100}
    both = Scorer(metrics=("knn", "logme"), softmax=("knn",), **options)([images])
    assert values(both) == {
        "knn": Scorer(metrics=("knn",), softmax=("knn",), **options)([images])["knn"].score,
        "logme": Scorer(metrics=("logme",), **options)([images])["logme"].score,
    }


def test_knn_samples_as_asked_without_a_number_of_pixels(images):
    scorer = Scorer(metrics=("knn", "logme"), num_classes=K, num_repeats=2, sampling="boundary")
    scores = scorer([images])
    assert len(scores["knn"].repeats) == 2
    assert scores["logme"].score == Scorer(metrics=("logme",), num_classes=K)([images])["logme"].score


def test_knn_of_a_single_pixel_is_an_error(images):
    with pytest.raises(ValueError, match="knn needs at least 2 labeled pixels, not 1"):
        Scorer(metrics=("knn",), num_classes=K, num_pixels=1)([images])


@pytest.fixture(scope="module")
def source(images):
    """The same labels seen elsewhere."""
    return [(images[0].flip(0) + 0.5, images[1].flip(0))]


def coupled_scorer(*metrics, **options):
    return Scorer(metrics=metrics or COUPLED, num_classes=K, num_source_classes=K, **options)


@pytest.mark.parametrize("softmax", [(), COUPLED])
def test_coupled_scores_of_all_pixels_are_those_of_the_tensors(images, softmax):
    target, source = ([tensor[k : k + 1] for tensor in images[:2]] for k in (0, 1))
    scores = coupled_scorer(softmax=softmax)([tuple(target)], [tuple(source)])
    if softmax:
        target[0], source[0] = (features.softmax(1, torch.float64) for features in (target[0], source[0]))
    for name in COUPLED:
        expected = getattr(torch_trf, name)(*source, *target).item()
        assert scores[name].score == pytest.approx(expected, rel=1e-10)
    assert scores["otce"].score != scores["jc_otce"].score


def test_repeats_at_once_are_those_one_by_one(images, source):
    """A sample of three repeats coupled at once, and each repeat's pixels alone."""
    options = {"num_pixels": 60, "num_repeats": 3, "seed": 5}
    scores = coupled_scorer(**options)([images], source)
    drawn = [
        PixelSample.from_pixels(
            *side, size=60, num_classes=K, num_repeats=3, seed=seed, stream=pixels.stream, offset=pixels.offset
        )
        for side, seed, pixels in ((source[0], ~5, Pixels(*source[0])), (images[:2], 5, Pixels(*images[:2])))
    ]
    for name in COUPLED:
        alone = [getattr(torch_trf, name)(*s.drawn(), *t.drawn(), num_classes=K) for s, t in zip(*drawn, strict=True)]
        assert scores[name].repeats == pytest.approx([value.item() for value in alone], rel=1e-10)
        assert len(set(scores[name].repeats)) == 3


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
def test_coupled_scores_say_how_far_each_repeat_can_be_trusted(images, source, solver):
    options = {"epsilon": 0.05, "tolerance": 1e-4}
    scorer = Scorer(
        metrics=("logme", *COUPLED),
        num_classes=K,
        num_source_classes=K,
        num_pixels=60,
        num_repeats=3,
        solver=solver,
        **options,
    )
    scores = scorer([images], source)
    assert scores["logme"].coupling is None
    for name in COUPLED:
        found = scores[name].coupling
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found.pop("solver") == solver
        assert set(found) == {"cost", "duality_gap", "marginal_error", "epsilon", "iterations", "converged"}
        assert all(len(values) == 3 for values in found.values())
        assert found["converged"] == [True] * 3
        assert 0 <= max(found["marginal_error"]) <= 1e-4
        assert min(found["cost"]) > 0
        assert all((value > 0) == (solver == "sinkhorn") for value in found["epsilon"])
    assert scores["otce"].coupling["cost"] != scores["jc_otce"].coupling["cost"]


def test_options_of_the_solver_are_passed_on(images, source):
    options = {"solver": "sinkhorn", "epsilon": 3.0, "relative_epsilon": False}
    by_option = coupled_scorer("otce", num_pixels=60, **options)([images], source)["otce"]
    assert by_option.coupling["epsilon"] == pytest.approx([3.0])
    exact = coupled_scorer("otce", num_pixels=60)([images], source)["otce"]
    assert exact.coupling["solver"] == "exact"
    assert by_option.coupling["cost"][0] > exact.coupling["cost"][0]


def test_couplings_that_did_not_converge_are_told(images, source):
    options = {"solver": "sinkhorn", "epsilon": 1e-3, "max_iterations": 1, "num_pixels": 60, "num_repeats": 2}
    with pytest.warns(ConvergenceWarning, match="couplings did not converge: after 1 Sinkhorn iterations at epsilon"):
        score = coupled_scorer("otce", **options)([images], source)["otce"]
    assert score.coupling["converged"] == [False, False]
    assert min(score.coupling["marginal_error"]) > 1e-3
    with pytest.raises(ConvergenceError, match="couplings did not converge"):
        coupled_scorer("otce", strict=True, **options)([images], source)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"metrics": ("leap",)}, "metrics: 'leap' is none of leep"),
        ({"softmax": ("leep",)}, "softmax: 'leep' is none of logme"),
        ({"metrics": ()}, "no metric"),
        ({"num_pixels": 0}, "num_pixels must be at least 1, not 0"),
        ({"num_repeats": 0, "num_pixels": 5}, "num_repeats must be"),
        ({"neighbors": 0}, "neighbors must be at least 1, not 0"),
        ({"num_repeats": 3}, "need num_pixels"),
        ({"sampling": "boundary"}, "need num_pixels"),
        ({"sampling": "perclass", "num_pixels": 5}, "sampling: 'perclass' is none of uniform"),
        ({"sampling": "per_class", "num_pixels": 3}, "num_pixels=3 is less than a pixel for each of 4 classes"),
        ({"absent_classes": "skp"}, "absent_classes: 'skp' is none of skip"),
        ({"num_source_classes": 0}, "num_source_classes must be at least 1, not 0"),
        ({"sampling": "boundary", "num_pixels": 5, "boundary_radius": 0}, "boundary_radius must be"),
        ({"solver": "simplex"}, "solver: 'simplex' is none of auto, exact, sinkhorn"),
        ({"epsilon": 0.0}, "epsilon must be above 0 and finite, not 0.0"),
        ({"epsilon": math.inf}, "epsilon must be above 0 and finite, not inf"),
        ({"tolerance": -1.0}, "tolerance must be above 0 and finite, not -1.0"),
        ({"max_iterations": 0}, "max_iterations must be at least 1, not 0"),
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
        (lambda features, labels, logits: [(features, torch.full_like(labels, 255), logits)], "no labeled pixel"),
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


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_scores_need_a_source(images, name):
    with pytest.raises(ValueError, match=f"{name} compares two data sets: a source is needed beside the target"):
        coupled_scorer("logme", name)([images])
    with pytest.raises(ValueError, match=f"{name} needs num_source_classes"):
        Scorer(metrics=(name,), num_classes=K)([images], [images])


def test_a_source_of_other_channels_is_an_error(images, source, annotations_unchecked):
    wider = [(torch.cat([source[0][0]] * 2, 1), source[0][1])]
    with pytest.raises(ValueError, match=f"source features of {2 * D} channels, target features of {D}"):
        coupled_scorer("otce", num_pixels=60)([images], wider)
