"""Of a process that is killed at any time the next one makes what it would have made, and two do not mix."""

import multiprocessing
import shutil
import sys
import time

import pytest
import torch

from torch_trf import FeatureFolder, Sampling
from torch_trf.datasets import LabeledData
from torch_trf.inference import Inference
from torch_trf.ranking import Candidate, Ranker, extract

from ..ranking import helpers
from ..ranking.helpers import K, named
from .damage import read_unless_told

pytestmark = pytest.mark.slow

DATA = LabeledData(dataset=named("Scenes", count=9), num_classes=K)
INFERENCE = Inference(num_workers=0, batch_size=2)
REFUSED = 3


def candidate(name, **arguments):
    identity = [{"class_path": "torch.nn.Identity"}]
    return Candidate(name=name, model=named("Model", **arguments), layer="mix", logits_layer="head", transform=identity)


def rank(folder):
    sampling = Sampling(num_pixels=60, num_repeats=2, strategy="per_class")
    ranker = Ranker(target=DATA, output=folder, metrics=("logme", "leep"), sampling=sampling, inference=INFERENCE)
    ranker([candidate("a"), candidate("b", seed=1, stride=2), candidate("c", seed=2)])


def extract_features(folder):
    extract(candidate("a", stride=2), DATA, folder, inference=INFERENCE)


def work(function, folder):
    """What a process does; it ends with `REFUSED` where another one holds the folder."""
    torch.set_num_threads(1)
    try:
        function(folder)
    except BlockingIOError:
        sys.exit(REFUSED)


@pytest.fixture(scope="module")
def start():
    """Starts a process that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([helpers.__name__, "torch_trf.ranking"])

    def run(function, folder):
        process = context.Process(target=work, args=(function, folder))
        process.start()
        return process

    return run


def results(folder):
    """The files that do not tell how long it took."""
    paths = [path for suffix in ("csv", "html", "npy") for path in folder.rglob(f"[!.]*.{suffix}")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def finish(process):
    process.join(120)
    return process.exitcode


@pytest.fixture(params=[rank, extract_features])
def function(request):
    return request.param


@pytest.fixture
def whole(start, function, tmp_path):
    """What a process leaves that nobody disturbs, and the seconds that it takes."""
    assert finish(start(function, tmp_path / "warm")) == 0
    began = time.perf_counter()
    assert finish(start(function, tmp_path / "whole")) == 0
    return results(tmp_path / "whole"), time.perf_counter() - began


def test_goes_on_where_it_was_killed(start, function, whole, tmp_path, chances):
    expected, seconds = whole
    folder = tmp_path / "killed"
    for chance in chances(2):
        process = start(function, folder)
        process.join(chance.random() * seconds)
        process.kill()
        process.join()
        if function is extract_features:
            read = read_unless_told(lambda: FeatureFolder(folder, logits="logits"), str(folder))
            assert read is None or results(folder) == expected
        assert finish(start(function, folder)) == 0
        assert results(folder) == expected
        shutil.rmtree(folder)


def test_one_of_two_writers_is_refused(start, function, whole, tmp_path, chances):
    expected, seconds = whole
    folder = tmp_path / "both"
    for chance in chances(2):
        first = start(function, folder)
        time.sleep(chance.random() * seconds)
        second = start(function, folder)
        ends = finish(first), finish(second)
        assert 0 in ends
        assert set(ends) <= {0, REFUSED}
        assert results(folder) == expected
        shutil.rmtree(folder)
