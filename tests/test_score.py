"""Scores over streams: one pass or two, sampled or whole, cut into any batches."""

import json
import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torch_trf
from torch_trf import FeatureFolder, Sampling, Score, Scorer
from torch_trf.metrics import DEFAULT_METRICS, KNN, LEEP, METRICS, HScore, LogME
from torch_trf.pixels import Pixels
from torch_trf.statistics import PixelSample
from torch_trf.transport import ConvergenceError, ConvergenceWarning, Coupling, Sinkhorn

from .helpers import IGNORED, write_features

ALL = tuple(METRICS)
ONE_PASS = tuple(name for name, metric in METRICS.items() if not metric.draws)
COUPLED = tuple(name for name, metric in METRICS.items() if metric.needs_source)
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


def read_by(name, images):
    """The tensor that a metric reads first."""
    return images[2] if METRICS[name].looks[0].reads == "logits" else images[0]


def values(scores):
    return {name: score.score for name, score in scores.items()}


@pytest.mark.parametrize("once", [False, True])
def test_stream_gives_the_scores_of_the_whole(images, once):
    labels, stream = images[1], batches(images, 1, 3)
    scores = Scorer(metrics=ONE_PASS, num_classes=K)(iter(stream) if once else stream)
    for name in ONE_PASS:
        whole = METRICS[name](read_by(name, images), labels, num_classes=K)
        assert math.isclose(scores[name].score, whole.item(), rel_tol=1e-10)
        assert scores[name].pixels == (labels != 255).sum()
        assert scores[name].values == (scores[name].score,)
        assert scores[name].unit == METRICS[name].unit
        assert scores[name].std is None
        is_sampled = once and len(METRICS[name].looks) > 1
        assert scores[name].standard_error == (0 if is_sampled else None)


@pytest.mark.slow
@given(cuts=st.sets(st.integers(1, 4)))
def test_scores_do_not_depend_on_the_batches(images, cuts):
    sampling = Sampling(num_pixels=60, num_repeats=2)
    scorer = Scorer(metrics=ALL, num_classes=K, num_source_classes=K, sampling=sampling)
    source = [(images[0] + 1, images[1])]
    whole, cut = values(scorer([images], source=source)), values(scorer(batches(images, *sorted(cuts)), source=source))
    assert cut == pytest.approx(whole, rel=1e-10)


def test_leep_over_a_stream_estimates_with_its_error(images):
    exact = Scorer(metrics="leep", num_classes=K)([images])["leep"].score
    deviations = []
    for seed in range(40):
        scorer = Scorer(metrics="leep", num_classes=K, stream_pixels=300, sampling=Sampling(seed=seed))
        score = scorer(iter([images]))["leep"]
        assert score.pixels == 300
        deviations.append((score.score - exact) / score.standard_error)
    assert 0.6 < torch.tensor(deviations).square().mean().sqrt() < 1.5


def test_leep_over_a_stream_is_uniform_however_otce_samples(images):
    options = {"num_classes": K, "num_source_classes": K, "stream_pixels": 300}
    alone = Scorer(metrics="leep", **options)(iter([images]))["leep"]
    sampling = Sampling(strategy="per_class", num_repeats=2)
    beside = Scorer(metrics=("leep", "otce"), sampling=sampling, **options)(iter([images]), source=[images])
    assert beside["leep"].values == alone.values


def test_repeats_are_independent_samples(images):
    sampling = Sampling(num_pixels=100, num_repeats=8)
    score = Scorer(metrics="logme", num_classes=K, sampling=sampling)([images])["logme"]
    assert len(set(score.values)) == 8
    assert score.pixels == 100
    assert score.score == pytest.approx(sum(score.values) / 8)
    assert score.std == pytest.approx(torch.tensor(score.values, dtype=torch.float64).std().item())


