"""Counts, class sums, Gram matrix and the third and fourth moments of labeled features."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor

from .._collectives import gathered
from .._ops import Size, patch_moments
from ..pixels import Pool, pools_images
from ._faults import Faults
from ._statistic import Statistic

ROUNDING = 64 * torch.finfo(torch.float64).eps
SMALLEST = 1e-290  # below, near the smallest double of 2e-308, digits are lost
OTHERS = 1e-9  # share of the fourth moment


@dataclass(frozen=True, slots=True, eq=False)
class Moments(Statistic):
    """What LogME and both H-scores must know of N labeled pixels: O(K·D + D²) numbers, exact in one pass.

    The sums are taken and held in float64, however many channels there are, around an origin, a pixel of the data, so
    that an offset of the features cancels before it is squared. Merging translates to a common origin. Read the
    properties; the fields are how they are kept.
    """

    origin: Float64[Tensor, "*batch D"]
    class_count: Int64[Tensor, "*batch K"]
    offset_class_sum: Float64[Tensor, "*batch K D"]
    offset_gram: Float64[Tensor, "*batch D D"]
    offset_third_moment: Float64[Tensor, "*batch D"]
    offset_fourth_moment: Float64[Tensor, "*batch"]

    @classmethod
    def from_images(
        cls,
        images: Float[Tensor, "B D H W"],
        labels: Integer[Tensor, "B H W"],
        *,
        num_classes: int,
        ignore_index: int = 255,
        pool: Pool = "dataset",
        cell_size: Size | None = None,
    ) -> "Moments":
        """The moments of a batch of pixels, by one read of the features.

        Args:
            images: `[B, D, H, W]`, features.
            labels: `[B, H, W]`.
            num_classes: K.
            ignore_index: label of the pixels to leave out; their features are not read.
            pool: "dataset" for one entry of all images, "image" for an entry each, along a leading dimension B.
            cell_size: height and width, in pixels, of the cells of a grid that make an entry each, along two further
                leading dimensions; what does not fill a cell at the bottom and on the right is left out. One entry for
                the whole image by default.

        Raises:
            ValueError: a cell that does not fit into the images; on the CPU also labels outside `[0, K)` and features
                that are NaN or infinite (on other devices `faults.check` raises later).

        Example:
            >>> moments = Moments.from_pixels(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 1]), num_classes=2)
            >>> moments.mean.item(), moments.covariance.item()
            (1.0, 2.0)
        """
        height, width = cell_size or labels.shape[1:]
        sums = patch_moments(images, labels, num_classes, height, width, pools_images(pool), ignore_index)
        moments = cls(*sums[:-1], faults=Faults.from_columns(sums.faults))
        moments.faults.check_on_cpu(num_classes, ignore_index)
        return moments if cell_size else moments._of_whole_images()

    @classmethod
    def numbers(cls, channels: int, num_classes: int, pixels: int) -> int:
        """D·(D + K)."""
        return channels * (channels + num_classes)

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""
        return self.offset_fourth_moment.shape

    @property
    def channels(self) -> int:
        """D."""
        return self.origin.shape[-1]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.class_count.shape[-1]

    @property
    def count(self) -> Int64[Tensor, "*batch"]:
        """N, the number of pixels."""
        return self.class_count.sum(-1)

    @property
    def class_sum(self) -> Float64[Tensor, "*batch K D"]:
        """Sum of the features of each class."""
        return self.offset_class_sum + self.class_count.unsqueeze(-1) * self.origin.unsqueeze(-2)

    @property
    def gram(self) -> Float64[Tensor, "*batch D D"]:
        """FᵀF, the Gram matrix of the features."""
        return self.around(torch.zeros_like(self.origin)).offset_gram

    @property
    def mean(self) -> Float64[Tensor, "*batch D"]:
        """Mean feature; NaN without a pixel."""
        return self.origin + self.offset_class_sum.sum(-2) / self.count.unsqueeze(-1)

    @property
    def class_mean(self) -> Float64[Tensor, "*batch K D"]:
        """Mean feature of each class; 0 for a class without pixels."""
        count = self.class_count.unsqueeze(-1)
        return torch.where(count > 0, self.origin.unsqueeze(-2) + self.offset_class_sum / count, 0)

    @property
    def scatter(self) -> Float64[Tensor, "*batch D D"]:
        """Σ (x - mean)(x - mean)ᵀ over all pixels."""
        total = self.offset_class_sum.sum(-2)
        return torch.addcmul(self.offset_gram, total.unsqueeze(-1), self._mean_offset.unsqueeze(-2), value=-1)

    @property
    def class_deviation(self) -> Float64[Tensor, "*batch K D"]:
        """Σ (x - mean) over the pixels of each class, the mean being that of all."""
        class_count = self.class_count.to(torch.float64).unsqueeze(-1)
        return torch.addcmul(self.offset_class_sum, class_count, self._mean_offset.unsqueeze(-2), value=-1)

    @property
    def covariance(self) -> Float64[Tensor, "*batch D D"]:
        """Sample covariance, the scatter over N - 1; NaN with fewer than two pixels."""
        return self.scatter / (self.count - 1)[..., None, None]

    @property
    def spread(self) -> Float64[Tensor, "*batch D"]:
        """√Σ(x - mean)² of each channel; 0 where nothing or rounding alone is left of it.

        The origin is a pixel, so that no sum around it is more than N + 1 times the one around the mean.
        """
        around_origin = self.offset_gram.diagonal(dim1=-2, dim2=-1)
        count = self.count.clamp(min=1).unsqueeze(-1)
        around_mean = around_origin - self.offset_class_sum.sum(-2).square() / count
        is_number = (around_mean > ROUNDING * around_origin) & (around_mean > SMALLEST)
        return around_mean.where(is_number, 0).sqrt()

    @property
    def standardized(self) -> tuple[Float64[Tensor, "*batch D D"], Float64[Tensor, "*batch K D"]]:
        """Scatter and class deviation of channels that are brought to a scatter of 1 each; 0 of constant ones."""
        spread = self.spread
        scale = torch.where(spread > 0, 1 / spread, 0)
        correlation = self.scatter.mul_(scale.unsqueeze(-1)).mul_(scale.unsqueeze(-2))
        return correlation, self.class_deviation.mul_(scale.unsqueeze(-2))

    @property
    def mean_square(self) -> Float64[Tensor, "*batch D"]:
        """Σx² / N of each channel; NaN without a pixel."""
        return self.mean.square() + self.spread.square() / self.count.unsqueeze(-1)

    @property
    def most_mean_square(self) -> Float64[Tensor, "*batch"]:
        """No less than Σ‖x‖² / N, and no more than twice that and twice the square of a pixel."""
        around_origin = self.offset_gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        return 2 * (self.origin.square().sum(-1) + around_origin / self.count)

    def vanishing(self, *, power: int = 2, together: bool = False) -> str | None:
        """What to say of features that vary by so little that their squares, or fourth powers, vanish; None of others.

        Args:
            power: 2 or 4.
            together: whether all channels must be so small, or any.
        """
        square = self.offset_gram.diagonal(dim1=-2, dim2=-1)
        square = square.sum(-1, keepdim=True) if together else square
        is_small = square < SMALLEST ** (2 / power)
        where = is_small.any(-1)
        if not where.any():
            return None
        varies = (self.offset_class_sum[where] != 0).any(-2)
        varies = (varies.any(-1, keepdim=True) if together else varies) | (square[where] > 0)
        vanishes = (varies & is_small[where]).nonzero()
        if not len(vanishes):
            return None
        which = "every channel varies" if together else f"channel {int(vanishes[0, -1])} varies"
        return (
            f"{which} by less than {SMALLEST ** (1 / power):.0e}, and double precision has no digits for such numbers"
            f" to the power of {power}: the score is as if it were constant; multiply the features"
        )

    @property
    def is_of_one_pixel(self) -> Bool[Tensor, "*batch"]:
        """Where one pixel lies so far out that double precision sees no other beside it.

        Σ‖x - mean‖⁴ is largest for its square where all others coincide.
        """
        count = self.count.clamp(min=2).to(torch.float64)
        most = (count.square() - 3 * count + 3) / (count * (count - 1)) * self.spread.square().sum(-1).square()
        return (most > 0) & (self.centered.offset_fourth_moment >= (1 - OTHERS) * most)

    @property
    def centered(self) -> "Moments":
        """The same moments, held around the mean; around the origin without a pixel."""
        return self._moved(-self._mean_offset, self.origin + self._mean_offset)

    @property
    def _mean_offset(self) -> Float64[Tensor, "*batch D"]:
        """From the origin to the mean; 0 without a pixel."""
        return self.offset_class_sum.sum(-2) / self.count.clamp(min=1).unsqueeze(-1)

    def around(self, origin: Float64[Tensor, "*batch D"]) -> "Moments":
        """The same moments, held around another origin."""
        return self._moved(self.origin - origin, origin)

    def _moved(self, d: Float64[Tensor, "*batch D"], origin: Float64[Tensor, "*batch D"]) -> "Moments":
        """The same moments with d added to every pixel's offset, where `origin` is the old origin less d.

        Σ(y + d)(y + d)ᵀ, Σ‖y + d‖²(y + d) and Σ‖y + d‖⁴ over the offsets y, multiplied out.
        """
        n = self.count.to(d.dtype)
        s = self.offset_class_sum.sum(-2)
        half = s + n.unsqueeze(-1) * d / 2  # Σ(y + d)(y + d)ᵀ = Σyyᵀ + half dᵀ + d halfᵀ
        gram, third = self.offset_gram, self.offset_third_moment
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        gram_d = (gram @ d.unsqueeze(-1)).squeeze(-1)
        dd, ds = d.square().sum(-1), (d * s).sum(-1)
        class_count = self.class_count.to(d.dtype)
        return type(self)(
            origin,
            self.class_count,
            torch.addcmul(self.offset_class_sum, class_count.unsqueeze(-1), d.unsqueeze(-2)),
            torch.addcmul(gram, half.unsqueeze(-1), d.unsqueeze(-2)).addcmul_(d.unsqueeze(-1), half.unsqueeze(-2)),
            third + 2 * gram_d + dd.unsqueeze(-1) * s + (trace + 2 * ds + n * dd).unsqueeze(-1) * d,
            self.offset_fourth_moment
            + 4 * ((d * gram_d).sum(-1) + (d * third).sum(-1) + dd * ds)
            + 2 * dd * trace
            + n * dd.square(),
            faults=self.faults,
        )

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of the pixels of both, around the origin of the first that has a pixel."""
        origin = torch.where(self.count.unsqueeze(-1) > 0, self.origin, other.origin)
        other = other.around(origin)
        return type(self)(
            origin,
            self.class_count + other.class_count,
            self.offset_class_sum + other.offset_class_sum,
            other.offset_gram.add_(self.offset_gram),  # in place: fresh memory for D x D numbers costs most of the time
            self.offset_third_moment + other.offset_third_moment,
            self.offset_fourth_moment + other.offset_fourth_moment,
            faults=self.faults + other.faults,
        )

    def all_reduce(self, group: Any = None) -> "Moments":
        """The moments of the pixels of all ranks, around the origin of the first that has a pixel."""
        origin = _first_with_pixels(gathered(self.count, group), gathered(self.origin, group))
        return replace(Statistic.all_reduce(self.around(origin), group), origin=origin)

    def _pool(self) -> "Moments":
        # The origin of the first entry that has a pixel: entries that share it, as constant features do, merge exactly.
        origin = _first_with_pixels(self.count, self.origin)
        moments = self.around(origin.expand_as(self.origin))
        return type(self)(
            origin,
            moments.class_count.sum(0),
            moments.offset_class_sum.sum(0),
            moments.offset_gram.sum(0),
            moments.offset_third_moment.sum(0),
            moments.offset_fourth_moment.sum(0),
            faults=moments.faults._pool(),
        )


def _first_with_pixels(
    count: Int64[Tensor, "entries *batch"], origin: Float64[Tensor, "entries *batch D"]
) -> Float64[Tensor, "*batch D"]:
    """The origin of the first entry that has a pixel."""
    first = (count > 0).to(torch.uint8).argmax(0, keepdim=True)
    return origin.take_along_dim(first.unsqueeze(-1), 0)[0]
