"""What the ops over patches share: which pixels count, and how many patches there are."""

import pytest
import torch

from torch_trf._ops import class_index, patch_shape


@pytest.mark.parametrize("ignore_index", [255, -1, 1])
def test_class_index(ignore_index, device):
    labels = torch.tensor([0, 1, 2, -1, 255, 3], dtype=torch.int16, device=device)
    index, bad = class_index(labels, 3, ignore_index)
    classes = {0, 1, 2} - {ignore_index}
    assert index.tolist() == [y if y in classes else -1 for y in labels.tolist()]
    assert bad.tolist() == [y not in classes | {ignore_index} for y in labels.tolist()]


@pytest.mark.parametrize(
    ("patch", "stride", "grid"),
    [((7, 9), (7, 9), [1, 1]), ((3, 3), (3, 3), [2, 3]), ((3, 4), (2, 1), [3, 6]), ((1, 2), (5, 20), [2, 1])],
)
def test_patch_shape(patch, stride, grid):
    labels = torch.zeros(4, 7, 9, dtype=torch.int64)
    assert patch_shape(labels, patch, stride, True) == grid
    assert patch_shape(labels, patch, stride, False) == [4, *grid]


@pytest.mark.parametrize(
    ("patch", "stride", "message"),
    [
        ((8, 9), (1, 1), "8 x 9 pixels does not fit into 7 x 9"),
        ((0, 3), (1, 1), "0 x 3 pixels does not fit"),
        ((2, 2), (1, 0), "stride must be positive, not 1 x 0"),
    ],
)
def test_patches_that_do_not_fit_are_an_error(patch, stride, message):
    with pytest.raises(ValueError, match=message):
        patch_shape(torch.zeros(4, 7, 9, dtype=torch.int64), patch, stride, True)
