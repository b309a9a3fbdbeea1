"""Scores of folders: those of a `Scorer` by hand, on whatever the folders leave open."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_trf import FeatureFolder, Sampling, Scorer, score_folder
from torch_trf.folders import folder_sides
from torch_trf.metrics import DEFAULT_METRICS, METRICS, LogME
from torch_trf.transport import Sinkhorn

from .helpers import IGNORED, write_features

K = 8  # of road scenes
OPTIONS = {"num_classes": K, "ignore_index": IGNORED}
BOTH_SIDES = {"num_source_classes": K, **OPTIONS}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Folders of target and source."""
    paths = [tmp_path_factory.mktemp(name) for name in ("target", "source")]
    for path, shift in zip(paths, (0.5, 0.0), strict=True):
        write_features(path, shift=shift, num_images=4, height=16, width=20)
    return paths


def values(scores):
    return {name: score.values for name, score in scores.items()}


def test_is_the_scorer_by_hand(paths):
    target, source = paths
    sampling = Sampling(num_pixels=60, num_repeats=2, seed=4)
    scores = score_folder(
        FeatureFolder(target, logits="final"), source=source, metrics=tuple(METRICS), sampling=sampling, **BOTH_SIDES
    )
    scorer = Scorer(metrics=tuple(METRICS), sampling=sampling, **BOTH_SIDES)
    assert values(scores) == values(scorer(FeatureFolder(target, logits="final"), source=FeatureFolder(source)))


def test_default_metrics_of_all_pixels(paths):
    scores = score_folder(paths[0], **OPTIONS)
    assert tuple(scores) == DEFAULT_METRICS
    assert values(scores) == values(Scorer(metrics=DEFAULT_METRICS, **OPTIONS)(FeatureFolder(paths[0])))


@pytest.mark.parametrize("kind", [str, Path, FeatureFolder], ids=["text", "path", "folder"])
def test_folders_by_path(paths, kind):
    target, source = map(kind, paths)
    options = {"metrics": ("logme", "otce"), "sampling": Sampling(num_pixels=60), **BOTH_SIDES}
    expected = Scorer(**options)(FeatureFolder(paths[0]), source=FeatureFolder(paths[1]))
    assert values(score_folder(target, source=source, **options)) == values(expected)


@pytest.mark.parametrize("metrics", ["logme", LogME(), {"class_path": "logme"}, ["logme"]], ids=str)
def test_metrics_of_every_kind(paths, metrics):
    expected = Scorer(metrics="logme", **OPTIONS)(FeatureFolder(paths[0]))
    assert values(score_folder(paths[0], metrics=metrics, **OPTIONS)) == values(expected)


def test_options_are_passed_on(paths):
    target, source = paths
    options = {"sampling": Sampling(num_pixels=40), "solver": Sinkhorn(epsilon=0.05), "device": "cpu"}
    coupling = score_folder(target, source=source, metrics="otce", **options, **BOTH_SIDES)["otce"].coupling
    assert coupling.solver == "sinkhorn"
    assert coupling.epsilon.item() > 0


def test_progress_is_shown_on_request(paths, capsys):
    score_folder(paths[0], **OPTIONS)
    assert capsys.readouterr().err == ""
    score_folder(paths[0], progress=True, **OPTIONS)
    assert "target: 100%" in capsys.readouterr().err


# Class scores and sources


@pytest.mark.parametrize("metric", ["leep", "nce"])
def test_features_are_not_taken_for_class_scores(paths, metric):
    message = rf'{metric} reads the source model.s class scores: .* FeatureFolder\(path, logits="NAME"\)'
    for folder in (paths[0], FeatureFolder(paths[0])):
        with pytest.raises(ValueError, match=message):
            score_folder(folder, metrics=("logme", metric), **OPTIONS)
    assert score_folder(FeatureFolder(paths[0], logits="final"), metrics=metric, **OPTIONS)[metric].score < 0


def test_class_scores_are_read_where_a_metric_reads_them(paths, tmp_path):
    target = tmp_path / "target"
    shutil.copytree(paths[0], target)
    shutil.copytree(target / "final", target / "logits")
    folder = FeatureFolder(target, logits="logits")
    for given, subfolders in ((folder, {}), (target, {"logits": "logits"})):
        for metric, has_logits in (("leep", True), ("logme", False)):
            side, _ = folder_sides(given, None, [METRICS[metric]], ignore_index=IGNORED, **subfolders)
            assert side.folder.has_logits == has_logits
    expected = score_folder(FeatureFolder(target, logits="final"), metrics="leep", **OPTIONS)
    assert values(score_folder(folder, metrics="leep", **OPTIONS)) == values(expected)
    np.save(target / "logits" / "0.npy", np.full((12, 16, 20), np.nan, np.float32))
    with pytest.raises(ValueError, match="NaN or infinite"):
        score_folder(folder, metrics="leep", **OPTIONS)
    assert values(score_folder(folder, **OPTIONS)) == values(score_folder(paths[0], **OPTIONS))


@pytest.mark.parametrize("metric", ["otce", "jc_otce"])
def test_a_source_is_needed(paths, metric):
    with pytest.raises(ValueError, match=f"{metric} compares two data sets: give source"):
        score_folder(paths[0], metrics=("logme", metric), **BOTH_SIDES)


