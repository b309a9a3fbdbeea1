"""Class scores that are none: told or refused, once, wherever they are read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from torch_trf import FeatureFolder, Mapper, Sampling, Scorer
from torch_trf.integrations.torchmetrics import TransferabilityScore
from torch_trf.metrics import LEEP, METRICS, NCE, RegularizedHScore
from torch_trf.statistics import JointMass

from ..helpers import metrics_that, random_images

K, Z = 3, 5
PROBABILITIES, RECTIFIED = "the class scores are probabilities, or predictions", "the class scores are never negative"


@pytest.fixture
def logits(device):
    return random_images(2, Z, 16, 24, classes=K, device=device)[0].nan_to_num(0.5)


@pytest.fixture
def labels(device):
    return random_images(2, Z, 16, 24, classes=K, device=device)[1]


def of_tensors(logits, labels, metric):
    return metric(logits, labels, num_classes=K)


def of_a_stream(logits, labels, metric):
    return Scorer(metrics=metric, num_classes=K)(iter([(logits, labels, logits)] * 2))[metric.name].score


def of_a_folder(logits, labels, metric, tmp_path):
    for name, tensor in (("final", logits), ("label", labels)):
        (tmp_path / name).mkdir(parents=True)
        for k, image in enumerate(tensor.cpu().numpy()):
            np.save(tmp_path / name / f"{k}.npy", image)
    return Scorer(metrics=metric, num_classes=K)(FeatureFolder(tmp_path, logits="final"))[metric.name].score


def of_a_sample(logits, labels, metric):
    sampling = Sampling(num_pixels=100, num_repeats=2)
    scorer = Scorer(metrics=metric, num_classes=K, sampling=sampling)
    return scorer([(logits, labels, logits)] * 2)[metric.name].score


def of_live_batches(logits, labels, metric):
    live = TransferabilityScore(metric, num_classes=K, features_are_logits=True)
    for _ in range(2):
        live.update(logits, labels)
    return next(iter(live.compute().values())) if isinstance(live.compute(), dict) else live.compute()


def as_a_map(logits, labels, metric):
    return Mapper(metric=metric, patch_size=8, num_classes=K)([(logits, labels, logits)] * 2).values


READERS = [of_tensors, of_a_stream, of_a_folder, of_a_sample, of_live_batches, as_a_map]
every_reader = pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)


def call(read, logits, labels, metric, tmp_path):
    return read(logits, labels, metric, *([tmp_path] if read is of_a_folder else []))


@every_reader
@pytest.mark.parametrize("metric", [LEEP(), RegularizedHScore(softmax=True)], ids=str)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x.softmax(1), PROBABILITIES),
        (lambda x: x.softmax(1).to(torch.float16), PROBABILITIES),
        (lambda x: torch.nn.functional.one_hot(x.argmax(1), Z).movedim(-1, 1).float(), PROBABILITIES),
        (lambda x: x.relu(), RECTIFIED),
    ],
    ids=["probabilities", "of half precision", "predictions", "rectified"],
)
def test_what_looks_like_something_else_is_told_once(read, metric, make, message, logits, labels, tmp_path):
    with pytest.warns(UserWarning, match=message) as warned:
        call(read, make(logits), labels, metric, tmp_path)
    assert len([each for each in warned if "the class scores are" in str(each.message)]) == 1


@every_reader
@pytest.mark.parametrize("metric", [LEEP(), NCE(), RegularizedHScore(softmax=True)], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.log_softmax(1),  # whose softmax are the probabilities
        lambda x: x.exp(),  # positive
        lambda x: x[:, :2],
        lambda x: x.sigmoid(),  # each class for itself
    ],
)
def test_class_scores_are_not_doubted(read, metric, make, logits, labels, tmp_path):
    call(read, make(logits), labels, metric, tmp_path)


@every_reader
@metrics_that(lambda metric: hasattr(metric, "softmax") and not metric.needs_source)
def test_softmax_of_one_channel_is_an_error(read, metric, logits, labels, tmp_path):
    metric = replace(metric, softmax=True)
    if read is as_a_map and not metric.has_map:
        return
    with pytest.raises(ValueError, match="softmax of features of one channel is 1"):
        call(read, logits[:, :1], labels, metric, tmp_path)


@every_reader
@pytest.mark.parametrize("metric", [LEEP(), NCE()], ids=str)
def test_one_channel_is_that_of_a_binary_model(read, metric, logits, labels, tmp_path):
    one = logits[:, :1]
    with pytest.warns(UserWarning, match=r"the class scores have one channel.*read as \[0, z\]"):
        of_one = call(read, one, labels, metric, tmp_path / "one")
    both = call(read, torch.cat([torch.zeros_like(one), one], 1), labels, metric, tmp_path / "both")
    torch.testing.assert_close(of_one, both, rtol=0, atol=0)


@metrics_that(lambda metric: metric.needs_source)
def test_softmax_of_one_channel_of_two_data_sets_is_an_error(metric, logits, labels):
    pixels = logits[:, :1], labels
    with pytest.raises(ValueError, match="softmax of features of one channel is 1"):
        replace(metric, softmax=True)(*pixels, source=pixels)


def test_the_predictions_of_probabilities_are_theirs(logits, labels):
    nce = METRICS["nce"]
    assert nce(logits.softmax(1), labels) == nce(logits, labels)


def test_one_batch_of_class_scores_clears_the_others(logits, labels):
    options = {"num_classes": K}
    both = [JointMass.from_pixels(scores, labels, **options) for scores in (logits.softmax(1), logits)]
    sum(both[1:], both[0]).faults.check(K, 255)
    with pytest.warns(UserWarning, match=PROBABILITIES):
        (both[0] + both[0]).faults.check(K, 255)


@pytest.mark.parametrize("pixels", [1, 15])
def test_of_few_pixels_nothing_is_said(pixels, logits, labels):
    rows = logits.movedim(1, -1).flatten(0, -2).softmax(1)[:pixels]
    LEEP()(rows, torch.arange(pixels, device=rows.device) % K, num_classes=K)
