"""What a configuration names by the path of its class, or by a short name, and the arguments to make it with."""

import difflib
import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from ._errors import in_a_line

ClassPath = str | dict[str, Any]
MOST_NAMED = 20  # in an error
OWN_PACKAGE = __name__.partition(".")[0]
Makers = Mapping[str, Callable[..., Any]]
Kinds = tuple[Any, ...]  # of what `isinstance` takes

_trusted_packages: ContextVar[Sequence[str] | None] = ContextVar("trusted_packages", default=None)


@contextmanager
def trusting(packages: Sequence[str] | None) -> Iterator[None]:
    """Lets paths lead into these packages alone, beside this one; None into all, or all that a block around it trusts.

    Example:
        >>> with trusting(["torchvision"]):
        ...     instantiate("torch.nn.ReLU")
        Traceback (most recent call last):
        ValueError: torch.nn.ReLU is of torch, which is none of the trusted modules: torchvision
    """
    around = _trusted_packages.get()
    if packages is None or around is None:
        packages = around if packages is None else packages
    else:
        packages = [package for package in packages if package in around]
    token = _trusted_packages.set(packages)
    try:
        yield
    finally:
        _trusted_packages.reset(token)


def instantiate(what: ClassPath, named: Makers | None = None, *, kinds: Kinds = (object,)) -> Any:
    """Makes what a path names; arguments that are paths with arguments are made first.

    So it runs code that a configuration chose. What certainly makes something else is not run: a class of another kind,
    a function that is annotated so, anything of Python's standard library; and nothing that is not trusted is.

    Args:
        what: the path of a class or function, or `{"class_path": ..., "init_args": {...}}`. A path without a dot is a
            short name.
        named: what short names stand for.
        kinds: what may be made; the first is what an error says was wanted.

    Raises:
        ValueError: a path that leads nowhere or to what is not run, arguments that it does not take, or what is made
            is of another kind.

    Example:
        >>> instantiate({"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 3, "out_channels": 8,
        ...                                                             "kernel_size": 1}})
        Conv2d(3, 8, kernel_size=(1, 1), stride=(1, 1))
        >>> instantiate("torch.nn.ReLU", kinds=(torch.utils.data.Dataset,))
        Traceback (most recent call last):
        ValueError: torch.nn.ReLU makes a ReLU, not a Dataset
    """
    path, arguments = _path(what)
    named = named or {}
    make = named.get(path)
    if make is None:
        make = _maker(path, named)
        kind = _kind_made_by(make)
        if not _may_be(kind, kinds):
            raise _of_another_kind(path, kind, kinds)
    with _errors_of(path):
        made = make(**{name: _argument(value, named) for name, value in arguments.items()})
    if not isinstance(made, kinds):
        raise _of_another_kind(path, type(made), kinds)
    return made


def _path(what: ClassPath) -> tuple[str, dict[str, Any]]:
    table: Any = {"class_path": what} if isinstance(what, str) else what
    if isinstance(table, dict) and table.keys() <= {"class_path", "init_args"}:
        path, arguments = table.get("class_path"), table.get("init_args", {})
        if isinstance(path, str) and isinstance(arguments, dict) and all(isinstance(name, str) for name in arguments):
            return path, arguments
    raise ValueError(f"{what!r} is neither a path nor {{class_path: ..., init_args: {{...}}}}")


def _argument(value: Any, named: Makers) -> Any:
    """An argument of a configuration, where it stands for something else."""
    if isinstance(value, dict) and "class_path" in value:
        return instantiate(value, named)
    if isinstance(value, list):
        return [_argument(each, named) for each in value]
    dtype = getattr(torch, value.removeprefix("torch."), None) if str(value).startswith("torch.") else None
    return dtype if isinstance(dtype, torch.dtype) else value


@contextmanager
def _errors_of(path: str) -> Iterator[None]:
    """Makes any error, of code that may be anybody's, one that names the path."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} cannot be made: {in_a_line(error)}") from error


def _maker(path: str, named: Makers) -> Callable[..., Any]:
    """The class or function of a dotted path, if it may be run."""
    if "." not in path:
        near = list(named) if len(named) <= MOST_NAMED else [*difflib.get_close_matches(path, named), "others"]
        raise ValueError(f"{path!r} is none of {', '.join(near) or 'no names'}, nor the dotted path of a class")
    _check_home(path, path)
    with _errors_of(path):
        found = _imported(path)
    inner = _innermost(found)
    owner = getattr(inner, "__self__", None)  # the class of a class method, the module of a built-in function
    is_method_of_object = not isinstance(owner, type | types.ModuleType | None)
    if is_method_of_object or not (isinstance(inner, type) or inspect.isroutine(inner)):
        raise ValueError(f"{path} is neither a class nor a function, but of a {type(owner or inner).__name__}")
    _check_home(path, getattr(owner if isinstance(owner, type) else inner, "__module__", None) or path)
    return found


def _innermost(make: Any) -> Any:
    """What a partial function calls in the end."""
    return _innermost(make.func) if isinstance(make, functools.partial) else make


def _check_home(path: str, module: str) -> None:
    """Raises where a path leads into a package that it may not lead into."""
    package, trusted = module.partition(".")[0], _trusted_packages.get()
    if package == OWN_PACKAGE and any(part == "cli" or part.startswith("_") for part in path.split(".")):
        raise ValueError(f"{path} is no part of {OWN_PACKAGE} that others may name")
    if package in sys.stdlib_module_names:
        raise ValueError(f"{path} is of Python's standard library ({package}), which a configuration may not run")
    if trusted is not None and package not in (OWN_PACKAGE, *trusted):
        raise ValueError(
            f"{path} is of {package}, which is none of the trusted modules: {', '.join(trusted) or 'none'}"
        )


def _kind_made_by(make: Callable[..., Any]) -> Any:
    """A class itself, or what a function is annotated to return; Any where that is not known."""
    inner = _innermost(make)
    try:
        return inner if isinstance(inner, type) else typing.get_type_hints(inner).get("return", Any)
    except Exception:  # of annotations that are no types, or for a type checker alone
        return Any


def _may_be(made: Any, kinds: Kinds) -> bool:
    """Whether what is of a type, or of one that inherits from it, may be of one of the kinds."""
    if made is Any:
        return True
    try:
        return made is not types.NoneType and (issubclass(made, kinds) or any(issubclass(kind, made) for kind in kinds))
    except TypeError:  # a union, a protocol
        return True


def _of_another_kind(path: str, made: type, kinds: Kinds) -> ValueError:
    return ValueError(f"{path} makes a {made.__name__}, not a {kinds[0].__name__}")


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