def test_a_source_that_no_metric_needs_is_not_read(paths, tmp_path):
    assert values(score_folder(paths[0], source=tmp_path / "none", **OPTIONS)) == values(
        score_folder(paths[0], **OPTIONS)
    )


def test_source_images_are_drawn_by_the_seed(paths):
    target, source = paths
    sampling = Sampling(num_pixels=40, seed=3)
    options = {"metrics": "otce", "sampling": sampling, **BOTH_SIDES}
    few = score_folder(target, source=source, num_source_images=2, **options)
    drawn = FeatureFolder(source).draw(2, seed=3)
    assert len(drawn) == 2
    assert values(few) == values(Scorer(**options)(FeatureFolder(target), source=drawn))
    with pytest.raises(ValueError, match="num_images must be at least 1, not 0"):
        score_folder(target, source=source, num_source_images=0, **options)


def test_sides_cannot_be_swapped_by_position(paths, annotations_unchecked):
    with pytest.raises(TypeError, match=r"score_folder\(\) takes 1 positional argument but 2 were given"):
        score_folder(*paths)


def test_misspelt_options_name_what_was_called(paths, annotations_unchecked):
    with pytest.raises(TypeError, match=r"score_folder\(\) got an unexpected keyword argument 'num_pixels'"):
        score_folder(paths[0], num_pixels=10)


def test_what_is_no_folder_is_named(annotations_unchecked):
    with pytest.raises(ValueError, match=r"^5 is not the path of a folder$"):
        score_folder(5)
    with pytest.raises(ValueError, match=r"^None is not the path of a folder$"):
        FeatureFolder(None)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none/final is not a folder"):
        score_folder(tmp_path / "none", **OPTIONS)


# Numbers of classes that are left open


def labeled_folder(path, *values):
    """A folder of an image for each list of labels."""
    generator = torch.Generator().manual_seed(0)
    for name in ("final", "label"):
        (path / name).mkdir(parents=True)
    for k, labels in enumerate(values):
        labels = np.array([labels], np.int64).repeat(3, 0)
        np.save(path / "final" / f"{k}.npy", torch.randn(2, *labels.shape, generator=generator).numpy())
        np.save(path / "label" / f"{k}.npy", labels)
    return FeatureFolder(path)


def test_classes_are_counted(tmp_path):
    folder = labeled_folder(tmp_path, [0, 1, 250], [2, 4, 0])
    options = {"target": folder, "source": None, "metrics": [METRICS["logme"]]}
    assert folder_sides(**options, ignore_index=250)[0].num_classes == 5
    assert folder_sides(**options, ignore_index=250, num_classes=9)[0].num_classes == 9
    with pytest.warns(UserWarning, match=r"has 5 different labels up to 250, taken as 251 .* otherwise num_classes$"):
        assert folder_sides(**options)[0].num_classes == 251


def test_many_labels_that_are_missing_are_told(paths):
    message = (
        rf"^{paths[0]} has \d different labels up to 250, taken as 251 classes; if 250 means 'ignore', give"
        " ignore_index, otherwise num_classes$"
    )
    with pytest.warns(UserWarning, match=message):
        scores = score_folder(paths[0], metrics="hscore")
    expected = Scorer(metrics="hscore", num_classes=251)(FeatureFolder(paths[0]))
    assert values(scores) == values(expected)


def test_counted_classes_give_the_same_scores(paths, recwarn):
    target, source = paths
    options = {"metrics": ("logme", "otce"), "sampling": Sampling(num_pixels=60), "ignore_index": IGNORED}
    counted = score_folder(target, source=source, **options)
    assert [str(warning.message) for warning in recwarn] == []
    given = score_folder(target, source=source, num_classes=K, num_source_classes=K, **options)
    assert values(counted)["otce"] == pytest.approx(values(given)["otce"], rel=1e-12)
    assert counted["logme"].score == pytest.approx(given["logme"].score, rel=1e-12)


def test_classes_of_the_source_are_told_apart(tmp_path):
    target, source = (
        labeled_folder(tmp_path / name, labels) for name, labels in (("target", [0, 1, 1]), ("source", [0, 9, 9]))
    )
    with pytest.warns(UserWarning, match=r"source has 2 different labels up to 9, .* otherwise num_source_classes$"):
        score = score_folder(target, source=source, metrics="otce", sampling=Sampling(num_pixels=9))["otce"]
    assert score.coupling.mass.shape == (1, 2, 10)


def test_a_folder_without_labels_is_told(tmp_path):
    labeled_folder(tmp_path, [250, 250])
    with pytest.raises(ValueError, match=rf"^{tmp_path}: no labeled pixel: every label is ignore_index=250"):
        score_folder(tmp_path, ignore_index=250)


def test_a_label_too_large_for_a_class_is_told_with_the_folder(tmp_path):
    labeled_folder(tmp_path, [0, 2**24 - 1])
    with pytest.raises(ValueError, match=rf"^{tmp_path}: label 16777215 is the largest, too large to be"):
        score_folder(tmp_path)
