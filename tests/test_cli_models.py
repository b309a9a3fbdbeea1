"""The commands rank and extract: what they print and write, and one line for every wrong input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from torch_trf import FeatureFolder, Scorer
from torch_trf._files import only_writer
from torch_trf.cli import main
from torch_trf.datasets import ROAD_CLASSES, RoadScenes
from torch_trf.metrics import LogME

from .helpers import IGNORED

CONFIG = Path(__file__).parent.parent / "configs" / "rank.yaml"
MODEL = {
    "class_path": "torch.nn.Conv2d",
    "init_args": {"in_channels": 3, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1},
}


@pytest.fixture
def data(tmp_path):
    """Pictures of roads, with their labels, and a checkpoint of a small model."""
    scenes = RoadScenes(num_images=4, height=32, width=48)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for k in range(4):
        image, labels = scenes[k]
        Image.fromarray(image.movedim(0, -1).numpy()).save(tmp_path / "images" / f"{k}.png")
        labels = labels.masked_fill(labels == 255, IGNORED).numpy().astype(np.uint8)
        Image.fromarray(labels).save(tmp_path / "labels" / f"{k}.png")
    torch.manual_seed(0)
    torch.save(nn.Conv2d(3, 6, 3, stride=2, padding=1).state_dict(), tmp_path / "model.pt")
    return tmp_path


def target(data):
    init_args = {"images": str(data / "images"), "labels": str(data / "labels")}
    dataset = {"class_path": "torch_trf.datasets.SegmentationFolder", "init_args": init_args}
    return {
        "dataset": dataset,
        "num_classes": len(ROAD_CLASSES),
        "ignore_index": IGNORED,
        "class_names": list(ROAD_CLASSES),
    }


def candidate(name="small", **options):
    return {"name": name, "model": MODEL, "layer": "", "logits_layer": ""} | options


def config(data, **options):
    """A configuration file; the arguments that name it."""
    settings = {"target": target(data), "output": str(data / "made"), "num_pixels": 200, "num_workers": 0} | options
    settings.setdefault("candidates", [candidate(), candidate("trained", checkpoint=str(data / "model.pt"))])
    (data / "rank.yaml").write_text(yaml.safe_dump(settings))
    return ["--config", str(data / "rank.yaml")]


def rank(data, *arguments, **options):
    return main(["rank", *config(data, **options), *arguments])


def printed_table(text):
    return [line.split() for line in text.splitlines() if re.match(r" +\d+  ", line)]


def test_rank_prints_and_writes_what_it_found(data, capsys):
    assert rank(data, metrics=["logme", "knn", "leep"], num_repeats=3) == 0
    shown = capsys.readouterr().out
    written = json.loads((data / "made" / "ranking.json").read_text())
    assert shown.splitlines()[0].split()[:4] == ["rank", "candidate", "logme", "(nats)"]
    assert re.search(r" ± +by logme +by knn +by leep +consensus$", shown.splitlines()[0])
    rows = printed_table(shown)
    ranks = [
        [str(row[f"{metric}_rank"]) for metric in ("logme", "knn", "leep", "consensus")] for row in written["ranking"]
    ]
    assert [row[4:] for row in rows] == ranks
    assert [row[:2] for row in rows] == [[str(row["rank"]), row["name"]] for row in written["ranking"]]
    assert [float(row[2]) for row in rows] == [round(row["logme"], 6) for row in written["ranking"]]
    lines = (data / "made" / "ranking.csv").read_text().splitlines()
    assert lines[0].startswith("rank,name,logme,logme_std,logme_rank,knn")
    assert len(lines) == 3
    assert "sky" in (data / "made" / "report.html").read_text()
    assert written["versions"].keys() >= {"torch", "torch_trf"}


class Spread(LogME):
    """A metric of somebody."""

    name, unit = "spread", "squares"


def test_rank_takes_metrics_with_options_and_of_somebody(data, capsys):
    logme = {"class_path": "logme", "init_args": {"absent_classes": "include"}}
    theirs = {"class_path": f"{__name__}.Spread", "init_args": {"softmax": True}}
    assert rank(data, metrics=[logme, "leep", theirs], by="spread", map_metric=theirs) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:4] == ["rank", "candidate", "spread", "(squares)"]
    [first, _] = json.loads((data / "made" / "ranking.json").read_text())["candidates"]
    assert list(first["scores"]) == ["logme", "leep", "spread"]
    settings = first["settings"]["scorer"]["metrics"]
    assert settings["logme"]["init_args"] == {"absent_classes": "include", "softmax": False}
    assert settings["spread"]["class_path"] == theirs["class_path"]
    assert "spread of a patch, squares" in (data / "made" / "report.html").read_text()


KNN = {"class_path": "knn", "init_args": {"neighbors": 3}}


@pytest.mark.parametrize("metrics", ["leep", KNN, ["logme", KNN]], ids=["name", "table", "list"])
def test_rank_takes_one_metric_or_a_list(data, metrics):
    assert rank(data, metrics=metrics) == 0
    by_file = json.loads((data / "made" / "ranking.json").read_text())
    shutil.rmtree(data / "made")
    assert rank(data, "--metrics", json.dumps(metrics)) == 0
    by_option = json.loads((data / "made" / "ranking.json").read_text())
    several = metrics if isinstance(metrics, list) else [metrics]
    names = [each if isinstance(each, str) else "knn" for each in several]
    for ranking in (by_file, by_option):
        assert [list(each["scores"]) for each in ranking["candidates"]] == [names, names]
    assert by_file["ranking"] == by_option["ranking"]


def test_rank_takes_metrics_and_solver_on_the_command_line(data, capsys):
    knn, solver = ("{class_path: knn, init_args: {neighbors: 3}}", "{class_path: sinkhorn, init_args: {epsilon: 0.1}}")
    source = target(data) | {"num_classes": len(ROAD_CLASSES)}
    candidates = [candidate(source=source)]
    options = ["--metrics", "otce", knn, f"{__name__}.Spread", "--solver", solver, "--map_metric", "nce"]
    assert rank(data, *options, "--strategy", "uniform", "--precision", "float32", candidates=candidates) == 0
    [first] = json.loads((data / "made" / "ranking.json").read_text())["candidates"]
    assert list(first["scores"]) == ["otce", "knn", "spread"]
    assert first["scores"]["otce"]["coupling"]["solver"] == "sinkhorn"
    assert first["settings"]["scorer"]["solver"]["init_args"]["epsilon"] == 0.1
    assert first["settings"]["scorer"]["metrics"]["knn"]["init_args"]["neighbors"] == 3
    assert first["settings"]["model"]["sampling"]["strategy"] == "uniform"
    assert first["map"] is not None


def test_rank_goes_on_where_it_ended_and_says_what_changed(data, capsys):
    rank(data)
    first = capsys.readouterr()
    kept = {path: path.stat().st_mtime_ns for path in (data / "made").glob("*/reading.pt")}
    assert rank(data) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "runs again" not in again.err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    torch.save(nn.Conv2d(3, 6, 3, stride=2, padding=1).state_dict(), data / "model.pt")
    assert rank(data) == 0
    assert re.search(r"note: trained: checkpoint_digest was \w+, is \w+: its model runs again", capsys.readouterr().err)


def test_a_candidate_that_fails_is_told_and_the_others_are_ranked(data, capsys):
    broken = candidate("broken", layer="nowhere")
    assert rank(data, candidates=[candidate(), broken]) == 1
    shown = capsys.readouterr()
    assert "note: broken failed and is left out: the model has no layer 'nowhere'" in shown.err
    assert "failed  broken: the model has no layer 'nowhere'" in shown.out
    assert [row[1] for row in printed_table(shown.out)] == ["small"]


def killed(data, when):
    """Runs the command in a process that kills itself at the n-th file that is put in its place."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {os.getcwd()!r})
