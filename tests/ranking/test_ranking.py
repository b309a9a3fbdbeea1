"""What comes out of a ranking: order, ranks, consensus, and the files of them."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torch_trf
from torch_trf import Score
from torch_trf.maps import MIN_PIXELS
from torch_trf.metrics import METRICS, LogME
from torch_trf.ranking import Ranking, Result
from torch_trf.ranking._ranking import map_patch_size
from torch_trf.transport import couple


class A(LogME):
    name, unit = "a", "points"


class B(LogME):
    name, unit = "b", "points"


class C(LogME):
    name, unit = "c", "points"


def result(name, *scores, failure=None, **fields):
    """A candidate whose metrics "a", "b", ... have these scores, or the mean of some repeats."""
    scores = [score if isinstance(score, tuple) else (score,) for score in scores]
    scored = {
        metric: Score(score=sum(values) / len(values), values=values, pixels=7, unit="points")
        for metric, values in zip("abc", scores, strict=False)
    }
    fields = {"map": None, "settings": {}, "seconds": {"all": 2.0, "forward": 1.0}} | fields
    return Result(name=name, scores=scored, failure=failure, **fields)


def ranking(*results, by="a"):
    scored = [len(each.scores) for each in results if not each.failure]
    metrics = {"metrics": (A(), B(), C())[: max(scored, default=1)], "map_metric": METRICS["leep"]}
    return Ranking(results=results, by=by, target={"num_classes": 3}, shown=0, **metrics)


FAILED = result("broken", failure="no weights")


def test_best_is_first_by_the_metric_that_ranks():
    results = result("x", 1.0, 5.0), FAILED, result("y", 3.0, 4.0), result("z", 2.0, 6.0)
    assert [each.name for each in ranking(*results).scored] == ["y", "z", "x"]
    assert [each.name for each in ranking(*results, by="b").scored] == ["z", "x", "y"]
    assert [each.name for each in ranking(*results).failed] == ["broken"]


def test_equals_share_the_better_rank():
    ranks = ranking(result("x", 1.0), result("y", 2.0), result("z", 2.0), result("w", 0.5)).ranks()
    assert ranks["a"] == ranks["consensus"] == {"y": 1, "z": 1, "x": 3, "w": 4}


def test_equals_stay_in_the_order_given():
    assert [each.name for each in ranking(result("x", 1.0), result("y", 2.0), result("z", 2.0)).scored] == [*"yzx"]
    assert [each.name for each in ranking(result("z", 2.0), result("y", 2.0), result("x", 1.0)).scored] == [*"zyx"]


def test_consensus_ranks_by_the_mean_of_ranks():
    ranks = ranking(
        result("x", 9.0, 1.0, 8.0),  # 1, 4, 2
        result("y", 8.0, 3.0, 7.0),  # 2, 2, 3
        result("z", 7.0, 4.0, 6.0),  # 3, 1, 4
        result("w", 6.0, 2.0, 9.0),  # 4, 3, 1
    ).ranks()
    assert list(ranks) == ["a", "b", "c", "consensus"]
    assert ranks["consensus"] == {"x": 1, "y": 1, "z": 3, "w": 3}


@given(scores=st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_rank_is_one_more_than_the_number_of_better_ones(scores):
    ranks = ranking(*(result(str(k), *map(float, row)) for k, row in enumerate(scores))).ranks()
    for metric, column in zip("abc", zip(*scores, strict=True), strict=True):
        assert ranks[metric] == {str(k): 1 + sum(other > x for other in column) for k, x in enumerate(column)}
    sums = [sum(ranks[metric][str(k)] for metric in "abc") for k in range(len(scores))]
    assert ranks["consensus"] == {str(k): 1 + sum(other < x for other in sums) for k, x in enumerate(sums)}


def test_a_row_tells_all_of_a_candidate():
    rows = ranking(result("x", (1.0, 2.0), 3.0), FAILED, result("y", (4.0, 4.0), 2.0), by="b").rows()
    assert rows == [
        {
            "rank": 1,
            "name": "x",
            "a": 1.5,
            "a_std": pytest.approx(0.5**0.5),
            "a_rank": 2,
            "b": 3.0,
            "b_std": None,
            "b_rank": 1,
            "consensus_rank": 1,
        },
        {
            "rank": 2,
            "name": "y",
            "a": 4.0,
            "a_std": 0.0,
            "a_rank": 1,
            "b": 2.0,
            "b_std": None,
            "b_rank": 2,
            "consensus_rank": 1,
        },
    ]


@pytest.mark.parametrize("called", ["rank", "name", "consensus", "logme_std", "logme_rank"])
def test_no_metric_is_called_as_a_column(called):
    metric = type("Other", (LogME,), {"name": called})()
    metrics = {"metrics": (METRICS["logme"], metric), "map_metric": METRICS["leep"]}
    with pytest.raises(ValueError, match=f"no metric may be called as a column of the ranking: '{called}' would"):
        Ranking(results=(), by=called, target={}, shown=0, **metrics)


def test_files_hold_the_ranking(tmp_path):
    ranked = ranking(result("x, the first", 1.0), FAILED, result('the "y"', 2.5))
    ranked.write(tmp_path)
    written = json.loads((tmp_path / "ranking.json").read_text())
    assert (written["by"], written["target"]) == ("a", {"num_classes": 3})
    assert written["ranking"] == ranked.rows()
    assert [each["name"] for each in written["candidates"]] == ["x, the first", "broken", 'the "y"']
    assert written["candidates"][1]["failure"] == "no weights"
    assert written["map_metric"] == {"name": "leep", "unit": "nats"}
    assert written["versions"]["torch_trf"] == torch_trf.__version__
    with (tmp_path / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["name"], row["a"], row["a_std"]) for row in rows] == [
        ("1", 'the "y"', "2.5", ""),
        ("2", "x, the first", "1.0", ""),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"ranking.json", "ranking.csv"}


def test_a_ranking_of_failures_has_no_rows(tmp_path):
    ranked = ranking(FAILED)
    ranked.write(tmp_path)
    assert (tmp_path / "ranking.csv").read_text().split() == ["rank,name"]
    assert json.loads((tmp_path / "ranking.json").read_text())["ranking"] == []
    assert ranked.ranks() == {"a": {}, "consensus": {}}


def test_a_result_is_the_same_from_its_file():
    fields = {"standard_error": 0.25, "by_class": (0.5, None)}
    score = Score(score=1.5, values=(1.0, 2.0), pixels=7, unit="nats", **fields)
    original = Result(
        name="x",
        scores={"otce": score},
        map=[[1.0, None]],
        settings={"model": {"layer": "mix"}},
        seconds={"all": 2.0, "forward": 1.0},
    )
    assert Result.from_json(json.loads(json.dumps(original.as_json()))) == original
    assert original.as_json()["scores"]["otce"]["std"] == score.std
    features, labels = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
    coupling = couple(features + 1, labels, source=(features, labels))
    coupled = replace(original, scores={"otce": replace(score, coupling=coupling)})
    assert Result.from_json(json.loads(json.dumps(coupled.as_json()))).as_json() == coupled.as_json()
    assert Result.from_json(json.loads(json.dumps(FAILED.as_json()))) == FAILED


@pytest.mark.parametrize(("size", "patch"), [((1024, 2048), 69), ((96, 64), 4), ((32, 48), 3), ((2, 40), 2)])
def test_maps_have_thirty_patches_but_none_too_small_for_a_score(size, patch):
    assert map_patch_size(size) == patch
    assert patch**2 >= MIN_PIXELS or patch == min(size)
