"""The command line: what it prints, what it writes, and how it fails."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import torch_trf
from torch_trf.cli import main

from .helpers import IGNORED, write_features

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "rank"]  # which is of models and images
MAP_CONFIGS = [path for path in CONFIGS if path.stem.startswith("map_")]
SCORE_CONFIGS = [path for path in CONFIGS if path not in MAP_CONFIGS]
ALL = ["leep", "logme", "hscore", "regularized_hscore", "nce", "otce", "jc_otce", "knn"]

HASTY = ["--num_pixels", "60", "--solver", "sinkhorn", "--max_iterations", "1"]
OTCE_MAP = ["--metric", "otce", "--patch_size", "8", "--source", "{data}/source"]
OTCE = ["--target", "{data}/target", "--source", "{data}/source", "--metrics", "otce", "--ignore_index", "250"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A source and a target folder of three small images each; a corner of the target is not labeled."""
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("source", "target")):
        write_features(folder / name, shift=0.5 * seed, seed=seed)
    for path in (folder / "target" / "label").iterdir():
        labels = np.load(path)
        labels[:6, :9] = IGNORED
        np.save(path, labels)
    return folder


@pytest.fixture
def score(data, tmp_path):
    """Runs `torch-trf score` on the target and returns what it wrote."""

    def run(*options):
        output = tmp_path / "scores.json"
        arguments = ["--target", data / "target", "--source", data / "source", "--output", output, *options]
        assert main(["score", *map(str, arguments)]) == 0
        return json.loads(output.read_text())

    return run


@pytest.fixture
def map_target(data, tmp_path):
    """Runs `torch-trf map` on the target and returns the array that it wrote."""

    def run(*options):
        arguments = ["--target", data / "target", "--source", data / "source", "--output", tmp_path / "made", *options]
        assert main(["map", *map(str, arguments)]) == 0
        with Image.open(tmp_path / "made.png") as figure:
            assert figure.format == "PNG"
        return np.load(tmp_path / "made.npy")

    return run


@pytest.fixture
def error_line(capsys):
    """Runs the command line on wrong input and returns the one line that says what is wrong."""

    def run(*arguments):
        assert main(list(arguments)) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("torch-trf: error")]
        assert len(lines) == 1
        return lines[0]

    return run


def tensors(folder):
    """A folder as one batch."""
    images = list(torch_trf.FeatureFolder(folder))
    return torch.cat([image.features for image in images]), torch.cat([image.labels for image in images])


def test_scores_are_those_of_the_functions(data, score):
    result = score("--metrics", *ALL[:5], "--ignore_index", IGNORED)
    features, labels = tensors(data / "target")
    for name in ALL[:5]:
        expected = getattr(torch_trf, name)(features, labels, ignore_index=IGNORED).item()
        assert result["scores"][name]["score"] == pytest.approx(expected, rel=1e-10)
        assert result["scores"][name]["pixels"] == (labels != IGNORED).sum()
        assert result["scores"][name]["std"] is None
    assert result["num_classes"] == 7
    assert set(result["versions"]) == {
        "torch_trf",
        "python",
        "torch",
        "torchvision",
        "numpy",
        "POT",
        "geomloss",
        "pykeops",
    }


def test_table_and_json_tell_every_metric(score, capsys):
    options = ["--num_pixels", "100", "--num_repeats", "3", "--sampling", "per_class"]
    result = score("--metrics", *ALL, "--ignore_index", IGNORED, *options)
    lines = capsys.readouterr().out.splitlines()
    for name in ALL:
        row = next(line.split() for line in lines if line.startswith(f"{name} "))
        found = result["scores"][name]
        assert float(row[1]) == pytest.approx(found["score"], abs=1e-6)
        assert float(row[2]) == pytest.approx(found["std"], abs=1e-6)
        assert len(found["repeats"]) == 3
        assert found["pixels"] <= 100
        assert found["seconds"] > 0
    assert result["settings"]["sampling"] == "per_class"
    assert result["settings"]["num_repeats"] == 3