from torch_trf import _files as files
replace, count = os.replace, 0
def killing(*names):
    global count
    count += 1
    if count == {when}:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
files.os.replace = killing
from torch_trf.cli import main
main(["rank", *{config(data)!r}])
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.parametrize("when", [1, 2, 3])
def test_killed_at_any_moment_it_ends_with_the_same_table(data, when, capsys):
    rank(data)
    expected = capsys.readouterr().out
    shutil.rmtree(data / "made")
    assert killed(data, when) == -signal.SIGKILL
    before = [path for path in (data / "made").glob("*/*") if not path.name.startswith(".")]
    assert len(before) == when - 1
    assert rank(data) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"candidates": []}, "there is no candidate to rank"),
        ({"candidates": [candidate(), candidate()]}, "two candidates are called 'small'"),
        ({"candidates": [{"name": "a", "layer": "b"}]}, "Candidate a: model is missing"),
        ({"candidates": [candidate(weights="x")]}, "Candidate small: 'weights' is none of name, model"),
        ({"candidates": [candidate(logits_layer=None)], "metrics": ["leep"]}, "give logits_layer to candidate 'small'"),
        ({"metrics": ["otce"]}, "otce compares two data sets: give source to candidate 'small'"),
        ({"metrics": ["logme"], "by": "leep"}, "by: 'leep' is none of the metrics logme"),
        ({"metrics": ["loogme"]}, "'loogme' is none of "),
        ({"metrics": "loogme"}, "'loogme' is none of "),
        ({"metrics": [{"class_path": "knn", "init_args": {"neighbors": 0}}]}, "neighbors must be at least 1, not 0"),
        ({"map_metric": "knn"}, "map_metric: 'knn' has no map over an image of one data set"),
        ({"solver": "simplex"}, "'simplex' is none of auto, exact, sinkhorn"),
        ({"strategy": "all"}, 'Parser key "strategy"'),
        ({"precision": "int8"}, 'Parser key "precision"'),
    ],
)
def test_settings_that_cannot_be_are_told_in_a_line(data, capsys, change, word):
    assert rank(data, **change) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert len(shown.splitlines()) == 1
    assert not (data / "made" / "ranking.json").exists()


