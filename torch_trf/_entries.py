"""Values of tensors that share leading dimensions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

E = TypeVar("E", bound="Entries")


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """A frozen value of tensors that share leading dimensions, one entry along them for each patch, image or problem.

    A subclass is a frozen dataclass whose fields are tensors, values of this kind, or numbers that all entries share.
    """

    @classmethod
    def stack(cls: type[E], values: Sequence[E]) -> E:
        """Several values of equal shape as one, along a new first dimension."""
        return cls._join(torch.stack, values)

    @classmethod
    def cat(cls: type[E], values: Sequence[E]) -> E:
        """Several values as one, along their first dimension."""
        return cls._join(torch.cat, values)

    @classmethod
    def _join(cls: type[E], join: Callable[[list[Tensor]], Tensor], values: Sequence[E]) -> E:
        def joined(column: list[Any]) -> Any:
            first = column[0]
            if isinstance(first, Entries):
                return type(first)._join(join, column)
            return join(column) if isinstance(first, Tensor) else first

        return cls(**{name: joined([getattr(value, name) for value in values]) for name, _ in values[0]._items()})

    def __getitem__(self: E, index: Any) -> E:
        """Some of the entries, by an index of the leading dimensions."""
        return self._map(lambda tensor: tensor[index])

    def to(self: E, device: torch.device | str) -> E:
        """The same value on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def _items(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def _map(self: E, function: Callable[[Tensor], Tensor]) -> E:
        def mapped(value: Any) -> Any:
            if isinstance(value, Entries):
                return value._map(function)
            return function(value) if isinstance(value, Tensor) else value

        return type(self)(**{name: mapped(value) for name, value in self._items()})
