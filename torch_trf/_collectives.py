"""What ranks of torch.distributed exchange; a rank that ended is an error that says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """The number of this process; 0 where there is no other."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def reduced(tensor: Tensor, operation: str, group: Any) -> Tensor:
    """The "SUM", "MIN" or "MAX" over the ranks of a group, on every rank."""
    result = tensor.clone()
    with naming_the_rank(group):
        dist.all_reduce(result, getattr(dist.ReduceOp, operation), group)
    return result


def gathered(tensor: Tensor, group: Any) -> Tensor:
    """The tensors of all ranks, which must be of one shape, along a new first dimension."""
    tensor = tensor.contiguous()
    results = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    with naming_the_rank(group):
        dist.all_gather(results, tensor, group)
    return torch.stack(results)


def gathered_objects(value: Any, group: Any) -> list[Any]:
    """The values of all ranks, by rank; they are pickled on the way."""
    results: list[Any] = [None] * dist.get_world_size(group)
    with naming_the_rank(group):
        dist.all_gather_object(results, value, group)
    return results


@contextmanager
def naming_the_rank(group: Any) -> Iterator[None]:
    """Says in a line what a backend's error means."""
    try:
        yield
    except RuntimeError as error:
        ranks = f"rank {dist.get_rank(group)} of {dist.get_world_size(group)}"
        reason = str(error).splitlines()[0]
        raise RuntimeError(f"{ranks} cannot reach the others, one of which has probably ended: {reason}") from error
