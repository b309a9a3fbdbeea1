"""Values that merge by adding: batches, files, processes and the cells of a map are all the same merge."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from .._collectives import reduced
from .._entries import Entries

M = TypeVar("M", bound="Mergeable")


@dataclass(frozen=True, slots=True, eq=False)
class Mergeable(Entries, ABC):
    """A small value with one entry for each patch, image or repeat, that merges by adding.

    A subclass has `_pool`, `all_reduce` and `nothing` where its fields do not merge by adding.
    """

    @property
    @abstractmethod
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""

    @property
    def channels(self) -> int | None:
        """Of the features or logits that it was built from; None where it does not tell."""
        return None

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return next(value.device for _, value in self._items() if isinstance(value, Tensor))

    def require_alike(self, other: "Mergeable") -> None:
        """Raises where another statistic, of further pixels, cannot be merged with this one.

        Raises:
            ValueError: other channels, other leading dimensions, other options, or another device.
        """
        if self.channels != other.channels:
            raise ValueError(f"features or logits of {other.channels} channels, those before had {self.channels}")
        if self.batch_shape != other.batch_shape:
            raise ValueError(f"entries {list(other.batch_shape)}, those before were {list(self.batch_shape)}")
        for name, value in self._items():
            if isinstance(value, int) and value != getattr(other, name):
                raise ValueError(f"{name} {getattr(other, name)}, those before had {value}")
        if self.device != other.device:
            raise ValueError(
                f"pixels are on {other.device}, those before were on {self.device}: put them on one device"
            )

    def form(self) -> dict[str, str]:
        """What statistics of pixels of one kind have in common, by name: channels, shapes, options."""
        parts = {
            name: list(value.shape) if isinstance(value, Tensor) else value
            for name, value in self._items()
            if not isinstance(value, Mergeable)
        }
        return {name: str(value) for name, value in ({"channels": self.channels} | parts).items()}

    def promoted(self: M, other: M) -> M:
        """This statistic in types that hold the numbers of both."""

        def promoted(value: Any, other: Any) -> Any:
            if isinstance(value, Mergeable):
                return value.promoted(other)
            return value.to(torch.promote_types(value.dtype, other.dtype)) if isinstance(value, Tensor) else value

        return type(self)(**{name: promoted(value, getattr(other, name)) for name, value in self._items()})

    def __add__(self: M, other: M) -> M:
        """The statistic of the pixels of both, entry by entry of the leading dimensions."""
        return self.stack([self, other])._pool()

    def sum(self: M, *dims: int) -> M:
        """The statistic of all pixels along the leading dimensions `dims`; along all of them by default."""
        rank = len(self.batch_shape)
        pooled = sorted({range(rank)[dim] for dim in dims or range(rank)})
        if not pooled:
            return self
        first = list(range(len(pooled)))
        return self._map(lambda tensor: tensor.movedim(pooled, first).flatten(0, first[-1]))._pool()

    def patches(self: M, size: tuple[int, int], stride: tuple[int, int]) -> M:
        """The statistic of patches of cells, which lie along the last two leading dimensions.

        Patch (i, j) merges size[0] x size[1] cells from (i * stride[0], j * stride[1]) on. Sums of 2, 4, 8, ..
        neighbors are merged from one another, an axis at a time, so a patch costs the logarithm of its size.

        Example:
            >>> labels = torch.tensor([[[0, 1, 0, 1, 1]]])
            >>> cells = JointMass.from_pixels(torch.zeros(1, 1, 1, 5), labels, num_classes=2, cell_size=(1, 1))
            >>> cells.patches((1, 3), (1, 2)).mass[..., 0].tolist()
            [[[2.0, 1.0], [1.0, 2.0]]]
        """
        merged = self
        for dim, length, step in zip((-2, -1), size, stride, strict=True):
            merged = merged._slide(len(self.batch_shape) + dim, length, step)
        return merged

    def _slide(self: M, dim: int, size: int, step: int) -> M:
        def part(statistic: M, start: int, stop: int, step: int = 1) -> M:
            return statistic[(slice(None),) * dim + (slice(start, stop, step),)]

        count = self.batch_shape[dim] - size + 1
        neighbors, width = self, 1  # entry i merges `width` entries from i on
        pieces: list[M] = []
        done = 0
        while True:
            if size & width:
                pieces.append(part(neighbors, done, done + count))
                done += width
            if done == size:
                break
            length = neighbors.batch_shape[dim]
            neighbors = part(neighbors, 0, length - width) + part(neighbors, width, length)
            width *= 2
        merged = pieces[0]
        for piece in pieces[1:]:
            merged = merged + piece
        return part(merged, 0, count, step)

    def _of_whole_images(self: M) -> M:
        """Without the last two leading dimensions, which have one entry."""
        return self[(slice(None),) * (len(self.batch_shape) - 2) + (0, 0)]

    def _pool(self: M) -> M:
        """The statistic of all pixels along the first dimension."""
        return self._each(lambda tensor: tensor.sum(0), lambda value: value._pool())

    def all_reduce(self: M, group: Any = None) -> M:
        """The statistic of the pixels of all ranks of torch.distributed, on every one of them.

        Sums are reduced, not gathered, so a rank never holds more than its own statistic and the result.

        Args:
            group: the ranks, all of them by default; each holds a statistic of the same shapes.
        """
        return self._each(lambda tensor: reduced(tensor, "SUM", group), lambda value: value.all_reduce(group))

    def nothing(self: M, device: torch.device) -> M:
        """The statistic of no pixel, of these shapes."""
        return self._each(lambda tensor: torch.zeros_like(tensor, device=device), lambda value: value.nothing(device))

    def _each(self: M, of_tensor: Callable[[Tensor], Tensor], of_value: "Callable[[Mergeable], Mergeable]") -> M:
        def result(value: Any) -> Any:
            if isinstance(value, Mergeable):
                return of_value(value)
            return of_tensor(value) if isinstance(value, Tensor) else value

        return type(self)(**{name: result(value) for name, value in self._items()})

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return sum(
            value.numel if isinstance(value, Mergeable) else value.numel() if isinstance(value, Tensor) else 1
            for _, value in self._items()
        )

    def state(self) -> dict[str, Tensor]:
        """Plain tensors by name, for `torch.save`; `from_state` takes them back."""
        state: dict[str, Tensor] = {}
        for name, value in self._items():
            if isinstance(value, Mergeable):
                state.update({f"{name}.{inner}": tensor for inner, tensor in value.state().items()})
            else:
                state[name] = value if isinstance(value, Tensor) else torch.tensor(value, device="cpu")
        return state

    @classmethod
    def from_state(cls: type[M], state: dict[str, Tensor]) -> M:
        """The statistic that `state` was taken from.

        Raises:
            ValueError: names that are missing or do not belong here.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            inner = {
                name.partition(".")[2]: value for name, value in state.items() if name.startswith(f"{field.name}.")
            }
            if inner:
                values[field.name] = field.type.from_state(inner)  # type: ignore[union-attr]
            elif field.name in state:
                value = state[field.name]
                values[field.name] = field.type(value) if field.type in (int, bool) else value
        names = {name.partition(".")[0] for name in state}
        expected = {field.name for field in fields(cls)}
        if names != expected:
            wrong = f"missing {sorted(expected - names)}, unknown {sorted(names - expected)}"
            raise ValueError(f"not the state of {cls.__name__}: {wrong}")
        return cls(**values)
