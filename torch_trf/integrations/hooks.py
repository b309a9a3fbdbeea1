"""Hooks on a model's forward pass, which catch features where they are born."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PREFERRED = ("out", "logits", "last_hidden_state")  # of an output that holds several tensors

Layer = str | nn.Module


class FeatureTap:
    """Catches what layers of a model give, at every forward pass until `remove`.

    Features stay on their device, in the precision that the model computes in, without gradient, as the layer's last
    call gave them; until they are taken or the next pass gives others. The model may be training or not, under
    autocast or inference mode, wrapped for distributed training, or compiled. A compiled model is compiled anew with
    the hooks in it, so tap it once and not for every batch.

    Args:
        model: any module.
        *layers: each a module inside the model, or its dotted name; "" is the model itself. Of an output of several
            tensors (a dict, a tuple, a dataclass) the one named `out`, `logits` or `last_hidden_state` is taken, or the
            only one; "name:key" takes another, as in "backbone:high" or "encoder:3".

    Raises:
        ValueError: a layer that the model does not have; the message names similar ones. No hook is left behind.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU())
        >>> features = FeatureTap(model, "0")
        >>> _ = model(torch.randn(2, 3, 4, 4))
        >>> features.take("0").shape
        torch.Size([2, 8, 4, 4])
        >>> features.remove()
    """

    def __init__(self, model: nn.Module, *layers: Layer) -> None:
        self._places = {layer: place for place, layer in enumerate(dict.fromkeys(layers))}
        self._caught: dict[int, Tensor] = {}
        root = _unwrapped(model)
        modules = {layer: _find(root, layer) for layer in self._places}
        if any(_is_compiled(module) for module in model.modules()):
            torch.compiler.reset()  # code compiled before does not see hooks
        self._hooks = [
            module.register_forward_hook(_Catch(self._caught, self._places[layer], key, _name(layer)))
            for layer, (module, key) in modules.items()
        ]

    def take(self, layer: Layer) -> Tensor:
        """What the layer gave in the last forward pass; it is not kept here.

        Raises:
            ValueError: nothing since the last time.
        """
        if self._places.get(layer) not in self._caught:
            raise ValueError(
                f"{_name(layer)} has given nothing since its features were last taken: run the model first (a function"
                " around the model that was compiled before the tap does not see it)"
            )
        return self._caught.pop(self._places[layer])

    def remove(self) -> None:
        """Removes the hooks, and what they hold."""
        for hook in self._hooks:
            hook.remove()
        self._caught.clear()


class _Catch:
    """The hook of a layer. A copy of it, in a copy of the model, catches nothing."""

    def __init__(self, caught: dict[int, Tensor], place: int, key: str | None, name: str) -> None:
        self._caught, self._place, self._key, self._name = caught, place, key, name

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        # A copy, because the layers behind may work in place.
        self._caught[self._place] = _tensor_of(output, self._key, self._name).detach().clone()

    def __reduce__(self) -> Any:
        return _Nothing, ()


class _Nothing:
    """A hook that does nothing."""

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        pass


@contextmanager
def tap(model: nn.Module, *layers: Layer) -> Iterator[FeatureTap]:
    """A `FeatureTap` for the length of a block; its hooks go whatever happens inside.

    Args:
        model: as for `FeatureTap`.
        *layers: as for `FeatureTap`.

    Raises:
        ValueError: as `FeatureTap`.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU())
        >>> with tap(model, "0", "1") as features:
        ...     _ = model(torch.randn(2, 3, 4, 4))
        ...     print(features.take("1").min() >= 0)
        tensor(True)
    """
    features = FeatureTap(model, *layers)
    try:
        yield features
    finally:
        features.remove()


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside what torch.compile and distributed training put around it."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(inner, nn.Module):
            model = inner
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


def _find(model: nn.Module, layer: Layer) -> tuple[nn.Module, str | None]:
    """The module, and which of its outputs is meant."""
    modules = {name.replace("._orig_mod", ""): module for name, module in model.named_modules()}
    if isinstance(layer, nn.Module):
        if all(module is not _unwrapped(layer) for module in modules.values()):
            raise ValueError(f"{_name(layer)} is no layer of the model")
        return _unwrapped(layer), None
    name, _, key = layer.partition(":")
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3) or [child for child, _ in model.named_children()]
        raise ValueError(f"the model has no layer {name!r}; it has {', '.join(map(repr, near))}")
    return modules[name], key or None


def _is_compiled(module: nn.Module) -> bool:
    """By torch.compile, in place, or by Lightning, which keeps the compiled functions to itself."""
    return any(
        getattr(module, name, None) is not None for name in ("_orig_mod", "_compiled_call_impl", "_compiler_ctx")
    )


def _tensor_of(output: Any, key: str | None, name: str) -> Tensor:
    """The tensor that is meant of a module's output."""
    if isinstance(output, Mapping):
        parts = {str(name): part for name, part in output.items()}
    elif dataclasses.is_dataclass(output):
        parts = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    elif isinstance(output, list | tuple):
        parts = {str(place): part for place, part in enumerate(output)}
    else:
        parts = {"": output}
    tensors = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
    if key is not None and key in tensors:
        return tensors[key]
    if key is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    for preferred in PREFERRED:
        if key is None and preferred in tensors:
            return tensors[preferred]
    kind = f"a {type(output).__name__} with the tensors {', '.join(map(repr, tensors))}" if tensors else "no tensor"
    raise ValueError(f"{name} gives {kind}: choose one by its name, as in 'backbone:out'")


def _name(layer: Layer) -> str:
    return f"layer {layer!r}" if isinstance(layer, str) else f"the layer {type(layer).__name__}"
