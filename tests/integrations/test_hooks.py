"""Hooks on a forward pass: what they catch, what they leave behind, and scores of what they catch."""

import copy
import json
import pickle
import weakref
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import torch_trf
from torch_trf.cli import main
from torch_trf.integrations.hooks import FeatureTap, tap
from torch_trf.integrations.torchmetrics import TransferabilityMap, TransferabilityScore
from torch_trf.pixels import fold_tokens, on_one_grid

K = 3
LAYERS = ["backbone", "backbone.0", "head", ""]


@pytest.fixture
def model(device):
    """A backbone at stride 2, and a head of five source classes."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(OrderedDict(backbone=backbone, head=nn.Conv2d(6, 5, 1))).to(device)


@pytest.fixture
def images(device):
    return torch.randn(4, 3, 16, 24, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.fixture
def labels(device):
    return torch.randint(0, K, (4, 16, 24), generator=torch.Generator().manual_seed(2)).to(device)


def values(metric):
    return {name: score.item() for name, score in metric.compute().items()}


def score(**options):
    return TransferabilityScore(("logme", "hscore", "leep"), num_classes=K, **options)


def by_hand(features, labels, logits=None, **options):
    metric = score(**options)
    metric.update(features, labels, logits)
    return values(metric)


def hooks(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


@pytest.mark.parametrize("by_name", [True, False])
def test_catches_what_layers_give(by_name, model, images):
    model.eval()
    modules = dict(model.named_modules())
    layers = LAYERS if by_name else [modules[name] for name in LAYERS]
    with tap(model, *layers) as features:
        output = model(images)
        taken = [features.take(layer) for layer in layers]
    backbone = model.backbone(images)
    for actual, expected in zip(taken, (backbone, model.backbone[0](images), output, output), strict=True):
        assert torch.equal(actual, expected)
    assert not hooks(model)


def test_features_are_those_that_the_layer_gave_whatever_follows(images):
    for context in (nullcontext(), torch.inference_mode()):
        model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(inplace=True)).to(images.device)
        with tap(model, "0") as features, context:
            model(images)
            assert torch.equal(features.take("0"), model[0](images))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("backbon", "the model has no layer 'backbon'; it has 'backbone'"),
        ("body", "the model has no layer 'body'; it has 'backbone', 'head'"),
        ("backbone.9", r"the model has no layer 'backbone.9'; it has 'backbone\.\d'"),
        (nn.ReLU(), "the layer ReLU is no layer of the model"),
    ],
)
def test_a_layer_that_is_not_there_is_an_error_and_leaves_no_hook(layer, message, model):
    with pytest.raises(ValueError, match=message):
        FeatureTap(model, "backbone", layer)
    assert not hooks(model)


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor
    hidden: Tensor


class ModelOutput(OrderedDict):
    """As in transformers: a dict whose items are attributes, too."""


class Answer(nn.Module):
    """Gives what a function makes of its input."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda x: x, ""),
        (lambda x: {"aux": x + 1, "out": x}, ""),
        (lambda x: {"aux": x, "out": x + 1}, ":aux"),
        (lambda x: {"any": x}, ""),
        (lambda x: {1: x + 1, 2: x}, ":2"),
        (lambda x: (x, None), ""),
        (lambda x: (x + 1, x), ":1"),
        (lambda x: [x, x + 1], ":0"),
        (lambda x: Output(None, x, x + 1), ""),
        (lambda x: Output(None, x + 1, x), ":hidden"),
        (lambda x: ModelOutput(attentions=(x + 1,), last_hidden_state=x), ""),
        (lambda x: ModelOutput(hidden_states=(x + 1,), pooler_output=x), ""),
        (lambda x: ModelOutput(feature_maps=(x + 1, x)), ":feature_maps:1"),
        (lambda x: ({"low": x}, [x + 1]), ":0:low"),
    ],
)
def test_the_tensor_that_is_meant_is_taken_of_an_output(make, key, images):
    model = nn.Sequential(OrderedDict(part=Answer(make)))
    with tap(model, f"part{key}") as features:
        model(images)
        assert torch.equal(features.take(f"part{key}"), images)


