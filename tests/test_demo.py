"""The demo: models that learn, an experiment whose files agree, and a command that repeats itself."""

import csv
import json
from dataclasses import replace

import matplotlib.image
import pytest
import torch
from torch import nn

from torch_trf import FeatureFolder
from torch_trf.cli import _demo, main
from torch_trf.datasets import IGNORED, ROAD_CLASSES
from torch_trf.demo import FULL, QUICK, TARGET, Experiment, Plan, SmallSegmenter
from torch_trf.demo._training import fit, mean_iou, read_all
from torch_trf.metrics import METRICS
from torch_trf.ranking import read_accuracies, read_scores

pytestmark = pytest.mark.slow

TINY = Plan(
    sources=("noon", "fog", "desert"),
    size=(32, 48),
    training_pictures=4,
    training_steps=3,
    labeled_pictures=2,
    tuning_steps=2,
    tunings=2,
    test_pictures=3,
    num_pixels=140,
    num_repeats=2,
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What the command prints, and its folder."""
    folder = tmp_path_factory.mktemp("ran") / "made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_demo, "QUICK", TINY)
        printed = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        assert main(["demo", "--quick", "--output", str(folder), "--debug"]) == 0
    return "\n".join(printed), folder


def test_it_prints_the_commands_and_what_came_out(ran):
    printed, folder = ran
    assert f"$ torch-trf rank --config {folder}/rank.yaml --output {folder}" in printed
    assert f"$ torch-trf correlate {folder}/ranking.json {folder}/accuracies.csv" in printed
    predictors = [*METRICS, "source accuracy", "random order"]
    for name in predictors:
        assert sum(line.startswith(f"{name} ") and "[" in line for line in printed.splitlines()) == 2
    accuracies, _ = read_accuracies(folder / "accuracies.csv")
    shown = [line.split() for line in printed.splitlines() if line.split()[:1] and line.split()[0] in TINY.sources]
    fine_tuned = {words[0]: words[3] for words in shown}
    assert fine_tuned == {name: f"{accuracy:.4f}" for name, accuracy in accuracies.items()}
    assert list(fine_tuned) == sorted(accuracies, key=lambda name: -accuracies[name])


def test_its_files_agree(ran):
    _, folder = ran
    table = read_scores(folder / "ranking.json")
    scores = table.scores
    assert not table.failures
    assert scores.keys() == METRICS.keys()
    accuracies, own = read_accuracies(folder / "accuracies.csv")
    comparison = json.loads((folder / "correlation.json").read_text())
    assert comparison["accuracies"] == pytest.approx(accuracies)
    assert comparison["predictors"] == {
        name: pytest.approx(each) for name, each in (scores | {"source accuracy": own}).items()
    }
    assert set(accuracies) == set(TINY.sources)
    rows = list(csv.DictReader((folder / "accuracies.csv").read_text().splitlines()))
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("accuracy", "source_accuracy", "before"))
    assert "sky" in (folder / "report.html").read_text()
    for name in ("scenes", "correlation"):
        assert matplotlib.image.imread(folder / f"{name}.png")[..., :3].std() > 0.05
    for side in ("target", "source"):
        assert len(FeatureFolder(folder / "features" / side)) == TINY.labeled_pictures


def test_the_printed_command_ranks_again_without_running_a_model(ran, capsys):
    _, folder = ran
    before = (folder / "ranking.json").read_text()
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/reading.pt")}
    assert len(written) == len(TINY.sources)
    assert main(["rank", "--config", str(folder / "rank.yaml"), "--output", str(folder)]) == 0
    assert "runs again" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert (folder / "ranking.json").read_text() == before


def test_it_repeats_itself_and_depends_on_the_seed(tmp_path):
    plan = replace(TINY, sources=TINY.sources[:1], tunings=1)
    outcomes = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        experiment = Experiment(tmp_path / name, plan, seed)
        experiment.train()
        outcomes[name] = experiment.fine_tune()
    assert outcomes["a"] == outcomes["b"] != outcomes["c"]


def test_models_do_not_depend_on_the_number_of_threads(tmp_path):
    threads, weights = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            plan = replace(TINY, sources=("noon",), size=(64, 96), training_pictures=8)
            experiment = Experiment(tmp_path / str(number), plan)
            experiment.train()
            assert torch.get_num_threads() == number
            weights.append(experiment.candidates[0].make().state_dict())
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_no_road_is_both_learned_and_tested(tmp_path):
    for seed in (0, 1):
        experiment = Experiment(tmp_path, TINY, seed)
        parts = [experiment._scenes("noon", 4, part) for part in range(4)]
        roads = [label.numpy().tobytes() for data in parts for label in read_all(data, experiment.candidates[0])[1]]
        assert len(set(roads)) == 16


def test_plans_are_of_the_target_and_other_domains():
    for plan in (FULL, QUICK):
        assert len(set(plan.sources)) == len(plan.sources) >= 5
        assert TARGET not in plan.sources


def test_a_model_learns(tmp_path):
    torch.manual_seed(0)
    model = SmallSegmenter(len(ROAD_CLASSES))
    experiment = Experiment(tmp_path, replace(TINY, size=(48, 64)))
    pictures = read_all(experiment._scenes("noon", 8, 0), experiment.candidates[0])
    before = mean_iou(model, *pictures)
    fit(model, *pictures, 40, 4, 3e-3, seed=0)
    assert mean_iou(model, *pictures) > before + 0.15


def test_mean_iou_of_known_predictions():
    """Class 0 on three of four pixels, two of them rightly: 2/3; class 1 on one, rightly: 1/2; class 2 nowhere."""
    scores = torch.eye(3)[torch.tensor([[0, 0, 0, 1, 1]])].movedim(-1, 1).unsqueeze(2)
    labels = torch.tensor([[[0, 0, 1, 1, IGNORED]]])
    assert mean_iou(nn.Identity(), scores, labels) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_it_writes_over_nothing(tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "is not an empty folder: give another one, or remove it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert main(["demo", "--output", str(tmp_path / "mine.txt")]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert main(["demo", "--seed", "-1"]) == 2
    assert "--seed must be in [0, 2305843009213693952), not -1" in capsys.readouterr().err
