"""The batches of a data set, pass after pass."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain

from ..features import FeatureFolder
from ..pixels import Pixels
from ..score import Batches, as_pixels


class Reader:
    """The batches of a data set, pass after pass; the first goes on where the look at the first batch left off."""

    def __init__(self, target: Batches) -> None:
        self._target, stream = target, as_pixels(target)
        first = next(stream, None)
        if first is None:
            raise ValueError("no batch of pixels: the data set is empty")
        self.first, self.once = first, isinstance(target, Iterator)
        self._stream: Iterator[Pixels] | None = chain([first], stream)
        self._images: int | None = None
        self.length: int | None = None
        with suppress(TypeError):  # a stream may have `__len__` and no length
            self.length = len(target)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Pixels]:
        stream, self._stream = self._stream or as_pixels(self._target), None
        images = 0
        for pixels in stream:
            images += len(pixels.labels)
            yield pixels
        if self._images not in (None, images):
            counts = f"{self._images} images at first and {images} when they were read again"
            raise ValueError(f"the batches held {counts}: give batches that can be read again")
        self._images = images

    def rows(self, rows: slice, check: Callable[[Pixels], None]) -> Iterator[Pixels]:
        """These rows of every batch; of files no others are read."""
        if isinstance(self._target, FeatureFolder):  # which knows that its files are alike
            yield from self._target.rows(rows)
        else:
            for pixels in self:
                check(pixels)
                yield pixels.rows(rows)

    def sized(self) -> Pixels:
        """The first batch, whose size all have; raises where a folder's images differ, batches when they are read."""
        if isinstance(self._target, FeatureFolder):
            self._target.image_size()
        return self.first

    def images(self) -> int:
        """How many images there are; counts them where that is not known."""
        if isinstance(self._target, FeatureFolder):
            return len(self._target)
        if self._images is None and not self.once:
            for _ in self:
                pass
        return self._images or 1


def gathered(stream: Iterator[Pixels], most: int) -> Iterator[list[Pixels]]:
    """Groups of batches of at most so many numbers of features, or of a single batch."""
    group: list[Pixels] = []
    numbers = 0
    for pixels in stream:
        numbers += pixels.features.numel()
        if group and numbers > most:
            yield group
            group, numbers = [], pixels.features.numel()
        group.append(pixels)
    if group:
        yield group