@pytest.mark.parametrize(
    ("make", "key", "message"),
    [
        (lambda x: {"high": x, "low": x}, "", "layer 'part' gives a dict with the tensors 'high', 'low': choose one"),
        (lambda x: (x, x), "", "a tuple with the tensors '0', '1'"),
        (lambda x: Output(x, x, x), ":loos", "layer 'part:loos' gives a Output with the tensors 'loss', 'logits', "),
        (lambda x: ModelOutput(maps=(x, x)), "", "gives a ModelOutput with the tensors 'maps:0', 'maps:1': choose one"),
        (lambda x: ModelOutput(maps=(x, x)), ":maps", "with the tensors 'maps:0', 'maps:1': choose one"),
        (lambda x: ModelOutput(loss=None), "", "layer 'part' gives no tensor"),
        (lambda x: x, ":out", "layer 'part:out' gives a Tensor"),
    ],
)
def test_an_output_in_which_it_is_not_clear_what_is_meant_is_an_error(make, key, message, images):
    model = nn.Sequential(OrderedDict(part=Answer(make)))
    with pytest.raises(ValueError, match=message), tap(model, f"part{key}"):
        model(images)
    assert not hooks(model)


def test_sees_the_inside_of_a_real_model(device):
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).to(device).eval()
    images = torch.randn(1, 3, 64, 96, device=device)
    layers = {"backbone:high": (960, 4, 6), "backbone:low": (40, 8, 12), "classifier": (5, 8, 12), "": (5, 64, 96)}
    with tap(model, *layers) as features, torch.no_grad():
        output = model(images)
        taken = {layer: features.take(layer) for layer in layers}
    assert {layer: tuple(tensor.shape[1:]) for layer, tensor in taken.items()} == layers
    assert torch.equal(taken[""], output["out"])
    assert torch.equal(taken["backbone:high"], model.backbone(images)["high"])


def test_features_are_taken_once_after_each_pass(model, images):
    with tap(model, "head") as features:
        nothing = "layer 'head' has given nothing since its features were last taken"
        with pytest.raises(ValueError, match=nothing):
            features.take("head")
        for _ in range(2):
            model(images)
            features.take("head")
            with pytest.raises(ValueError, match=nothing):
                features.take("head")


def test_the_last_call_of_a_layer_counts(images):
    layer = nn.Conv2d(3, 3, 1).to(images.device)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    with tap(model, layer) as features:
        output = model(images)
        with pytest.warns(UserWarning, match="the layer Conv2d ran more than once since its features were last taken"):
            assert torch.equal(features.take(layer), output)
        model(images)
        features.take(layer)  # said once


def test_labels_of_one_of_several_passes_are_told(model, images, labels):
    metric = score()
    with metric.attach(model, "backbone", "head") as live:
        model(images)
        live.update(labels)
        model(images)
        model(images)
        with pytest.warns(UserWarning, match="layer '(backbone|head)' ran more than once since") as warned:
            live.update(labels)
        assert len(warned) == 2


def test_what_is_forgotten_is_not_taken(model, images):
    with tap(model, "head") as features:
        model(images)
        features.forget()
        output = model(images)
        assert torch.equal(features.take("head"), output)


class Checkpointed(nn.Module):
    """Its part runs again in the backward pass."""

    def __init__(self, part, use_reentrant):
        super().__init__()
        self.part, self.use_reentrant = part, use_reentrant

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.part, x, use_reentrant=self.use_reentrant)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("takes_after", [False, True])
def test_what_a_layer_computes_again_in_the_backward_pass_does_not_count(use_reentrant, takes_after, model, images):
    checkpointed, taken = Checkpointed(model, use_reentrant), []
    with tap(checkpointed, "part.head") as features:
        for scale in (1, 2):
            output = checkpointed((scale * images).requires_grad_())
            if not takes_after:
                taken.append(features.take("part.head"))
            output.square().sum().backward()
            if takes_after:
                taken.append(features.take("part.head"))
            assert torch.equal(taken[-1], output)


def test_a_layer_has_every_name_that_leads_to_it(model, images):
    model.encoder = model.backbone
    with tap(model, "backbone.0", "encoder.0", "encoder") as features:
        model[:2](images)
        assert torch.equal(features.take("encoder.0"), features.take("backbone.0"))


