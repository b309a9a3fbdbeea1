"""Ranks of torch.distributed wait for one another, but not for one that has failed and does not come."""

import time
from contextlib import suppress
from typing import Any

import torch.distributed as dist

from ._collectives import naming_the_rank

PATIENCE = 20.0  # seconds that a rank is waited for before somebody asks whether it has failed, ...
MOST_PATIENCE = 50.0  # ... and before the rest is left to the backend, which notices a rank that is gone
_PAUSES = 0.002, 0.1  # seconds between two looks at who has come: the first, and the longest


def tell_failure(failure: str) -> None:
    """Tells all ranks what this one has met, "" where it goes on well; they do not wait for it then."""
    if dist.is_available() and dist.is_initialized():
        with suppress(RuntimeError):  # where nobody can be told, the failure is enough
            _store().set(_failure_of(dist.get_rank()), failure)


def meet(group: Any = None) -> None:
    """Waits for all ranks of a group, before they exchange anything.

    A rank that has told of a failure may never come, and a collective would wait for it as long as the group's timeout
    is. So who has come is counted in the store that ranks have in common. A rank that ended without a word is left to
    the collective, in which the backend notices.

    Raises:
        RuntimeError: a rank that has failed and does not come; the group can meet again then. Or one that has ended.
    """
    with naming_the_rank(group):
        failed = _failed_while_waiting(group or dist.group.WORLD)
    if failed is not None:
        rank, failure = failed
        raise RuntimeError(f"rank {rank} failed and does not come, so that nothing can be merged: {failure}")


def _failed_while_waiting(group: Any) -> tuple[int, str] | None:
    """The rank that does not come, and what it has told; None where all have come, or nobody has told anything."""
    ranks, store = dist.get_process_group_ranks(group), _store()
    here, all_ranks = (_arrivals(group, who) for who in (dist.get_rank(), "all"))
    tell_failure("")  # this one does come
    meeting = store.add(here, 1)
    store.add(all_ranks, 1)
    start, pause = time.monotonic(), _PAUSES[0]
    while store.add(all_ranks, 0) < meeting * len(ranks):
        waited = time.monotonic() - start
        if waited > PATIENCE and (failed := _failed_of(ranks, meeting, group)) is not None:
            store.add(here, -1)
            store.add(all_ranks, -1)
            return failed
        if waited > MOST_PATIENCE:
            return None
        time.sleep(pause)
        pause = min(2 * pause, _PAUSES[1])
    return None


def _failed_of(ranks: list[int], meeting: int, group: Any) -> tuple[int, str] | None:
    """Of the ranks that have not come, the first that has told of a failure, and what."""
    store = _store()
    for rank in ranks:
        is_missing = store.add(_arrivals(group, rank), 0) < meeting
        if is_missing and store.check([_failure_of(rank)]) and (failure := store.get(_failure_of(rank)).decode()):
            return rank, failure
    return None


def _arrivals(group: Any, who: object) -> str:
    return f"torch_trf/arrivals/{group.group_name}/{who}"


def _failure_of(rank: int) -> str:
    return f"torch_trf/failure/{rank}"


def _store() -> dist.Store:
    return dist.distributed_c10d._get_default_store()