def test_seed_decides_the_sample(images):
    scores = [
        Scorer(metrics="logme", num_classes=K, sampling=Sampling(num_pixels=100, seed=seed))([images])["logme"].score
        for seed in (0, 0, 1)
    ]
    assert scores[0] == scores[1] != scores[2]


def test_too_large_a_sample_takes_all_and_says_so(images):
    scorer = Scorer(metrics="logme", num_classes=K, sampling=Sampling(num_pixels=10**5))
    with pytest.warns(UserWarning, match=r"target: uniform sampling finds 1,440 of the 100,000 pixels asked for"):
        score = scorer([images])["logme"].score
    assert score == pytest.approx(torch_trf.logme(*images[:2], num_classes=K).item(), rel=1e-10)


def test_too_few_pixels_of_both_sides_are_told(images):
    sampling = Sampling(num_pixels=2_001, strategy="per_class")
    scorer = Scorer(metrics="otce", num_classes=K, num_source_classes=K, sampling=sampling)
    message = r"per_class sampling finds 1,440 of the 2,001 pixels asked for; all of them are used"
    with pytest.warns(UserWarning, match=message) as warned:
        scorer([images], source=[images])
    assert [str(warning.message).split(":")[0] for warning in warned] == ["target", "source"]


def test_per_class_sampling_is_balanced(device):
    labels = torch.zeros(1, 40, 40, dtype=torch.int64, device=device)
    labels[0, :4] = 1
    features = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).double()
    sampling = Sampling(num_pixels=100, strategy="per_class")
    scorer = Scorer(metrics=("nce", "hscore"), num_classes=2, sampling=sampling)
    constant = torch.zeros_like(features)  # the model tells nothing, so NCE is minus the entropy of the labels
    assert scorer([(features, labels, constant)])["nce"].score == pytest.approx(-math.log(2))


def test_boundary_sampling_draws_near_a_change_of_label(device):
    labels = torch.zeros(1, 8, 40, dtype=torch.int64, device=device)
    labels[..., 20:] = 1
    column = torch.arange(40.0, device=device).expand(1, 1, 8, 40)
    sampling = Sampling(num_pixels=48, strategy="boundary", boundary_radius=3)
    near = column[..., 17:23]
    score = Scorer(metrics="logme", num_classes=2, sampling=sampling)([(column, labels)])["logme"].score
    assert score == pytest.approx(torch_trf.logme(near, labels[..., 17:23]).item(), rel=1e-10)


def test_softmax_is_taken_where_asked(images):
    features, labels, _ = images
    scores = Scorer(metrics=(HScore(softmax=True), "logme"), num_classes=K)([images])
    assert scores["hscore"].score == pytest.approx(torch_trf.hscore(features.double().softmax(1), labels).item())
    assert scores["logme"].score == pytest.approx(torch_trf.logme(features, labels).item())


@pytest.mark.parametrize("softmax", [False, True])
def test_knn_draws_its_pixels(images, softmax):
    features, labels, _ = images
    whole = Scorer(metrics=KNN(softmax=softmax), num_classes=K)([images])["knn"]
    read = features.double().softmax(1) if softmax else features
    assert whole.score == torch_trf.knn(read, labels).item()
    assert whole.pixels == (labels != 255).sum()  # fewer than are drawn
    drawn = PixelSample.from_pixels(read, labels, size=100, num_classes=K, num_repeats=2)
    expected = [KNN(neighbors=3)(*sample.drawn()).item() for sample in drawn]
    sampling = Sampling(num_pixels=100, num_repeats=2)
    scorer = Scorer(metrics=KNN(neighbors=3, softmax=softmax), num_classes=K, sampling=sampling)
    assert scorer([images])["knn"].values == tuple(expected)


def test_softmax_of_a_sample_is_of_the_metrics_that_ask_for_it(images):
    options = {"num_classes": K, "sampling": Sampling(num_pixels=100)}
    both = Scorer(metrics=(KNN(softmax=True), "logme"), **options)([images])
    assert values(both) == {
        "knn": Scorer(metrics=KNN(softmax=True), **options)([images])["knn"].score,
        "logme": Scorer(metrics="logme", **options)([images])["logme"].score,
    }


