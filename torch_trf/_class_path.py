"""What a configuration names by the path of its class, or by a short name, and the arguments to make it with."""

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

ClassPath = str | dict[str, Any]
MOST_NAMED = 20  # in an error
Makers = Mapping[str, Callable[..., Any]]


def instantiate(what: ClassPath, named: Makers | None = None) -> Any:
    """Makes what a path names; arguments that are paths with arguments are made first.

    Args:
        what: the path of a class or function, or `{"class_path": ..., "init_args": {...}}`. A path without a dot is a
            short name.
        named: what short names stand for.

    Raises:
        ValueError: a path that leads nowhere, or arguments that it does not take.

    Example:
        >>> instantiate({"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 3, "out_channels": 8,
        ...                                                             "kernel_size": 1}})
        Conv2d(3, 8, kernel_size=(1, 1), stride=(1, 1))
    """
    path, arguments = _path(what)
    named = named or {}
    make = named.get(path)
    if make is None and "." not in path:
        near = list(named) if len(named) <= MOST_NAMED else [*difflib.get_close_matches(path, named), "others"]
        raise ValueError(f"{path!r} is none of {', '.join(near) or 'no names'}, nor the dotted path of a class")
    try:
        make = make or _imported(path)
        return make(**{name: _argument(value, named) for name, value in arguments.items()})
    except Exception as error:  # of code that may be anybody's
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{path} cannot be made: {kind}{error}") from error


def _path(what: ClassPath) -> tuple[str, dict[str, Any]]:
    if isinstance(what, str):
        return what, {}
    if not isinstance(what, dict):
        raise ValueError(f"{what!r} is neither a path nor {{class_path: ..., init_args: {{...}}}}")
    path, arguments = what.get("class_path"), what.get("init_args", {})
    if not isinstance(path, str) or not isinstance(arguments, dict) or what.keys() - {"class_path", "init_args"}:
        raise ValueError(f"{what} is neither a path nor {{class_path: ..., init_args: {{...}}}}")
    return path, arguments


def _argument(value: Any, named: Makers) -> Any:
    """An argument of a configuration, where it stands for something else."""
    if isinstance(value, dict) and "class_path" in value:
        return instantiate(value, named)
    if isinstance(value, list):
        return [_argument(each, named) for each in value]
    dtype = getattr(torch, value.removeprefix("torch."), None) if str(value).startswith("torch.") else None
    return dtype if isinstance(dtype, torch.dtype) else value


def _imported(path: str) -> Any:
    """The class or function of a dotted path."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            member = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # it is there, and needs something that is not
            continue
        for name in parts[length:]:
            member = getattr(member, name)
        return member
    raise ValueError(f"there is no module {parts[0]!r}: install its package, or put its folder on PYTHONPATH")
