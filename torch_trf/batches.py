"""The batches of a data set, pass after pass, and the statistics that they add up to."""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import chain
from operator import length_hint
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from .features import FeatureFolder
from .pixels import Pixels
from .statistics import PixelSample, Running, Statistic

Batch = Pixels | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]
if TYPE_CHECKING:
    Batches: TypeAlias = Iterable[Batch]
else:
    Batches = Iterable  # a run-time check of an iterator's items would use them up
Source = Batches | PixelSample
Build = Callable[[Pixels], Statistic]


def as_pixels(batches: Batches, stream: int = 0) -> Iterator[Pixels]:
    """Batches as pixels, checked; those that come as tensors are numbered through, as pixels of this stream.

    A batch of no image is left out.

    Raises:
        ValueError: as `pixels.as_images`, or a batch that is none.
    """
    offset = 0
    for batch in batches:
        if isinstance(batch, Pixels):
            yield batch
        elif not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise ValueError(f"a batch is a {type(batch).__name__}, expected (features, labels) or with logits behind")
        elif not holds_nothing(*batch[:2]):
            pixels = Pixels.of(*batch, stream=stream, offset=offset)
            yield pixels
            offset += pixels.labels.numel()


def holds_nothing(features: Tensor, labels: Tensor) -> bool:
    """Whether a batch is of no image, as a filter leaves it."""
    return features.shape[:1] == labels.shape[:1] == (0,)


def accumulate(
    groups: Iterable[list[Pixels]], builds: Mapping[str, Build], device: torch.device | str | None = None
) -> dict[str, Statistic]:
    """The statistics of all batches, by name; none where there is no batch.

    Args:
        groups: batches, as many at a time as are looked at together.
        builds: what builds each statistic from a batch.
        device: where to compute; where the pixels are by default.

    Raises:
        ValueError: bad pixels; the message names the batch.

    Example:
        >>> pixels = Pixels.of(torch.randn(2, 3, 4, 4), torch.randint(0, 2, (2, 4, 4)))
        >>> moments = accumulate([[pixels], [pixels]], {"moments": lambda batch: Moments.from_pixels(
        ...     batch.features, batch.labels, num_classes=2)})["moments"]
        >>> moments.count.item()
        64
    """
    running: dict[str, Running] = defaultdict(Running)
    for group in groups:
        joined = Pixels.join(group).to(device)
        try:
            with joined.named_errors():
                for name, build in builds.items():
                    running[name] += build(joined)
        except ValueError:
            for pixels in group if len(group) > 1 else []:  # which of them it was
                with pixels.named_errors():
                    for build in builds.values():
                        build(pixels.to(device))
            raise
    return {name: each.total for name, each in running.items()}


class Reader:
    """The batches of a data set, pass after pass; a look at the first batch does not cost a pass.

    Args:
        data: the data set.
        stream: number of the stream that batches of tensors are pixels of.
    """

    def __init__(self, data: Batches, stream: int = 0) -> None:
        self._data, self._stream = data, stream
        self._begun: Iterator[Pixels] | None = None
        self._images: int | None = None
        self.once = isinstance(data, Iterator)
        self.length = length_hint(data) or None

    def first(self) -> Pixels:
        """The first batch; its pass goes on with the next `read`.

        Raises:
            ValueError: no batch.
        """
        stream = self._begun or as_pixels(self._data, self._stream)
        first = next(stream, None)
        if first is None:
            raise ValueError("no batch of pixels: the data set is empty")
        self._begun = chain([first], stream)
        return first

    def read(self, title: str = "") -> Generator[Pixels, None, None]:
        """The batches of the next pass.

        Args:
            title: of a progress bar; none by default.

        Raises:
            ValueError: another number of images than in the pass before.
        """
        stream, self._begun = self._begun or as_pixels(self._data, self._stream), None
        images = 0
        for pixels in tqdm(stream, title, self.length, unit="batch", disable=not title):
            images += len(pixels.labels)
            yield pixels
        if self._images not in (None, images):
            counts = f"{self._images} images at first and {images} when they were read again"
            raise ValueError(f"the batches held {counts}: give batches that can be read again")
        self._images = images

    def rows(self, rows: slice, check: Callable[[Pixels], None]) -> Iterator[Pixels]:
        """These rows of every batch; of files no others are read."""
        if isinstance(self._data, FeatureFolder):  # which knows that its files are alike
            yield from self._data.rows(rows)
        else:
            for pixels in self.read():
                check(pixels)
                yield pixels.rows(rows)

    def first_of_one_size(self) -> Pixels:
        """The first batch, whose size all have.

        Raises:
            ValueError: files of different sizes; batches of tensors raise when they are read.
        """
        if isinstance(self._data, FeatureFolder):
            self._data.image_size()
        return self.first()

    def images(self) -> int:
        """How many images there are: reads them all where that is not known; of an iterator 1, until it was read."""
        if isinstance(self._data, FeatureFolder):
            return len(self._data)
        if self._images is None and not self.once:
            for _ in self.read():
                pass
        return self._images or 1


def grouped(stream: Iterable[Pixels], most: int) -> Iterator[list[Pixels]]:
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
