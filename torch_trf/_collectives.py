"""What ranks of torch.distributed exchange; a rank that ended or failed is an error that says so."""

import re
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._errors import in_a_line


def rank(group: Any = None) -> int:
    """The number of this process, in a group of them; 0 where there is no other."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


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


def options_of(value: Any, but: Container[str] = ()) -> dict[str, str]:
    """The fields of a dataclass as they print, for `require_agreement`; without those that each rank may choose."""
    told = {field.name: repr(getattr(value, field.name)) for field in fields(value) if field.name not in but}
    return {name: re.sub(" at 0x[0-9a-f]+", "", text) for name, text in told.items()}  # places differ between ranks


def require_agreement(told: Mapping[int, Mapping[str, str]]) -> None:
    """Raises where ranks that share the work were told to do different things.

    Args:
        told: what, by rank and name.

    Raises:
        ValueError: with the name, and who was told what.

    Example:
        >>> require_agreement({0: {"num_classes": "3"}, 1: {"num_classes": "4"}, 2: {"num_classes": "4"}})
        Traceback (most recent call last):
        ValueError: the ranks differ in num_classes: 3 on rank 0; 4 on rank 1, 2
    """
    for name in dict.fromkeys(name for options in told.values() for name in options):
        ranks = defaultdict(list)
        for rank, options in told.items():
            ranks[options.get(name, "nothing")].append(str(rank))
        if len(ranks) > 1:
            values = "; ".join(f"{value} on rank {', '.join(those)}" for value, those in ranks.items())
            raise ValueError(f"the ranks differ in {name}: {values}")


@contextmanager
def failing_together(group: Any = None) -> Iterator[None]:
    """Makes an error of one rank an error of all of them; nothing is exchanged in the block.

    Raises:
        RuntimeError: another rank's error.
    """
    try:
        yield
    except Exception as error:
        gathered_objects(in_a_line(error), group)
        raise
    for rank, failure in enumerate(gathered_objects("", group)):
        if failure:
            raise RuntimeError(f"rank {rank} failed: {failure}")


@contextmanager
def naming_the_rank(group: Any) -> Iterator[None]:
    """Says in a line what a backend's error means."""
    try:
        yield
    except RuntimeError as error:
        ranks = f"rank {dist.get_rank(group)} of {dist.get_world_size(group)}"
        reason = str(error).splitlines()[0]
        raise RuntimeError(f"{ranks} cannot reach the others, one of which has probably ended: {reason}") from error
