"""What comes out of a ranking: order, ranks, consensus, and the files of them."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import torch_trf
from torch_trf import Score
from torch_trf.maps import MIN_PIXELS
from torch_trf.ranking import Ranking, Result
from torch_trf.ranking._ranking import map_patch_size


def result(name, *scores, failure=None, **fields):
    """A candidate whose metrics "a", "b", ... have these scores, or the mean of some repeats."""
    scores = [score if isinstance(score, tuple) else (score,) for score in scores]
    made = {
        metric: Score(score=sum(repeats) / len(repeats), repeats=repeats, pixels=7, seconds=0.5)
        for metric, repeats in zip("abc", scores, strict=False)
    }
    fields = {"by_class": {}, "map": None, "settings": {}, "seconds": {"all": 2.0, "forward": 1.0}} | fields
    return Result(name=name, scores=made, failure=failure, **fields)


def ranking(*results, by="a"):
    return Ranking(results=results, by=by, target={"num_classes": 3}, shown=0)


FAILED = result("broken", failure="no weights")


def test_best_is_first_by_the_metric_that_ranks():
    results = result("x", 1.0, 5.0), FAILED, result("y", 3.0, 4.0), result("z", 2.0, 6.0)
    assert [each.name for each in ranking(*results).scored] == ["y", "z", "x"]
    assert [each.name for each in ranking(*results, by="b").scored] == ["z", "x", "y"]
    assert [each.name for each in ranking(*results).failed] == ["broken"]
    assert ranking(*results).metrics == ["a", "b"]


def test_equals_share_the_better_rank():
    found = ranking(result("x", 1.0), result("y", 2.0), result("z", 2.0), result("w", 0.5)).ranks()
    assert found["a"] == found["consensus"] == {"y": 1, "z": 1, "x": 3, "w": 4}


def test_equals_stay_in_the_order_given():
    assert [each.name for each in ranking(result("x", 1.0), result("y", 2.0), result("z", 2.0)).scored] == [*"yzx"]
    assert [each.name for each in ranking(result("z", 2.0), result("y", 2.0), result("x", 1.0)).scored] == [*"zyx"]


def test_consensus_ranks_by_the_mean_of_ranks():
    found = ranking(
        result("x", 9.0, 1.0, 8.0),  # 1, 4, 2
        result("y", 8.0, 3.0, 7.0),  # 2, 2, 3
        result("z", 7.0, 4.0, 6.0),  # 3, 1, 4
        result("w", 6.0, 2.0, 9.0),  # 4, 3, 1
    ).ranks()
    assert list(found) == ["a", "b", "c", "consensus"]
    assert found["consensus"] == {"x": 1, "y": 1, "z": 3, "w": 3}


@given(scores=st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_rank_is_one_more_than_the_number_of_better_ones(scores):
    found = ranking(*(result(str(k), *map(float, row)) for k, row in enumerate(scores))).ranks()
    for metric, column in zip("abc", zip(*scores, strict=True), strict=True):
        assert found[metric] == {str(k): 1 + sum(other > x for other in column) for k, x in enumerate(column)}
    sums = [sum(found[metric][str(k)] for metric in "abc") for k in range(len(scores))]
    assert found["consensus"] == {str(k): 1 + sum(other < x for other in sums) for k, x in enumerate(sums)}


def test_a_row_tells_all_of_a_candidate():
    found = ranking(result("x", (1.0, 2.0), 3.0), FAILED, result("y", (4.0, 4.0), 2.0), by="b").rows()
    assert found == [
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


def test_files_hold_the_ranking(tmp_path):
    made = ranking(result("x, the first", 1.0), FAILED, result('the "y"', 2.5))
    made.write(tmp_path)
    found = json.loads((tmp_path / "ranking.json").read_text())
    assert (found["by"], found["target"]) == ("a", {"num_classes": 3})
    assert found["ranking"] == made.rows()
    assert [each["name"] for each in found["candidates"]] == ["x, the first", "broken", 'the "y"']
    assert found["candidates"][1]["failure"] == "no weights"
    assert found["versions"]["torch_trf"] == torch_trf.__version__
    with (tmp_path / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["name"], row["a"], row["a_std"]) for row in rows] == [
        ("1", 'the "y"', "2.5", ""),
        ("2", "x, the first", "1.0", ""),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"ranking.json", "ranking.csv"}


def test_a_ranking_of_failures_has_no_rows(tmp_path):
    made = ranking(FAILED)
    made.write(tmp_path)
    assert (tmp_path / "ranking.csv").read_text().split() == ["rank,name"]
    assert json.loads((tmp_path / "ranking.json").read_text())["ranking"] == []
    assert (made.metrics, made.ranks()) == ([], {"consensus": {}})


def test_a_result_is_the_same_from_its_file():
    coupling = {"solver": "exact", "cost": [1.0, 2.0], "converged": [True, True]}
    score = Score(score=1.5, repeats=(1.0, 2.0), pixels=7, seconds=0.1, standard_error=0.25, coupling=coupling)
    made = Result(
        name="x",
        scores={"otce": score},
        by_class={"logme": [0.5, None]},
        map=[[1.0, None]],
        settings={"model": {"layer": "mix"}},
        seconds={"all": 2.0, "forward": 1.0},
    )
    assert Result.from_json(json.loads(json.dumps(made.as_json()))) == made
    assert made.as_json()["scores"]["otce"]["std"] == score.std
    assert Result.from_json(json.loads(json.dumps(FAILED.as_json()))) == FAILED


@pytest.mark.parametrize(("size", "patch"), [((1024, 2048), 69), ((96, 64), 4), ((32, 48), 3), ((2, 40), 2)])
def test_maps_have_thirty_patches_but_none_too_small_for_a_score(size, patch):
    assert map_patch_size(size) == patch
    assert patch**2 >= MIN_PIXELS or patch == min(size)