def test_knn_samples_as_asked_without_a_number_of_pixels(images):
    sampling = Sampling(num_repeats=2, strategy="boundary")
    scores = Scorer(metrics=("knn", "logme"), num_classes=K, sampling=sampling)([images])
    assert len(scores["knn"].values) == 2
    assert scores["logme"].score == Scorer(metrics="logme", num_classes=K)([images])["logme"].score


def test_knn_of_a_single_pixel_is_an_error(images):
    with pytest.raises(ValueError, match="knn needs at least 2 labeled pixels, not 1"):
        Scorer(metrics="knn", num_classes=K, sampling=Sampling(num_pixels=1))([images])


# Which metrics: names, objects, paths of classes


@pytest.mark.parametrize(
    "metrics",
    [
        ("logme", "nce"),
        ["logme", "nce"],
        (METRICS["logme"], "nce"),
        ({"class_path": "torch_trf.metrics.LogME"}, {"class_path": "nce"}),
        ("torch_trf.metrics.LogME", METRICS["nce"]),
    ],
    ids=["names", "a list", "an object", "class paths", "a dotted name"],
)
def test_metrics_are_names_objects_or_class_paths(images, metrics):
    scorer = Scorer(metrics=metrics, num_classes=K)
    assert scorer.metrics == (METRICS["logme"], METRICS["nce"])
    assert values(scorer([images])) == values(Scorer(metrics=("logme", "nce"), num_classes=K)([images]))


@pytest.mark.parametrize("metric", ["logme", METRICS["logme"], {"class_path": "logme"}], ids=["name", "object", "path"])
def test_a_single_metric_is_one_of_one(images, metric):
    assert list(Scorer(metrics=metric, num_classes=K)([images])) == ["logme"]


def test_options_of_a_metric_are_its_own(images):
    by_path = {"class_path": "logme", "init_args": {"absent_classes": "include"}}
    scores = [
        Scorer(metrics=metric, num_classes=K + 5)([images])["logme"].score
        for metric in (LogME(absent_classes="include"), by_path, "logme")
    ]
    assert scores[0] == scores[1] == LogME(absent_classes="include")(*images[:2], num_classes=K + 5).item()
    few = images[0], images[1].where(images[1] != 0, 255)  # without the first class
    include, skip = (
        Scorer(metrics=LogME(absent_classes=option), num_classes=K)([few])["logme"] for option in ("include", "skip")
    )
    assert include.score != skip.score
    assert (include.by_class[0] is None, skip.by_class[0] is None) == (False, True)


def test_two_metrics_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="two metrics are called 'logme'"):
        Scorer(metrics=("logme", LogME(softmax=True)), num_classes=K)


# Scores by class


def test_classes_of_logme_have_the_score_as_mean(images):
    score = Scorer(metrics="logme", num_classes=K + 1)([images])["logme"]
    assert score.by_class[K] is None  # it has no pixel
    assert score.score == pytest.approx(sum(score.by_class[:K]) / K, rel=1e-12)
    sampling = Sampling(num_pixels=200, num_repeats=3)
    drawn = Scorer(metrics="logme", num_classes=K, sampling=sampling)([images])["logme"]
    assert drawn.score == pytest.approx(sum(drawn.by_class) / K, rel=1e-12)