def test_names_are_those_of_the_layers_inside_of_activation_checkpointing(model, images):
    apply_activation_checkpointing(model, check_fn=lambda module: module is model.backbone)
    with tap(model, "backbone.1", "backbone") as features:
        model.eval()(images)
        assert features.take("backbone.1").shape == features.take("backbone").shape


@pytest.mark.parametrize(("size", "is_on_grid"), [(32, True), (64, False)])
def test_a_layer_of_a_swin_transformer_is_told(size, is_on_grid, device):
    """Of images of 32 x 32 pixels it gives [B, 8, 8, 8], which may be read one way or the other."""
    torch.manual_seed(0)
    model = SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4]).to(device).eval()
    images = torch.rand(1, 3, size, size, device=device)
    labels = torch.zeros(1, size, size, dtype=torch.int64, device=device)
    metric = TransferabilityScore("logme", num_classes=K)
    with metric.attach(model, "features.1") as live:
        model(images)
        said = pytest.warns(UserWarning, match=r"gives \[1, .*, 8\], and its last part is a Linear over 8 channels")
        off_grid = nullcontext() if is_on_grid else pytest.raises(ValueError, match="cannot be brought onto one grid")
        with said, off_grid:
            live.update(labels)


@pytest.mark.parametrize("layer", ["features.1", "features.1.0.block.0"])
def test_a_layer_of_a_convnext_is_as_it_seems(layer, device):
    model = ConvNeXt([CNBlockConfig(8, None, 2)]).to(device).eval()
    with tap(model, layer) as features:
        model(torch.rand(1, 3, 32, 32, device=device))
        assert features.take(layer).shape == (1, 8, 8, 8)


@pytest.mark.parametrize("where", ["model", "block"])
def test_no_hook_is_left_behind_an_error(where, model, images):
    def fail(*_):
        raise RuntimeError(where)

    if where == "model":
        model.head.register_forward_pre_hook(fail)
    features = tap(model, "backbone", "head")
    with pytest.raises(RuntimeError, match=where), features:
        fail(model(images))
    assert not hooks(model)


def test_a_model_in_training_learns_what_it_learns_without_the_tap(model, images):
    def gradients():
        model.zero_grad()
        model(images).square().mean().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    without = gradients()
    with tap(model, "backbone", "") as features:
        for actual, expected in zip(gradients(), without, strict=True):
            assert torch.equal(actual, expected)
        for layer in ("backbone", ""):
            caught = features.take(layer)
            assert not caught.requires_grad
            assert caught.grad_fn is None


class Witness(nn.Module):
    """Adds nothing, and knows whether the memory of what it gave last is still held."""

    def forward(self, x):
        array = x.detach().cpu().numpy().copy()
        self.array = weakref.ref(array)
        return torch.from_numpy(array)

    @property
    def is_held(self):
        return self.array() is not None


def test_what_is_taken_or_removed_is_not_kept(images):
    model = Witness()
    with tap(model, "") as features:
        model(images)
        assert not model.is_held  # the tap has a copy
        taken = features.take("")
        copy = weakref.ref(taken)
        del taken
        assert copy() is None
        model(images)
    with pytest.raises(ValueError, match="has given nothing"):
        features.take("")


def test_what_a_metric_was_updated_with_is_not_kept(images, labels):
    model, metric = Witness(), TransferabilityScore(("logme",), num_classes=K)
    with metric.attach(model, "") as live:
        model(images)
        live.update(labels.cpu())
        assert not model.is_held


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, nullcontext])
def test_scores_do_not_depend_on_the_gradient_mode(context, model, images, labels):
    model.eval()
    metric = score()
    with metric.attach(model, "backbone", "head") as live:
        with context():
            model(images[:1])
            live.update(labels[:1])
        model(images[1:])
        live.update(labels[1:])
    features = model.backbone(images)
    assert values(metric) == pytest.approx(by_hand(features, labels, model.head(features)), rel=1e-5)


