"""What a configuration file names by the path of its class, and the arguments to make it with."""

import importlib
import inspect
from typing import Any

import torch
from torchvision import models

ClassPath = str | dict[str, Any]


def instantiate(what: ClassPath) -> Any:
    """What a path and its arguments make; arguments may be such, too.

    Raises:
        ValueError: a path that leads nowhere, or arguments that it does not take.

    Example:
        >>> instantiate({"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 3, "out_channels": 8,
        ...                                                             "kernel_size": 1}})
        Conv2d(3, 8, kernel_size=(1, 1), stride=(1, 1))
    """
    path, arguments = _path(what)
    made = {name: _argument(value) for name, value in arguments.items()}
    try:
        if "." in path:
            return _found(path)(**made)
        parameters = inspect.signature(models.get_model_builder(path)).parameters
        unweighted = {name: None for name in ("weights", "weights_backbone") if name in parameters}
        return models.get_model(path, **unweighted | made)
    except Exception as error:  # of code that may be anybody's
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{path} cannot be made: {kind}{error}") from error


def _path(what: ClassPath) -> tuple[str, dict[str, Any]]:
    if isinstance(what, str):
        return what, {}
    path, arguments = what.get("class_path"), what.get("init_args", {})
    if not isinstance(path, str) or not isinstance(arguments, dict) or what.keys() - {"class_path", "init_args"}:
        raise ValueError(f"{what} is neither a path nor {{class_path: ..., init_args: {{...}}}}")
    return path, arguments


def _argument(value: Any) -> Any:
    """An argument of a configuration file, where it stands for something else."""
    if isinstance(value, dict) and "class_path" in value:
        return instantiate(value)
    if isinstance(value, list):
        return [_argument(each) for each in value]
    dtype = getattr(torch, value.removeprefix("torch."), None) if str(value).startswith("torch.") else None
    return dtype if isinstance(dtype, torch.dtype) else value


def _found(path: str) -> Any:
    """The class or function of a dotted path."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # it is there, and needs something that is not
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ValueError(f"there is no module {parts[0]!r}: install its package, or put its folder on PYTHONPATH")