def test_yaml_and_options_say_the_same(score, tmp_path):
    config = tmp_path / "own.yaml"
    settings = {"metrics": ["hscore", "logme"], "softmax": ["hscore"], "ignore_index": IGNORED, "num_pixels": 50}
    config.write_text(yaml.safe_dump(settings))
    by_file = score("--config", config)["scores"]
    by_option = score(
        *("--metrics", "hscore", "logme", "--softmax", "hscore", "--ignore_index", IGNORED, "--num_pixels", 50)
    )["scores"]
    assert {name: by_file[name]["score"] for name in by_file} == {name: by_option[name]["score"] for name in by_option}


@pytest.mark.parametrize("config", SCORE_CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(score, config):
    metrics = ["--metrics", "leep", "logme", "hscore", "otce"] if config.stem == "published" else []
    result = score("--config", config, *metrics)
    assert set(result["scores"]) == ({"leep", "logme", "hscore", "otce"} if metrics else {config.stem})


def test_published_conventions(data, score):
    published = FOLDER / "published.yaml"
    result = score("--config", published, "--metrics", "leep", "logme", "hscore", "otce")["scores"]
    features, labels = tensors(data / "target")
    source = tensors(data / "source")
    options = {"ignore_index": IGNORED}
    expected = {
        "leep": torch_trf.leep(features, labels, **options),
        "logme": torch_trf.logme(features, labels, absent_classes="include", **options),
        "hscore": torch_trf.hscore(features.double().softmax(1), labels, rcond=1e-5, **options),
        "otce": torch_trf.otce(*source, features, labels, **options),
    }
    for name, value in expected.items():
        assert result[name]["score"] == pytest.approx(value.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "required: score.target"),
        (["--target", "{data}/none"], "is not a folder"),
        (["--target", "{data}/target", "--metrics", "leap"], "leap"),
        (["--target", "{data}/target", "--metrics", "otce"], "give --source DIR"),
        (["--target", "{data}/target", "--num_classes", "5"], "outside [0, 5) and not ignore_index=255"),
        (["--target", "{data}/target", "--num_repeats", "3"], "need num_pixels"),
        (["--target", "{data}/target", "--device", "cuda:99"], "cuda:99"),
        (["--target", "{data}/target", "--output", "{data}/none/scores.json"], "cannot be written"),
        (["--target", "{data}/target", "--config", "{data}/none.yaml"], "none.yaml"),
        (["--target", "{data}/target", "--output", "{data}"], "cannot be written"),
        ([*OTCE, "--num_source_images", "0"], "num_images must be at least 1"),
        ([*OTCE, "--solver", "simplex"], "simplex"),
        ([*OTCE, "--tolerance", "0"], "tolerance must be above 0 and finite, not 0.0"),
        ([*OTCE, *HASTY, "--strict", "true"], "did not converge: after 1 Sinkhorn iterations"),
        (["--target", "{data}/broken"], "0.npy is not a whole .npy array"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*different labels")
def test_wrong_input_is_one_line_and_exit_code_2(data, error_line, options, word):
    for name in ("final", "label"):
        (data / "broken" / name).mkdir(parents=True, exist_ok=True)
        (data / "broken" / name / "0.npy").touch()
    assert word in error_line("score", *(option.format(data=data) for option in options))


@pytest.mark.parametrize("scale", ["identity", "exp"])
@pytest.mark.parametrize("pool", ["dataset", "image"])
def test_map_is_that_of_the_function(data, map_target, pool, scale):
    options = {"patch_size": 6, "stride": 3, "pool": pool, "ignore_index": IGNORED}
    arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
    found = map_target("--metric", "leep", "--scale", scale, *arguments)
    expected = torch_trf.transferability_map("leep", *tensors(data / "target"), **options)
    expected = expected.exp() if scale == "exp" else expected
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.values, rtol=1e-6)


@pytest.mark.parametrize("config", MAP_CONFIGS, ids=lambda path: path.stem)
def test_map_configs_keep_the_published_conventions(data, map_target, config):
    (features, labels), source = tensors(data / "target"), tensors(data / "source")
    found = map_target("--config", config)
    metric = config.stem.removeprefix("map_")
    expected = np.zeros(found.shape)
    for i, j in np.ndindex(*found.shape):
        patch = (slice(None), ..., slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))
        y = labels[patch]
        if (y != IGNORED).sum() >= 5:
            more = {"absent_classes": "include"} if metric == "logme" else {}
            same_place = [tensor[patch] for tensor in source] if metric == "otce" else []
            if same_place and (same_place[1] != IGNORED).sum() < 5:
                continue
            score = getattr(torch_trf, metric)(*same_place, features[patch], y, ignore_index=IGNORED, **more)
            expected[i, j] = score.exp() if metric == "leep" else score
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (found == 0).any()


