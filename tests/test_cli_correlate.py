"""The command correlate: what it reads, prints and writes, and one line for every wrong input."""

import csv
import json
import re

import pytest
from PIL import Image

import torch_trf
from torch_trf import Score
from torch_trf._files import write_csv
from torch_trf.cli import main
from torch_trf.metrics import as_metric, as_metrics
from torch_trf.ranking import Ranking, Result, correlation, read_accuracies, read_scores

SCORES = {
    "resnet": {"logme": 0.3, "leep": -0.5},
    "unet": {"logme": -0.1, "leep": -0.6},
    "vit": {"logme": 0.2, "leep": -0.3},
    "fcn": {"logme": 0.1, "leep": -2},
}
UNIT = "somethings"
BY_METRIC = {metric: {name: float(row[metric]) for name, row in SCORES.items()} for metric in ("logme", "leep")}
ACCURACIES = {"resnet": 0.61, "unet": 0.48, "vit": 0.7, "fcn": 0.55}
CSV = "name,accuracy\nresnet,0.61\nunet,0.48\nvit,0.70\nfcn,0.55\n"
WITH_SOURCE = "source_accuracy, name, epochs, accuracy\n.8,resnet,7,61\n.7,unet,7,48\n.9,vit,,70\n.6,fcn,9,55\n"


@pytest.fixture
def files(tmp_path):
    """Scores and accuracies, in their files."""
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    (tmp_path / "accuracies.csv").write_text(CSV)
    return tmp_path


def correlate(files, *options):
    arguments = [str(files / "scores.json"), str(files / "accuracies.csv"), "--num_resamples", "40", *options]
    return main(["correlate", *arguments])


def ranked(folder, failures=()):
    """Writes the ranking of these scores as scores.json."""
    results = []
    for name in SCORES:
        row = {metric: of_models[name] for metric, of_models in BY_METRIC.items()}
        scores = {metric: Score(score=score, values=(score,), pixels=9, unit=UNIT) for metric, score in row.items()}
        failure = "no weights" if name in failures else None
        of_file = {"map": None, "settings": {}, "seconds": {}}
        results.append(Result(name=name, scores={} if failure else scores, failure=failure, **of_file))
    metrics = {"metrics": as_metrics(list(BY_METRIC)), "map_metric": as_metric("leep")}
    Ranking(results=tuple(results), by="logme", target={"num_classes": 3}, shown=0, **metrics).write(folder)
    (folder / "ranking.json").rename(folder / "scores.json")


def test_prints_how_well_each_predictor_agrees(files, capsys):
    assert correlate(files, "--top", "2", "--seed", "5") == 0
    count, *lines, brackets = capsys.readouterr().out.splitlines()
    assert count == "4 models, accuracies from 0.4800 to 0.7000"
    coefficients, regrets = ([re.split(" {2,}", line) for line in part] for part in (lines[:4], lines[5:9]))
    assert lines[4] == lines[9] == ""
    assert coefficients[0] == ["", "spearman", "weighted kendall", "kendall", "pearson"]
    assert regrets[0] == ["", "top-1 regret", "top-2 regret"]
    result = correlation(BY_METRIC, ACCURACIES, top=2, num_resamples=40, seed=5)
    assert [row[0] for row in coefficients[1:]] == [row[0] for row in regrets[1:]] == ["logme", "leep", "random order"]
    for agreement, of_orders, of_best in zip(result.agreements.values(), coefficients[1:], regrets[1:], strict=True):
        names = ("spearman", "weighted_kendall", "kendall", "pearson")
        assert of_orders[1:] == [str(getattr(agreement, name)) for name in names]
        assert of_best[1:] == [each.text(decimals=4) for each in (agreement.top_1_regret, agreement.top_k_regret)]
    assert coefficients[1][1].startswith("0.80 ")
    assert brackets.startswith("in brackets: 95 % intervals over 40 bootstrap resamples of the models")


