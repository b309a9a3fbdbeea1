"""A bounded random sample of pixels."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from .._collectives import gathered, reduced
from .._ops import LARGEST_INT64, LEAST_INT64, class_index
from ..pixels import LARGEST_KEY, pixel_keys
from ._faults import Faults
from ._statistic import NOT_DRAWN, Statistic


@dataclass(frozen=True, slots=True, eq=False)
class PixelSample(Statistic):
    """The n eligible pixels whose turn comes first: drawn without replacement, whatever the order of the pixels.

    The turn is by a random key, and so the sample uniform; or, with `per_class`, by the place of the key among those of
    its class, so that the classes take turns: equally many pixels of each, and more of the others where one has fewer.

    Merging keeps the n first turns of the union, so the sample of two halves is the sample of the whole: a pixel's turn
    comes no later among fewer pixels, and of those that go before it none is missing. Pixels are sorted by turn, in as
    many places as there were pixels, at most n; places that none of them fills hold label -1.
    """

    draws: ClassVar[bool] = True

    size: int  # n
    per_class: bool
    key: Int64[Tensor, "*batch places"]
    features: Float[Tensor, "*batch places D"]
    labels: Int64[Tensor, "*batch places"]
    population: Int64[Tensor, "*batch"]

    @classmethod
    def from_images(
        cls,
        images: Float[Tensor, "B D H W"],
        labels: Integer[Tensor, "B H W"],
        *,
        num_classes: int,
        size: int | None = None,
        per_class: bool = False,
        ignore_index: int = 255,
        eligible: Bool[Tensor, "B H W"] | None = None,
        num_repeats: int = 1,
        seed: int = 0,
        stream: int = 0,
        offset: int = 0,
    ) -> "PixelSample":
        """A sample of a batch of pixels.

        Args:
            images: `[B, D, H, W]`, features; only those of drawn pixels are read.
            labels: `[B, H, W]`.
            num_classes: K.
            size: n, how many pixels to keep; all by default.
            per_class: whether n is shared equally among the classes that are present.
            ignore_index: label of the pixels to leave out.
            eligible: which pixels may be drawn; all labeled ones by default.
            num_repeats: R, how many independent samples to draw.
            seed: of the whole draw.
            stream: number of the file or of the process that the pixels come from.
            offset: number of pixels of this stream that came before.

        Returns:
            Samples with a leading dimension `[R]`.

        Raises:
            ValueError: as `Moments.from_images`, or a size or number of repeats below 1.

        Example:
            >>> features, labels = torch.arange(6.0).unsqueeze(-1), torch.zeros(6, dtype=torch.int64)
            >>> whole = PixelSample.from_pixels(features, labels, size=3, num_classes=1)
            >>> first = PixelSample.from_pixels(features[:2], labels[:2], size=3, num_classes=1)
            >>> both = first.add(features[2:], labels[2:], size=3, num_classes=1, offset=2)
            >>> torch.equal(whole.features, both.features)
            True
        """
        size = labels.numel() if size is None else size
        if size < 1 or num_repeats < 1:
            raise ValueError(f"a sample needs at least 1 pixel and 1 repeat, not {size} and {num_repeats}")
        index, bad = class_index(labels, num_classes, ignore_index)
        classes = (index if eligible is None else index.where(eligible, NOT_DRAWN)).flatten()
        may_be_drawn = classes != NOT_DRAWN
        kept = min(size, labels.numel())
        drawn = []  # a repeat at a time, which takes less memory
        for every_key in pixel_keys(
            labels.numel(), seed=seed, num_repeats=num_repeats, stream=stream, offset=offset, device=labels.device
        ):
            key = every_key.masked_fill(~may_be_drawn, LARGEST_KEY)
            pixel = _turns(key, classes, per_class).topk(kept, largest=False, sorted=True).indices
            drawn.append((key[pixel], pixel))
        key, pixel = (torch.stack(part) for part in zip(*drawn, strict=True))
        is_drawn = key < LARGEST_KEY
        height, width = labels.shape[1:]
        values = images[pixel // (height * width), :, pixel // width % height, pixel % width]
        label_faults = Faults.from_pixels(labels.flatten(), bad.flatten(), torch.zeros_like(bad).flatten())
        first = torch.arange(num_repeats, device=key.device) == 0  # bad labels count once, though all samples see them
        sample = cls(
            size,
            per_class,
            key,
            values.masked_fill(~is_drawn.unsqueeze(-1), 0),
            classes[pixel],
            may_be_drawn.sum().repeat(num_repeats),
            faults=Faults(
                label_faults.bad_labels * first,
                label_faults.least_bad_label.where(first, LARGEST_INT64),
                label_faults.largest_bad_label.where(first, LEAST_INT64),
                (~values.isfinite().all(-1) & is_drawn).sum(-1),
                label_faults.class_scores * first,
            ),
        )
        sample.faults.check_on_cpu(num_classes, ignore_index)
        return sample

    @classmethod
    def from_sample(cls, sample: "PixelSample", *, softmax: bool = False, **options: Any) -> "PixelSample":
        """The sample itself, or with the softmax of its features."""
        return replace(sample, features=sample.features.softmax(-1, torch.float64)) if softmax else sample

    @classmethod
    def numbers(cls, channels: int, num_classes: int, pixels: int) -> int:
        """The features of every pixel."""
        return channels * pixels

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""
        return self.population.shape

    @property
    def channels(self) -> int:
        """D."""
        return self.features.shape[-1]

    @property
    def count(self) -> Int64[Tensor, "*batch"]:
        """How many pixels each sample holds."""
        return (self.labels != NOT_DRAWN).sum(-1)

    def drawn(self) -> tuple[Float[Tensor, "m D"], Int64[Tensor, "m"]]:
        """Features and labels of the pixels that a single sample holds; waits for the device."""
        is_drawn = self.labels != NOT_DRAWN
        return self.features[is_drawn], self.labels[is_drawn]

    def with_features(self, features: Float[Tensor, "*batch places D"]) -> "PixelSample":
        """The same pixels with other features, as another model gives them."""
        non_finite = (~features.isfinite().all(-1) & (self.labels != NOT_DRAWN)).sum(-1)
        return replace(self, features=features, faults=replace(self.faults, non_finite=non_finite))

    def as_images(self) -> tuple[Float[Tensor, "R D 1 places"], Int64[Tensor, "R 1 places"]]:
        """R samples as R images of one row, whose missing pixels are labeled `NOT_DRAWN`."""
        return self.features.mT.unsqueeze(2), self.labels.unsqueeze(1)

    def __add__(self, other: "PixelSample") -> "PixelSample":
        """The n pixels of both whose turn comes first."""
        dim = len(self.batch_shape)
        places = [torch.cat(pair, dim) for pair in zip(self._places(), other._places(), strict=True)]
        return self._first(places, self.population + other.population, self.faults + other.faults)

    def _pool(self) -> "PixelSample":
        dim = len(self.batch_shape)
        places = [tensor.movedim(0, dim - 1).flatten(dim - 1, dim) for tensor in self._places()]
        return self._first(places, self.population.sum(0), self.faults._pool())

    def all_reduce(self, group: Any = None) -> "PixelSample":
        """The n pixels of all ranks whose turn comes first; their samples are gathered."""
        places = torch.tensor(self.key.shape[-1], device=self.device)
        return self._padded(int(reduced(places, "MAX", group)))._map(lambda tensor: gathered(tensor, group))._pool()

    def nothing(self, device: torch.device) -> "PixelSample":
        """A sample without places."""
        empty = Statistic.nothing(self, device)
        key, features, labels = empty.key[..., :0], empty.features[..., :0, :], empty.labels[..., :0]
        return replace(empty, key=key, features=features, labels=labels)

    def _padded(self, places: int) -> "PixelSample":
        """With places that no pixel fills, up to so many."""
        rest = (*self.batch_shape, places - self.key.shape[-1])
        return replace(
            self,
            key=torch.cat([self.key, self.key.new_full(rest, LARGEST_KEY)], -1),
            features=torch.cat([self.features, self.features.new_zeros(*rest, self.features.shape[-1])], -2),
            labels=torch.cat([self.labels, self.labels.new_full(rest, NOT_DRAWN)], -1),
        )

    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.key, self.features, self.labels

    def _first(self, places: list[Tensor], population: Tensor, faults: Faults) -> "PixelSample":
        key, features, labels = places
        turn = _turns(key, labels, self.per_class)
        place = turn.argsort(stable=True)[..., : self.size]  # the stable sort is the faster on runs that are sorted
        samples = torch.arange(population.numel(), device=key.device).reshape(*population.shape, 1)
        rows = place + samples * key.shape[-1]
        return type(self)(
            self.size,
            self.per_class,
            key.gather(-1, place),
            features.flatten(0, -2).index_select(0, rows.flatten()).unflatten(0, rows.shape),
            labels.gather(-1, place),
            population,
            faults=faults,
        )


def _turns(
    key: Int64[Tensor, "*batch pixels"], labels: Int64[Tensor, "*batch pixels"], per_class: bool
) -> Int64[Tensor, "*batch pixels"]:
    """When the turn of each pixel comes: by its key, or by the place of its key within its class and then by its key.

    Turns of pixels that are labeled `NOT_DRAWN` come last.
    """
    if not per_class:
        return key
    by_key = key.argsort(stable=True)
    classes, by_class = labels.gather(-1, by_key).sort(stable=True)  # the classes one after the other, each by key
    place = torch.arange(key.shape[-1], device=key.device)
    starts = classes != classes.roll(1, -1)
    starts[..., :1] = True
    turn = place - place.where(starts, 0).cummax(-1).values  # within the class
    turn = (turn * key.shape[-1] + by_class).masked_fill(classes == NOT_DRAWN, LARGEST_KEY)
    return torch.empty_like(turn).scatter(-1, by_key.gather(-1, by_class), turn)