def trust(printed, name):
    """The line that says how far the couplings of a metric can be trusted."""
    (line,) = (line for line in printed.splitlines() if line.startswith(f"{name} coupled "))
    return line


def test_coupled_scores_take_the_options_of_the_solver_and_say_how_far_they_can_be_trusted(score, capsys):
    options = ["--metrics", "leep", "otce", "jc_otce", "--ignore_index", IGNORED, "--num_pixels", 60]
    exact = score(*options)["scores"]
    assert exact["leep"]["coupling"] is None
    assert exact["otce"]["coupling"]["solver"] == "exact"
    assert trust(capsys.readouterr().out, "otce").startswith("otce coupled exactly: marginals within")
    solver = ["--solver", "sinkhorn", "--epsilon", 20, "--relative_epsilon", "false", "--tolerance", 1e-5]
    result = score(*options, *solver, "--max_iterations", 5000)
    settings = {"solver": "sinkhorn", "epsilon": 20.0, "relative_epsilon": False, "tolerance": 1e-5}
    settings |= {"max_iterations": 5000, "strict": False}
    assert settings.items() <= result["settings"].items()
    printed = capsys.readouterr()
    assert "note" not in printed.err
    for name in ("otce", "jc_otce"):
        coupling = result["scores"][name]["coupling"]
        assert coupling["epsilon"] == pytest.approx([20.0])
        assert coupling["converged"] == [True]
        assert 0 < coupling["iterations"][0] <= 5000
        assert coupling["cost"][0] > exact[name]["coupling"]["cost"][0]
        line = trust(printed.out, name)
        assert f"sinkhorn (epsilon 20, up to {coupling['iterations'][0]:,} iterations)" in line
        assert f"marginals within {coupling['marginal_error'][0]:.1e}, cost {coupling['cost'][0]:.6g}" in line
        assert f"at most {coupling['duality_gap'][0]:.3g} above the least" in line


def test_couplings_that_did_not_converge_are_noted(score, capsys):
    result = score("--metrics", "otce", "--ignore_index", IGNORED, *HASTY)
    assert result["scores"]["otce"]["coupling"]["converged"] == [False]
    notes = [line for line in capsys.readouterr().err.splitlines() if "torch-trf: note" in line]
    assert len(notes) == 1
    assert "the coupling did not converge: after 1 Sinkhorn iterations at epsilon = 0.005 of the mean cost" in notes[0]


@pytest.mark.parametrize(("metric", "solver"), [("otce", "exact"), ("jc_otce", "exact"), ("otce", "sinkhorn")])
def test_coupled_map_is_that_of_the_function(data, map_target, metric, solver, capsys):
    options = {"patch_size": 12, "ignore_index": IGNORED, "solver": solver, "epsilon": 0.05}
    found = map_target("--metric", metric, *(word for key, value in options.items() for word in (f"--{key}", value)))
    target, source = tensors(data / "target"), tensors(data / "source")
    made = torch_trf.transferability_map(metric, *target, *source, **options)
    np.testing.assert_allclose(found, made.values, rtol=1e-6)
    printed = capsys.readouterr().out
    for name in ("target", "source"):
        assert f"{name}  {data / name}: 3 images, 7 classes" in printed
    assert f"{made.valid.sum()} of {found.size} patches valid" in printed
    line = trust(printed, metric)
    assert f"coupled {'exactly' if solver == 'exact' else 'by sinkhorn'}" in line
    assert f"marginals within {made.coupling.marginal_error.max():.1e}" in line
    assert (f"up to {made.coupling.iterations.max():,} iterations" in line) == (solver == "sinkhorn")


def test_patches_that_cost_nothing_are_not_above_the_least(data, map_target, capsys):
    options = ["--metric", "otce", "--patch_size", 8, "--ignore_index", IGNORED, "--source", data / "target"]
    assert np.nanmax(abs(map_target(*options))) < 1e-15
    line = trust(capsys.readouterr().out, "otce")
    assert float(line.split("at most ")[1].split()[0]) < 1e-9