@pytest.mark.parametrize("strategy", ["uniform", "per_class"])
def test_classes_of_leep_are_the_mean_log_likelihood_of_their_pixels(images, strategy):
    features, labels, logits = images
    pixels = Pixels(features, labels.where(labels != 1, 255), logits)  # a class without pixels
    sampling = Sampling(num_pixels=120, num_repeats=3, strategy=strategy, seed=2)
    score = Scorer(metrics="leep", num_classes=K, sampling=sampling)([pixels])["leep"]
    by_class = []
    for repeat, drawn in enumerate(sampling.draw(logits, pixels, num_classes=K)):
        rows, classes = drawn.drawn()
        theta = rows.double().softmax(1)
        joint = torch.stack([theta[classes == k].sum(0) for k in range(K)])
        likelihood = (theta @ (joint / joint.sum(0)).T)[torch.arange(len(classes)), classes].log()
        assert score.values[repeat] == pytest.approx(likelihood.mean().item(), rel=1e-12)
        by_class.append([likelihood[classes == k].mean().item() for k in (0, 2, 3)])
    assert score.by_class[1] is None
    expected = torch.tensor(by_class, dtype=torch.float64).mean(0).tolist()
    assert [score.by_class[k] for k in (0, 2, 3)] == pytest.approx(expected, rel=1e-12)


def test_by_class_is_for_means_over_classes_or_drawn_pixels(images):
    scores = Scorer(metrics=ONE_PASS, num_classes=K)([images])
    drawn = Scorer(metrics=ONE_PASS, num_classes=K, sampling=Sampling(num_pixels=100))([images])
    for name in ONE_PASS:
        mean_over = METRICS[name].mean_over
        assert (scores[name].by_class is not None) == (mean_over == "classes")
        assert (drawn[name].by_class is not None) == (mean_over is not None)


# Metrics that couple source and target


@pytest.fixture(scope="module")
def source(images):
    """The same labels seen elsewhere."""
    return [(images[0].flip(0) + 0.5, images[1].flip(0))]


def coupled_scorer(*metrics, **options):
    return Scorer(metrics=metrics or COUPLED, num_classes=K, num_source_classes=K, **options)


@pytest.mark.parametrize("softmax", [False, True])
def test_coupled_scores_of_all_pixels_are_those_of_the_tensors(images, softmax):
    target, source = ([tensor[k : k + 1] for tensor in images[:2]] for k in (0, 1))
    metrics = [replace(METRICS[name], softmax=softmax) for name in COUPLED]
    scores = coupled_scorer(*metrics)([tuple(target)], source=[tuple(source)])
    if softmax:
        target[0], source[0] = (features.softmax(1, torch.float64) for features in (target[0], source[0]))
    for name in COUPLED:
        expected = METRICS[name](*target, source=tuple(source)).item()
        assert scores[name].score == pytest.approx(expected, rel=1e-10)
    assert scores["otce"].score != scores["jc_otce"].score


def test_repeats_at_once_are_those_one_by_one(images, source):
    """A sample of three repeats coupled at once, and each repeat's pixels alone."""
    scores = coupled_scorer(sampling=Sampling(num_pixels=60, num_repeats=3, seed=5))([images], source=source)
    target_sample, source_sample = (
        PixelSample.from_pixels(*side, size=60, num_classes=K, num_repeats=3, seed=seed)
        for side, seed in ((images[:2], 5), (source[0], ~5))
    )
    for name in COUPLED:
        alone = [
            METRICS[name](*target.drawn(), source=other.drawn(), num_classes=K).item()
            for target, other in zip(target_sample, source_sample, strict=True)
        ]
        assert scores[name].values == pytest.approx(alone, rel=1e-10)
        assert len(set(scores[name].values)) == 3


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
def test_coupled_scores_say_how_far_each_repeat_can_be_trusted(images, source, solver):
    scores = coupled_scorer(
        "logme",
        *COUPLED,
        sampling=Sampling(num_pixels=60, num_repeats=3),
        solver=Sinkhorn(epsilon=0.05, tolerance=1e-4) if solver == "sinkhorn" else solver,
    )([images], source=source)
    assert scores["logme"].coupling is None
    for name in COUPLED:
        coupling = scores[name].coupling
        assert isinstance(coupling, Coupling)
        assert coupling.solver == solver
        assert coupling.mass.shape == (3, K, K)
        assert all(len(tensor) == 3 for tensor in coupling.tensors().values())
        assert coupling.converged.all()
        assert 0 <= coupling.marginal_error.max() <= 1e-4
        assert coupling.cost.min() > 0
        assert ((coupling.epsilon > 0) == (solver == "sinkhorn")).all()
        assert scores[name].values == tuple(METRICS[name].score(coupling).tolist())
    assert not scores["otce"].coupling.cost.equal(scores["jc_otce"].coupling.cost)


