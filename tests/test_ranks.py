"""Several processes give the scores of one, whoever has which pixels."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from torch_trf import Scorer
from torch_trf.cli import main
from torch_trf.pixels import Pixels

from . import ranks
from .helpers import assert_same, write_features
from .ranks import IMAGES, MAKERS, SAMPLED, TWO_TYPES, D, H, K, W, images, make_score, numbers, updated

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(sys.platform == "win32", reason="gloo processes are started as on Linux"),
]

SETTINGS = {"2 ranks, the first empty": (2, 0), "4 ranks, the last empty": (4, 3)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A source and a target of three small images each: fewer than four ranks."""
    path = tmp_path_factory.mktemp("folders")
    for name, shift in (("source", 0.0), ("target", 0.5)):
        write_features(path / name, shift=shift, height=16, width=24)
    return path


@pytest.fixture(scope="module")
def processes(folders):
    """Where each rank of each setting has left its results; started once, because to import torch takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent)
        mp.spawn(ranks.rank_main, (list(SETTINGS.values()), str(folders)), nprocs=4)
    return folders


@pytest.fixture(scope="module", params=SETTINGS.values(), ids=SETTINGS.keys())
def setting(request):
    return request.param


@pytest.fixture(scope="module")
def results(processes, setting):
    """The results of every rank of a setting."""
    return [torch.load(processes / f"{setting[0]}-{rank}.pt", weights_only=True) for rank in range(setting[0])]


def close(expected):
    return pytest.approx(expected, rel=1e-10)


def assert_all(results, expected):
    """Each rank has the expected numbers."""
    for rank in results:
        torch.testing.assert_close(rank, expected, rtol=1e-10, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", MAKERS)
def test_each_rank_computes_what_one_process_does_and_goes_on_from_its_own_pixels(results, name):
    metric = updated(MAKERS[name](), slice(0, IMAGES))
    assert_all([rank[name][0] for rank in results], numbers(metric))
    for _ in results:
        metric.update(*images(slice(1)))
    assert_all([rank[name][1] for rank in results], numbers(metric))


def test_statistics_of_all_ranks_are_those_of_all_pixels(results):
    """Samples, too, where pixels are told apart by their place."""
    for name, expected in ranks.statistics(slice(0, IMAGES)).items():
        for rank in results:
            merged = expected.from_state(rank["statistics"][name])
            assert_same(merged, expected, atol=0 if name == "sample" else 1e-9)


def streams(setting, *dtypes):
    """The pixels of each rank that has some, in these types, the last of them for all that are left."""
    parts = [(rank, *images(ranks.part_of(rank, *setting))) for rank in range(setting[0]) if rank != setting[1]]
    types = itertools.chain(dtypes, itertools.repeat(dtypes[-1]))
    return [Pixels(x.to(dtype), y, z, stream=rank) for (rank, x, y, z), dtype in zip(parts, types, strict=False)]


def test_a_model_is_scored_on_the_samples_of_all_ranks(results, setting):
    scores = Scorer(metrics=("logme",), num_classes=ranks.K, **SAMPLED)(streams(setting, torch.float32))
    for rank in results:
        assert rank["model"] == close(scores["logme"].score)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_are_drawn_from_the_pixels_of_all_ranks(results, setting, dtype):
    scores = Scorer(metrics=("logme", "leep"), num_classes=ranks.K, **SAMPLED)(streams(setting, dtype))
    expected = {name: torch.tensor(score.score, dtype=torch.float64) for name, score in scores.items()}
    assert_all([rank[str(dtype)] for rank in results], expected)


def test_samples_of_two_types_are_merged_in_the_wider_one(results, setting):
    pixels = streams(setting, TWO_TYPES[True], TWO_TYPES[False])
    scores = Scorer(metrics=("logme", "leep"), num_classes=K, **SAMPLED)(pixels)
    expected = {name: torch.tensor(score.score, dtype=torch.float64) for name, score in scores.items()}
    assert_all([rank["two types"] for rank in results], expected)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "collection"])
def test_what_several_ranks_restore_counts_once(results, name):
    """What all have met; and what each has met since, also where it was restored in its turn."""
    metric = updated(MAKERS[name](), slice(0, IMAGES))
    whole = numbers(metric)
    for _ in results:
        metric.update(*images(slice(1)))
    more = numbers(metric)
    assert_all([rank["restored"][name] for rank in results], [whole, more, more, whole])


def test_the_state_of_one_rank_that_all_restore_counts_once(results, setting):
    first = ranks.part_of(0, setting[0], setting[0] - 1)
    assert_all([rank["restored from the first"] for rank in results], numbers(updated(make_score(), first)))


def test_a_rank_that_was_refused_a_batch_goes_on_with_the_others(results, setting):
    expected = numbers(updated(make_score(), slice(0, IMAGES)))
    for number, rank in enumerate(results):
        error, merged = rank["refused"]
        assert error.startswith("ValueError: labels from 99") == (number == (setting[1] == 0))
        assert_all([merged], expected)


def test_a_stream_that_is_bad_on_one_rank_is_an_error_on_all_after_which_they_go_on(results, setting):
    bad = int(setting[1] == 0)
    expected = Scorer(metrics=("logme",), num_classes=K)([images()[:2]])
    for number, rank in enumerate(results):
        error, scores = rank["bad stream"]
        assert error.startswith("ValueError: " if number == bad else f"RuntimeError: rank {bad} failed: ")
        assert "labels from 99" in error
        assert scores == close(ranks.values(expected))


TOLD_APART = {
    "metrics": "metrics: (LogME(",
    "num_classes": f"num_classes: {K + 1} on rank 0; {K} on rank 1",
    "sampling": "sampling: Sampling(",
    "patch_size": "patch_size: 6 on rank 0; 4 on rank 1",
    "class": "class: TransferabilityMap on rank 0; TransferabilityScore on rank 1",
    "source": "source, whose pixels must come in one order: ",
    "metrics of a scorer": "metrics: (LogME(",
    "target as it is read": "target as it is read: once on rank 0; again on rank 1",
    "class_count of moments": f"class_count of moments: [{K + 1}] on rank 0; [{K}] on rank 1",
}


@pytest.mark.parametrize(("name", "message"), TOLD_APART.items())
def test_ranks_that_were_told_to_do_different_things_are_an_error_on_all(results, name, message):
    for rank in results:
        assert rank["told apart"][name].startswith(f"ValueError: the ranks differ in {message}")


def test_nobody_waits_for_a_rank_that_failed_and_does_not_come(results):
    """And all go on once it comes."""
    last = len(results) - 1
    metric = updated(make_score(), slice(0, IMAGES))
    for _ in results:
        metric.update(*images(slice(1)))
    for number, rank in enumerate(results):
        error, merged = rank["waits"]
        told = "ValueError: " if number == last else f"RuntimeError: rank {last} failed and does not come, so that "
        assert error.startswith(told)
        assert "labels from 99" in error
        assert_all([merged], numbers(metric))


def test_forward_asks_no_other_rank(results, setting):
    expected = numbers(updated(make_score(), slice(0, IMAGES)))
    for number, rank in enumerate(results):
        batches, all_ranks = rank["forward"]
        assert_all([all_ranks], expected)
        start = ranks.part_of(number, *setting).start
        for k, batch in enumerate(batches, start):
            assert_all([batch], numbers(updated(make_score(), slice(k, k + 1))))


def test_forward_asks_all_ranks_where_it_is_told_to(results):
    assert_all([rank["forward in step"] for rank in results], numbers(updated(make_score(), slice(0, len(results)))))


def test_a_group_of_ranks_merges_its_own_pixels(results):
    assert_all([rank["group"] for rank in results[:2]], numbers(updated(make_score(), slice(0, 2))))


def test_pixels_that_are_bad_on_one_rank_are_told_on_all_and_each_keeps_its_own(results, setting):
    start = results[0]["bad labels"][0]
    assert re.fullmatch(
        rf"ValueError: labels from 99 to 101 on \d+ pixels: outside \[0, {ranks.K}\) and not ignore_index=255", start
    )
    for number, rank in enumerate(results):
        first, again, held = rank["bad labels"]
        assert first == again == start
        good = ranks.part_of(number, *setting)
        is_bad = number == (setting[1] == 0)
        assert held == (0 if is_bad else (good.stop - good.start) * H * W)


def test_no_pixel_on_any_rank_is_an_error_after_which_all_go_on(results):
    metric = make_score()
    for rank in results:
        assert rank["nothing at first"][0].startswith("ValueError: TransferabilityScore has seen no pixel")
        metric.update(*images(slice(1)))
    assert_all([rank["nothing at first"][1] for rank in results], numbers(metric))


def test_ranks_whose_features_are_unlike_are_an_error_on_all(results):
    for rank in results:
        differ = f"channels of Moments(features): 2 on rank 0; {D} on rank 1"
        assert rank["other channels"].startswith(f"ValueError: the ranks differ in {differ}")


def test_images_of_another_size_on_another_rank_are_an_error_of_a_map_on_all(results):
    for rank in results:
        assert f"images of {H} x {W + 1} pixels, those before had {H} x {W}" in rank["other size"]


def test_a_rank_that_has_left_is_an_error_of_the_others(results):
    for number, rank in enumerate(results[:-1]):
        ranks_named = f"rank {number} of {len(results)} cannot reach the others, one of which has probably ended"
        assert rank["left alone"].startswith(f"RuntimeError: {ranks_named}")


@pytest.mark.parametrize(("name", "options"), [("folder", {}), ("sampled folder", SAMPLED)])
def test_a_folder_read_in_parts_has_the_scores_of_the_whole(results, folders, name, options):
    expected = ranks.score_parts(folders, **options)
    for rank in results:
        assert rank[name] == close(expected)


def test_ranks_share_a_folder_and_the_first_has_the_scores(results, folders):
    expected = ranks.score_parts(folders, **SAMPLED)
    assert [rank["shared folder"] for rank in results] == [close(expected), *[{}] * (len(results) - 1)]


def test_batches_of_all_ranks_have_the_scores_of_the_whole(results):
    expected = ranks.score_tensors(slice(0, IMAGES))
    for rank in results:
        assert rank["tensors"] == close(expected)


def torchrun(*arguments, script=("-m", "torch_trf")):
    """Runs the command line in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *script]
    arguments = [*arguments, "--ignore_index", "250"]
    # The outer command has torchrun end its processes where they hang.
    return subprocess.run(
        ["timeout", "90", *command, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def without_seconds(printed):
    """The lines that do not depend on time."""
    return [line for line in printed.splitlines() if not line.startswith("scored in ")]


def test_torchrun_prints_and_writes_what_one_process_does(folders, tmp_path, capsys):
    arguments = ["score", "--target", folders / "target", "--source", folders / "source", "--output"]
    arguments += [tmp_path / "scores.json", "--logits", "final", "--metrics", *ranks.FOLDER["metrics"]]
    done = torchrun(*arguments)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert main([*map(str, arguments), "--ignore_index", "250"]) == 0
    assert without_seconds(done.stdout) == without_seconds(capsys.readouterr().out)
    for name, score in json.loads((tmp_path / "scores.json").read_text())["scores"].items():
        assert written[name]["values"] == close(score["values"])


def test_a_rank_that_fails_ends_all_with_its_error(tmp_path):
    write_features(tmp_path / "broken", num_images=2)
    np.save(tmp_path / "broken" / "label" / "1.npy", np.full((24, 32), 77))
    done = torchrun("score", "--target", tmp_path / "broken", "--num_classes", "8")
    assert done.returncode not in (0, 124)
    assert re.search(r"torch-trf \(rank 1\): error: .*1\.npy: label 77 on 768 pixels", done.stderr)


def test_a_rank_that_is_killed_ends_all(folders):
    done = torchrun("score", "--target", folders / "target", "--num_classes", "8", script=[ranks.__file__])
    assert done.returncode not in (0, 124)
    assert re.search(r"rank +: 1 \(local_rank: 1\)\s+exitcode +: -9", done.stderr)
    assert not done.stdout


def test_a_map_is_no_work_for_several_processes(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "as torchrun does")
    arguments = ["map", "--target", str(folders / "target"), "--metric", "hscore", "--output", str(tmp_path / "map")]
    assert main([*arguments, "--patch_size", "4", "--ignore_index", "250"]) == 2
    assert "error: torch-trf map runs in a single process: start it without torchrun" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
