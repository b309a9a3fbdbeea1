"""Forward passes over images: what layers give, batch by batch, and what happens where memory does not suffice."""

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from torch_trf.datasets import LabeledImages
from torch_trf.inference import ForwardPasses, Inference
from torch_trf.ranking._image_features import image_features

from . import helpers
from .helpers import ChannelsLast, Model, Scenes

PROBES = [2, 2]  # of the first image, three probes in passes of two


@pytest.fixture(autouse=True)
def passes(monkeypatch):
    """How many images each forward pass has; and what is done before."""
    monkeypatch.setattr(helpers, "PASSES", [])
    monkeypatch.setattr(helpers, "BEFORE_PASSES", [])


def make_images(transform=None, **options):
    return LabeledImages(dataset=Scenes(**options), num_classes=helpers.K, transform=transform)


def run(model, images, *layers, only=None, **options):
    """What the layers give of each image."""
    passes = ForwardPasses(model.eval(), Inference(**{"batch_size": 2, "num_workers": 0} | options))
    outputs = list(image_features(passes, layers, images, range(len(images)) if only is None else only))
    assert passes.seconds > 0
    return outputs


def test_layers_give_features_of_every_image():
    model, images = Model(stride=2), make_images()
    outputs = run(model, images, "mix", "")
    assert [image.index for image, _ in outputs] == [0, 1, 2, 3, 4]
    for image, features in outputs:
        mixed = model.mix(image.image[None])
        torch.testing.assert_close(features["mix"], mixed[0])
        torch.testing.assert_close(features[""], model.head(mixed[..., ::2, ::2])[0])
        assert not features["mix"].requires_grad


def test_images_of_one_size_share_a_pass():
    one, two = (8, 8), (4, 8)
    run(Model(), make_images(count=5, sizes=(one,)), "mix")
    assert [2, *PROBES, 2, 1] == helpers.PASSES
    helpers.PASSES.clear()
    run(Model(), make_images(count=6, sizes=(one, one, two)), "mix", batch_size=3)
    assert [2, *PROBES, 1, 2, 1] == helpers.PASSES
    helpers.PASSES.clear()
    run(Model(), make_images(count=6, sizes=(one, two), transform=v2.Resize([8, 8])), "mix", batch_size=3)
    assert helpers.PASSES == [3, 3, 3]


def test_reads_only_what_it_is_asked_for():
    outputs = run(Model(), make_images(), "mix", only=[4, 1])
    assert [image.index for image, _ in outputs] == [4, 1]


def raise_above(most, error):
    """Raises in passes of more images than suffice."""

    def before(images):
        if len(images) > most:
            raise error

    helpers.BEFORE_PASSES.append(before)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["torch", "cpu", "cuda", "cublas"])
def test_halves_the_batch_where_memory_does_not_suffice(error):
    model, images = Model(), make_images(count=12, sizes=((8, 8),))
    expected = run(model, images, "mix", batch_size=12)
    helpers.PASSES.clear()
    raise_above(2, error)
    with pytest.warns(UserWarning, match="does not suffice") as warned:
        outputs = run(model, images, "mix", batch_size=9)
    assert [str(each.message) for each in warned] == [
        "memory does not suffice for 9 images at once: going on with 4",
        "memory does not suffice for 4 images at once: going on with 2",
    ]
    assert [2, *PROBES, 2, 2, 2, 1, 2, 1] == helpers.PASSES  # 9 images are read at once still
    assert [image.index for image, _ in outputs] == [image.index for image, _ in expected]
    for (_, features), (_, others) in zip(outputs, expected, strict=True):
        torch.testing.assert_close(features["mix"], others["mix"])


def test_memory_for_not_even_one_image_is_an_error():
    raise_above(0, OUT_OF_MEMORY[0])
    with (
        pytest.warns(UserWarning, match="for 2 images at once: going on with 1"),
        pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"),
    ):
        run(Model(), make_images(sizes=((8, 8),)), "mix")


def test_features_of_a_failed_pass_are_not_kept():
    """The layers before the one that fails have given something by then."""
    model = Model()
    held = []

    def fail(module, arguments):
        if len(arguments[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.head.register_forward_pre_hook(fail)
    model.mix.register_forward_hook(lambda module, arguments, output: held.append(len(output)))
    with pytest.warns(UserWarning, match="going on with 1"):
        outputs = run(model, make_images(sizes=((8, 8),)), "mix", "")
    assert held == [2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert len(outputs) == 5


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("pixels")])
def test_other_errors_are_those_of_the_model(error):
    raise_above(0, error)
    with pytest.raises(type(error), match=str(error)):
        run(Model(), make_images(), "mix")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_passes_may_be_of_less_precision(precision):
    model, images = Model(dtype=torch.float32), make_images(dtype=torch.float32)
    half, full = run(model, images, "mix", precision=precision), run(model, images, "mix")
    for (_, features), (_, expected) in zip(half, full, strict=True):
        assert features["mix"].dtype == getattr(torch, precision)
        torch.testing.assert_close(features["mix"].float(), expected["mix"], rtol=0.02, atol=0.02)
        assert not torch.equal(features["mix"].float(), expected["mix"])


class Tokens(nn.Module):
    """Tokens of a transformer behind a class token, of patches of 4 x 4 pixels."""

    def __init__(self):
        super().__init__()
        self.blocks, self.pooled = nn.Identity(), nn.Identity()

    def forward(self, images):
        patches = nn.functional.avg_pool2d(images, 4).flatten(2).mT
        tokens = self.blocks(nn.functional.pad(patches, (0, 0, 1, 0)))
        return {"logits": tokens.mT, "pooled": self.pooled(tokens[:, 0])}


def test_tokens_are_folded():
    for image, features in run(Tokens(), make_images(), "blocks"):
        torch.testing.assert_close(features["blocks"], nn.functional.avg_pool2d(image.image, 4))


def test_features_that_are_no_images_are_named():
    with pytest.raises(ValueError, match=r"layer 'pooled' gives \[1, 3\] of 1 images, expected images"):
        run(Tokens(), make_images(), "pooled")


def test_features_on_no_grid_of_the_image_are_named():
    with pytest.raises(ValueError, match=r"\b3\b.*grid"):
        run(ChannelsLast(), make_images(sizes=((12, 16),)), "same")


def test_features_of_more_images_than_there_are_are_named():
    class Windows(nn.Module):
        """Gives the upper and the lower half of each image, one after the other."""

        def __init__(self):
            super().__init__()
            self.same = nn.Identity()

        def forward(self, images):
            return self.same(images.unflatten(2, (2, -1)).movedim(2, 1).flatten(0, 1))

    with pytest.raises(ValueError, match=r"\b4\b.*\b2\b"):
        run(Windows(), make_images(sizes=((12, 16),)), "same")


def test_a_layer_that_is_not_called_is_named():
    model = Model()
    model.spare = nn.Identity()
    with pytest.raises(ValueError, match="layer 'spare' has given nothing"):
        run(model, make_images(), "mix", "spare")
    with pytest.raises(ValueError, match="the model has no layer 'mixed'; it has 'mix'"):
        run(model, make_images(), "mixed")
    assert not any(module._forward_hooks for module in model.modules())


def test_progress_counts_images(capsys):
    passes = ForwardPasses(Model(), Inference(batch_size=2, num_workers=0, progress=True))
    assert len(list(image_features(passes, ("mix",), make_images(), range(5), "a (1 of 2)"))) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert "a (1 of 2): 100%" in err
    assert "5/5" in err
