"""The statistic of a stream of pixels as it grows."""

from dataclasses import dataclass
from functools import reduce

from ._statistic import Statistic


@dataclass(frozen=True, slots=True)
class Running:
    """A sum of statistics to which batches are added one after the other.

    Parts are merged much as a binary counter carries: the last one with the one before, once it is half as large. So
    statistics of one size are merged at once, and a large sample is not copied for every small batch.

    Example:
        >>> running = Running()
        >>> for labels in torch.tensor([[0, 1], [1, 1], [1, 0]]):
        ...     running += JointMass.from_pixels(torch.zeros(2, 1), labels, num_classes=2)
        >>> running.total.mass.tolist()
        [[2.0], [4.0]]
    """

    parts: tuple[Statistic, ...] = ()

    def __add__(self, statistic: Statistic) -> "Running":
        """With the pixels of one more batch.

        Raises:
            ValueError: a batch of other channels or on another device than those before.
        """
        if self.parts:
            self.parts[-1].require_alike(statistic)
        parts = [*self.parts, statistic]
        while len(parts) > 1 and 2 * parts[-1].numel >= parts[-2].numel:
            last = parts.pop()
            parts[-1] = parts[-1] + last
        return Running(tuple(parts))

    @property
    def total(self) -> Statistic:
        """The statistic of all pixels; there must be a batch."""
        return reduce(lambda total, part: part + total, reversed(self.parts))