def test_prints_a_regret_once(files, capsys):
    assert correlate(files, "--top", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[6].strip() == "top-1 regret"
    assert all(len(re.split(" {2,}", line)) == 2 for line in lines[6:10])


def test_writes_all_of_it(files, capsys):
    (files / "accuracies.csv").write_text(WITH_SOURCE)
    assert correlate(files, "--output", str(files / "made.v1")) == 0
    written = [files / f"made.v1{suffix}" for suffix in (".json", ".csv", ".png")]
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {', '.join(map(str, written))}"
    value = json.loads(written[0].read_text())
    source = {"resnet": 0.8, "unet": 0.7, "vit": 0.9, "fcn": 0.6}
    accuracies = {name: round(100 * accuracy) for name, accuracy in ACCURACIES.items()}
    assert (value["accuracies"], value["predictors"]) == (accuracies, BY_METRIC | {"source accuracy": source})
    assert (value["top"], value["num_resamples"], value["seed"]) == (3, 40, 0)
    assert value["units"] == dict.fromkeys(BY_METRIC, "nats")
    assert value["versions"]["torch_trf"] == torch_trf.__version__
    with written[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["predictor"] for row in rows] == ["logme", "leep", "source accuracy", "random order"]
    assert [{key: str(cell) for key, cell in row.items()} for row in value["agreements"]] == rows
    with Image.open(written[2]) as figure:
        assert figure.format == "PNG"
    assert len(list(files.iterdir())) == 5


def test_a_figure_that_cannot_be_drawn_leaves_no_file(files, monkeypatch):
    def fail(_):
        raise ValueError("no font")

    monkeypatch.setattr("torch_trf.ranking._correlation_files.draw_scatter", fail)
    assert correlate(files, "--output", str(files / "made")) == 2
    assert {path.name for path in files.iterdir()} == {"scores.json", "accuracies.csv"}


def test_reads_a_ranking(files, capsys):
    correlate(files)
    expected = capsys.readouterr().out
    table = read_scores(str(files / "scores.json"))
    assert (table.scores, table.units, table.failures) == (BY_METRIC, {}, {})
    ranked(files)
    table = read_scores(files / "scores.json")
    assert (table.scores, table.units, table.failures) == (BY_METRIC, dict.fromkeys(BY_METRIC, UNIT), {})
    assert correlate(files) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("accuracies", [CSV, WITH_SOURCE, CSV.replace("fcn,0.55\n", "")])
def test_what_failed_in_the_ranking_is_left_out(files, capsys, accuracies):
    ranked(files, failures=["fcn"])
    (files / "accuracies.csv").write_text(accuracies)
    assert correlate(files) == 0
    shown = capsys.readouterr()
    assert shown.err == "torch-trf: note: fcn failed in the ranking and is left out: no weights\n"
    assert shown.out.startswith("3 models, ")


def test_reads_what_spreadsheets_write(files):
    (files / "accuracies.csv").write_bytes(b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode())
    assert read_accuracies(str(files / "accuracies.csv")) == (ACCURACIES, None)


def test_a_name_that_looks_like_a_formula_is_the_name_in_both_files(files):
    write_csv(files / "accuracies.csv", ["name", "accuracy"], [{"name": "=1+1", "accuracy": 0.5}])
    assert (files / "accuracies.csv").read_text().splitlines()[1] == "'=1+1,0.5"
    assert read_accuracies(files / "accuracies.csv") == ({"=1+1": 0.5}, None)
    (files / "accuracies.csv").write_text("name,accuracy\n=1+1,0.5\n")
    assert read_accuracies(files / "accuracies.csv") == ({"=1+1": 0.5}, None)


def test_a_metric_without_an_order_is_told_and_left_out(files, capsys):
    (files / "scores.json").write_text(json.dumps({name: row | {"knn": 1} for name, row in SCORES.items()}))
    assert correlate(files, "--output", str(files / "made")) == 0
    shown = capsys.readouterr()
    assert shown.err == "torch-trf: note: knn is left out: all models have 1.0, so that there is no order\n"
    assert "knn" not in shown.out
    assert list(json.loads((files / "made.json").read_text())["predictors"]) == ["logme", "leep"]


def damaged_ranking(change):
    def write(files):
        ranked(files)
        value = json.loads((files / "scores.json").read_text())
        change(value)
        (files / "scores.json").write_text(json.dumps(value))

    return write


def scores(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return lambda files: (files / "scores.json").write_text(text)


def accuracies(text):
    return lambda files: (files / "accuracies.csv").write_text(text)


BAD = {
    "no scores": (lambda files: (files / "scores.json").unlink(), r"No such file or directory: '.*scores\.json'"),
    "no JSON": (scores("logme"), r"scores\.json cannot be read as JSON: Expecting value"),
    "no text": (
        lambda files: (files / "scores.json").write_bytes(b"\xff\xfe\x00"),
        r"scores\.json cannot be read as JSON",
    ),
    "deep": (scores("[" * 100_000), r"scores\.json cannot be read as JSON: maximum recursion depth"),
    "a model twice": (scores('{"vit": {"m": 1}, "vit": {"m": 2}}'), r"scores\.json cannot .*: vit is there twice"),
    "a metric twice": (scores('{"vit": {"m": 1, "m": 2}}'), r"scores\.json cannot be read as JSON: m is there twice"),
    "a candidate twice": (
        damaged_ranking(lambda value: value["candidates"].append(value["candidates"][0])),
        r"scores\.json is not a ranking as `torch-trf rank` writes it: ValueError\('resnet is there twice'\)",
    ),
    "a list": (scores([SCORES]), r"scores\.json holds no table of models"),
    "empty": (scores({}), r"scores\.json has no scores"),
    "no ranks": (damaged_ranking(lambda value: value.update(candidates=[])), r"scores\.json has no scores"),
    "no names": (
        damaged_ranking(lambda value: value["candidates"][1].pop("name")),
        r"scores\.json is not a ranking as `torch-trf rank` writes it: KeyError\('name'\)",
    ),
    "one model": (
        scores({"scores": {"logme": {"score": 0.3}}, "versions": {}}),
        r"scores\.json holds the scores of one model, as `torch-trf score` writes them: give those of several",
    ),
    "no table": (scores({"resnet": 0.3}), r"scores\.json: resnet has 0\.3, expected a table of its scores"),
    "null": (scores(SCORES | {"vit": {"logme": None}}), r"scores\.json: logme of vit is None, not a finite number"),
    "true": (scores(SCORES | {"vit": {"logme": True}}), r"scores\.json: logme of vit is True, not a finite number"),
    "NaN": (scores('{"vit": {"logme": NaN}}'), r"scores\.json: logme of vit is nan, not a finite number"),
    "long": (scores({"vit": {"m": 10**400}}), r"scores\.json: m of vit is inf, not a finite number"),
    "a metric of some": (scores(SCORES | {"fcn": {"logme": 0.1}}), r"scores\.json: no leep of fcn"),
    "no accuracies": (lambda files: (files / "accuracies.csv").unlink(), r"No such file.*accuracies\.csv"),
    "no CSV": (
        lambda files: (files / "accuracies.csv").write_bytes(b"name,accuracy\nr\xe9sum\xe9,0.5\n"),
        r"accuracies\.csv, 'utf-8' codec can't decode",
    ),
    "nothing": (accuracies(""), r"accuracies\.csv, line 1: the file is empty"),
    "no name": (accuracies("name,accuracy\n,0.1\n"), r"csv, line 2 has no name"),
    "a column twice": (accuracies("name,accuracy,name\na,0.1,b\n"), r"csv, line 1: column name is there twice"),
    "no column": (accuracies("name;accuracy\na;0.1\n"), r"accuracies\.csv, line 1: no column name among name;accuracy"),
    "other column": (accuracies("name,score\na,0.1\n"), r"line 1: no column accuracy among name, score"),
    "twice": (accuracies(CSV + "vit,0.7\n"), r"accuracies\.csv, line 6: vit is there twice"),
    "no number": (accuracies(CSV + "a,71 %\n"), r"line 6: accuracy of a is '71 %', not a finite number"),
    "no cell": (accuracies(CSV + "a\n"), r"line 6 has another number of cells than the header"),
    "decimal comma": (accuracies(CSV + "a,0,71\n"), r"line 6 has another number of cells than the header"),
    "infinite": (accuracies(CSV + "a,inf\n"), r"line 6: accuracy of a is 'inf', not a finite number"),
    "no source": (accuracies(WITH_SOURCE + ",a,7,7\n"), r"line 6: source_accuracy of a is '', not a finite number"),
    "another model": (accuracies(CSV + "a,0.71\n"), "logme: none of a"),
    "unknown model": (accuracies(CSV.replace("vit,0.70\n", "")), "logme is there of vit, which have no accuracy"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD.keys())
def test_wrong_input_is_told_in_a_line(files, capsys, spoil, message):
    spoil(files)
    assert correlate(files, "--output", str(files / "made")) == 2
    shown = capsys.readouterr()
    assert re.match(f"torch-trf: error: .*{message}.*\n$", shown.err)
    assert shown.out == ""
    assert not list(files.glob("made*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top", "5"], r"top=5 of 4 models is outside \[1, 4\]"),
        (["--seed", "-1"], "seed=-1 is less than 0"),
        (["--output", ""], "--output '' ends without a name"),
        (["--output", "{files}/"], "--output '.*/' ends without a name"),
        (["--output", "{files}/."], "--output '.*/.' ends without a name"),
        (["--num_resamples", "9"], r"num_resamples=9 is outside \[40, 1,000,000\]"),
        (["--output", "{files}/none/made"], r"--output .*none/made\.json cannot be written"),
        (["--output", "{files}/scores"], r"--output .*scores would overwrite .*scores\.json, which is read"),
        (["--output", "{files}/accuracies"], r"would overwrite .*accuracies\.csv, which is read"),
    ],
)
def test_options_that_cannot_be_are_told_in_a_line(files, capsys, options, message):
    before = {path: path.read_bytes() for path in files.iterdir()}
    assert correlate(files, *(option.format(files=files) for option in options)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert {path: path.read_bytes() for path in files.iterdir()} == before


def test_what_nobody_reads_is_written_all_the_same(files, monkeypatch):
    def closed(_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("torch_trf.cli._correlate.say", closed)
    assert correlate(files, "--output", str(files / "made")) == 2
    assert {path.name for path in files.glob("made.*")} == {"made.json", "made.csv", "made.png"}


def test_a_full_disk_leaves_whole_files(files, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch_trf._files.os.replace", full)
    assert correlate(files, "--output", str(files / "made")) == 2
    assert "made.png cannot be written: No space left on device" in capsys.readouterr().err
    assert {path.name for path in files.iterdir()} == {"scores.json", "accuracies.csv"}
