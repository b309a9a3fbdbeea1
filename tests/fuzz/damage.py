"""Damage to files and values, drawn from a seed, so that a failure can be made again."""

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

HOSTILE = (  # what may stand where something else is expected
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\x1b[2J",
    "../x",
    "a\nb",
    "x" * 10_000,
    [],
    {},
    [[[]]],
    {"class_path": "os.getcwd"},
)


def damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one kind of damage: a flipped bit, a hole, a cut, a block twice, foreign bytes."""
    place, length = chance.randrange(len(data)), 1 + chance.randrange(64)
    before, block, after = data[:place], data[place : place + length], data[place + length :]
    kind = chance.randrange(6)
    if kind == 0:
        return before + bytes([block[0] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
    if kind == 1:
        return before
    if kind == 2:
        return before + after
    if kind == 3:
        return before + bytes(len(block)) + after
    if kind == 4:
        return before + block + block + after
    return before + chance.randbytes(length) + after


def damaged_value(value: Any, chance: random.Random) -> Any:
    """A copy of nested dicts and lists, in which one part is gone, hostile, or renamed."""
    whole = {"": copy.deepcopy(value)}
    holder, key = chance.choice(list(_places(whole)))
    kind = chance.randrange(4)
    if kind == 0 and key != "":
        del holder[key]
    elif kind == 1 and isinstance(holder, dict) and key != "":
        holder[f"{key}s"] = holder.pop(key)
    else:
        holder[key] = copy.deepcopy(chance.choice(HOSTILE))
    return whole.get("")


def read_unless_told(read: Callable[[], Any], name: str) -> Any:
    """What a function reads; None where it says, by a ValueError that has this name, that it cannot."""
    try:
        return read()
    except ValueError as error:
        if name not in str(error):
            raise
        return None


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of a value, as what holds it and the key under which."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
