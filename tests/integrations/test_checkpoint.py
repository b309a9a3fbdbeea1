"""Scores of a model from DataLoaders: those of its features by hand; the model is as it was before."""

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from torch_trf import Sampling, Scorer
from torch_trf.inference import Inference
from torch_trf.integrations.checkpoint import score_checkpoint
from torch_trf.pixels import on_one_grid

K, Z = 3, 5
ONE_PASS = ("logme", "hscore", "regularized_hscore", "nce", "leep")
every_grid = pytest.mark.parametrize(("grid", "pixels"), [("features", 5 * 8 * 11), ("labels", 5 * 16 * 23)])


@pytest.fixture
def model(device):
    """A backbone at stride 2 and a head of class scores at stride 4, in training but for one frozen BatchNorm."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.BatchNorm2d(6))
    model = nn.Sequential(OrderedDict(backbone=backbone, head=nn.Conv2d(6, Z, 2, stride=2))).to(device)
    model(torch.randn(8, 3, 16, 24, device=device))  # statistics that are not those of a batch
    backbone[1].eval()
    return model


@pytest.fixture(scope="module")
def loaders(device):
    """Target and source data sets of five images each, two a batch; the images tell something of the labels."""

    def loader(seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, K, (5, 16, 24), generator=generator)
        images = torch.randn(5, 3, 16, 24, generator=generator) + torch.eye(3)[labels].movedim(-1, 1)
        labels[:, :, 7] = 255 if seed == 0 else 0
        return DataLoader(TensorDataset(images, labels, torch.arange(5)), batch_size=2)

    return loader(0), loader(1)


def by_hand(model, loader, grid="features", logits=True):
    """The pixels of a model in evaluation mode."""
    batches, seen = [], 0
    model.eval()
    device = next(model.parameters()).device
    for images, labels, _ in loader:
        with torch.no_grad():
            features = model.backbone(images.to(device))
            scores = model.head(features) if logits else None
        batches.append(on_one_grid(features, labels.to(device), scores, grid=grid, offset=seen))
        seen += batches[-1].labels.numel()
    return batches


def scored(model, loader, layer="backbone", **options):
    return score_checkpoint(model, loader, layer, num_classes=K, **options)


def values(scores):
    return {name: score.values for name, score in scores.items()}


@every_grid
def test_scores_are_those_of_the_features_by_hand(grid, pixels, model, loaders):
    scores = scored(model, loaders[0], metrics=ONE_PASS, logits_layer="", grid=grid)
    expected = Scorer(metrics=ONE_PASS, num_classes=K)(by_hand(model, loaders[0], grid))
    for name in ONE_PASS:
        assert scores[name].score == pytest.approx(expected[name].score, rel=1e-12)
        assert scores[name].pixels == pixels
    assert scores["leep"].standard_error == 0


def test_leep_of_a_sample_is_within_its_error(model, loaders):
    score = scored(model, loaders[0], metrics=("leep",), logits_layer="head", stream_pixels=150)["leep"]
    exact = Scorer(metrics=("leep",), num_classes=K)(by_hand(model, loaders[0]))["leep"].score
    assert score.pixels == 150
    assert 0 < abs(score.score - exact) < 4 * score.standard_error


def test_samples_are_those_of_the_features_by_hand_and_repeat(model, loaders):
    options = {"metrics": ("logme", "leep"), "sampling": Sampling(num_pixels=60, num_repeats=3, seed=7)}
    scores = [scored(model, loaders[0], logits_layer="head", **options) for _ in range(2)]
    assert values(scores[0]) == values(scores[1])
    assert len(set(scores[0]["logme"].values)) == 3
    expected = Scorer(num_classes=K, **options)(by_hand(model, loaders[0]))
    for name, each in values(expected).items():
        assert scores[0][name].values == pytest.approx(each, rel=1e-12)


def test_couples_with_a_source_data_set(model, loaders):
    sampling = Sampling(num_pixels=60, num_repeats=2)
    options = {"metrics": ("otce", "logme"), "num_source_classes": K, "sampling": sampling, "solver": "exact"}
    scores = scored(model, loaders[0], source=loaders[1], **options)
    target, source = (by_hand(model, loader, logits=False) for loader in loaders)
    expected = Scorer(num_classes=K, **options)(target, source=source)
    for name, each in values(expected).items():
        assert scores[name].values == pytest.approx(each, rel=1e-12)
    with pytest.raises(ValueError, match="otce compares two data sets: a source is needed beside the target"):
        scored(model, loaders[0], **options)


def test_features_can_be_class_scores(model, loaders):
    options = {"metrics": ("leep", "logme")}
    expected = values(scored(model, loaders[0], "head", features_are_logits=True, **options))
    assert values(scored(model, loaders[0], "head", logits_layer="head", **options)) == expected
    assert values(scored(model, loaders[0], model.head, logits_layer="head", **options)) == expected
    with pytest.raises(ValueError, match="class scores"):
        scored(model, loaders[0], "head", **options)


def test_half_precision_is_near_the_models_own(model, loaders):
    dtypes = []
    model.head.register_forward_hook(lambda module, arguments, output: dtypes.append(output.dtype))
    metrics = ("logme", "hscore", "leep")
    half, full = (
        scored(model, loaders[0], metrics=metrics, logits_layer="head", inference=Inference(precision=precision))
        for precision in ("bfloat16", "float32")
    )
    assert dtypes == [torch.bfloat16] * 5 + [torch.float32] * 5  # three batches, and two of the first image
    for name in metrics:
        assert half[name].score == pytest.approx(full[name].score, abs=0.01)
        assert half[name].score != full[name].score


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


def assert_untouched(model, modes_before, state_before):
    assert modes(model) == modes_before
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state_before[name])


@pytest.mark.parametrize("layer", ["backbone", "back", "broken loader"])
def test_the_model_is_afterwards_as_it_was_before(layer, model, loaders):
    before = modes(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert set(before[0].values()) == {True, False}
    if layer == "backbone":
        scored(model, loaders[0])
    elif layer == "back":
        with pytest.raises(ValueError, match="the model has no layer 'back'; it has 'backbone'"):
            scored(model, loaders[0], layer)
    else:
        images, labels, _ = next(iter(loaders[0]))
        with pytest.raises(ValueError, match="label 4 on 768 pixels"):
            scored(model, [(images, labels), (images, torch.full_like(labels, 4))], grid="labels")
    assert_untouched(model, *before)


def test_the_model_is_moved_to_the_device(model, loaders, device):
    expected = scored(model, loaders[0])["logme"].score
    assert scored(model.cpu(), loaders[0], inference=Inference(device=device))["logme"].score == pytest.approx(expected)
    assert next(model.parameters()).device.type == device.type


class Stream(IterableDataset):
    """A data set without a length."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_without_a_length_is_read_like_any(num_workers, model, loaders):
    stream = DataLoader(Stream(loaders[0].dataset), batch_size=2, num_workers=num_workers)
    expected = scored(model, loaders[0], metrics=ONE_PASS, logits_layer="head")
    assert values(scored(model, stream, metrics=ONE_PASS, logits_layer="head")) == values(expected)