def test_autocast_gives_features_in_its_precision(model, images, labels):
    model.eval()
    metric = score()
    with metric.attach(model, "backbone", "head") as live, tap(model, "backbone") as features:
        with torch.autocast(images.device.type, torch.bfloat16):
            model(images)
            live.update(labels)
        caught = features.take("backbone")
    assert caught.dtype == torch.bfloat16
    whole = model.backbone(images)
    torch.testing.assert_close(caught.float(), whole, rtol=0.05, atol=0.05)
    assert values(metric) == pytest.approx(by_hand(whole, labels, model.head(whole)), abs=0.02)


def test_scores_do_not_depend_on_the_memory_format(model, images, labels):
    model.eval()
    features = model.backbone(images)
    expected = by_hand(features, labels, model.head(features))
    metric = score()
    model.to(memory_format=torch.channels_last)
    with metric.attach(model, "backbone", "head") as live, tap(model, "backbone") as caught:
        model(images.contiguous(memory_format=torch.channels_last))
        live.update(labels)
        assert caught.take("backbone").is_contiguous(memory_format=torch.channels_last)
    assert values(metric) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def process_group(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_sees_inside_distributed_training(model, images, labels):
    parallel = nn.parallel.DistributedDataParallel(model)
    metric = score()
    with metric.attach(parallel, "backbone", "") as live, tap(parallel, parallel, model.backbone) as features:
        output = parallel(images)
        live.update(labels)
        assert torch.equal(features.take(parallel), output)
        backbone = features.take(model.backbone)
    output.sum().backward()
    assert values(metric) == pytest.approx(by_hand(backbone, labels, output), rel=1e-12)
    assert not hooks(parallel)


# The checks of signatures, which are compiled along with the hooks, look at every attribute of a tensor.
checked_as_compiled = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(params=["wrapped", "in place"])
def compiled(request, model):
    """The model, compiled."""
    torch.compiler.reset()
    model.eval()
    if request.param == "wrapped":
        yield torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
        yield model
    torch.compiler.reset()


@pytest.mark.slow
@checked_as_compiled
@pytest.mark.parametrize("called_before", [False, True])
def test_sees_inside_a_compiled_model(called_before, compiled, model, images, labels):
    if called_before:
        compiled(images)
    expected = model.backbone(images)
    for _ in range(2):  # again, after a first tap was removed
        with tap(compiled, "backbone", "", model.head) as features:
            output = compiled(images)
            assert torch.equal(features.take("backbone"), expected)
            assert torch.equal(features.take(""), output)
            assert torch.equal(features.take(model.head), output)
        compiled(images)
        with pytest.raises(ValueError, match="has given nothing"):
            features.take("backbone")
        assert not hooks(compiled)


@pytest.mark.slow
@checked_as_compiled
def test_a_compiled_model_is_a_layer_of_itself(compiled, images):
    with tap(compiled, compiled) as features:
        output = compiled(images)
        assert torch.equal(features.take(compiled), output)


@pytest.mark.slow
@checked_as_compiled
def test_sees_inside_a_compiled_part(model, images):
    model.eval()
    expected = model.backbone[0](images)
    part = model.backbone
    model.backbone = torch.compile(part, backend="eager")
    model(images)
    layers = [part[0], "backbone.0"]  # the names of a model do not change by compiling it
    with tap(model, *layers) as features:
        model(images)
        for layer in layers:
            assert torch.equal(features.take(layer), expected)
    torch.compiler.reset()


def test_live_scores_are_those_of_the_features_by_hand(model, images, labels):
    model.eval()
    metric = score()
    with metric.attach(model, "backbone", "head") as live:
        for part in (slice(0, 1), slice(1, 4)):
            model(images[part])
            live.update(labels[part])
    assert not hooks(model)
    features = model.backbone(images)
    assert values(metric) == pytest.approx(by_hand(features, labels, model.head(features)), rel=1e-5)


def test_a_layer_can_give_features_and_class_scores(model, images, labels):
    metric = score()
    with metric.attach(model, "head", "head") as live:
        output = model(images)
        live.update(labels)
    assert values(metric) == pytest.approx(by_hand(output, labels, output), rel=1e-12)


def test_a_live_map_is_that_of_the_features_by_hand(model, images, labels):
    metrics = [TransferabilityMap("logme", patch_size=4, num_classes=K) for _ in range(2)]
    with metrics[0].attach(model, "backbone") as live, tap(model, "backbone") as features:
        model(images)
        live.update(labels)
        metrics[1].update(features.take("backbone"), labels)
    live_map, expected = (metric.compute().values for metric in metrics)
    assert live_map.shape == (2, 3)
    torch.testing.assert_close(live_map, expected, rtol=1e-12, atol=0)


def test_an_update_belongs_to_one_pass(model, images, labels):
    metric = score()
    with metric.attach(model, "backbone", "head") as live:
        with pytest.raises(ValueError, match="layer 'backbone' has given nothing"):
            live.update(labels)
        model(images)
        live.update(labels)
        with pytest.raises(ValueError, match="layer 'backbone' has given nothing"):
            live.update(labels)
    assert metric.compute()["leep"] < 0


def test_an_error_inside_the_block_detaches_the_metric(model, images):
    metric = score()
    wrong = torch.full((4, 16, 24), K, device=images.device)

    def run():
        with metric.attach(model, "backbone", "head") as live:
            model(images)
            live.update(wrong)
            metric.compute()  # on a GPU it is here that it is told

    with pytest.raises(ValueError, match="label 3 on 384 pixels"):
        run()
    assert not hooks(model)


def test_tokens_of_a_transformer_are_scored_as_an_image(device):
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5).to(device)
    images = torch.randn(3, 3, 32, 32, device=device)
    labels = torch.randint(0, K, (3, 32, 32), device=device)
    metric = TransferabilityScore(("logme", "hscore"), num_classes=K)
    with metric.attach(model, "encoder") as live, tap(model, "encoder") as features:
        model(images)
        live.update(labels)
        tokens = features.take("encoder")
    assert tokens.shape == (3, 1 + 4 * 4, 8)
    folded = tokens[:, 1:].mT.reshape(3, 8, 4, 4)
    assert torch.equal(fold_tokens(tokens, (32, 32)), folded)
    for name, value in values(metric).items():
        expected = getattr(torch_trf, name)(folded, labels[:, 4::8, 4::8], num_classes=K).item()
        assert value == pytest.approx(expected, rel=1e-10)


