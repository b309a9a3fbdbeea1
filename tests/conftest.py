"""Fixtures of the core's tests."""

import jaxtyping
import pytest
import torch

from torch_trf import has_extension

from .helpers import random_pixels


@pytest.fixture
def kernel(device):
    """Skips where the reference stands in for the compiled kernel."""
    if not has_extension(device.type):
        pytest.skip("no compiled kernel")


@pytest.fixture
def annotations_unchecked():
    """Signatures are not checked, as in use: what remains is what the package itself checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(
    params=[
        {"count": 40, "channels": 3, "classes": 2},
        {"count": 60, "channels": 1, "classes": 3},
        {"count": 200, "channels": 16, "classes": 5, "skew": 1.0, "dtype": "float32"},
        {"count": 12, "channels": 20, "classes": 3},
        {"count": 500, "channels": 8, "classes": 4, "dtype": "float16"},
        {"count": 300, "channels": 6, "classes": 7, "skew": 2.0, "dtype": "bfloat16"},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def pixels(request, device):
    """Features `[N, D]` and labels `[N]` of several sizes, dtypes and class balances, as a test's metric reads them."""
    metric = request.node.callspec.params.get("metric")
    if metric is not None and metric.reads == "logits" and request.param["channels"] == 1:
        pytest.skip("one channel is no class score")
    return random_pixels(
        **request.param | {"dtype": getattr(torch, request.param.get("dtype", "float64"))}, device=device
    )