def test_map_is_drawn_over_pictures_and_told(map_target, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        Image.new("RGB", (64, 48), (0, 80 * k, 0)).save(tmp_path / "pictures" / f"{k}.png")
    options = ["--metric", "logme", "--patch_size", 4, "--ignore_index", IGNORED]
    found = map_target(*options, "--images", tmp_path / "pictures")
    printed = capsys.readouterr().out
    assert f"{np.isfinite(found).sum()} of {found.size} patches valid" in printed
    assert f"mean {np.nanmean(found):.4f}"[:-1] in printed
    assert "nats; higher is better" in printed


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--metric", "leap", "--patch_size", "4"], "leap"),
        (["--metric", "knn", "--patch_size", "4"], "knn"),
        (["--metric", "otce", "--patch_size", "4"], "otce compares two data sets: give --source DIR"),
        (["--metric", "jc_otce", "--patch_size", "4"], "jc_otce compares two data sets: give --source DIR"),
        ([*OTCE_MAP, "--epsilon", "0"], "epsilon must be above 0 and finite, not 0.0"),
        ([*OTCE_MAP, "--num_source_classes", "5"], "outside [0, 5)"),
        ([*OTCE_MAP, "--solver", "sinkhorn", "--max_iterations", "1", "--strict", "true"], "did not converge"),
        (["--metric", "leep", "--patch_size", "25"], "25 x 25 pixels does not fit into 24 x 32"),
        (["--metric", "leep", "--patch_size", "4", "--stride", "0"], "stride must be at least 1"),
        (["--metric", "leep", "--patch_size", "4", "--softmax", "true"], "leave out softmax"),
        (["--metric", "leep", "--patch_size", "4", "--images", "{data}/none"], "is not a folder"),
        (["--metric", "leep", "--patch_size", "4", "--images", "{data}/source/final"], "is not a picture"),
        (["--metric", "leep", "--patch_size", "4", "--images", "{data}/pictures"], "do not have the same proportions"),
        (
            ["--metric", "logme", "--patch_size", "4", "--scale", "exp"],
            "--scale exp is for leep and nce, not for logme",
        ),
        (["--metric", "leep", "--patch_size", "4", "--num_classes", "5"], "outside [0, 5)"),
        (["--metric", "leep", "--patch_size", "4", "--output", "{data}/none/made"], "cannot be written"),
    ],
)
def test_wrong_maps_are_one_line_and_leave_nothing(data, tmp_path, error_line, options, word):
    (data / "pictures").mkdir(exist_ok=True)
    for k in range(3):
        Image.new("RGB", (50, 50)).save(data / "pictures" / f"{k}.png")
    common = ["--target", "{data}/target", "--ignore_index", str(IGNORED), "--output", str(tmp_path / "made")]
    assert word in error_line("map", *(option.format(data=data) for option in (*common, *options)))
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_error(data):
    with pytest.raises(ValueError, match="is not a folder"):
        main(["score", "--target", str(data / "none"), "--debug"])


def test_labels_that_look_like_an_ignore_index_are_noticed(data, capsys):
    assert main(["score", "--target", str(data / "target"), "--metrics", "logme"]) == 0
    assert "if 250 means 'ignore', give --ignore_index 250" in capsys.readouterr().err


def test_failed_write_leaves_the_old_file(score, tmp_path, monkeypatch):
    before = score("--metrics", "logme", "--ignore_index", IGNORED)
    monkeypatch.setattr("torch_trf._files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(AssertionError):
        score("--metrics", "nce", "--ignore_index", IGNORED)
    assert json.loads((tmp_path / "scores.json").read_text()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_runs_as_module(data):
    command = [sys.executable, "-m", "torch_trf", "score", "--target", str(data / "target"), "--ignore_index", "250"]
    done = subprocess.run([*command, "--metrics", "logme"], capture_output=True, text=True, check=True)
    assert "logme" in done.stdout


def test_an_interruption_is_told_in_a_line(data, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch_trf.FeatureFolder, "__iter__", interrupted)
    assert main(["score", "--target", str(data / "target"), "--num_classes", "7", "--ignore_index", "250"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "torch-trf: interrupted"