def test_live_scores_are_those_of_a_folder_of_the_features(tmp_path, model, images, labels, capsys):
    labels[:, :3] = 255
    metric = TransferabilityScore(("leep", "logme", "hscore"), num_classes=K, features_are_logits=True)
    for name in ("final", "label"):
        (tmp_path / name).mkdir()
    with metric.attach(model, "head") as live, tap(model, "head") as features:
        for k in range(4):
            model(images[k : k + 1])
            live.update(labels[k : k + 1])
            pixels = on_one_grid(features.take("head"), labels[k : k + 1])
            np.save(tmp_path / "final" / f"{k}.npy", pixels.features[0].cpu().numpy())
            np.save(tmp_path / "label" / f"{k}.npy", pixels.labels[0].cpu().numpy())
    options = ["--metrics", "leep", "logme", "hscore", "--logits", "final", "--num_classes", str(K), "--device", "cpu"]
    assert main(["score", "--target", str(tmp_path), *options, "--output", str(tmp_path / "scores.json")]) == 0
    saved = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert values(metric) == pytest.approx({name: score["score"] for name, score in saved.items()}, abs=1e-6)


def test_a_layer_that_is_named_twice_is_caught_once(model, images, labels):
    metric = score()
    with metric.attach(model, "head", logits_layer="head") as live:
        model(images)
        assert len(hooks(model)) == 1
        live.update(labels)
        assert not live._features._caught
    assert values(metric) == by_hand(model(images), labels, model(images))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_the_model_is_not_tapped(model, images, copied):
    with tap(model, "backbone") as features:
        other = copied(model)
        expected = model.backbone(images)
        features.forget()
        model(images)
        other(torch.zeros_like(images))
        assert torch.equal(features.take("backbone"), expected)
        other(images)
        with pytest.raises(ValueError, match="has given nothing"):
            features.take("backbone")
