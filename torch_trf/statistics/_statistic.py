"""What every statistic of pixels can do."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

from .._ops import Size, class_index, patch_shape, patches
from ..pixels import Pool, as_images, pools_images
from ._faults import Faults
from ._mergeable import Mergeable

if TYPE_CHECKING:
    from ._pixel_sample import PixelSample

S = TypeVar("S", bound="Statistic")
MOST_NUMBERS = 2**27  # that classes may add to an entry, 1 GiB
NOT_DRAWN = -1  # label of the places of a sample that no pixel fills


@dataclass(frozen=True, slots=True, eq=False)
class Statistic(Mergeable):
    """What a metric must know of pixels: a small value that merges by adding, an entry for each patch, image or repeat.

    A subclass is a frozen dataclass of tensors with `from_images`, `batch_shape`, `count` and `numbers`, and with
    `_pool`, `all_reduce` and `nothing` where its fields do not merge by adding. `cells` cuts images for statistics
    without a kernel of their own.
    """

    draws: ClassVar[bool] = False  # whether it holds pixels themselves, so that a sample of many is drawn

    faults: Faults = field(kw_only=True)

    @property
    @abstractmethod
    def count(self) -> Int64[Tensor, "*batch"]:
        """N, the number of pixels of each entry."""

    def require_pixels(self, num_classes: int, ignore_index: int) -> None:
        """Raises where there were bad pixels or an entry has none; waits for the device.

        Raises:
            ValueError: as `Faults.check`, or no labeled pixel.
        """
        self.faults.check(num_classes, ignore_index)
        if not self.count.all():
            raise ValueError(f"no labeled pixel: every label is ignore_index={ignore_index}")

    @classmethod
    def from_pixels(cls: type[S], tensor: Float[Tensor, "..."], labels: Integer[Tensor, "..."], **options: Any) -> S:
        """The statistic of a batch of pixels, which are checked here and nowhere else.

        Args:
            tensor: features or logits, `[N, C]` or `[B, C, H, W]`, floating point.
            labels: `[N]` or `[B, H, W]`, integer.
            **options: of `from_images`.

        Raises:
            ValueError: shapes, dtypes or devices that do not fit; or as `from_images`.
        """
        return cls.from_images(*as_images(tensor, labels), **options)

    @classmethod
    @abstractmethod
    def from_images(cls: type[S], *pixels: Any, **options: Any) -> S:
        """The statistic of images `[B, C, H, W]` and labels `[B, H, W]` that were checked."""

    @classmethod
    def from_sample(cls: type[S], sample: "PixelSample", *, softmax: bool = False, **options: Any) -> S:
        """The statistic of drawn pixels, an entry for each repeat.

        Args:
            sample: `[R]`.
            softmax: whether to read the softmax of its features instead of the features.
            **options: of `from_images`, ignore_index and pool aside.
        """
        images, labels = sample.as_images()
        images = images.softmax(1, torch.float64) if softmax else images
        return cls.from_images(images, labels, ignore_index=NOT_DRAWN, pool="image", **options)

    @staticmethod
    def cells(
        images: Float[Tensor, "B C H W"],
        labels: Integer[Tensor, "B H W"],
        *,
        num_classes: int,
        ignore_index: int = 255,
        pool: Pool = "dataset",
        cell_size: Size | None = None,
    ) -> tuple[Float64[Tensor, "*cells pixels C"], Float64[Tensor, "*cells pixels K"], Faults]:
        """The pixels of every cell, for a `from_images` in a few lines of PyTorch, in time and memory that this takes.

        Args:
            images: `[B, C, H, W]`.
            labels: `[B, H, W]`.
            num_classes: K.
            ignore_index: label of the pixels to leave out.
            pool: "dataset" for one entry of all images, "image" for an entry each, along a leading dimension B.
            cell_size: height and width of the cells that make an entry each, along two further leading dimensions.
                One entry for the whole image by default.

        Returns:
            Features in float64, 0 for pixels that do not count; their classes, one-hot, 0 likewise; and what is wrong
            with the pixels, for the field `faults`.

        Raises:
            ValueError: as `Moments.from_images`.
        """
        size, pool_batch = cell_size or (labels.shape[1], labels.shape[2]), pools_images(pool)
        patch_shape(labels, size, size, pool_batch)  # raises
        features = patches(images.to(torch.float64), size, size, pool_batch).movedim(0, -1)
        labels = patches(labels.unsqueeze(1), size, size, pool_batch)[0]
        if cell_size is None:
            features, labels = features[..., 0, 0, :, :], labels[..., 0, 0, :]
        index, bad = class_index(labels, num_classes, ignore_index)
        counts = (index >= 0) & features.isfinite().all(-1)
        faults = Faults.from_pixels(labels, bad, (index >= 0) & ~counts)
        faults.check_on_cpu(num_classes, ignore_index)
        classes = torch.arange(num_classes, device=labels.device)
        one_hot = ((index.unsqueeze(-1) == classes) & counts.unsqueeze(-1)).to(torch.float64)
        return features.masked_fill(~counts.unsqueeze(-1), 0), one_hot, faults

    @classmethod
    @abstractmethod
    def numbers(cls, channels: int, num_classes: int, pixels: int) -> int:
        """How many numbers an entry of so many pixels holds."""

    @classmethod
    def require_fits(cls, channels: int, num_classes: int) -> None:
        """Raises where an entry would hold too many numbers because there are so many classes.

        Raises:
            ValueError: with the numbers of classes and channels.
        """
        numbers = cls.numbers(channels, num_classes, 1) - cls.numbers(channels, 1, 1)
        if numbers > MOST_NUMBERS:
            raise ValueError(
                f"{num_classes:,} classes (labels up to {num_classes - 1}) against {channels:,} channels or source"
                f" classes take {numbers / 2**27:.1f} GiB, 1 is the most: give fewer classes, or ignore_index where the"
                " largest labels are none"
            )

    def add(self: S, tensor: Float[Tensor, "..."], labels: Integer[Tensor, "..."], **options: Any) -> S:
        """This statistic with further pixels in it: `self + from_pixels(...)`, with the arguments of `from_pixels`."""
        return self + self.from_pixels(tensor, labels, **options)
