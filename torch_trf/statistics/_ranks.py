"""Merging over the ranks of torch.distributed, some of which may have met no pixel."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch

from .._collectives import gathered_objects, require_agreement
from ._statistic import Statistic


def all_reduce(statistics: Mapping[str, Statistic], group: Any = None) -> dict[str, Statistic]:
    """Statistics of the pixels of all ranks, by name, on every rank.

    Args:
        statistics: of this rank, under the names that the other ranks use; none where it met no pixel.
        group: the ranks; all of them by default.

    Raises:
        ValueError: statistics of other names, channels or shapes on some rank, or of pixels on another kind of device;
            raised on every rank.
        RuntimeError: a rank that ended.
    """
    forms_here = {name: (value.device.type, value.nothing(torch.device("meta"))) for name, value in statistics.items()}
    ranks = dict(enumerate(gathered_objects(forms_here, group)))
    require_agreement({rank: _description(forms) for rank, forms in ranks.items() if forms})
    merged = {}
    for name in sorted({name for forms in ranks.values() for name in forms}):
        (device, *_), forms = zip(*(forms[name] for forms in ranks.values() if forms), strict=True)
        statistic = statistics[name] if name in statistics else forms[0].nothing(torch.device(device))
        merged[name] = reduce(Statistic.promoted, forms, statistic).all_reduce(group)
    return merged


def _description(forms: Mapping[str, tuple[str, Statistic]]) -> dict[str, str]:
    """What the ranks must have in common, by name."""
    told = {"statistics": ", ".join(sorted(forms))}
    for name, (device, form) in forms.items():
        told |= {f"{part} of {name}": value for part, value in form.form().items()} | {f"device of {name}": device}
    return told