def cut_off(path):
    path.write_bytes(path.read_bytes()[:60])


BAD_DATA = {
    "missing folder": (lambda data: shutil.rmtree(data / "images"), r"images is not a folder"),
    "truncated picture": (lambda data: cut_off(data / "images" / "1.png"), r"image 1: .*1\.png is not a whole picture"),
    "image without labels": (lambda data: (data / "labels" / "2.png").unlink(), r"2\.png has no labels .*labels/2\.\*"),
    "labels of colors": (
        lambda data: Image.new("RGB", (48, 32)).save(data / "labels" / "0.png"),
        r"image 0 .*: a label image of colors needs a label map",
    ),
    "other class": (
        lambda data: Image.fromarray(np.full((32, 48), 77, np.uint8)).save(data / "labels" / "3.png"),
        r"image 3 .*: label 77 on 1,536 pixels: outside \[0, 7\) and not ignore_index=250",
    ),
    "other size": (
        lambda data: Image.new("L", (24, 16)).save(data / "labels" / "3.png"),
        r"image 3 .*: an image of 32 x 48 pixels with labels on 16 x 24",
    ),
    "empty folder": (lambda data: [path.unlink() for path in (data / "images").iterdir()], r"images is empty"),
}


@pytest.mark.parametrize(("spoil", "word"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_bad_data_are_told_in_a_line(data, capsys, spoil, word):
    spoil(data)
    assert rank(data) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert re.search(f"^torch-trf: error: .*{word}", shown)


def test_a_full_disk_ends_the_command_and_leaves_whole_files(data, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert rank(data) == 2
    assert "error: [Errno 28] No space left on device" in capsys.readouterr().err
    assert not [path for path in (data / "made").rglob("[!.]*") if path.is_file()]


def test_the_example_configuration_is_read(data, capsys, monkeypatch):
    """With data and checkpoints of its own, in its places."""
    monkeypatch.chdir(data)
    settings = yaml.safe_load(CONFIG.read_text())
    places = settings["target"]["dataset"]["init_args"]
    Path("camvid").mkdir()
    for kind in ("images", "labels"):
        (data / kind).rename(places[kind])
    for path in Path(places["labels"]).iterdir():
        labels = np.array(Image.open(path))
        Image.fromarray(np.where(labels == IGNORED, 11, labels).astype(np.uint8)).save(path)
    assert main(["rank", "--config", str(CONFIG), "--output", "made", "--num_workers", "0", "--num_pixels", "300"]) == 2
    shown = capsys.readouterr()
    assert "error: every candidate failed" in shown.err
    assert "fcn failed and is left out: checkpoints/fcn.pth is not a file" in shown.err
    assert "lraspp failed and is left out" in shown.err


def extract(data, /, *arguments, **options):
    settings = {"candidate": candidate(layer="0", logits_layer="1", model=TWO), "data": target(data)} | options
    (data / "extract.yaml").write_text(yaml.safe_dump(settings | {"output": str(data / "made"), "num_workers": 0}))
    return main(["extract", "--config", str(data / "extract.yaml"), *arguments])


class Two(nn.Sequential):
    """Features at stride 2, class scores at stride 4."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 6, 2, stride=2), nn.Conv2d(6, 5, 2, stride=2))


TWO = {"class_path": "tests.test_cli_models.Two"}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_extract_writes_what_score_reads(data, capsys, dtype):
    assert extract(data, "--dtype", dtype) == 0
    assert "features of 4 images" in capsys.readouterr().out
    folder = FeatureFolder(data / "made", logits="logits")
    pixels = next(iter(folder))
    assert pixels.features.shape == (1, 6, 16, 24)
    assert pixels.logits.shape == (1, 5, 16, 24)
    assert pixels.features.dtype == getattr(torch, dtype)
    first = np.array(Image.open(data / "labels" / "0.png")).astype(np.int64)
    expected = np.where(first[1::2, 1::2] == IGNORED, 255, first[1::2, 1::2])
    assert np.array_equal(pixels.labels[0].numpy(), expected)
    score = Scorer(metrics=("logme", "leep"), num_classes=len(ROAD_CLASSES))(folder)
    assert all(np.isfinite(each.score) for each in score.values())


class OneScore(nn.Sequential):
    """The one output of a binary model."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 6, 2, stride=2), nn.Conv2d(6, 1, 1))


def test_the_one_output_of_a_binary_model_is_extracted_and_told_when_it_is_scored(data, capsys):
    model = {"class_path": "tests.test_cli_models.OneScore"}
    assert extract(data, candidate=candidate(layer="0", logits_layer="1", model=model)) == 0
    assert main(["score", "--target", str(data / "made"), "--logits", "logits", "--metrics", "leep"]) == 0
    assert "note: the class scores have one channel" in capsys.readouterr().err


def test_extract_goes_on_where_it_ended(data, capsys):
    extract(data)
    whole = {path: path.read_bytes() for path in (data / "made").rglob("*.npy")}
    (data / "made" / "final" / "2.npy").unlink()
    assert extract(data) == 0
    assert "features of 4 images" in capsys.readouterr().out  # all of a batch: an image alone is not quite one of four
    assert {path: path.read_bytes() for path in whole} == whole
    (data / "made" / "final" / "2.npy").unlink()
    assert extract(data, "--batch_size", "2") == 0
    assert "features of 2 images; 2 were there" in capsys.readouterr().out


def test_extract_writes_into_a_folder_alone(data, capsys):
    with only_writer(data / "made"):
        assert extract(data) == 2
    assert "made is being written by another process: wait for it" in capsys.readouterr().err


def test_extract_names_damaged_settings(data, capsys):
    extract(data)
    (data / "made" / "extract.json").write_text("{")
    assert extract(data) == 2
    assert "extract.json cannot be read: " in capsys.readouterr().err


def test_extract_does_not_mix_features_of_several_settings(data, capsys):
    extract(data)
    assert extract(data, "--dtype", "float16") == 2
    assert (
        "holds features of other settings, where dtype was float32, is float16: choose another"
        in capsys.readouterr().err
    )


def test_features_that_do_not_fit_into_float16_are_an_error(data, capsys):
    huge = {"class_path": "torchvision.transforms.v2.Normalize", "init_args": {"mean": [0, 0, 0], "std": [1e-6] * 3}}
    scaled = {"class_path": "torchvision.transforms.v2.ToDtype", "init_args": {"dtype": "torch.float32", "scale": True}}
    changed = candidate(layer="0", model=TWO, transform=[scaled, huge])
    assert extract(data, "--dtype", "float16", candidate=changed) == 2
    assert "image 0: 0 gives features that are not finite in float16" in capsys.readouterr().err


def test_extract_refuses_a_crop(data, capsys):
    crop = {"class_path": "torchvision.transforms.v2.CenterCrop", "init_args": {"size": 32}}
    assert extract(data, candidate=candidate(layer="0", logits_layer="1", model=TWO, transform=[crop])) == 2
    assert "error: transform CenterCrop moves images against their labels: columns 0 to 12" in capsys.readouterr().err
    assert not list((data / "made" / "final").iterdir())


def test_masks_of_which_the_foreground_is_ignored_are_told(data, capsys):
    for path in (data / "labels").iterdir():
        mask = np.where(np.array(Image.open(path)) > 1, 255, 0).astype(np.uint8)
        Image.fromarray(mask).save(path)
    masks = target(data) | {"num_classes": 2, "ignore_index": 255, "class_names": None}
    assert extract(data, data=masks) == 0
    said = r"note: all labeled pixels are of class 0, and \d+% of the pixels are ignored \(ignore_index=255\)"
    assert re.search(said, capsys.readouterr().err)
    named = masks | {"label_map": {0: 0, 255: 1}}
    shutil.rmtree(data / "made")
    assert extract(data, data=named) == 0
    assert "note" not in capsys.readouterr().err


def test_extract_notices_other_images_and_claims_nothing_before_it_can_begin(data, capsys):
    assert extract(data, candidate=candidate(layer="nowhere", model=TWO)) == 2
    assert extract(data) == 0
    shutil.copy(data / "images" / "0.png", data / "images" / "00.png")
    shutil.copy(data / "labels" / "0.png", data / "labels" / "00.png")
    assert extract(data) == 2
    assert "holds features of other settings, where images was" in capsys.readouterr().err


def test_what_is_doubtful_is_told_once_on_a_line_of_its_own(data, capsys):
    for path in (data / "images").iterdir():
        Image.fromarray(np.array(Image.open(path).convert("L")).astype(np.uint16) * 257).save(path)
    assert rank(data, candidates=[candidate(), candidate("other")]) == 0
    notes = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if "note" in line]
    of_16_bits = "images have 16 bits: they are read as numbers from 0 to 1, of which 1 is 65,535 (first in image 0)"
    assert notes == [f"torch-trf: note: {of_16_bits}"]


def test_a_failure_of_somebodys_code_is_told_in_a_line(data, capsys):
    assert rank(data, candidates=[candidate(name=50, layer="nowhere"), candidate()]) == 1
    assert "note: 50 failed and is left out: the model has no layer" in capsys.readouterr().err


BASE = {"dataset": "torch_trf.datasets.RoadScenes", "num_classes": 7}
WRONG_TYPES = [
    ({"target": BASE | {"num_classes": "eight"}}, "data set: num_classes must be int, not 'eight'"),
    ({"target": BASE | {"dataset": ["x"]}}, "data set: dataset must be str | dict[str, Any], not ['x']"),
    ({"target": BASE | {"ignore_index": None}}, "data set: ignore_index must be int, not None"),
    (
        {"target": BASE | {"label_map": [0, 1]}},
        "data set: label_map must be Mapping[int | str, int] | None, not [0, 1]",
    ),
    (
        {"target": BASE | {"class_names": "abcdefg"}},
        "data set: class_names must be Sequence[str] | None, not 'abcdefg'",
    ),
    ({"target": BASE | {"dataset": "torch.nn.ReLU"}}, "torch.nn.ReLU makes a ReLU, not a Dataset"),
    ({"target": BASE | {"dataset": "os.getcwd"}}, "os.getcwd is of Python's standard library (os)"),
    ({"candidates": [candidate(layer=None)]}, "candidate 'small': layer must be str, not None"),
    ({"candidates": [candidate(name=None)]}, "candidate None: name must be str, not None"),
    ({"candidates": [candidate(transform={"class_path": "x.Y"})]}, "candidate 'small': transform must be Sequence["),
    ({"candidates": [candidate(name="a\n/../b")]}, "candidate 'a\\n/../b': a name must be that of a folder"),
    ({"metrics": [None]}, "metric: None is neither a path nor"),
    ({"solver": {"class_path": "sinkhorn", "init_args": {"epsilon": "small"}}}, "epsilon must be float, not 'small'"),
]


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(("change", "message"), WRONG_TYPES)
def test_what_is_of_another_type_is_named(data, capsys, change, message):
    assert rank(data, **change) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("torch-trf: error: ")
    assert message in line


def test_a_configuration_runs_what_is_trusted_alone(data, capsys):
    assert rank(data, "--trusted_modules", "torchvision,tests") == 2
    assert "small failed and is left out: torch.nn.Conv2d is of torch, which is none of" in capsys.readouterr().err
    assert rank(data, "--trusted_modules", "torch") == 0
    for value in ("", "torch.nn", "[1]"):
        assert rank(data, "--trusted_modules", value) == 2
        assert "is no list of packages such as torchvision,my_models" in capsys.readouterr().err


def test_a_configuration_does_not_say_what_is_trusted(data, capsys):
    assert rank(data, trusted_modules=["torch"]) == 2
    assert "rank.yaml: trusted_modules belongs on the command line" in capsys.readouterr().err


BOMB = "\n".join(["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)])
BAD_FILES = {
    "aliases": (BOMB.encode(), r"line \d: more than 100,000 values"),
    "itself": (b"target: &a [*a]", "an alias stands for what it lies in"),
    "twice": (b"output: a\noutput: b", "line 1: 'output' stands twice in one table"),
    "deep": (b"[" * 100_000, "exceeded maximum nesting depth"),
    "binary": (b"\xff\xfe\0", "codec can't decode byte"),
    "zero": (b"output: \0", "control characters are not allowed"),
    "code": (b"output: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "number": (b"num_pixels: !!int x", "invalid literal"),
    "flag": (b"num_pixels: !!bool x", "KeyError"),
    "text": (b"output", "Unexpected config: output"),
    "empty": (b"", "Unexpected config"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named_in_a_line(tmp_path, capsys, content, message):
    (tmp_path / "bad.yaml").write_bytes(content)
    for command in ("rank", "score"):
        assert main([command, "--config", str(tmp_path / "bad.yaml")]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert re.match(rf"torch-trf: error: --config {tmp_path}/bad\.yaml: .*{message}", line)


def test_tables_on_the_command_line_are_within_bounds(data, capsys):
    assert rank(data, "--solver", BOMB) == 2
    assert "more than 100,000 values" in capsys.readouterr().err


def test_terminals_are_not_given_control_characters(data, capsys):
    broken = candidate("broken", checkpoint="no\rwhere\x1b[2J")
    assert rank(data, candidates=[candidate(), broken]) == 1
    shown = capsys.readouterr()
    assert not {"\x1b", "\r"} & set(shown.out)
    assert "\x1b" not in shown.err
    assert r"failed  broken: no where\x1b[2J is not a file" in shown.out
