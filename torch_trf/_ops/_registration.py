"""How an op comes to be: schema, reference and shapes here, kernels for CPU and CUDA from the compiled libraries."""

import functools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PACKAGE = Path(__file__).parent.parent

_loaded: set[str] = set()


def define(name: str, schema: str, reference: Callable[..., Any], shapes: Callable[..., Any]) -> None:
    """Defines `torch_trf::<name>`: its Python reference, which kernels outrank, and its shapes while PyTorch traces.

    There is no backward: the op raises where a gradient is asked of it.
    """

    def no_backward(context: object, *gradients: Tensor) -> None:
        raise RuntimeError(f"torch_trf::{name} has no backward: give it detached tensors")

    op = f"torch_trf::{name}"
    torch.library.define(op, schema)
    torch.library.impl(op, "CompositeExplicitAutograd", reference)
    torch.library.register_fake(op, shapes)
    torch.library.register_autograd(op, no_backward)


def run(name: str, first: Tensor, *arguments: Any) -> Any:
    """Calls `torch_trf::<name>` by the kernel of the first tensor's device; warns once where a GPU has none."""
    if first.is_cuda and not has_extension("cuda") and os.environ.get("TORCH_TRF_NO_EXT") != "1":
        warn_of_reference("torch_trf was built without CUDA kernels")
    return getattr(torch.ops.torch_trf, name)(first, *arguments)


@functools.cache
def warn_of_reference(why: str) -> None:
    """Says, once, that CUDA tensors are computed by the references and what to do about it."""
    warnings.warn(
        f"{why}. CUDA tensors take the slow reference. To build the kernels for this PyTorch, run in torch_trf's source"
        " folder, with a CUDA toolkit of the same major version: pip install --no-build-isolation --no-deps"
        " --force-reinstall .",
        stacklevel=3,
    )


def load_extension() -> None:
    """Loads the compiled libraries that are there and wanted."""
    wanted = os.environ.get("TORCH_TRF_NO_EXT") != "1"
    if wanted and (PACKAGE / "_C.abi3.so").exists():
        torch.ops.load_library(PACKAGE / "_C.abi3.so")
        _loaded.add("cpu")
    if wanted and torch.version.cuda and (PACKAGE / "_C_cuda.abi3.so").exists():
        try:
            torch.ops.load_library(PACKAGE / "_C_cuda.abi3.so")
            _loaded.add("cuda")
        except OSError as error:
            warn_of_reference(f"torch_trf's CUDA kernels do not load with CUDA {torch.version.cuda}: {error}")
    if os.environ.get("TORCH_TRF_REQUIRE_EXT") == "1":
        missing = {"cpu", "cuda"} - _loaded if torch.cuda.is_available() else {"cpu"} - _loaded
        if missing:
            raise ImportError(f"TORCH_TRF_REQUIRE_EXT=1, but the kernels for {missing} are not loaded from {PACKAGE}")


def has_extension(device: str = "cpu") -> bool:
    """Whether the compiled kernels for `device` ("cpu" or "cuda") are loaded; without them the references run.

    Example:
        >>> isinstance(has_extension(), bool)
        True
    """
    return device in _loaded
