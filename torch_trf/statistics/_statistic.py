"""What every statistic can do."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from ._collectives import reduced
from ._entries import Entries

S = TypeVar("S", bound="Statistic")


@dataclass(frozen=True, slots=True, eq=False)
class Statistic(Entries, ABC):
    """What is known of pixels: a small value with one entry for each patch, image or repeat, that merges by adding.

    A subclass has `from_pixels`; `_pool`, `all_reduce` and `nothing` where its fields do not merge by adding.
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

    def require_alike(self, other: "Statistic") -> None:
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

    @classmethod
    @abstractmethod
    def from_pixels(cls: type[S], *pixels: Any, **options: Any) -> S:
        """The statistic of a batch of pixels."""

    def add(self: S, *pixels: Any, **options: Any) -> S:
        """This statistic with further pixels in it: `self + from_pixels(...)`, with the arguments of `from_pixels`."""
        return self + self.from_pixels(*pixels, **options)

    def __add__(self: S, other: S) -> S:
        """The statistic of the pixels of both, entry by entry of the leading dimensions."""
        return self.stack([self, other])._pool()

    def sum(self: S, *dims: int) -> S:
        """The statistic of all pixels along the leading dimensions `dims`; along all of them by default."""
        rank = len(self.batch_shape)
        pooled = sorted({range(rank)[dim] for dim in dims or range(rank)})
        if not pooled:
            return self
        first = list(range(len(pooled)))
        return self._map(lambda tensor: tensor.movedim(pooled, first).flatten(0, first[-1]))._pool()

    def windows(self: S, size: tuple[int, int], step: tuple[int, int]) -> S:
        """The statistic of windows of entries along the last two leading dimensions.

        Entry (i, j) merges size[0] x size[1] entries from (i * step[0], j * step[1]) on. Sums of 2, 4, 8, .. neighbors
        are merged from one another, an axis at a time, so a window costs the logarithm of its size.

        Example:
            >>> labels = torch.tensor([[[0, 1, 0, 1, 1]]])
            >>> cells = JointMass.from_pixels(torch.zeros(1, 1, 1, 5), labels, num_classes=2, cell=(1, 1))
            >>> cells.windows((1, 3), (1, 2)).mass[..., 0].tolist()
            [[[2.0, 1.0], [1.0, 2.0]]]
        """
        merged = self
        for dim, length, every in zip((-2, -1), size, step, strict=True):
            merged = merged._slide(len(self.batch_shape) + dim, length, every)
        return merged

    def _slide(self: S, dim: int, size: int, step: int) -> S:
        def part(statistic: S, start: int, stop: int, step: int = 1) -> S:
            return statistic[(slice(None),) * dim + (slice(start, stop, step),)]

        count = self.batch_shape[dim] - size + 1
        neighbors, width = self, 1  # entry i merges `width` entries from i on
        pieces: list[S] = []
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

    def _of_whole_images(self: S) -> S:
        """Without the last two leading dimensions, which have one entry."""
        return self[(slice(None),) * (len(self.batch_shape) - 2) + (0, 0)]

    def _pool(self: S) -> S:
        """The statistic of all pixels along the first dimension."""
        return self._each(lambda tensor: tensor.sum(0), lambda statistic: statistic._pool())

    def all_reduce(self: S, group: Any = None) -> S:
        """The statistic of the pixels of all ranks of torch.distributed, on every one of them.

        Sums are reduced, not gathered, so a rank never holds more than its own statistic and the result.

        Args:
            group: the ranks, all of them by default; each holds a statistic of the same shapes.
        """
        return self._each(lambda tensor: reduced(tensor, "SUM", group), lambda statistic: statistic.all_reduce(group))

    def nothing(self: S, device: torch.device) -> S:
        """The statistic of no pixel, of these shapes."""
        return self._each(
            lambda tensor: torch.zeros_like(tensor, device=device), lambda statistic: statistic.nothing(device)
        )

    def _each(self: S, of_tensor: Callable[[Tensor], Tensor], of_statistic: "Callable[[Statistic], Statistic]") -> S:
        def result(value: Any) -> Any:
            if isinstance(value, Statistic):
                return of_statistic(value)
            return of_tensor(value) if isinstance(value, Tensor) else value

        return type(self)(**{name: result(value) for name, value in self._items()})

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return sum(
            value.numel if isinstance(value, Statistic) else value.numel() if isinstance(value, Tensor) else 1
            for _, value in self._items()
        )

    def state(self) -> dict[str, Tensor]:
        """Plain tensors by name, for `torch.save`; `from_state` takes them back."""
        state: dict[str, Tensor] = {}
        for name, value in self._items():
            if isinstance(value, Statistic):
                state.update({f"{name}.{inner}": tensor for inner, tensor in value.state().items()})
            else:
                state[name] = value if isinstance(value, Tensor) else torch.tensor(value)
        return state

    @classmethod
    def from_state(cls: type[S], state: dict[str, Tensor]) -> S:
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
                values[field.name] = int(value) if field.type is int else value
        names = {name.partition(".")[0] for name in state}
        expected = {field.name for field in fields(cls)}
        if names != expected:
            wrong = f"missing {sorted(expected - names)}, unknown {sorted(names - expected)}"
            raise ValueError(f"not the state of {cls.__name__}: {wrong}")
        return cls(**values)
