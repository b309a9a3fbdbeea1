"""Several processes give the scores of one, whoever has which pixels."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from torch_trf import FeatureFolder
from torch_trf.cli import main
from torch_trf.demo import make_feature_folder

from .ranks import SAMPLED, make_map, make_score, pixels, rank_main, scores

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo processes are started as on Linux")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A source and a target of three small images each."""
    path = tmp_path_factory.mktemp("folders")
    for name, shift in (("source", 0.0), ("target", 0.5)):
        make_feature_folder(path / name, shift=shift, num_images=3, height=24, width=32)
    return path


@pytest.fixture(scope="module", params=[(2, 0), (4, 3)], ids=["2 ranks, the first empty", "4 ranks, the last empty"])
def found(request, folders):
    """What every rank found."""
    size, empty = request.param
    (folders / "store").unlink(missing_ok=True)
    mp.spawn(rank_main, (size, empty, str(folders)), nprocs=size)
    return [json.loads((folders / f"{rank}.json").read_text()) for rank in range(size)]


def close(expected):
    return pytest.approx(expected, rel=1e-10)


def test_scores_are_those_of_one_process(found):
    metric = make_score()
    metric.update(*pixels())
    expected = {name: value.item() for name, value in metric.compute().items()}
    for rank in found:
        assert rank["scores"] == close(expected)
        assert rank["gram"] < 1e-10
    assert {rank["own pixels"] for rank in found} > {0}


def test_each_rank_goes_on_from_its_own_pixels(found):
    metric = make_score()
    metric.update(*pixels())
    for _ in found:
        metric.update(*(tensor[:1] for tensor in pixels()))
    expected = {name: value.item() for name, value in metric.compute().items()}
    for rank in found:
        assert rank["scores after more"] == close(expected)


def test_maps_are_those_of_one_process(found):
    score_map = make_map()
    score_map.update(*pixels()[:2])
    expected = score_map.compute().values
    for rank in found:
        torch.testing.assert_close(torch.tensor(rank["map"], dtype=torch.float64), expected, rtol=1e-10, atol=1e-12)


def test_what_is_wrong_on_one_rank_is_told_on_all(found):
    for rank in found:
        assert rank["bad label"] == "label 99 on 1 pixels: outside [0, 3) and not ignore_index=255"
        assert re.search("of 5 channels, those before had 2", rank["other channels"])
        assert "has seen no pixel" in rank["nothing at all"]


@pytest.mark.parametrize(("what", "options"), [("folder", SAMPLED), ("folder, all pixels", {})])
@pytest.mark.filterwarnings("ignore:.*uniform sampling")
def test_a_folder_read_in_parts_has_the_scores_of_the_whole(found, folders, what, options):
    expected = scores(FeatureFolder(folders / "target"), FeatureFolder(folders / "source"), **options)
    for rank in found:
        assert rank[what] == close(expected)


def torchrun(folder, *arguments, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "torch_trf"]
    return subprocess.Popen(
        [*command, *arguments, "--ignore_index", "250"],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def table(printed):
    """The scores of the printed table."""
    return re.findall(r"^(\w+) +(-?\d+\.\d{6}) ", printed, re.MULTILINE)


def test_torchrun_prints_what_one_process_prints(folders, capsys):
    arguments = ["score", "--target", str(folders / "target"), "--output", str(folders / "scores.json")]
    process = torchrun(folders, *arguments)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert len(json.loads((folders / "scores.json").read_text())["scores"]) == 4
    assert main([*arguments, "--ignore_index", "250"]) == 0
    assert table(printed) == table(capsys.readouterr().out) != []


def test_a_rank_that_fails_ends_all_with_its_error(folders, tmp_path):
    make_feature_folder(tmp_path / "broken", shift=0.5, num_images=2, height=24, width=32)
    bad = torch.full((24, 32), 77).numpy()
    np.save(tmp_path / "broken" / "label" / "1.npy", bad)
    start = time.monotonic()
    process = torchrun(tmp_path, "score", "--target", str(tmp_path / "broken"), "--num_classes", "8")
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert re.search(r"torch-trf \(rank 1\): error: .*1\.npy: label 77 on 768 pixels", errors)
    assert time.monotonic() - start < 60


def test_a_map_is_no_work_for_several_processes(folders):
    process = torchrun(
        folders, "map", "--target", str(folders / "target"), "--metric", "nce", "--output", "map", "--patch_size", "4"
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "torch-trf map runs in a single process: start it without torchrun" in errors