def test_options_of_the_solver_are_passed_on(images, source):
    options = {"sampling": Sampling(num_pixels=60)}
    solver = Sinkhorn(epsilon=3.0, relative_epsilon=False)
    by_path = {"class_path": "sinkhorn", "init_args": {"epsilon": 3.0, "relative_epsilon": False}}
    entropic, alike = (
        coupled_scorer("otce", solver=each, **options)([images], source=source)["otce"] for each in (solver, by_path)
    )
    assert entropic.coupling.epsilon.tolist() == pytest.approx([3.0])
    assert entropic.values == alike.values
    exact = coupled_scorer("otce", **options)([images], source=source)["otce"]
    assert exact.coupling.solver == "exact"
    assert entropic.coupling.cost[0] > exact.coupling.cost[0]


def test_couplings_that_did_not_converge_are_told(images, source):
    solver = Sinkhorn(epsilon=1e-3, max_iterations=1)
    options = {"sampling": Sampling(num_pixels=60, num_repeats=2)}
    with pytest.warns(ConvergenceWarning, match="couplings did not converge: after 1 Sinkhorn iterations at epsilon"):
        score = coupled_scorer("otce", solver=solver, **options)([images], source=source)["otce"]
    assert score.coupling.converged.tolist() == [False, False]
    assert score.coupling.marginal_error.min() > 1e-3
    with pytest.raises(ConvergenceError, match="couplings did not converge"):
        coupled_scorer("otce", solver=replace(solver, strict=True), **options)([images], source=source)


def test_source_and_target_are_drawn_independently(images):
    scorer = coupled_scorer("otce", sampling=Sampling(num_pixels=200))
    assert (
        scorer([images], source=[images])["otce"].score < -0.1
    )  # the same pixels on both sides would couple to themselves


def test_a_source_may_be_a_sample(images, source):
    scorer = coupled_scorer(sampling=Sampling(num_pixels=60, num_repeats=2))
    sample = scorer.source_sample(source)
    assert sample.batch_shape == (2,)
    assert values(scorer([images], source=sample)) == values(scorer([images], source=source))
    assert scorer.source_sample(sample[0]).batch_shape == (1,)


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_scores_need_a_source(images, name):
    with pytest.raises(ValueError, match=f"{name} compares two data sets: a source is needed beside the target"):
        coupled_scorer("logme", name)([images])
    with pytest.raises(ValueError, match=f"{name} needs num_source_classes"):
        Scorer(metrics=name, num_classes=K)([images], source=[images])


@pytest.mark.parametrize("name", COUPLED)
def test_scores_of_statistics_need_a_source(images, name):
    scorer = coupled_scorer(name)
    statistics = scorer.statistics(Pixels(*images))
    with pytest.raises(ValueError, match=f"{name} compares two data sets: a source is needed beside the target"):
        scorer.scores(statistics)


def test_a_source_of_other_channels_is_an_error(images, source, annotations_unchecked):
    wider = [(torch.cat([source[0][0]] * 2, 1), source[0][1])]
    with pytest.raises(ValueError, match=f"source features of {2 * D} channels, target features of {D}"):
        coupled_scorer("otce", sampling=Sampling(num_pixels=60))([images], source=wider)


@pytest.mark.parametrize("name", COUPLED)
def test_sides_cannot_be_swapped_by_position(images, source, name, annotations_unchecked):
    with pytest.raises(TypeError, match="takes 3 positional arguments but 5 were given"):
        METRICS[name](*source[0], *images[:2])


