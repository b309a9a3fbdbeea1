"""How models are run: options, precision, devices, and batches for which memory does not suffice."""

import pytest
import torch
from torch import nn

from torch_trf.inference import ForwardPasses, Inference


class Counting(nn.Module):
    """A convolution that keeps its outputs, and has memory for so many images."""

    def __init__(self, most=99):
        super().__init__()
        self.convolution, self.most, self.outputs = nn.Conv2d(3, 4, 1), most, []

    def forward(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.outputs.append(self.convolution(images))
        return self.outputs[-1]


IMAGES = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float8"}, "precision: 'float8' is none of float32, bfloat16, float16"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, not -1"),
        ({"num_workers": 10_000}, r"num_workers=10000: at most \d+ processes on this machine"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Inference(**options)


def test_batches_pass_whole_however_large_those_of_images_are():
    """A batch that somebody else's loader gives."""
    model = Counting()
    passes = ForwardPasses(model, Inference(batch_size=2))
    assert list(passes(IMAGES)) == [slice(0, 9)]
    [output] = model.outputs
    assert torch.equal(output, model.convolution(IMAGES))
    assert output.is_inference()
    assert passes.seconds > 0


def test_parts_follow_one_another_where_memory_does_not_suffice():
    model = Counting(most=2)
    passes = ForwardPasses(model, Inference())
    with pytest.warns(UserWarning, match="does not suffice") as warned:
        parts = list(passes(IMAGES))
    assert [str(each.message) for each in warned] == [
        "memory does not suffice for 9 images at once: going on with 4",
        "memory does not suffice for 4 images at once: going on with 2",
    ]
    assert torch.equal(torch.cat([IMAGES[part] for part in parts]), IMAGES)
    torch.testing.assert_close(torch.cat(model.outputs), model.convolution(IMAGES))
    assert list(passes(IMAGES[:3])) == [slice(0, 2), slice(2, 3)]  # it is remembered, and not said again


def test_each_pass_is_over_its_part_when_that_is_told():
    model = Counting()
    passes = ForwardPasses(model, Inference())
    passes._most = 4
    for part in passes(IMAGES):
        torch.testing.assert_close(model.outputs[-1], model.convolution(IMAGES[part]))


def test_memory_for_not_even_one_image_is_an_error():
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        list(ForwardPasses(Counting(most=0), Inference())(IMAGES[:1]))


def test_other_errors_are_those_of_the_model():
    with pytest.raises(RuntimeError, match="expected input"):
        list(ForwardPasses(Counting(), Inference())(torch.rand(2, 5, 4, 4)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_precision_is_that_of_the_passes(precision):
    model = Counting()
    with torch.autocast("cpu", torch.bfloat16):  # whatever is around
        list(ForwardPasses(model, Inference(precision=precision))(IMAGES))
    assert model.outputs[0].dtype == getattr(torch, precision)


def test_a_model_stays_where_it_is_and_in_its_mode(device):
    model = Counting().to(device)
    passes = ForwardPasses(model, Inference())
    assert passes.device.type == device.type
    assert model.training
    assert list(passes(IMAGES)) == [slice(0, 9)]
    assert model.outputs[0].device.type == device.type


def test_a_model_is_moved_where_it_is_to_run(device):
    model = Counting()
    assert ForwardPasses(model, Inference(device=device)).device.type == device.type
    assert model.convolution.weight.device.type == device.type


def test_a_model_without_parameters_is_where_it_is_told_to_run():
    assert Inference().place(nn.Identity()) == torch.device("cpu")
    assert Inference(device="meta").place(nn.Identity()) == torch.device("meta")
