"""Merging over the ranks of torch.distributed, some of which may have met no pixel."""

from collections.abc import Mapping
from typing import Any

import torch

from .._collectives import gathered_objects
from ._statistic import Statistic


def all_reduce(statistics: Mapping[str, Statistic], group: Any = None) -> dict[str, Statistic]:
    """Statistics of the pixels of all ranks, by name, on every rank.

    Args:
        statistics: of this rank, under the names that the other ranks use; none where it met no pixel.
        group: the ranks; all of them by default.

    Raises:
        ValueError: statistics of other channels or shapes on some rank; raised on every rank.
        RuntimeError: a rank that ended.
    """
    shapes_here = {name: (value.device.type, value.to("meta")) for name, value in statistics.items()}
    ranks = gathered_objects(shapes_here, group)
    merged = {}
    for name in dict.fromkeys(name for rank in ranks for name in rank):
        alike = [rank[name] for rank in ranks if name in rank]
        device, shapes = alike[0]
        for _, other in alike[1:]:
            shapes.require_alike(other)
        statistic = statistics[name] if name in statistics else shapes.nothing(torch.device(device))
        merged[name] = statistic.all_reduce(group)
    return merged
