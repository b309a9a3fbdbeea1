"""The command line: what it prints, what it writes, and how it fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import torch_trf
from torch_trf._errors import in_a_line
from torch_trf.cli import main
from torch_trf.metrics import DEFAULT_METRICS, KNN, LEEP, METRICS, OTCE, HScore, LogME
from torch_trf.transport import Sinkhorn

from .helpers import IGNORED, write_features

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "rank"]  # which is of models and images
MAP_CONFIGS = [path for path in CONFIGS if path.stem.startswith("map_")]
SCORE_CONFIGS = [path for path in CONFIGS if path not in MAP_CONFIGS]
OF_ONE_DATA_SET = ["leep", "logme", "hscore", "regularized_hscore", "nce"]
LOGITS = ["--logits", "final"]
PUBLISHED = {
    "leep": LEEP(),
    "logme": LogME(absent_classes="include"),
    "hscore": HScore(softmax=True, rcond=1e-5),
    "otce": OTCE(),
}


def table(name, **options):
    """A metric or a solver with options, as the command line takes it."""
    return yaml.safe_dump({"class_path": name, "init_args": options}, default_flow_style=True)


HASTY = ["--solver", table("sinkhorn", max_iterations=1)]
STRICT = ["--solver", table("sinkhorn", max_iterations=1, strict=True)]
OTCE_MAP = ["--metric", "otce", "--patch_size", "8", "--source", "{data}/source"]
OTCE_SCORE = ["--target", "{data}/target", "--source", "{data}/source", "--metrics", "otce", "--ignore_index", "250"]


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
        arguments = ["--target", data / "target", "--source", data / "source", "--output", tmp_path / "map", *options]
        assert main(["map", *map(str, arguments)]) == 0
        with Image.open(tmp_path / "map.png") as figure:
            assert figure.format == "PNG"
        return np.load(tmp_path / "map.npy")

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
    result = score("--metrics", *OF_ONE_DATA_SET, *LOGITS, "--ignore_index", IGNORED)
    features, labels = tensors(data / "target")
    for name in OF_ONE_DATA_SET:
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


@pytest.mark.slow
def test_scores_are_those_of_the_function_in_python(data, score):
    sampling = torch_trf.Sampling(num_pixels=200, num_repeats=2, strategy="boundary", boundary_radius=2, seed=3)
    options = ["--num_pixels", 200, "--num_repeats", 2, "--strategy", "boundary", "--boundary_radius", 2, "--seed", 3]
    result = score("--metrics", *METRICS, *LOGITS, *options, "--ignore_index", IGNORED, "--num_source_images", 2)
    expected = torch_trf.score_folder(
        torch_trf.FeatureFolder(data / "target", logits="final"),
        source=data / "source",
        metrics=list(METRICS),
        num_source_images=2,
        ignore_index=IGNORED,
        sampling=sampling,
    )
    assert {name: torch_trf.Score.from_json(each).values for name, each in result["scores"].items()} == {
        name: each.values for name, each in expected.items()
    }


def test_default_metrics_need_neither_class_scores_nor_a_source(score):
    assert tuple(score("--ignore_index", IGNORED)["scores"]) == DEFAULT_METRICS


def test_class_scores_have_a_subfolder_of_their_own(data, score):
    logits = torch.randn(3, 9, 24, 32, generator=torch.Generator().manual_seed(0))
    (data / "target" / "other").mkdir()
    for k, of_image in enumerate(logits):
        np.save(data / "target" / "other" / f"{k}.npy", of_image.numpy())
    result = score("--metrics", "leep", "--logits", "other", "--ignore_index", IGNORED)
    expected = torch_trf.leep(logits, tensors(data / "target")[1], ignore_index=IGNORED).item()
    assert result["scores"]["leep"]["score"] == pytest.approx(expected, rel=1e-10)


def test_class_scores_that_no_metric_reads_need_not_be_there(score):
    assert score("--metrics", "logme", "otce", "--logits", "none", "--num_pixels", 60, "--ignore_index", IGNORED)


def test_table_and_json_tell_every_metric(score, capsys):
    options = ["--num_pixels", "100", "--num_repeats", "3", "--strategy", "per_class", *LOGITS]
    result = score("--metrics", *METRICS, "--ignore_index", IGNORED, *options)
    lines = capsys.readouterr().out.splitlines()
    for name, metric in METRICS.items():
        row = next(line.split() for line in lines if line.startswith(f"{name} "))
        each = result["scores"][name]
        assert float(row[1]) == pytest.approx(each["score"], abs=1e-6)
        assert float(row[2]) == pytest.approx(each["std"], abs=1e-6)
        assert row[3] == each["unit"] == metric.unit
        assert len(each["values"]) == 3
        assert each["pixels"] <= 100
    assert f"scored in {result['seconds']:.1f} s" in lines
    assert result["settings"]["strategy"] == "per_class"
    assert result["settings"]["num_repeats"] == 3


def test_yaml_and_options_say_the_same(score, tmp_path):
    config = tmp_path / "own.yaml"
    softmax, solver = table("hscore", softmax=True), "{class_path: sinkhorn, init_args: {epsilon: 1e-2}}"
    config.write_text(
        f"metrics: [otce, {softmax}]\nsolver: {solver}\nignore_index: {IGNORED}\nnum_pixels: 50\nstrategy: boundary\n"
    )
    by_file = score("--config", config)
    by_option = score(
        *("--metrics", "otce", softmax, "--solver", solver, "--ignore_index", IGNORED),
        *("--num_pixels", 50, "--strategy", "boundary"),
    )
    assert by_file["scores"] == by_option["scores"]
    assert by_file["settings"] == by_option["settings"]
    assert by_file["settings"]["solver"]["init_args"] == {"epsilon": 0.01}
    assert by_file["settings"]["metrics"] == ["otce", yaml.safe_load(softmax)]


SOFTMAX = {"class_path": "hscore", "init_args": {"softmax": True}}
WAYS = {  # to name metrics: in YAML, on the command line, and what that means
    "a name": ("logme", ["logme"], ["logme"]),
    "a table": (SOFTMAX, [json.dumps(SOFTMAX)], [SOFTMAX]),
    "a list of one": (["logme"], ["[logme]"], ["logme"]),
    "a list of several": (["logme", SOFTMAX], ["[logme, {class_path: hscore, init_args: {softmax: true}}]"], None),
    "several": (["logme", SOFTMAX], ["logme", json.dumps(SOFTMAX)], None),
}


@pytest.mark.parametrize(("in_yaml", "options", "metrics"), WAYS.values(), ids=WAYS)
def test_metrics_are_named_in_several_ways(data, score, tmp_path, in_yaml, options, metrics):
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump({"metrics": in_yaml, "ignore_index": IGNORED}))
    by_file, by_option = score("--config", config), score("--metrics", *options, "--ignore_index", IGNORED)
    expected = torch_trf.score_folder(data / "target", metrics=metrics or in_yaml, ignore_index=IGNORED)
    for result in (by_file, by_option):
        assert {name: each["score"] for name, each in result["scores"].items()} == {
            name: each.score for name, each in expected.items()
        }
        assert result["settings"]["metrics"] == (metrics or in_yaml)


@pytest.mark.parametrize(
    ("in_yaml", "word"),
    [
        ("leap", "'leap' is none of "),
        ("[logme, leap]", "'leap' is none of "),
        ("{class_path: leap}", "'leap' is none of "),
        ("[]", "no metric asked for"),
        ("3", "3 is neither a path nor"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_metrics_that_are_none_are_one_line(data, error_line, tmp_path, in_yaml, word):
    config, target = tmp_path / "own.yaml", ["--target", str(data / "target")]
    config.write_text(f"metrics: {in_yaml}\n")
    assert word in error_line("score", *target, "--config", str(config))
    assert word in error_line("score", *target, "--metrics", in_yaml)


def test_a_list_that_does_not_end_is_one_line(data, error_line):
    assert "'[logme' is not YAML: " in error_line("score", "--target", str(data / "target"), "--metrics", "[logme")


def test_a_metric_goes_by_the_path_of_its_class(data, score):
    path = "torch_trf.metrics.KNN"
    result = score("--metrics", table(path, neighbors=3), "--num_pixels", 90, "--ignore_index", IGNORED)
    expected = torch_trf.score_folder(
        data / "target", metrics=KNN(neighbors=3), ignore_index=IGNORED, sampling=torch_trf.Sampling(num_pixels=90)
    )
    assert result["scores"]["knn"]["score"] == expected["knn"].score
    assert result["settings"]["metrics"] == [{"class_path": path, "init_args": {"neighbors": 3}}]


@pytest.mark.slow
@pytest.mark.parametrize("config", SCORE_CONFIGS, ids=lambda path: path.stem)
def test_score_configs_keep_the_published_conventions(data, score, config):
    result = score("--config", config)
    assert set(result["scores"]) == ({"leep", "logme", "hscore"} if config.stem == "published" else {config.stem})
    target, source = tensors(data / "target"), tensors(data / "source")
    for name, each in result["scores"].items():
        metric = PUBLISHED[name]
        sides = {"source": source} if metric.needs_source else {}
        assert each["score"] == pytest.approx(metric(*target, **sides, ignore_index=IGNORED).item(), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "required: score.target"),
        (["--target", "{data}/none"], "is not a folder"),
        (["--target", "{data}/target", "--metrics", "leap"], "'leap' is none of"),
        (
            ["--target", "{data}/target", "--metrics", "logme", "leep"],
            "leep reads the source model's class scores: say in which subfolder they are, by --logits NAME",
        ),
        (["--target", "{data}/target", "--metrics", "nce", "--logits", "none"], "none is not a folder"),
        (["--target", "{data}/target", "--metrics", "nce", "nce", *LOGITS], "two metrics are called 'nce'"),
        (["--target", "{data}/target", "--metrics", table("logme", absent=1)], "'absent'"),
        (["--target", "{data}/target", "--metrics", "otce"], "give source, or --source DIR"),
        (["--target", "{data}/target", "--num_classes", "5"], "outside [0, 5) and not ignore_index=255"),
        (["--target", "{data}/target", "--num_repeats", "3"], "need num_pixels"),
        (["--target", "{data}/target", "--device", "cuda:99"], "cuda:99"),
        (["--target", "{data}/target", "--output", "{data}/none/scores.json"], "cannot be written"),
        (["--target", "{data}/target", "--config", "{data}/none.yaml"], "none.yaml"),
        (["--target", "{data}/target", "--output", "{data}"], "cannot be written"),
        ([*OTCE_SCORE, "--num_source_images", "0"], "num_images must be at least 1"),
        ([*OTCE_SCORE, "--solver", "simplex"], "solver: 'simplex' is none of auto, exact, sinkhorn"),
        ([*OTCE_SCORE, "--solver", table("sinkhorn", tolerance=0.0)], "tolerance must be above 0 and finite, not 0.0"),
        ([*OTCE_SCORE, "--num_pixels", "60", *STRICT], "did not converge: after 1 Sinkhorn iterations"),
        (["--target", "{data}/broken"], "0.npy is not a whole .npy array"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*different labels")
def test_wrong_input_is_one_line_and_exit_code_2(data, error_line, options, word):
    for name in ("final", "label"):
        (data / "broken" / name).mkdir(parents=True, exist_ok=True)
        (data / "broken" / name / "0.npy").touch()
    assert word in error_line("score", *(option.replace("{data}", str(data)) for option in options))


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["identity", "exp"])
@pytest.mark.parametrize("pool", ["dataset", "image"])
@pytest.mark.parametrize("first_look", ["dataset", "patch"])
def test_map_is_that_of_the_function(data, map_target, pool, scale, first_look, capsys):
    options = {"patch_size": 6, "stride": 3, "pool": pool, "first_look": first_look, "ignore_index": IGNORED}
    arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
    values = map_target("--metric", "leep", *LOGITS, "--scale", scale, *arguments)
    expected = torch_trf.transferability_map("leep", *tensors(data / "target"), features_are_logits=True, **options)
    expected = expected.exp() if scale == "exp" else expected
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected.values, rtol=1e-6)
    assert f"\n{expected.name}  mean " in capsys.readouterr().out


def test_a_mapped_metric_takes_options(data, map_target):
    options = {"patch_size": 6, "ignore_index": IGNORED}
    values = map_target("--metric", table("hscore", softmax=True), "--patch_size", 6, "--ignore_index", IGNORED)
    expected = torch_trf.transferability_map(HScore(softmax=True), *tensors(data / "target"), **options)
    np.testing.assert_allclose(values, expected.values, rtol=1e-6, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("config", MAP_CONFIGS, ids=lambda path: path.stem)
def test_map_configs_keep_the_published_conventions(data, map_target, config):
    (features, labels), source = tensors(data / "target"), tensors(data / "source")
    values = map_target("--config", config)
    metric = PUBLISHED[config.stem.removeprefix("map_")]
    expected = np.zeros(values.shape)
    for i, j in np.ndindex(*values.shape):
        patch = (slice(None), ..., slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))
        sides = {"source": tuple(tensor[patch] for tensor in source)} if metric.needs_source else {}
        if min((y[patch] != IGNORED).sum() for y in (labels, source[1] if sides else labels)) >= 5:
            score = metric(features[patch], labels[patch], **sides, ignore_index=IGNORED)
            expected[i, j] = score.exp() if metric.is_log_likelihood else score
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert (values == 0).any()


def trust(printed, name):
    """The line that says how far the couplings of a metric can be trusted."""
    (line,) = (line for line in printed.splitlines() if line.startswith(f"{name} coupled "))
    return line


@pytest.mark.slow
def test_coupled_scores_take_a_solver_and_say_how_far_they_can_be_trusted(score, capsys):
    options = ["--metrics", "leep", "otce", "jc_otce", *LOGITS, "--ignore_index", IGNORED, "--num_pixels", 60]
    exact = score(*options)["scores"]
    assert exact["leep"]["coupling"] is None
    assert exact["otce"]["coupling"]["solver"] == "exact"
    assert trust(capsys.readouterr().out, "otce").startswith("otce coupled exactly: marginals within")
    solver = {"epsilon": 20.0, "relative_epsilon": False, "tolerance": 1e-5, "max_iterations": 5000}
    result = score(*options, "--solver", table("sinkhorn", **solver))
    assert result["settings"]["solver"] == {"class_path": "sinkhorn", "init_args": solver}
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
    result = score("--metrics", "otce", "--ignore_index", IGNORED, "--num_pixels", 60, *HASTY)
    assert result["scores"]["otce"]["coupling"]["converged"] == [False]
    printed = capsys.readouterr()
    notes = [line for line in printed.err.splitlines() if "torch-trf: note" in line]
    assert len(notes) == 1
    assert "the coupling did not converge: after 1 Sinkhorn iterations at epsilon = 0.005 of the mean cost" in notes[0]
    assert trust(printed.out, "otce").endswith("; NOT CONVERGED")


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "solver"), [("otce", "exact"), ("jc_otce", "exact"), ("otce", "sinkhorn")])
def test_coupled_map_is_that_of_the_function(data, map_target, metric, solver, capsys):
    options = {"patch_size": 12, "ignore_index": IGNORED}
    chosen = table("sinkhorn", epsilon=0.05) if solver == "sinkhorn" else solver
    values = map_target("--metric", metric, "--patch_size", 12, "--ignore_index", IGNORED, "--solver", chosen)
    target, source = tensors(data / "target"), tensors(data / "source")
    options |= {"source": source, "solver": Sinkhorn(epsilon=0.05) if solver == "sinkhorn" else solver}
    expected = torch_trf.transferability_map(metric, *target, **options)
    np.testing.assert_allclose(values, expected.values, rtol=1e-6)
    printed = capsys.readouterr().out
    for name in ("target", "source"):
        assert f"{name}  {data / name}: 3 images, 7 classes" in printed
    assert f"{expected.valid.sum()} of {values.size} patches valid" in printed
    line = trust(printed, metric)
    assert f"coupled {'exactly' if solver == 'exact' else 'by sinkhorn'}" in line
    assert f"marginals within {expected.coupling.marginal_error.max():.1e}" in line
    assert (f"up to {expected.coupling.iterations.max():,} iterations" in line) == (solver == "sinkhorn")


def test_patches_that_cost_nothing_are_not_above_the_least(data, map_target, capsys):
    options = ["--metric", "otce", "--patch_size", 8, "--ignore_index", IGNORED, "--source", data / "target"]
    assert np.nanmax(abs(map_target(*options))) < 1e-15
    line = trust(capsys.readouterr().out, "otce")
    assert float(line.split("at most ")[1].split()[0]) < 1e-9


def test_map_is_drawn_over_pictures_and_summed_up(map_target, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        Image.new("RGB", (64, 48), (0, 80 * k, 0)).save(tmp_path / "pictures" / f"{k}.png")
    options = ["--metric", "logme", "--patch_size", 4, "--ignore_index", IGNORED]
    values = map_target(*options, "--images", tmp_path / "pictures")
    printed = capsys.readouterr().out
    assert f"{np.isfinite(values).sum()} of {values.size} patches valid" in printed
    assert f"mean {np.nanmean(values):.4f}"[:-1] in printed
    assert "nats; higher is better" in printed


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--metric", "leap", "--patch_size", "4"], "'leap' is none of"),
        (["--metric", "knn", "--patch_size", "4"], "'knn' has no map"),
        (
            ["--metric", "leep", "--patch_size", "4"],
            "leep reads the source model's class scores: say in which subfolder",
        ),
        (["--metric", "otce", "--patch_size", "4"], "otce compares two data sets: give source, or --source DIR"),
        (["--metric", "jc_otce", "--patch_size", "4"], "jc_otce compares two data sets: give source, or --source DIR"),
        ([*OTCE_MAP, "--solver", table("sinkhorn", epsilon=0.0)], "epsilon must be above 0 and finite, not 0.0"),
        ([*OTCE_MAP, "--num_source_classes", "5"], "outside [0, 5)"),
        ([*OTCE_MAP, *STRICT], "did not converge"),
        (["--metric", "logme", "--patch_size", "25"], "25 x 25 pixels does not fit into 24 x 32"),
        (["--metric", "logme", "--patch_size", "4", "--stride", "0"], "stride must be at least 1"),
        (["--metric", "logme", "--patch_size", "4", "--first_look", "image"], "first_look"),
        (["--metric", table("leep", softmax=True), "--patch_size", "4"], "'softmax'"),
        (["--metric", "logme", "--patch_size", "4", "--images", "{data}/none"], "is not a folder"),
        (["--metric", "logme", "--patch_size", "4", "--images", "{data}/source/final"], "is not a picture"),
        (["--metric", "logme", "--patch_size", "4", "--images", "{data}/pictures"], "do not have the same proportions"),
        (
            ["--metric", "logme", "--patch_size", "4", "--scale", "exp"],
            "--scale exp is for leep and nce, not for logme",
        ),
        (["--metric", "leep", *LOGITS, "--patch_size", "4", "--num_classes", "5"], "outside [0, 5)"),
        (["--metric", "leep", "--patch_size", "4", "--output", "{data}/none/map"], "cannot be written"),
    ],
)
def test_wrong_maps_are_one_line_and_leave_nothing(data, tmp_path, error_line, options, word):
    (data / "pictures").mkdir(exist_ok=True)
    for k in range(3):
        Image.new("RGB", (50, 50)).save(data / "pictures" / f"{k}.png")
    common = ["--target", "{data}/target", "--ignore_index", str(IGNORED), "--output", str(tmp_path / "map")]
    assert word in error_line("map", *(option.replace("{data}", str(data)) for option in (*common, *options)))
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_error(data):
    with pytest.raises(ValueError, match="is not a folder"):
        main(["score", "--target", str(data / "none"), "--debug"])


def test_labels_that_look_like_an_ignore_index_are_noticed(data, capsys):
    assert main(["score", "--target", str(data / "target"), "--metrics", "logme"]) == 0
    assert "if 250 means 'ignore', give ignore_index, otherwise num_classes" in capsys.readouterr().err


def test_failed_write_leaves_the_old_file(score, tmp_path, monkeypatch):
    before = score("--metrics", "logme", "--ignore_index", IGNORED)
    monkeypatch.setattr("torch_trf._files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(AssertionError):
        score("--metrics", "hscore", "--ignore_index", IGNORED)
    assert json.loads((tmp_path / "scores.json").read_text()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.slow
def test_what_nobody_reads_is_written_all_the_same(data, tmp_path, monkeypatch, error_line):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch_trf.cli._folders.say", full)
    output = tmp_path / "scores.json"
    options = ["score", "--target", str(data / "target"), "--metrics", "hscore", "--output", str(output)]
    assert "No space left on device" in error_line(*options)
    assert "hscore" in json.loads(output.read_text())["scores"]


def test_runs_as_module(data):
    command = [sys.executable, "-m", "torch_trf", "score", "--target", str(data / "target"), "--ignore_index", "250"]
    done = subprocess.run([*command, "--metrics", "logme"], capture_output=True, text=True, check=True)
    assert "logme" in done.stdout


def test_an_interruption_is_one_line(data, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch_trf.FeatureFolder, "__iter__", interrupted)
    assert main(["score", "--target", str(data / "target"), "--num_classes", "7", "--ignore_index", "250"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "torch-trf: interrupted"


@pytest.mark.slow
def test_an_ascii_terminal_costs_no_scores(data, tmp_path):
    options = ["--target", str(data / "target"), "--ignore_index", "250", "--output", str(tmp_path / "é.json")]
    command = [sys.executable, "-m", "torch_trf", "score", *options]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=True)
    assert rb"score  \xb1" in done.stdout
    assert (tmp_path / "é.json").exists()


def test_an_error_of_the_allocator_is_a_line():
    frames = "Exception raised from alloc_cpu at /pytorch/c10/core/impl/alloc_cpu.cpp:127\nframe #0: c10::Error"
    error = RuntimeError(f"[enforce fail] can't allocate\n  memory: 4 bytes.\n{frames}")
    assert in_a_line(error) == "[enforce fail] can't allocate memory: 4 bytes."
    assert len(in_a_line(ValueError("x" * 10_000))) < 1100
    assert in_a_line(MemoryError()) == "MemoryError"
