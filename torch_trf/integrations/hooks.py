"""Hooks on a model's forward pass, which catch features where they are born."""

import dataclasses
import difflib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PREFERRED = ("out", "logits", "last_hidden_state")  # of an output that holds several tensors
# Under which name torch.compile, activation checkpointing and FSDP keep the module that they wrap.
WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")

Layer = str | nn.Module


class FeatureTap:
    """Catches what layers of a model give, at every forward pass until `remove`.

    Features stay on their device, in the precision that the model computes in, without gradient, as the layer's last
    call gave them; until they are taken or the next pass gives others. What a layer computes again in the backward
    pass, for activation checkpointing, does not count. The model may be training or not, under autocast or inference
    mode, wrapped for distributed training, or compiled. A compiled model is compiled anew with the hooks in it, so tap
    it once and not for every batch.

    Args:
        model: any module.
        *layers: each a module inside the model, or its dotted name; "" is the model itself. Of an output of several
            tensors (a dict, a tuple, a dataclass) the one named `out`, `logits` or `last_hidden_state` is taken, or the
            only one; "name:key" takes another, as in "backbone:high" or "encoder:3", or, of a tuple among them,
            "backbone:feature_maps:3".

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
        self._caught: dict[int, _Caught] = {}
        self._warned: set[Layer] = set()
        root = _unwrapped(model)
        modules = {layer: _find(root, layer) for layer in self._places}
        if any(_is_compiled(module) for module in model.modules()):
            torch.compiler.reset()  # code compiled before does not see hooks
        self._hooks = [
            module.register_forward_hook(
                _Catch(
                    self._caught, self._places[layer], key, name_of(layer), _last_part(module) if key is None else None
                )
            )
            for layer, (module, key) in modules.items()
        ]

    def take(self, layer: Layer) -> Tensor:
        """What the layer gave in the last forward pass; it is not kept here.

        Warns, once, where the layer ran more than once since the last time, or seems to give `[B, H, W, D]`.

        Raises:
            ValueError: nothing since the last time.
        """
        if self._places.get(layer) not in self._caught:
            raise ValueError(
                f"{name_of(layer)} has given nothing since its features were last taken: run the model first (a"
                " function around the model that was compiled before the tap does not see it)"
            )
        caught = self._caught.pop(self._places[layer])
        if layer not in self._warned and (doubts := list(caught.doubts())):
            self._warned.add(layer)
            for doubt in doubts:
                warnings.warn(f"{name_of(layer)} {doubt}", stacklevel=2)
        return caught.tensor

    def forget(self) -> None:
        """Leaves what was caught, as of a pass whose features are not wanted."""
        self._caught.clear()

    def remove(self) -> None:
        """Removes the hooks, and what they hold."""
        for hook in self._hooks:
            hook.remove()
        self.forget()


@dataclasses.dataclass(frozen=True, slots=True)
class _Caught:
    """What a layer gave, whether it had given something before that nobody took, and the last part of it."""

    tensor: Tensor
    again: bool
    last_part: nn.Module | None

    def doubts(self) -> Iterator[str]:
        """Why the tensor may be another one than is meant."""
        if self.again:
            yield (
                "ran more than once since its features were last taken, and those of the last time are compared with"
                " the labels: of a pass with flips, scales or several images choose a layer that runs once; of several"
                " passes take the features of each"
            )
        if isinstance(self.last_part, nn.Linear | nn.LayerNorm) and self.tensor.dim() == 4:
            channels = self.last_part.weight.shape[0]
            if self.tensor.shape[-1] == channels:
                yield (
                    f"gives {list(self.tensor.shape)}, and its last part is a {type(self.last_part).__name__} over"
                    f" {channels} channels: [B, H, W, D], as in a Swin transformer, is read as [B, D, H, W]; choose a"
                    " layer behind a permute(0, 3, 1, 2)"
                )


class _Catch:
    """The hook of a layer. A copy of it, in a copy of the model, catches nothing."""

    def __init__(
        self, caught: dict[int, _Caught], place: int, key: str | None, name: str, last_part: nn.Module | None
    ) -> None:
        self._caught, self._place, self._key, self._name = caught, place, key, name
        self._last_part = last_part

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if not torch.compiler.is_compiling() and _is_in_backward():
            return
        # A copy, because the layers behind may work in place.
        tensor = _tensor_of(output, self._key, self._name).detach().clone()
        self._caught[self._place] = _Caught(tensor, self._place in self._caught, self._last_part)

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
    """The module inside what torch.compile, checkpointing and distributed training put around it."""
    while True:
        inner = next((model._modules[name] for name in WRAPPED if name in model._modules), None)
        if inner is not None:
            model = inner
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


def _find(model: nn.Module, layer: Layer) -> tuple[nn.Module, str | None]:
    """The module, and which of its outputs is meant."""
    modules = {
        ".".join(part for part in name.split(".") if part not in WRAPPED): module
        for name, module in model.named_modules(remove_duplicate=False)  # under every name that it has
    }
    if isinstance(layer, nn.Module):
        if all(module is not _unwrapped(layer) for module in modules.values()):
            raise ValueError(f"{name_of(layer)} is no layer of the model")
        return _unwrapped(layer), None
    name, _, key = layer.partition(":")
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3) or [child for child, _ in model.named_children()]
        raise ValueError(f"the model has no layer {name!r}; it has {', '.join(map(repr, near))}")
    return modules[name], key or None


def _last_part(module: nn.Module) -> nn.Module | None:
    """The convolution, normalization or Linear that a module has last.

    None where there are convolutions of single channels: ConvNeXt has its Linear between permutations.
    """
    parts = [
        part
        for part in module.modules()
        if isinstance(part, nn.Linear | nn.LayerNorm | nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase)
    ]
    by_channel = any(isinstance(part, nn.modules.conv._ConvNd) and part.groups > 1 for part in parts)
    return None if by_channel or not parts else parts[-1]


def _is_in_backward() -> bool:
    """Whether autograd runs this, as `torch.utils.module_tracker` tells it."""
    return torch._C._current_graph_task_id() != -1


def _is_compiled(module: nn.Module) -> bool:
    """By torch.compile, in place, or by Lightning, which keeps the compiled functions to itself."""
    return any(
        getattr(module, name, None) is not None for name in ("_orig_mod", "_compiled_call_impl", "_compiler_ctx")
    )


def _tensor_of(output: Any, key: str | None, name: str) -> Tensor:
    """The tensor that is meant of a module's output."""
    tensors = _tensors(output)
    if key is not None and key in tensors:
        return tensors[key]
    outermost = [tensor for path, tensor in tensors.items() if ":" not in path]
    if key is None and len(outermost) == 1:
        return outermost[0]
    for preferred in PREFERRED:
        if key is None and preferred in tensors:
            return tensors[preferred]
    kind = f"a {type(output).__name__} with the tensors {', '.join(map(repr, tensors))}" if tensors else "no tensor"
    raise ValueError(f"{name} gives {kind}: choose one by its name, as in 'backbone:out'")


def _tensors(output: Any) -> dict[str, Tensor]:
    """The tensors of a module's output by their path, as in "feature_maps:3"; "" is the output itself."""
    if isinstance(output, Tensor):
        return {"": output}
    if isinstance(output, Mapping):
        parts = {str(name): part for name, part in output.items()}
    elif dataclasses.is_dataclass(output):
        parts = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    elif isinstance(output, list | tuple):
        parts = {str(place): part for place, part in enumerate(output)}
    else:
        return {}
    return {
        f"{name}:{path}".removesuffix(":"): tensor
        for name, part in parts.items()
        for path, tensor in _tensors(part).items()
    }


def name_of(layer: Layer) -> str:
    """What messages call a layer."""
    return f"layer {layer!r}" if isinstance(layer, str) else f"the layer {type(layer).__name__}"
