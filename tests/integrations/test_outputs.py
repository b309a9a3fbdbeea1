"""What layers give of images, and the doubts that a probe of the first image raises."""

from itertools import count

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from torch_trf.inference import ForwardPasses, Inference
from torch_trf.integrations.checkpoint import score_checkpoint
from torch_trf.integrations.hooks import tap
from torch_trf.integrations.outputs import LayerOutputs


def outputs_of(model, images, *layers):
    """What layers give of a batch, part by part."""
    with tap(model, *layers) as features:
        outputs = LayerOutputs(ForwardPasses(model.eval(), Inference()), features, layers)
        return list(outputs(images))


@pytest.fixture
def images(device):
    return torch.rand(5, 3, 64, 96, generator=torch.Generator().manual_seed(0)).to(device)


class Given(nn.Module):
    """Gives what a function makes of features at stride 4."""

    def __init__(self, make):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.make, self.last = nn.Conv2d(3, 8, 4, stride=4), make, nn.Identity()

    def forward(self, images):
        return self.last(self.make(self.backbone(images)))


def test_gives_what_the_layers_give_and_is_silent(images):
    model = Given(torch.relu).to(images.device)
    ((part, given),) = outputs_of(model, images, "backbone", "last")
    assert part == slice(0, 5)
    assert torch.equal(given["backbone"], model.backbone(images))
    assert torch.equal(given["last"], model(images))


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_probes_in_passes_of_the_same_size(batch, dtype, images):
    sizes, seen = [], []
    model = Given(lambda x: x).to(images.device)

    def see(module, arguments):
        sizes.append(len(arguments[0]))
        seen.append(arguments[0])

    model.register_forward_pre_hook(see)
    model.backbone.register_forward_pre_hook(lambda module, arguments: arguments[0].float())
    images = (255 * images).to(dtype)
    outputs_of(model, images[:batch], "backbone")
    assert sizes == [batch] * (1 + -(-3 // batch))
    same, upper_right, lower_left = torch.cat(seen[1:])[:3]
    assert torch.equal(same, images[0])
    assert [(upper_right != same)[:, rows, columns].any().item() for rows, columns in CORNERS] == [True, False]
    assert [(lower_left != same)[:, rows, columns].any().item() for rows, columns in CORNERS] == [False, True]


WIDTHS = count(4)
CORNERS = [(slice(None, 32), slice(48, None)), (slice(32, None), slice(None, 48))]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x + x.mean((2, 3), keepdim=True),  # of the whole image, in part
        lambda x: nn.functional.group_norm(x, 2),
        lambda x: nn.functional.interpolate(x, size=(64, 96)),
        lambda x: nn.functional.pad(x.flatten(2).mT, (0, 0, 1, 0)),  # tokens
        lambda x: x.mean((2, 3)),
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: torch.zeros_like(x),
        lambda x: x * torch.nan,
        lambda x: x.permute(0, 2, 3, 1),  # which is an error where it is read
    ],
)
def test_what_layers_may_give_is_not_doubted(make, images):
    outputs_of(Given(make).to(images.device), images, "last")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda x: nn.functional.dropout(x, 0.1),
            "layer 'last' gives other features of the same image in a second pass",
        ),
        (lambda x: x - x.mean(0), "other features of the same image in a second pass"),
        (lambda x: x[..., : next(WIDTHS)], "other features of the same image in a second pass"),
        (lambda x: x.flip(-1), "layer 'last' does not follow the image"),
        (lambda x: x.flip(-2), "does not follow the image"),
        (lambda x: x.mT, "does not follow the image"),
        (lambda x: x.repeat(1, 2, 1, 1).permute(0, 2, 3, 1), "does not follow the image"),
        (lambda x: x.flatten(2).mT[:, torch.arange(256).mul(77) % 256], "does not follow the image"),  # tokens
    ],
)
def test_what_is_taken_for_an_image_but_is_none_is_told(make, message, images):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=message) as warned:
        outputs_of(Given(make).to(images.device), images[..., :64], "backbone", "last")
    assert len(warned) == 1


@pytest.mark.parametrize("rare", [2.2, 5.0])
def test_places_that_never_change_are_not_doubted(rare, images):
    """Most channels of many networks with their first weights are silent, and speak at a few places alone."""

    def speaks(x):
        generator = torch.Generator().manual_seed(0)
        speaking = torch.randn(x.shape[-2:], generator=generator).abs().mul(2).to(x.device) > rare
        return x.mean((2, 3), keepdim=True) * speaking + 0.0 * x

    outputs_of(Given(speaks).to(images.device), images[..., :64], "last")


def test_a_doubt_that_another_image_does_not_raise_is_none(images):
    """A model that gives the places of a smooth image wrong, and of noise right."""
    smooth = nn.functional.interpolate(images[..., :4, :4], size=(64, 64), mode="bicubic")

    def flips(x):
        is_noise = x.diff(dim=-1).square().mean((1, 2, 3)) > x.var((2, 3)).mean(1)
        return x.where(is_noise[:, None, None, None], x.flip(-1))

    model, passes = Given(flips).to(images.device), []
    model.register_forward_pre_hook(lambda module, arguments: passes.append(len(arguments[0])))
    outputs_of(model, smooth[:1], "backbone")
    assert len(passes) == 1 + 3
    outputs_of(model, smooth[:1], "last")
    assert len(passes) == 2 * (1 + 3) + 3


def test_queries_of_a_transformer_are_told(images):
    class Queries(nn.Module):
        """96 queries that look at the image."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.queries, self.embed = nn.Parameter(torch.randn(1, 96, 16)), nn.Conv2d(3, 16, 8, stride=8)
            self.decoder = nn.TransformerDecoderLayer(16, 2, 32, batch_first=True)

        def forward(self, images):
            return self.decoder(self.queries.expand(len(images), -1, -1), self.embed(images).flatten(2).mT)

    with pytest.warns(UserWarning, match=r"layer 'decoder' does not follow the image.*Queries"):
        outputs_of(Queries().to(images.device), images, "decoder")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (resnet18, ("relu", "layer1", "layer2", "layer3")),
        (
            lambda: lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5),
            ("backbone:low", "backbone:high", "classifier", "classifier.cbr", "classifier.scale", ""),
        ),
    ],
)
def test_models_are_not_doubted(make, layers, images):
    torch.manual_seed(0)
    outputs_of(make().to(images.device), images, *layers)


def test_a_score_of_a_model_that_draws_at_random_is_told(images):
    labels = torch.randint(0, 3, (5, 64, 96), device=images.device)
    model = Given(lambda x: nn.functional.dropout(x, 0.5)).to(images.device)
    with pytest.warns(UserWarning, match="other features of the same image in a second pass"):
        score_checkpoint(model, [(images, labels)], "last", num_classes=3, metrics="logme")


def test_a_layer_that_runs_twice_in_a_pass_is_told(images):
    model = Given(lambda x: model.backbone(nn.functional.interpolate(x[:, :3], scale_factor=4)))
    labels = torch.randint(0, 3, (5, 64, 96), device=images.device)
    with pytest.warns(UserWarning, match="layer 'backbone' ran more than once") as warned:
        score_checkpoint(model.to(images.device), [(images, labels)] * 2, "backbone", num_classes=3, metrics="logme")
    assert len(warned) == 1
