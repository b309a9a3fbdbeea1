"""The op: every kernel agrees with the reference, and says what it does not take."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch

import torch_trf
from torch_trf._ops import LARGEST_INT64, LEAST_INT64, PatchMoments, patch_moments, patch_moments_reference

from .helpers import run_python

PACKAGE = Path(torch_trf.__file__).parent
IGNORED = 250
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = {  # B, D, H, W and the cell
    "one pixel": (1, 1, 1, 1, 1, 1),
    "whole image": (2, 19, 5, 6, 5, 6),
    "cells": (2, 3, 8, 12, 4, 4),
    "remainder": (3, 5, 7, 9, 2, 4),
    "wide": (1, 40, 3, 50, 1, 25),
    "several tiles": (2, 2, 40, 30, 20, 30),
    "several chunks": (2, 2, 130, 129, 130, 129),
}
STRIDES = {
    "contiguous": lambda t: t,
    "rows": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda t: t.mT.contiguous().mT,
    "sliced": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
    "offset": lambda t: torch.nn.functional.pad(t, (3, 2))[..., 3:-2],
    "expanded": lambda t: t[:1].expand_as(t),
}


def images(batch, channels, height, width, *, device, dtype=torch.float32, label_dtype=torch.int64):
    """Random images of four classes with ignored pixels of NaN, labels that are no class, and infinite features."""
    generator = torch.Generator().manual_seed(height * width)
    labels = torch.randint(0, 4, (batch, height, width), generator=generator)
    chance = torch.rand(labels.shape, generator=generator)
    labels[chance < 0.3] = IGNORED
    labels[chance < 0.06] = 77
    labels[chance < 0.03] = 255
    features = torch.randn(batch, channels, height, width, generator=generator) + 3
    features.movedim(1, -1)[labels == IGNORED] = torch.nan
    features[:, -1][chance > 0.95] = torch.inf
    return features.to(device, dtype), labels.to(device, label_dtype)


def assert_matches_reference(features, labels, cell_height, cell_width, pool_batch, ignore_index=IGNORED):
    arguments = (features, labels, 4, cell_height, cell_width, pool_batch, ignore_index)
    actual, expected = patch_moments(*arguments), PatchMoments(*patch_moments_reference(*arguments))
    torch.testing.assert_close(actual._asdict(), expected._asdict(), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("pool_batch", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_cells(shape, pool_batch, device):
    *size, cell_height, cell_width = shape
    assert_matches_reference(*images(*size, device=device), cell_height, cell_width, pool_batch)


@pytest.mark.parametrize("label_dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype, label_dtype, device):
    features, labels = images(2, 5, 11, 9, dtype=dtype, label_dtype=label_dtype, device=device)
    assert_matches_reference(features, labels, 5, 4, False)


@pytest.mark.parametrize("pool_batch", [True, False])
@pytest.mark.parametrize("lay_out", STRIDES.values(), ids=STRIDES.keys())
def test_strides(lay_out, pool_batch, device):
    features, labels = images(3, 4, 6, 8, device=device)
    assert_matches_reference(lay_out(features), lay_out(labels), 3, 4, pool_batch)


def test_transposed_rows(device):
    features, labels = images(1, 4, 1, 300, device=device)
    rows = features[0, :, 0].T.contiguous()
    assert_matches_reference(rows.mT[None, :, None, :], labels, 1, 300, True)


@pytest.mark.parametrize("ignore_index", [-1, 2, 10**12, IGNORED])
def test_ignore_index(ignore_index, device):
    features, labels = images(2, 3, 6, 6, device=device)
    labels[labels == IGNORED] = ignore_index
    assert_matches_reference(features, labels, 3, 3, False, ignore_index)


def test_overflowing_squares_are_not_finite(device):
    features, labels = images(1, 3, 4, 4, dtype=torch.float64, device=device)
    features[0, 0, 2, 2], labels[0, 2, 2] = 1e200, 1
    assert_matches_reference(features, labels, 4, 4, True)


@pytest.mark.parametrize("pool_batch", [True, False])
def test_no_image(pool_batch, device):
    features, labels = torch.zeros(0, 3, 4, 6, device=device), torch.zeros(0, 4, 6, dtype=torch.int64, device=device)
    assert_matches_reference(features, labels, 2, 3, pool_batch)
    moments = patch_moments(features, labels, 4, 2, 3, pool_batch, IGNORED)
    assert moments.class_count.shape == ((2, 2, 4) if pool_batch else (0, 2, 2, 4))
    assert not moments.class_count.any()


def test_faults_count_and_bound_what_should_not_be_there(device):
    features = torch.tensor([[[[1.0, torch.nan, torch.nan, torch.inf, 5.0, 6.0]]]], device=device)
    labels = torch.tensor([[[0, 1, IGNORED, 1, -7, 300]]], device=device)
    moments = patch_moments(features, labels, 2, 1, 6, True, IGNORED)
    assert moments.faults.tolist() == [[[2, -7, 300, 2]]]
    assert moments.class_count.tolist() == [[[1, 0]]]


def test_no_fault_bounds_nothing(device):
    features, labels = torch.ones(1, 1, 1, 2, device=device), torch.zeros(1, 1, 2, dtype=torch.int64, device=device)
    faults = patch_moments(features, labels, 1, 1, 2, True, IGNORED).faults
    assert faults.tolist() == [[[0, LARGEST_INT64, LEAST_INT64, 0]]]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("shape", [(2, 5, 150, 149, 150, 149), (2, 3, 64, 64, 8, 8)], ids=["chunks", "cells"])
def test_same_bits_on_any_number_of_threads(shape, device):
    *size, cell_height, cell_width = shape
    arguments = (*images(*size, device=device), 4, cell_height, cell_width, True, IGNORED)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 2):
            torch.set_num_threads(number)
            results.append(patch_moments(*arguments))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("annotations_unchecked")  # sizes are symbols while PyTorch traces
@pytest.mark.parametrize("pool_batch", [True, False])
def test_registration(pool_batch, device):
    features, labels = images(2, 3, 6, 6, device=device)
    features = features.nan_to_num(0, 0, 0)
    arguments = (features, labels, 4, 3, 2, pool_batch, IGNORED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, while it traces
        torch.library.opcheck(torch.ops.torch_trf.patch_moments.default, arguments)


def test_backward_is_an_error(device):
    features, labels = images(1, 3, 4, 4, device=device)
    moments = patch_moments(features.requires_grad_(), labels, 4, 4, 4, True, IGNORED)
    with pytest.raises(RuntimeError, match="no backward"):
        moments.gram.sum().backward()


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(1, 4, 5, dtype=torch.int64)}, r"\[1, 3, 4, 4\] .* \[1, 4, 5\]"),
        ({"features": torch.zeros(1, 3, 4, 4, dtype=torch.int32)}, "not torch.int32"),
        ({"labels": torch.zeros(1, 4, 4, dtype=torch.int16)}, "not torch.int16"),
        ({"labels": torch.zeros(1, 4, 4, dtype=torch.int64, device="meta")}, "labels on meta"),
        ({"num_classes": 0}, "must be positive, not 0"),
        ({"cell_height": 5}, "5 x 4 pixels does not fit into 4 x 4"),
        ({"cell_width": 0}, "4 x 0 pixels does not fit"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_an_error(change, message):
    arguments = {
        "features": torch.zeros(1, 3, 4, 4),
        "labels": torch.zeros(1, 4, 4, dtype=torch.int64),
        "num_classes": 2,
        "cell_height": 4,
        "cell_width": 4,
        "pool_batch": True,
        "ignore_index": IGNORED,
    }
    with pytest.raises(ValueError, match=message):
        patch_moments(**arguments | change)


REPORT = "import torch_trf; print(torch_trf.has_extension('cpu'), torch_trf.has_extension('cuda'), torch_trf.__file__)"


@pytest.fixture
def bare_package(tmp_path):
    """A copy of the package without its compiled libraries."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "torch_trf", ignore=ignore))


def test_reference_on_request(tmp_path):
    result = run_python(REPORT, folder=tmp_path, TORCH_TRF_NO_EXT="1")
    assert result.stdout.startswith("False False"), result.stderr


def test_missing_library_is_an_error_on_request(bare_package):
    assert run_python(REPORT, folder=bare_package.parent).stdout == f"False False {bare_package / '__init__.py'}\n"
    result = run_python(REPORT, folder=bare_package.parent, TORCH_TRF_REQUIRE_EXT="1")
    assert result.returncode == 1
    assert "ImportError: TORCH_TRF_REQUIRE_EXT=1" in result.stderr


@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch has no CUDA")
@pytest.mark.skipif(not (PACKAGE / "_C.abi3.so").exists(), reason="no compiled kernel")
def test_unloadable_cuda_library_leaves_the_cpu_kernels_and_says_what_to_do(bare_package):
    shutil.copy(PACKAGE / "_C.abi3.so", bare_package)
    (bare_package / "_C_cuda.abi3.so").write_bytes(b"built for another CUDA")
    result = run_python(REPORT, folder=bare_package.parent)
    assert result.stdout.startswith("True False")
    assert "pip install --no-build-isolation" in result.stderr
