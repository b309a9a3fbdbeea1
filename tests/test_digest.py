"""Short names tell contents apart, and nothing else."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_trf._digest import digest, of_file, of_tensor


@given(contents=st.binary(max_size=40), data=st.data())
def test_does_not_depend_on_parts(contents, data):
    cut = data.draw(st.integers(0, len(contents)))
    assert digest([contents[:cut], contents[cut:]]) == digest([contents])


@given(contents=st.lists(st.binary(max_size=8), min_size=2, max_size=2, unique=True))
def test_tells_contents_apart(contents):
    assert digest(contents[:1]) != digest(contents[1:])


def test_a_tensor_is_its_values_shape_and_type():
    tensor = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    others = [tensor.mT, tensor.reshape(3, 2), tensor.view(torch.float32), tensor.long(), tensor + 1]
    assert len({digest(of_tensor(each)) for each in [tensor, *others]}) == 6
    assert digest(of_tensor(tensor.mT.contiguous().mT)) == digest(of_tensor(tensor))  # whatever its strides


def test_a_file_is_its_bytes(tmp_path):
    contents = np.random.default_rng(0).bytes(3_000_000)  # more than is read at once
    (tmp_path / "file").write_bytes(contents)
    assert digest(of_file(tmp_path / "file")) == digest([contents])
