"""The metric of docs/own-metric.md, which the package does not have: scored, mapped, live, ranked and reported."""

import importlib
import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import torch_trf
from torch_trf.cli import main

from .helpers import random_images, write_features

PAGE = (Path(__file__).parent.parent / "docs" / "own-metric.md").read_text()
STATISTIC, METRIC, USE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(SETTINGS,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
ROADS = {"class_path": "torch_trf.datasets.RoadScenes", "init_args": {"num_images": 3, "height": 32, "width": 48}}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module of the page."""
    (tmp_path / "davies_bouldin.py").write_text(f"{STATISTIC}\n\n{METRIC}")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("davies_bouldin")
    del sys.modules["davies_bouldin"]


def _convolution(size):
    init_args = {"in_channels": 3, "out_channels": 6, "kernel_size": size, "padding": size // 2}
    return {"class_path": "torch.nn.Conv2d", "init_args": init_args}


def davies_bouldin(features, labels):
    """Minus the index, from its definition."""
    members = [features[labels == k] for k in np.unique(labels)]
    means = [x.mean(0) for x in members]
    radii = [np.sqrt(((x - mean) ** 2).sum(1).mean()) for x, mean in zip(members, means, strict=True)]
    worst = [
        max((radii[i] + radii[j]) / np.linalg.norm(means[i] - means[j]) for j in range(len(means)) if j != i)
        for i in range(len(means))
    ]
    return -float(np.mean(worst))


def test_the_page_runs(own, capsys):
    exec(compile(USE, "own-metric.md", "exec"), dict(vars(own)))
    assert "torch.Size([4, 6])" in capsys.readouterr().out


def test_the_score_is_the_index(own, device):
    features, labels = random_images(2, 5, 12, 16, device=device, dtype=torch.float64)
    kept = labels.flatten() != 255
    rows = features.movedim(1, -1).flatten(0, -2)[kept].cpu().numpy(), labels.flatten()[kept].cpu().numpy()
    metric = own.DaviesBouldin()
    expected = pytest.approx(davies_bouldin(*rows), rel=1e-9)
    assert metric(features, labels).item() == expected
    scorer = torch_trf.Scorer(metrics=("davies_bouldin.DaviesBouldin", "logme"), num_classes=4)
    batches = [(features[:1], labels[:1]), (features[1:], labels[1:])]
    assert scorer(iter(batches))["davies_bouldin"].score == expected
    live = torch_trf.TransferabilityScore(metric, num_classes=4)
    for batch in batches:
        live.update(*batch)
    assert live.compute().item() == expected


def test_softmax_is_an_option(own, device):
    features, labels = random_images(2, 5, 12, 16, device=device, dtype=torch.float64)
    soft = own.DaviesBouldin(softmax=True)
    expected = own.DaviesBouldin()(features.softmax(1), labels).item()
    sampling = torch_trf.Sampling(num_pixels=10_000)
    for options in ({}, {"sampling": sampling}):
        scores = torch_trf.Scorer(metrics=[soft], num_classes=4, **options)
        with pytest.warns(UserWarning, match="finds") if options else nullcontext():
            score = scores([(features, labels)])["davies_bouldin"].score
        assert score == pytest.approx(expected, rel=1e-9)


def test_a_map_is_the_score_of_each_patch(own, device):
    features, labels = random_images(2, 3, 8, 12, device=device, dtype=torch.float64)
    metric = own.DaviesBouldin()
    score_map = torch_trf.transferability_map(metric, features, labels, patch_size=4, stride=2, min_pixels=1)
    assert score_map.values.shape == (3, 5)
    for i, j in ((0, 0), (1, 3), (2, 4)):
        patch = ..., slice(2 * i, 2 * i + 4), slice(2 * j, 2 * j + 4)
        alone = metric(features[patch], labels[patch], num_classes=4)
        assert score_map.values[i, j].item() == pytest.approx(alone.item(), rel=1e-9)


def test_the_command_score_takes_it(own, tmp_path, capsys):
    write_features(tmp_path / "features")
    folder = ["--target", str(tmp_path / "features"), "--ignore_index", "250"]
    assert main(["score", *folder, "--metrics", "logme", "davies_bouldin.DaviesBouldin"]) == 0
    assert re.search(r"davies_bouldin +-\d+\.\d+ +radii", capsys.readouterr().out)


def test_a_ranking_and_its_report_take_it(own, tmp_path, capsys):
    candidates = [{"name": f"kernel{k}", "model": _convolution(k), "layer": "", "logits_layer": ""} for k in (1, 3)]
    settings = {
        "target": {"dataset": ROADS, "num_classes": 7},
        "candidates": candidates,
        "num_pixels": 300,
        "num_workers": 0,
        "output": str(tmp_path / "ranking"),
    }
    (tmp_path / "rank.yaml").write_text(yaml.safe_dump(settings | yaml.safe_load(SETTINGS)))
    assert main(["rank", "--config", str(tmp_path / "rank.yaml"), "--by", "davies_bouldin"]) == 0
    assert "davies_bouldin (radii)" in capsys.readouterr().out
    ranking = json.loads((tmp_path / "ranking" / "ranking.json").read_text())
    assert ranking["by"] == "davies_bouldin"
    scores = [row["davies_bouldin"] for row in ranking["ranking"]]
    assert scores == sorted(scores, reverse=True)
    report = (tmp_path / "ranking" / "report.html").read_text()
    assert 'data-metric="davies_bouldin"' in report
    assert "davies_bouldin, radii" in report