# Statistics: what scores are made of


@pytest.mark.slow
@pytest.mark.parametrize("num_pixels", [None, 50])
def test_statistics_of_batches_add_up_to_those_of_a_call(images, source, num_pixels):
    scorer = coupled_scorer(*ALL, sampling=Sampling(num_pixels=num_pixels), stream_pixels=300)
    first_batch, second_batch = batches(images, 2)
    stream = [Pixels(*first_batch), Pixels(*second_batch, offset=first_batch[1].numel())]
    first, second = map(scorer.statistics, stream)
    assert {name: type(statistic) for name, statistic in first.items()} == scorer.statistic_types()
    statistics = {name: first[name] + second[name] for name in first}
    scores = scorer.scores(statistics | {"source_sample": scorer.source_sample(source)})
    assert values(scores) == pytest.approx(values(scorer(iter(stream), source=source)), rel=1e-12)


def test_metrics_share_what_they_look_at():
    scorer = Scorer(metrics=("logme", "hscore", "regularized_hscore", "leep", "nce"), num_classes=K)
    masses = ["JointMass(logits)", "logits_again", "JointMass(logits, hard=True)"]
    assert list(scorer.statistic_types()) == ["Moments(features)", *masses]
    drawn = Scorer(metrics=ONE_PASS, num_classes=K, sampling=Sampling(num_pixels=10))
    assert sorted(drawn.statistic_types()) == ["features_sample", "logits_sample"]


def test_only_an_iterator_is_read_once(images):
    class Counted(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    for options, passes in (
        ({"metrics": ("logme", "nce")}, 1),
        ({"metrics": ("leep", "logme")}, 2),
        ({"metrics": ("leep", "logme"), "sampling": Sampling(num_pixels=50)}, 1),
    ):
        target = Counted([images])
        Scorer(num_classes=K, **options)(target)
        assert target.passes == passes


# Files


@pytest.mark.parametrize(
    "options",
    [{}, {"sampling": Sampling(num_pixels=50, num_repeats=2)}, {"solver": Sinkhorn(epsilon=0.05)}],
    ids=["all pixels", "drawn", "sinkhorn"],
)
def test_scores_in_a_file_are_the_same(images, source, options):
    scores = coupled_scorer(*ALL, **{"sampling": Sampling(num_pixels=50)} | options)([images], source=source)
    scores |= Scorer(metrics="leep", num_classes=K, stream_pixels=300)(iter([images]))
    for score in scores.values():
        plain = score.as_json()
        assert plain["std"] == score.std
        again = Score.from_json(json.loads(json.dumps(plain, allow_nan=False)))
        assert replace(again, coupling=None) == replace(score, coupling=None)
        assert (again.coupling is None) == (score.coupling is None)
        if score.coupling is not None:
            assert again.coupling.solver == score.coupling.solver
            torch.testing.assert_close(again.coupling.tensors(), score.coupling.tensors(), rtol=0, atol=0)
        assert again.as_json() == plain


def test_a_score_has_no_other_fields():
    names = [field.name for field in fields(Score)]
    assert names == ["score", "values", "pixels", "unit", "standard_error", "coupling", "by_class"]


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "leap"}, "'leap' is none of .*leep"),
        ({"metrics": ()}, "no metric"),
        ({"metrics": "torch.nn.Identity"}, "metric: torch.nn.Identity makes a Identity, not a TransferabilityMetric"),
        ({"sampling": Sampling(num_repeats=3)}, "num_repeats=3 and strategy='uniform' need num_pixels"),
        ({"sampling": Sampling(strategy="boundary")}, "num_repeats=1 and strategy='boundary' need num_pixels"),
        (
            {"sampling": Sampling(strategy="per_class", num_pixels=3)},
            "num_pixels=3 is less than a pixel for each of 4 classes",
        ),
        ({"num_classes": 0}, "num_classes must be at least 1, not 0"),
        ({"num_classes": None}, "num_classes must be given"),
        ({"num_classes": True}, "num_classes must be a whole number, not True"),
        ({"num_source_classes": 0}, "num_source_classes must be at least 1, not 0"),
        ({"stream_pixels": 0}, "stream_pixels must be at least 1, not 0"),
        ({"solver": "simplex"}, "solver: 'simplex' is none of auto, exact, sinkhorn"),
    ],
)
def test_refuses_options(images, options, message, annotations_unchecked):
    with pytest.raises(ValueError, match=message):
        Scorer(**({"metrics": DEFAULT_METRICS, "num_classes": K} | options))


