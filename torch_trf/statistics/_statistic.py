"""What every statistic can do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from ..pixels import blocks

S = TypeVar("S", bound="Statistic")


@dataclass(frozen=True, slots=True, eq=False)
class Statistic(ABC):
    """A small frozen value of tensors that share leading dimensions, one entry for each patch, image or repeat.

    A subclass is a frozen dataclass whose fields are tensors or statistics. It has `from_pixels`, and `_pool` where
    its fields do not merge by adding.
    """

    @property
    @abstractmethod
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""

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

    def _pool(self: S) -> S:
        """The statistic of all pixels along the first dimension."""
        return type(self)(
            **{name: value._pool() if isinstance(value, Statistic) else value.sum(0) for name, value in self._items()}
        )

    @classmethod
    def stack(cls: type[S], statistics: Sequence[S]) -> S:
        """Several statistics of equal shape as one, along a new first dimension."""
        return cls._join(torch.stack, statistics)

    @classmethod
    def cat(cls: type[S], statistics: Sequence[S]) -> S:
        """Several statistics as one, along their first dimension."""
        return cls._join(torch.cat, statistics)

    @classmethod
    def _join(cls: type[S], join: Callable[[list[Tensor]], Tensor], statistics: Sequence[S]) -> S:
        columns = zip(*(statistic._items() for statistic in statistics), strict=True)
        return cls(
            **{
                column[0][0]: type(column[0][1])._join(join, [value for _, value in column])
                if isinstance(column[0][1], Statistic)
                else join([value for _, value in column])
                for column in columns
            }
        )

    def __getitem__(self: S, index: Any) -> S:
        """Entries of the leading dimensions."""
        return self._map(lambda tensor: tensor[index])

    def to(self: S, device: torch.device | str) -> S:
        """The same statistic on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def state(self) -> dict[str, Tensor]:
        """Plain tensors by name, for `torch.save`; `from_state` takes them back."""
        state: dict[str, Tensor] = {}
        for name, value in self._items():
            if isinstance(value, Statistic):
                state.update({f"{name}.{inner}": tensor for inner, tensor in value.state().items()})
            else:
                state[name] = value
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
                values[field.name] = state[field.name]
        names = {name.partition(".")[0] for name in state}
        expected = {field.name for field in fields(cls)}
        if names != expected:
            wrong = f"missing {sorted(expected - names)}, unknown {sorted(names - expected)}"
            raise ValueError(f"not the state of {cls.__name__}: {wrong}")
        return cls(**values)

    def _items(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def _map(self: S, function: Callable[[Tensor], Tensor]) -> S:
        return type(self)(
            **{
                name: value._map(function) if isinstance(value, Statistic) else function(value)
                for name, value in self._items()
            }
        )


def over_blocks(
    function: Callable[..., S],
    features: Float[Tensor, "B D H W"],
    labels: Integer[Tensor, "B H W"],
    *more: Tensor,
    pool_batch: bool,
) -> S:
    """The statistic of images, computed block by block by `function(features, labels, *more)` and merged."""
    groups = []
    for group in blocks(features, labels, *more):
        parts = [function(*block) for block in group]
        merged = parts[0].stack(parts)._pool()
        groups.append(merged.sum()[None] if pool_batch else merged)
    joined = groups[0].cat(groups)
    return joined.sum() if pool_batch else joined