def test_a_generator_of_batches_is_read_once(model, loaders):
    batches = ([images, labels] for images, labels, _ in loaders[0])
    assert values(scored(model, batches)) == values(scored(model, loaders[0]))


IMAGES, LABELS = torch.zeros(2, 3, 16, 24), torch.zeros(2, 16, 24, dtype=torch.int64)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([IMAGES], r"a batch is Tensor, expected \(images, labels\)"),
        ([(IMAGES,)], r"a batch is tuple, expected \(images, labels\)"),
        ([{"image": IMAGES, "label": LABELS}], r"a batch is dict, expected \(images, labels\)"),
        ([], "no batch of pixels: the data set is empty$"),
        ([(IMAGES, torch.full_like(LABELS, 255))], "no labeled pixel"),
        ([(IMAGES, LABELS[:1])], r"features \[2, 6, .* and labels \[1, .* do not lie on one grid"),
        ([(IMAGES, LABELS.mT)], "features on 8 x 12 and labels on 24 x 16 pixels cannot be brought onto one grid"),
        ([(IMAGES, LABELS.float())], "labels must be integers"),
        ([(IMAGES * torch.nan, LABELS)], "NaN or infinite"),
    ],
)
def test_data_that_cannot_be_scored_are_errors(loader, message, model):
    with pytest.raises(ValueError, match=message):
        scored(model, loader)


def test_progress_counts_the_batches(model, loaders, capsys):
    options = {"metrics": "otce", "num_source_classes": K, "sampling": Sampling(num_pixels=30)}
    scored(model, loaders[0], source=loaders[1], inference=Inference(progress=True), **options)
    output, progress = capsys.readouterr()
    assert output == ""
    for name in ("target", "source"):
        assert re.search(rf"{name}: 100%\S* 3/3 .*batch", progress)
    scored(model, loaders[0], source=loaders[1], **options)
    assert capsys.readouterr() == ("", "")