@pytest.mark.parametrize("name", ["softmax", "absent_classes", "num_pixels", "seed", "epsilon", "metric"])
def test_misspelt_options_name_what_was_called(name, annotations_unchecked):
    with pytest.raises(TypeError, match=rf"Scorer\.__init__\(\) got an unexpected keyword argument '{name}'"):
        Scorer(metrics="logme", num_classes=K, **{name: 1})


def test_misspelt_options_of_a_metric_name_what_was_called(annotations_unchecked):
    with pytest.raises(TypeError, match=r"LogME\.__init__\(\) got an unexpected keyword argument 'absent'"):
        LogME(absent="include")
    with pytest.raises(ValueError, match=r"logme cannot be made: .*LogME\.__init__\(\) .* 'absent'"):
        Scorer(metrics={"class_path": "logme", "init_args": {"absent": "include"}}, num_classes=K)
    with pytest.raises(TypeError, match=r"LEEP\.__init__\(\) got an unexpected keyword argument 'softmax'"):
        LEEP(softmax=True)  # which takes the softmax itself


def test_names_the_batch_that_is_wrong(images):
    features, labels, _ = images
    bad = labels.clone()
    bad[0, 0, :3] = 9
    stream = [Pixels(features, labels, name="first"), Pixels(features, bad, name="second")]
    with pytest.raises(ValueError, match=r"second: label 9 on 3 pixels: outside \[0, 4\) and not ignore_index=255"):
        Scorer(metrics="logme", num_classes=K)(stream)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (lambda features, labels, logits: [], "no batch"),
        (lambda features, labels, logits: [(features, labels)], "class scores .* give logits"),
        (lambda features, labels, logits: [(features, torch.full_like(labels, 255), logits)], "no labeled pixel"),
        (lambda features, labels, logits: [(features, labels, logits * torch.nan)], "NaN or infinite"),
    ],
)
@pytest.mark.parametrize("num_pixels", [None, 50])
@pytest.mark.filterwarnings("ignore:target. uniform sampling")
def test_refuses_pixels(images, stream, message, num_pixels):
    scorer = Scorer(metrics=("leep", "nce"), num_classes=K, sampling=Sampling(num_pixels=num_pixels))
    with pytest.raises(ValueError, match=message):
        scorer(stream(*images))


def test_features_of_a_folder_are_not_taken_for_class_scores(tmp_path):
    write_features(tmp_path)
    scorer = Scorer(metrics="leep", num_classes=8, ignore_index=IGNORED)
    with pytest.raises(ValueError, match=r"final/0\.npy: there are no class scores of the source model to read"):
        scorer(FeatureFolder(tmp_path))
    assert scorer(FeatureFolder(tmp_path, logits="final"))["leep"].score < 0


def test_batches_that_cannot_be_read_again_are_told(images):
    class ReadOnce:
        """Batches that can be read once, though they are no iterator."""

        def __init__(self, batches):
            self.batches = iter(batches)

        def __iter__(self):
            return self.batches

    with pytest.raises(ValueError, match="5 images at first and 0 when they were read again: give batches"):
        Scorer(metrics="leep", num_classes=K)(ReadOnce([images]))
