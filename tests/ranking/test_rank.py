"""Ranking from images to files: scores are those of the pixels, and what was computed once is not computed again."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torch_trf import Sampling, Scorer, _files, leep, logme
from torch_trf._files import only_writer, whole_file
from torch_trf.datasets import LabeledData
from torch_trf.inference import Inference
from torch_trf.maps import Mapper
from torch_trf.metrics import KNN, HScore, LogME, Look, TransferabilityMetric
from torch_trf.pixels import Pixels, on_one_grid
from torch_trf.ranking import Candidate, Ranker, _store
from torch_trf.statistics import JointMass, LogLikelihood, Moments
from torch_trf.transport import Sinkhorn

from ..helpers import every_kind_of_no_file, put_what_is_no_file
from . import helpers
from .helpers import K, Model, Scenes, Z, named

pytestmark = pytest.mark.slow  # every test runs models over images, several times

METRICS = ("logme", "hscore", "regularized_hscore", "leep", "nce")
OPTIONS = {"num_pixels": 60, "num_repeats": 2, "seed": 5}
PER_CLASS = Sampling(strategy="per_class", **OPTIONS)
INFERENCE = {"batch_size": 2, "num_workers": 0}
PASSES = 5 + 3  # of a model over five images of two sizes by turns, and to probe it
IDENTITY = [{"class_path": "torch.nn.Identity"}]


@pytest.fixture(autouse=True)
def passes(monkeypatch):
    """How many images each forward pass has; and what is done before."""
    monkeypatch.setattr(helpers, "PASSES", [])
    monkeypatch.setattr(helpers, "BEFORE_PASSES", [])
    return helpers.PASSES


def candidate(name="a", **options):
    model = options.pop("model", None) or named("Model", **options.pop("arguments", {}))
    return Candidate(**{"name": name, "model": model, "layer": "mix", "transform": IDENTITY} | options)


def ranker(output, data=None, **options):
    target = LabeledData(dataset=named("Scenes", **data or {}), **{"num_classes": K} | options.pop("target", {}))
    sampling = Sampling(**{"strategy": "per_class"} | OPTIONS | options.pop("sampling", {}))
    inference = Inference(**INFERENCE | options.pop("inference", {}))
    return Ranker(target=target, output=output, sampling=sampling, inference=inference, **options)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Images are too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def values(result):
    return {name: score.values for name, score in result.scores.items()}


def pixels_of(scenes, model):
    """What a model gives of every image, read at each of its labels."""
    for index, (image, labels) in enumerate(scenes):
        features = model.mix(image[None])[..., :: model.stride, :: model.stride]
        on_grid = on_one_grid(features, labels[None], model.head(features), grid="labels", stream=index)
        yield Pixels(on_grid.features, on_grid.labels, on_grid.logits, stream=index)


SAMPLINGS = [{"strategy": "uniform"}, {"strategy": "per_class"}, {"strategy": "boundary", "boundary_radius": 2}]
OF_OPTIONS = (LogME(softmax=True, absent_classes="include"), HScore(rcond=1e-3))


def assert_same_values(actual, expected, rel=1e-7):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name] == pytest.approx(expected[name], rel=rel)


@pytest.mark.parametrize("metrics", [METRICS[:3], OF_OPTIONS], ids=["names", "objects"])
@pytest.mark.parametrize("options", SAMPLINGS, ids=["uniform", "per_class", "boundary"])
def test_scores_are_those_of_the_drawn_pixels(tmp_path, options, metrics):
    """On images of several sizes, whose features are the images themselves."""
    ranking = ranker(tmp_path, sampling=options, metrics=metrics)([candidate(model=named("Image"), layer="same")])
    batches = [Pixels(image[None], labels[None], stream=k) for k, (image, labels) in enumerate(Scenes())]
    expected = Scorer(metrics=metrics, num_classes=K, sampling=Sampling(**OPTIONS | options))(batches)
    assert_same_values(values(ranking.results[0]), {name: score.values for name, score in expected.items()})
    assert [score.pixels for score in ranking.results[0].scores.values()] == [60] * len(metrics)


@pytest.mark.parametrize("strategy", ["uniform", "per_class"])
def test_models_of_any_stride_are_read_at_the_same_pixels(tmp_path, strategy):
    sampling = {"strategy": strategy}
    candidates = [candidate(f"stride-{s}", arguments={"stride": s}, layer="", logits_layer="") for s in (1, 2, 4)]
    candidates.append(candidate("again", arguments={"stride": 1}, layer="", logits_layer=""))
    ranking = ranker(tmp_path, sampling=sampling, metrics=METRICS)(candidates)
    kept = [torch.load(tmp_path / each.name / "reading.pt", weights_only=True)["samples"] for each in candidates]
    for name in ("key", "labels"):
        keys = [samples[which][name] for samples in kept for which in ("features_sample", "logits_sample")]
        assert all(torch.equal(key, keys[0]) for key in keys)
    for stride, result in zip((1, 2, 4), ranking.results, strict=False):
        model = candidate(arguments={"stride": stride}).make()
        batches = [
            Pixels(pixels.logits, pixels.labels, pixels.logits, stream=pixels.stream)
            for pixels in pixels_of(Scenes(), model)
        ]
        expected = Scorer(metrics=METRICS, num_classes=K, sampling=Sampling(**OPTIONS | sampling))(batches)
        assert_same_values(values(result), {name: score.values for name, score in expected.items()})
    ranks = ranking.ranks()
    assert values(ranking.results[0]) == values(ranking.results[3])
    assert all(rank["stride-1"] == rank["again"] for rank in ranks.values())
    assert ranking.results[0].scores["logme"].score > ranking.results[2].scores["logme"].score  # less is seen


def test_features_and_class_scores_may_be_of_several_layers(tmp_path):
    [result] = ranker(tmp_path, metrics=METRICS)([candidate(arguments={"stride": 2}, logits_layer="head")]).results
    model = candidate(arguments={"stride": 2}).make()
    batches = []
    for index, (image, labels) in enumerate(Scenes()):
        features = model.mix(image[None])
        logits = on_one_grid(model.head(features[..., ::2, ::2]), labels[None], grid="labels").features
        batches.append(Pixels(features.detach(), labels[None], logits, stream=index))
    expected = Scorer(metrics=METRICS, num_classes=K, sampling=PER_CLASS)(batches)
    assert_same_values(values(result), {name: score.values for name, score in expected.items()})


def test_ranks_by_nearest_neighbors(tmp_path):
    metrics = ("logme", KNN(neighbors=3))
    ranking = ranker(tmp_path, metrics=metrics, by="knn")(
        [candidate(model=named("Image"), layer="same"), candidate("blurred", arguments={"stride": 4})]
    )
    batches = [Pixels(image[None], labels[None], stream=k) for k, (image, labels) in enumerate(Scenes())]
    expected = Scorer(metrics=metrics, num_classes=K, sampling=PER_CLASS)(batches)
    assert_same_values(values(ranking.results[0]), {name: score.values for name, score in expected.items()})
    assert ranking.by == "knn"


def test_a_model_may_see_images_in_another_size(tmp_path):
    resize = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [6, 10], "antialias": True}}
    resized = candidate(model=named("Image"), layer="same", transform=[resize])
    [result] = ranker(tmp_path, metrics=("logme", "hscore"))([resized]).results
    batches = []
    for index, (image, labels) in enumerate(Scenes()):
        small = resized.make_transform()(image)[None]
        large = nn.functional.interpolate(small, labels.shape, mode="bilinear", align_corners=False)
        batches.append(Pixels(large, labels[None], stream=index))
    expected = Scorer(metrics=("logme", "hscore"), num_classes=K, sampling=PER_CLASS)(batches)
    assert_same_values(values(result), {name: score.values for name, score in expected.items()})


def test_couples_with_the_source_of_each_candidate(tmp_path):
    candidates, expected = [], {}
    options = {"num_pixels": 45, "num_repeats": 2, "strategy": "per_class", "seed": 2}
    for name, classes, seed in (("a", 2, 11), ("b", 3, 12)):
        source = LabeledData(dataset=named("Scenes", seed=seed, classes=classes, count=3), num_classes=classes)
        candidates.append(candidate(name, source=source, arguments={"stride": 2}, layer=""))
        model = candidates[-1].make()
        target, of_source = (
            [Pixels(pixels.logits, pixels.labels, stream=pixels.stream) for pixels in pixels_of(scenes, model)]
            for scenes in (Scenes(), Scenes(seed=seed, classes=classes, count=3))
        )
        scorer = Scorer(
            metrics=("otce", "jc_otce", "logme"),
            num_classes=K,
            num_source_classes=classes,
            sampling=Sampling(**options),
        )
        expected[name] = {metric: score.values for metric, score in scorer(target, source=of_source).items()}
    coupled = ranker(tmp_path, metrics=("otce", "jc_otce", "logme"), sampling=options)
    ranking = coupled(candidates)
    for result in ranking.results:
        assert_same_values(values(result), expected[result.name], rel=1e-6)
    assert ranking.results[0].scores["otce"].coupling.solver == "exact"
    helpers.PASSES.clear()
    assert [each.as_json() for each in coupled(candidates).results] == [each.as_json() for each in ranking.results]
    assert helpers.PASSES == []


def drawn_rows(folder, result, name):
    """Features and labels of each repeat, as they were kept."""
    sample = _store.Store(folder / "a").reading(result.settings["model"]).value.samples[name]
    return [(each.features.flatten(0, -2), each.labels.flatten()) for each in (sample[0], sample[1])]


def test_scores_by_class_are_the_mean_over_repeats(tmp_path):
    [result] = ranker(tmp_path, metrics=("logme", "leep"))([candidate(logits_layer="")]).results
    options = {"num_classes": K, "ignore_index": -1}
    repeats = [Moments.from_pixels(*rows, **options) for rows in drawn_rows(tmp_path, result, "features_sample")]
    expected = torch.stack([logme.by_class(moments) for moments in repeats]).mean(0)
    assert result.scores["logme"].by_class == pytest.approx(expected.tolist(), rel=1e-9)
    assert np.mean(result.scores["logme"].by_class) == pytest.approx(result.scores["logme"].score, rel=1e-9)
    by_class = torch.zeros(2, K)
    for repeat, (logits, labels) in enumerate(drawn_rows(tmp_path, result, "logits_sample")):
        mass = JointMass.from_pixels(logits, labels, **options)
        for k in range(K):
            alone = LogLikelihood.from_pixels(logits[labels == k], labels[labels == k], joint_mass=mass)
            by_class[repeat, k] = leep.score(alone)
        whole = np.average(by_class[repeat], weights=labels.bincount())
        assert whole == pytest.approx(result.scores["leep"].values[repeat])
    assert result.scores["leep"].by_class == pytest.approx(by_class.mean(0).tolist())


def test_classes_without_a_pixel_have_no_score_of_their_own(tmp_path):
    [result] = ranker(tmp_path, {"classes": 2}, metrics=("logme", "leep"))([candidate(logits_layer="")]).results
    for score in result.scores.values():
        assert [value is None for value in score.by_class] == [False, False, True]


def test_the_map_is_of_leep_at_the_resolution_of_labels(tmp_path):
    data = {"count": 2, "sizes": [[60, 88]]}
    [result] = ranker(tmp_path, data, metrics=("leep",))([candidate(arguments={"stride": 2}, logits_layer="")]).results
    assert (len(result.map), {len(row) for row in result.map}) == (20, {29})  # patches of 3 x 3 pixels
    image, labels = Scenes(**data)[0]
    model = candidate(arguments={"stride": 2}).make()
    logits = model.head(model.mix(image[None])[..., ::2, ::2])
    logits = nn.functional.interpolate(logits, (60, 88), mode="bilinear", align_corners=False).detach()
    rows = map(torch.cat, zip(*drawn_rows(tmp_path, result, "logits_sample"), strict=True))
    mass = JointMass.from_pixels(*rows, num_classes=K, ignore_index=-1)
    patch = LogLikelihood.from_pixels(logits[..., 3:6, 6:9], labels[None, 3:6, 6:9], joint_mass=mass)
    assert result.map[1][2] == pytest.approx(leep.score(patch).item(), rel=1e-4)
    [without] = ranker(tmp_path / "b", data)([candidate()]).results
    assert without.map is None


@pytest.mark.parametrize("metric", ["logme", HScore(rcond=1e-3), "nce"])
def test_the_map_may_be_of_another_metric(tmp_path, metric):
    data = {"count": 2, "sizes": [[60, 88]], "dtype": "torch.float32"}
    model = named("Model", dtype="torch.float32")
    ranking = ranker(tmp_path, data, map_metric=metric)([candidate(model=model, logits_layer="head")])
    [result] = ranking.results
    image, labels = Scenes(count=2, sizes=((60, 88),), dtype=torch.float32)[0]
    network = candidate(model=model).make()
    with torch.inference_mode():
        features = network.mix(image[None])
        pixels = Pixels(features, labels[None], network.head(features))
    expected = Mapper(metric=metric, patch_size=3, num_classes=K)([pixels]).values
    torch.testing.assert_close(torch.tensor(result.map, dtype=torch.float64), expected, rtol=1e-4, atol=1e-4)
    text = (tmp_path / "report.html").read_text()
    assert f"{ranking.map_metric.name} of a patch, {ranking.map_metric.unit}" in text


def test_the_map_of_a_long_image(tmp_path):
    [result] = ranker(tmp_path, {"sizes": [[4, 200]]}, metrics=("leep",))([candidate(logits_layer="")]).results
    assert result.failure is None
    assert result.scores["leep"].pixels == 60


def test_the_map_is_of_the_image_of_most_classes_wherever_pixels_are(tmp_path):
    ranked = ranker(tmp_path, {"sizes": [[12, 16], *[[60, 88]] * 4]}, metrics=("leep",), sampling={"num_pixels": 3})
    drawn = ranked._drawn_pixels(ranked.target, ranked.sampling, "target", "")
    assert drawn.shown == 0  # the first of those that show all classes
    assert 0 not in drawn.of_images()
    [result] = ranked([candidate(logits_layer="")]).results
    assert (len(result.map), len(result.map[0])) == (4, 5)


def test_fewer_pixels_than_asked_for_are_said_once_of_each_data_set(tmp_path):
    sources = [LabeledData(dataset=named("Scenes", seed=11, classes=2, count=count), num_classes=3) for count in (2, 3)]
    candidates = [candidate(name, source=sources[k]) for name, k in (("a", 0), ("b", 0), ("c", 1))]
    with pytest.warns(UserWarning, match="per_class sampling finds") as told:
        ranker(tmp_path, sampling={"num_pixels": 5_000}, metrics=("otce", "logme"))(candidates)
    texts = [str(each.message) for each in told]
    assert [text.split(" finds")[0] for text in texts if " finds" in text] == [
        f"{side}: per_class sampling" for side in ("target", "source of a", "source of c")
    ]


# What models are given


CROP = [{"class_path": "torchvision.transforms.v2.CenterCrop", "init_args": {"size": 8}}]
CLIP = [{"class_path": "torchvision.transforms.v2.ClampBoundingBoxes"}]  # which does nothing with images


def test_a_transform_that_moves_images_is_refused(tmp_path, passes):
    """Before any model runs."""
    candidates = [candidate("whole", transform=CLIP), candidate("crops", transform=CROP)]
    with pytest.raises(ValueError, match="candidate 'crops': transform CenterCrop moves images against"):
        ranker(tmp_path)(candidates)
    assert not passes


def test_a_transform_that_moves_images_of_the_source_is_refused(tmp_path):
    """Of another size, for which the crop is one."""
    target, source = {"sizes": [[8, 8]]}, LabeledData(dataset=named("Scenes", seed=11), num_classes=K)
    crops = candidate("crops", transform=CROP, source=source)
    with pytest.warns(UserWarning, match="crops failed and is left out: transform CenterCrop moves images against"):
        ranking = ranker(tmp_path, target, metrics=("otce",))([crops])
    assert ranking.failed


class Augmented(Scenes):
    """Scenes of which one is flipped at every other reading, or its labels are, as in training."""

    readings = 0

    def __init__(self, index, of_labels, **options):
        super().__init__(**options)
        self.index, self.of_labels = index, of_labels

    def __getitem__(self, index):
        image, labels = super().__getitem__(index)
        if index == self.index:
            Augmented.readings += 1
            if Augmented.readings % 2:
                return (image, labels.flip(-1)) if self.of_labels else (image.flip(-1), labels)
        return image, labels


@pytest.mark.parametrize("of_labels", [False, True], ids=["image", "labels"])
@pytest.mark.parametrize("index", [0, 4])
def test_a_data_set_that_is_another_at_the_second_reading_is_refused(tmp_path, monkeypatch, index, of_labels):
    monkeypatch.setattr(Augmented, "readings", 0)
    augmented = {"class_path": f"{__name__}.Augmented", "init_args": {"index": index, "of_labels": of_labels}}
    rank = replace(ranker(tmp_path), target=LabeledData(dataset=augmented, num_classes=K))
    changed = f"image {index} or its labels are not what they were when they were read before"
    if index == 0:  # one of the first
        with pytest.raises(ValueError, match=changed):
            rank([candidate()])
    else:
        with pytest.warns(UserWarning, match=f"a failed and is left out: {changed}"):
            assert rank([candidate()]).failed


def test_images_outside_the_range_of_the_default_transform_are_told(tmp_path):
    model = named("Model", dtype="torch.float32")
    data = {"dtype": "torch.float32"}
    ranker(tmp_path / "as they are", data)([candidate(model=model)])
    told = r"images hold numbers outside the range from 0 to 1, .* \(image 0: -[\d.]+ to [\d.]+\): give transform: \[\]"
    with pytest.warns(UserWarning, match=told):
        ranker(tmp_path / "by default", data)([candidate(model=model, transform=None)])


# What was computed is not computed again.


def read(folder):
    """The ranking that a folder holds, but for times."""

    def timeless(value):
        if isinstance(value, dict):
            return {name: timeless(part) for name, part in value.items() if name != "seconds"}
        return [timeless(part) for part in value] if isinstance(value, list) else value

    return timeless(json.loads((folder / "ranking.json").read_text())), (folder / "ranking.csv").read_text()


CANDIDATES = [
    candidate("a", logits_layer=""),
    candidate("b", arguments={"seed": 1, "stride": 2}, logits_layer=""),
    candidate("c", arguments={"seed": 2, "channels": 3}, logits_layer=""),
]
LATER = ("logme", "leep", "hscore")


def test_nothing_runs_again(tmp_path, passes):
    first = ranker(tmp_path, metrics=LATER)(CANDIDATES)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {str(path.relative_to(tmp_path)) for path in files} - {"report.html", ".lock"} == {
        "ranking.json",
        "ranking.csv",
        *(f"{name}/{file}" for name in "abc" for file in ("reading.pt", "scores.json")),
    }
    assert sum(passes) == 3 * PASSES  # each model sees each image once, and is probed
    passes.clear()
    assert ranker(tmp_path, metrics=LATER)(CANDIDATES) == first
    assert passes == []
    assert {path: path.read_bytes() for path in files} == files  # to the second


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The ranking that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    ranker(folder, metrics=LATER)(CANDIDATES)
    return read(folder)


@pytest.mark.parametrize("killed_at", [1, 10, 24])
def test_goes_on_where_it_was_killed(tmp_path, passes, whole, killed_at):
    def kill(images):
        if len(passes) == killed_at - 1:
            raise KeyboardInterrupt

    helpers.BEFORE_PASSES.append(kill)
    with pytest.raises(KeyboardInterrupt):
        ranker(tmp_path, metrics=LATER)(CANDIDATES)
    assert not (tmp_path / "ranking.json").exists()
    helpers.BEFORE_PASSES.clear()
    passes.clear()
    ranker(tmp_path, metrics=LATER)(CANDIDATES)
    done = (killed_at - 1) // PASSES  # images of two sizes take turns, so each has a pass of its own
    assert len(passes) == PASSES * (3 - done)
    assert read(tmp_path) == whole


@pytest.mark.parametrize("written", ["reading.pt", "scores.json", "ranking.json", "ranking.csv"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_goes_on_where_writing_ended(tmp_path, passes, monkeypatch, whole, written, error):
    """Whatever file was being written the second time; errors of writing are no failures of a candidate."""
    started = []

    @contextmanager
    def broken(path):
        with whole_file(path) as temporary:
            yield temporary
            started.append(path.name)
            if path.name == written and (started.count(written) == 2 or written.startswith("ranking")):
                temporary.write_text("half")
                raise error("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_files, "whole_file", broken)
        with pytest.raises(error, match="no space left on device"):
            ranker(tmp_path, metrics=LATER)(CANDIDATES)
    assert [path.name for path in tmp_path.rglob(".*")] == [".lock"]
    before = len(passes)
    (tmp_path / "b" / f".{written.replace('.', '.tmp.')}").write_text("half")  # of a process that could not tidy up
    passes.clear()
    ranker(tmp_path, metrics=LATER)(CANDIDATES)
    assert before + len(passes) == PASSES * (3 + (written == "reading.pt"))  # what was not kept is looked at again
    assert read(tmp_path) == whole


def test_a_folder_that_cannot_be_written_is_no_failure_of_a_candidate(tmp_path):
    (tmp_path / "a").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="a"):
        ranker(tmp_path)([candidate("a")])
    assert not (tmp_path / "ranking.json").exists()


CHANGES = {
    "layer": (lambda: [candidate(layer="head")], {}, "layer was mix, is head"),
    "arguments": (lambda: [candidate(arguments={"seed": 3})], {}, r"model\.init_args\.seed was None, is 3"),
    "class": (lambda: [candidate(model=named("Other"))], {}, r"model\.class_path was .*Model, is .*Other"),
    "transform": (lambda: [candidate(transform=[*IDENTITY, *IDENTITY])], {}, "transform was "),
    "precision": (
        lambda: [candidate()],
        {"inference": {"precision": "bfloat16"}},
        "precision was float32, is bfloat16",
    ),
    "logits": (lambda: [candidate(logits_layer="")], {"metrics": ("leep",)}, "logits_layer was None, is "),
    "map_metric": (lambda: [candidate()], {"map_metric": "logme"}, "map_metric was None, is .*logme"),
    "seed": (lambda: [candidate()], {"sampling": {"seed": 6}}, ""),
    "num_pixels": (lambda: [candidate()], {"sampling": {"num_pixels": 75}}, ""),
    "num_repeats": (lambda: [candidate()], {"sampling": {"num_repeats": 3}}, ""),
    "images": (lambda: [candidate()], {"data": {"shift": 1e-6}}, ""),
    "labels": (lambda: [candidate()], {"data": {"count": 4}}, ""),
}


@pytest.mark.filterwarnings("default::UserWarning")  # several differences may be told
@pytest.mark.parametrize(("candidates", "options", "message"), CHANGES.values(), ids=CHANGES)
def test_a_changed_setting_is_said_and_computed_anew(tmp_path, passes, monkeypatch, candidates, options, message):
    monkeypatch.setattr(helpers, "Other", Model, raising=False)
    ranker(tmp_path / "a")([candidate()])
    passes.clear()
    with pytest.warns(UserWarning, match=f"^a: .*{message}.*: its model runs again"):
        ranker(tmp_path / "a", **options)(candidates())
    assert passes
    ranker(tmp_path / "b", **options)(candidates())
    assert read(tmp_path / "a") == read(tmp_path / "b")


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": {"seed": 6}}, r"sampling\.seed was 5, is 6"),
        ({"sampling": {"num_pixels": 75}}, r"sampling\.num_pixels was 60, is 75"),
        ({"sampling": {"strategy": "uniform"}}, r"sampling\.strategy was per_class, is uniform"),
    ],
)
def test_the_setting_that_changed_is_named(tmp_path, options, message):
    ranker(tmp_path)([candidate()])
    with pytest.warns(UserWarning, match=message):
        ranker(tmp_path, **options)([candidate()])


def test_an_argument_that_is_left_out_is_noticed(tmp_path, passes):
    ranker(tmp_path / "a")([candidate(arguments={"seed": 3})])
    passes.clear()
    with pytest.warns(UserWarning, match=r"^a: model\.init_args\.seed was 3, is None: its model runs again"):
        ranker(tmp_path / "a")([candidate()])
    assert len(passes) == PASSES
    ranker(tmp_path / "b")([candidate()])
    assert read(tmp_path / "a") == read(tmp_path / "b")


def save_model(path, seed):
    torch.save({"state_dict": candidate(arguments={"seed": seed}).make().state_dict()}, path)


def test_other_contents_of_a_checkpoint_are_noticed(tmp_path, passes):
    path = tmp_path / "weights.pt"
    save_model(path, 1)
    given = candidate(checkpoint=str(path))
    first = ranker(tmp_path / "a")([given])
    assert values(first.results[0]) == values(ranker(tmp_path / "b")([candidate(arguments={"seed": 1})]).results[0])
    passes.clear()
    path.touch()
    assert ranker(tmp_path / "a")([given]) == first
    assert passes == []
    save_model(path, 2)
    with pytest.warns(UserWarning, match="^a: checkpoint_digest was .* is .*: its model runs again"):
        second = ranker(tmp_path / "a")([given])
    assert len(passes) == PASSES
    assert values(second.results[0]) != values(first.results[0])


@pytest.mark.filterwarnings("default::UserWarning")
def test_other_contents_of_images_and_label_maps_are_noticed(tmp_path, passes):
    for seed in range(3):
        random = np.random.default_rng(seed)
        for name, array in (("images", random.integers(0, 256, (8, 8, 3))), ("labels", random.integers(0, 3, (8, 8)))):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / name / f"{seed}.png")
    folders = {name: str(tmp_path / name) for name in ("images", "labels")}
    dataset = {"class_path": "torch_trf.datasets.SegmentationFolder", "init_args": folders}
    torch_like = candidate(transform=None, model=named("Model", dtype="torch.float32"))

    def rank(**options):
        target = LabeledData(dataset=dataset, num_classes=K, **options)
        sampling = Sampling(num_pixels=12, num_repeats=2, strategy="per_class")
        return Ranker(target=target, output=tmp_path / "out", sampling=sampling, inference=Inference(num_workers=0))(
            [torch_like]
        )

    first = rank()
    assert rank(label_map={0: 0, 1: 1, 2: 2}, class_names=["road", "person", "sky"]).results == first.results
    assert len(passes) == 2  # over all images, and over as many to probe the model
    with pytest.warns(UserWarning, match="^a: .*: its model runs again"):
        rank(label_map={0: 1, 1: 0, 2: 2})
    with pytest.warns(UserWarning, match="^a: .*: its model runs again"):
        rank()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "2.png")
    with pytest.warns(UserWarning, match="^a: .*: its model runs again"):
        assert values(rank().results[0]) != values(first.results[0])
    assert len(passes) == 4 * 2


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"metrics": ("nce", "logme")},
        {"metrics": ("logme", "leep", HScore(rcond=0.1))},
    ],
    ids=["metrics", "options"],
)
def test_other_metrics_and_formulas_need_no_model(tmp_path, passes, options):
    ranker(tmp_path / "a", metrics=LATER)(CANDIDATES[:1])
    passes.clear()
    ranker(tmp_path / "a", **options)(CANDIDATES[:1])
    assert passes == []
    ranker(tmp_path / "b", **options)(CANDIDATES[:1])
    assert read(tmp_path / "a") == read(tmp_path / "b")
    passes.clear()
    ranker(tmp_path / "a", metrics=LATER)(CANDIDATES[:1])
    assert passes == []


@pytest.mark.filterwarnings("default::UserWarning")
def test_other_formulas_are_said(tmp_path):
    ranker(tmp_path)([candidate()])
    with pytest.warns(UserWarning, match=r"scorer\.metrics\.hscore\.init_args\.rcond was 1e-05, is 0\.1: it is scored"):
        ranker(tmp_path, metrics=("logme", HScore(rcond=0.1)))([candidate()])


def test_another_solver_is_said_where_it_couples(tmp_path, passes):
    source = LabeledData(dataset=named("Scenes", seed=11, classes=2, count=2), num_classes=2)
    given = [candidate(source=source)]
    first = ranker(tmp_path, metrics=("otce",))(given)
    passes.clear()
    with pytest.warns(UserWarning, match=r"^a: scorer\.solver\.class_path was auto, is sinkhorn: it is scored again"):
        second = ranker(tmp_path, metrics=("otce",), solver=Sinkhorn(epsilon=0.1))(given)
    with pytest.warns(
        UserWarning, match=r"^a: scorer\.solver\.init_args\.epsilon was 0\.1, is 0\.2: it is scored again"
    ):
        ranker(tmp_path, metrics=("otce",), solver={"class_path": "sinkhorn", "init_args": {"epsilon": 0.2}})(given)
    assert passes == []
    assert [each.results[0].scores["otce"].coupling.solver for each in (first, second)] == ["exact", "sinkhorn"]
    alone = ranker(tmp_path / "b")([candidate()])
    assert ranker(tmp_path / "b", solver="exact")([candidate()]) == alone


# Metrics of others.


@dataclass(frozen=True, kw_only=True)
class Spread(TransferabilityMetric):
    """How far features spread, so many times."""

    name: ClassVar = "spread"
    unit: ClassVar = "squares"

    times: int = 1

    @property
    def looks(self):
        return (Look(Moments),)

    def score(self, moments):
        return self.times * moments.gram.diagonal(dim1=-2, dim2=-1).sum(-1) / moments.count


class Largest(Spread):
    """Another metric of the same name."""

    name: ClassVar = "spread"

    def score(self, moments):
        return moments.gram.diagonal(dim1=-2, dim2=-1).amax(-1) / moments.count


def test_ranks_and_maps_by_a_metric_of_somebody(tmp_path):
    path = {"class_path": f"{__name__}.Spread", "init_args": {"times": 3}}
    data = {"count": 2, "sizes": [[60, 88]]}
    ranking = ranker(tmp_path, data, metrics=["logme", path], by="spread", map_metric=path)(
        [candidate(), candidate("b")]
    )
    [rows, _] = drawn_rows(tmp_path, ranking.results[0], "features_sample")
    expected = Spread(times=3)(*rows, num_classes=K, ignore_index=-1)
    assert ranking.results[0].scores["spread"].values[0] == pytest.approx(expected.item())
    assert ranking.results[0].scores["spread"].unit == "squares"
    assert np.isfinite(np.array(ranking.results[0].map, dtype=float)).any()
    assert ranking.results[0].settings["scorer"]["metrics"]["spread"] == path
    kept, table = read(tmp_path)
    assert kept["map_metric"] == {"name": "spread", "unit": "squares"}
    assert table.startswith("rank,name,logme,logme_std,logme_rank,spread,")


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Spread(times=2), r"scorer\.metrics\.spread\.init_args\.times was 1, is 2: it is scored again"),
        (Largest(), r"scorer\.metrics\.spread\.class_path was .*Spread, is .*Largest: it is scored again"),
    ],
)
def test_results_depend_on_the_metric_and_its_options(tmp_path, passes, metric, message):
    first = ranker(tmp_path, metrics=Spread())([candidate()])
    passes.clear()
    assert ranker(tmp_path, metrics=[Spread()])([candidate()]) == first
    with pytest.warns(UserWarning, match=message):
        second = ranker(tmp_path, metrics=metric)([candidate()])
    assert values(second.results[0]) != values(first.results[0])
    assert passes == []
    with pytest.warns(UserWarning, match=message.split(" was")[0]):
        assert ranker(tmp_path, metrics=Spread())([candidate()]) == first


def test_a_candidate_needs_not_give_what_nothing_reads(tmp_path, passes):
    """Nor does the mapped metric matter to one that cannot be mapped."""
    first = ranker(tmp_path, map_metric="leep")([candidate()])
    assert first.results[0].map is None
    passes.clear()
    assert ranker(tmp_path, map_metric="nce")([candidate()]).results == first.results
    assert passes == []


def test_the_metric_that_ranks_and_the_batch_are_no_settings(tmp_path, passes):
    first = ranker(tmp_path)(CANDIDATES)
    passes.clear()
    again = ranker(tmp_path, by="hscore", inference={"batch_size": 1})([*CANDIDATES[::-1], candidate("d")])
    assert len(passes) == PASSES  # of the new candidate
    assert again.results[2::-1] == first.results
    assert again.by == "hscore"


@pytest.mark.parametrize("file", ["reading.pt", "scores.json"])
def test_a_damaged_file_is_computed_anew(tmp_path, file):
    expected = ranker(tmp_path)(CANDIDATES)
    path = tmp_path / "b" / file
    path.write_bytes(path.read_bytes()[:100])
    if file == "reading.pt":
        (tmp_path / "b" / "scores.json").unlink()  # or nobody looks
    with pytest.warns(UserWarning, match=f"^b: .*{file}"):
        ranking = ranker(tmp_path)(CANDIDATES)
    assert [values(each) for each in ranking.results] == [values(each) for each in expected.results]


# A candidate that fails is left out.


def nan_weights(path):
    weights = candidate().make().state_dict()
    torch.save(weights | {"mix.bias": torch.full((5,), torch.nan)}, path)


def cut_off(path):
    save_model(path, 1)
    path.write_bytes(path.read_bytes()[:500])


def other_shapes(path):
    torch.save(candidate(arguments={"channels": 7}).make().state_dict(), path)


FAILURES = {
    "layer": ({"layer": "mixed"}, "the model has no layer 'mixed'; it has 'mix'"),
    "logits layer": ({"logits_layer": "heads"}, "the model has no layer 'heads'; it has 'head'"),
    "class": ({"model": named("Nothing")}, "Nothing cannot be made: AttributeError"),
    "name": ({"model": "resnet1000"}, "'resnet1000' is none of resnet101, .*, nor the dotted path of a class"),
    "package": ({"model": "nowhere.Model"}, "there is no module 'nowhere'"),
    "no model": ({"model": named("Scenes")}, "makes a Scenes, not a Module"),
    "no file": ({"checkpoint": "none.pt"}, "none.pt is not a file"),
    "NaN": ({"checkpoint": nan_weights}, "features of 120 labeled pixels are NaN or infinite"),
    "cut off": ({"checkpoint": cut_off}, r"weights\.pt is not a whole file of weights alone"),
    "shapes": ({"checkpoint": other_shapes}, r"has in another shape 3: head\.weight, mix\.bias, mix\.weight"),
    "transform": ({"transform": ["torch.nn.Nothing"]}, "torch.nn.Nothing cannot be made"),
    "forward": ({"model": named("Model", dtype="torch.float32")}, ".*type"),
}


@pytest.mark.parametrize(("options", "message"), FAILURES.values(), ids=FAILURES)
def test_a_candidate_that_fails_is_told_and_left_out(tmp_path, options, message):
    if callable(make := options.get("checkpoint")):
        make(tmp_path / "weights.pt")
        options = {"checkpoint": str(tmp_path / "weights.pt")}
    with pytest.warns(UserWarning, match=f"^broken failed and is left out: .*(?:{message})"):
        ranking = ranker(tmp_path / "out")([candidate("a"), candidate("broken", **options), candidate("b")])
    assert [each.name for each in ranking.failed] == ["broken"]
    assert [(row["name"], row["rank"]) for row in ranking.rows()] == [("a", 1), ("b", 1)]
    assert "\n" not in ranking.failed[0].failure
    kept, _ = read(tmp_path / "out")
    assert [bool(each["failure"]) for each in kept["candidates"]] == [False, True, False]
    assert not (tmp_path / "out" / "broken").exists()


@pytest.mark.parametrize("file", ["reading.pt", "scores.json"])
def test_a_flipped_bit_changes_no_score(tmp_path, file):
    """Anywhere in the file: in a number, a name, or between them."""
    expected = ranker(tmp_path)([candidate()])
    path = tmp_path / "a" / file
    contents = path.read_bytes()
    scores = (tmp_path / "a" / "scores.json").read_bytes()
    for place in range(0, len(contents), len(contents) // 5):
        path.write_bytes(contents[:place] + bytes([contents[place] ^ 1]) + contents[place + 1 :])
        if file == "reading.pt":
            (tmp_path / "a" / "scores.json").unlink()
        with pytest.warns(UserWarning, match=f"^a: .*{file} cannot be read: .*: (its model runs|it is scored) again"):
            again = ranker(tmp_path)([candidate()])
        assert values(again.results[0]) == values(expected.results[0])
    assert json.loads(scores)["scores"] == json.loads((tmp_path / "a" / "scores.json").read_text())["scores"]


def test_an_edited_score_is_computed_anew(tmp_path):
    expected = ranker(tmp_path)([candidate()])
    path = tmp_path / "a" / "scores.json"
    value = json.loads(path.read_text())
    value["scores"]["logme"]["score"] = 2.0
    path.write_text(json.dumps(value))
    with pytest.warns(UserWarning, match=r"scores\.json cannot be read: it is not as it was written"):
        again = ranker(tmp_path)([candidate()])
    assert again == expected


def test_doubts_of_a_candidate_are_told_with_its_name_kept_and_shown(tmp_path):
    """Probabilities as class scores: told when they are scored, and again when the scores are taken from the file."""
    given = candidate(model=named("Probabilities"), logits_layer="")
    message = "^a: the class scores are probabilities"
    with pytest.warns(UserWarning, match=message):
        first = ranker(tmp_path, metrics=("leep",), map_metric="logme")([given])
    assert [doubt.startswith("the class scores are prob") for doubt in first.results[0].doubts] == [True]
    with pytest.warns(UserWarning, match=message):
        assert ranker(tmp_path, metrics=("leep",), map_metric="logme")([given]) == first
    assert "<h2>Doubtful</h2>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("file", ["reading.pt", "scores.json"])
@every_kind_of_no_file
def test_what_is_kept_where_no_file_is_told_at_once(tmp_path, passes, file, kind):
    path = tmp_path / "a" / file
    path.parent.mkdir()
    put_what_is_no_file(path, kind)
    with pytest.raises(OSError, match=rf"a/{file} is not a file, but a folder, a pipe, a device or a dangling link"):
        ranker(tmp_path)([candidate()])
    assert passes == []


def test_two_rankings_do_not_write_into_one_folder(tmp_path, passes):
    with only_writer(tmp_path), pytest.raises(OSError, match="is being written by another process"):
        ranker(tmp_path)([candidate()])
    assert passes == []


def test_a_candidate_that_failed_is_tried_again(tmp_path, passes):
    path = tmp_path / "weights.pt"
    cut_off(path)
    with pytest.warns(UserWarning, match="b failed and is left out"):
        ranker(tmp_path / "out")([CANDIDATES[0], candidate("b", checkpoint=str(path))])
    save_model(path, 1)
    passes.clear()
    ranking = ranker(tmp_path / "out")([CANDIDATES[0], candidate("b", checkpoint=str(path))])
    assert ranking.failed == []
    assert len(passes) == PASSES


def test_a_source_that_cannot_be_read_is_a_failure_of_its_candidate(tmp_path):
    good = LabeledData(dataset=named("Scenes", seed=1), num_classes=K)
    bad = LabeledData(dataset=named("Scenes", seed=1), num_classes=2)
    with pytest.warns(UserWarning, match="^b failed and is left out: image 0: label 2 on"):
        ranking = ranker(tmp_path, metrics=("otce",))([candidate("a", source=good), candidate("b", source=bad)])
    assert [each.name for each in ranking.scored] == ["a"]


def test_memory_that_does_not_suffice_halves_the_batch(tmp_path, passes):
    data = {"sizes": [[12, 16]]}
    expected = ranker(tmp_path / "a", data)([candidate()])

    def out_of_memory(most):
        def before(images):
            if len(images) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        return before

    passes.clear()
    helpers.BEFORE_PASSES[:] = [out_of_memory(2)]
    with pytest.warns(UserWarning, match="^a: memory does not suffice for 5 images at once: going on with 2"):
        ranking = ranker(tmp_path / "b", data, inference={"batch_size": 5})([candidate()])
    assert passes == [2, *[2, 2], 2, 1]  # two of them probe the model
    assert_same_values(values(ranking.results[0]), values(expected.results[0]), rel=1e-9)
    helpers.BEFORE_PASSES[:] = [out_of_memory(0)]
    with (
        pytest.warns(UserWarning, match="^a: memory does not suffice for 2 images at once: going on with 1"),
        pytest.warns(UserWarning, match="^a failed and is left out: CUDA out of memory"),
    ):
        ranking = ranker(tmp_path / "c", data)([candidate()])
    assert ranking.scored == []


def test_bad_pixels_of_the_target_are_no_failure_of_a_candidate(tmp_path):
    with pytest.raises(ValueError, match=r"^image 0: label 2 on \d+ pixels: outside \[0, 2\)"):
        ranker(tmp_path, target={"num_classes": 2})([candidate()])
    with pytest.raises(ValueError, match="the data set is empty"):
        ranker(tmp_path, {"count": 0})([candidate()])
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_target_without_labeled_pixels_is_no_failure_of_a_candidate(tmp_path):
    with pytest.raises(ValueError, match="no labeled pixel"):
        ranker(tmp_path, target={"label_map": dict.fromkeys((0, 1, 2, 255), 255)})([candidate()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "leep"}, "by: 'leep' is none of the metrics logme, hscore"),
        ({"metrics": ("logmee",)}, "'logmee' is none of "),
        ({"metrics": ()}, "no metric asked for"),
        ({"metrics": ("logme", LogME(softmax=True))}, "two metrics are called 'logme'"),
        ({"solver": "simplex"}, "solver: 'simplex' is none of auto, exact, sinkhorn"),
        ({"map_metric": "loogme"}, "'loogme' is none of "),
        ({"map_metric": "knn"}, "map_metric: 'knn' has no map over an image of one data set"),
        ({"map_metric": "otce"}, "map_metric: 'otce' has no map over an image of one data set"),
        ({"metrics": (type("Other", (LogME,), {"name": "rank"})(),)}, "column of the ranking: 'rank' would be there"),
        ({"sampling": {"num_pixels": 2}}, "num_pixels=2 is less than a pixel for each of 3 classes"),
        ({"sampling": {"num_pixels": None, "num_repeats": 1, "strategy": "uniform"}}, "num_pixels must be a number"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_options_that_contradict_each_other(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ranker(tmp_path, **options)([candidate()])


@pytest.mark.parametrize(
    ("candidates", "metrics", "message"),
    [
        ([], ("logme",), "there is no candidate to rank"),
        ([candidate("x"), candidate("x")], ("logme",), "two candidates are called 'x'"),
        ([candidate("x")], ("logme", "leep"), "leep reads class scores: give logits_layer to candidate 'x'"),
        ([candidate("x")], ("jc_otce",), "jc_otce compares two data sets: give source to candidate 'x'"),
    ],
)
def test_candidates_that_do_not_give_what_is_read(tmp_path, candidates, metrics, message):
    with pytest.raises(ValueError, match=message):
        ranker(tmp_path, metrics=metrics)(candidates)


def test_arguments_may_be_paths(tmp_path):
    data = {"count": 2, "seed": 0}
    target = LabeledData(dataset=named("InFolder", folder=Path(tmp_path), **data), num_classes=K)
    inference = Inference(num_workers=0)
    Ranker(target=target, output=str(tmp_path / "out"), sampling=PER_CLASS, inference=inference)([candidate()])
    assert str(tmp_path) in (tmp_path / "out" / "ranking.json").read_text()


@pytest.mark.parametrize("num_workers", [2])
def test_images_may_be_decoded_by_workers(tmp_path, num_workers):
    rankings = [ranker(tmp_path / str(n), inference={"num_workers": n})([candidate()]) for n in (0, num_workers)]
    assert values(rankings[0].results[0]) == values(rankings[1].results[0])


def test_progress_names_the_candidate(tmp_path, capsys):
    ranker(tmp_path, inference={"progress": True})([candidate("first"), candidate("second")])
    out, err = capsys.readouterr()
    assert out == ""
    for title in ("labels", "first (1 of 2)", "second (2 of 2)"):
        assert f"{title}: 100%" in err
    ranker(tmp_path / "quiet")([candidate()])
    assert capsys.readouterr() == ("", "")


def assert_ranked(folder, model, layer):
    """A model of another package, whose output are class scores, has all scores."""
    given = candidate(model=model, layer=layer, logits_layer="", transform=None)
    data = {"count": 2, "sizes": [[64, 96]], "dtype": "torch.uint8"}
    [result] = ranker(folder, data, metrics=METRICS)([given]).results
    assert result.failure is None
    assert set(result.scores) == set(METRICS)


def test_ranks_a_torchvision_model(tmp_path):
    model = {"class_path": "lraspp_mobilenet_v3_large", "init_args": {"num_classes": Z}}
    assert_ranked(tmp_path, model, "backbone:high")


def test_ranks_a_model_of_transformers(tmp_path):
    pytest.importorskip("transformers")
    config = {
        "class_path": "transformers.SegformerConfig",
        "init_args": {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 8, 16, 16],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 16,
            "num_labels": Z,
        },
    }
    model = {"class_path": "transformers.SegformerForSemanticSegmentation", "init_args": {"config": config}}
    assert_ranked(tmp_path, model, "segformer")


def test_ranks_a_model_of_segmentation_models(tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    arguments = {"encoder_name": "resnet18", "encoder_weights": None, "classes": Z}
    model = {"class_path": "segmentation_models_pytorch.Unet", "init_args": arguments}
    assert_ranked(tmp_path, model, "encoder:5")


def test_results_of_another_folder_are_results(tmp_path, passes):
    """A folder may be moved."""
    first = ranker(tmp_path / "a")(CANDIDATES)
    passes.clear()
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert ranker(tmp_path / "b")(CANDIDATES) == first
    assert passes == []
