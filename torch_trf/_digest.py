"""Short names of long contents."""

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ._files import PathLike


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """Tells these bytes from any others.

    Example:
        >>> digest([b"ab", b"c"]) == digest([b"abc"]) != digest([b"abd"])
        True
    """
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def of_tensor(tensor: Tensor) -> Iterator[bytes]:
    """Values, type and shape of a tensor on the CPU."""
    yield f"{tensor.dtype} {list(tensor.shape)} ".encode()
    values = tensor.detach().clone(memory_format=torch.contiguous_format)
    yield values.flatten().view(torch.uint8).numpy().tobytes()  # by bytes, because NumPy does not know every type


def of_file(path: PathLike) -> Iterator[bytes]:
    """The contents of a file."""
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            yield part
