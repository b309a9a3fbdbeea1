"""Which pixels are drawn: how many, how often, from where, by which seed."""

import warnings
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ._checks import require_at_least, require_choice
from .pixels import Pixels, boundary
from .statistics import PixelSample

Strategy = Literal["uniform", "per_class", "boundary"]

SEEDS = range(-(2**63), 2**63)  # all that differ to a hash of 64 bits
DRAWN_PIXELS = 10_000  # what the published experiments draw for OTCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How pixels are drawn, without replacement; which ones does not depend on batches, files or processes.

    Args:
        num_pixels: how many are drawn for every metric; by default metrics that compare pixels with one another draw
            10,000, and all others take all pixels.
        num_repeats: how many independent samples are drawn and scored.
        strategy: which pixels are drawn: any labeled ones ("uniform"), equally many of each class that is present
            ("per_class"; where a class has fewer, more of the others), or those near a change of label ("boundary").
        boundary_radius: how near, in pixels, in rows, columns and diagonals alike.
        seed: of the draw, from -2**63 to 2**63 - 1.

    Raises:
        ValueError: an option out of its range.

    Example:
        >>> pixels = Pixels.of(torch.randn(2, 3, 8, 8), torch.randint(0, 2, (2, 8, 8)))
        >>> sample = Sampling(num_pixels=10, num_repeats=4).draw(pixels.features, pixels, num_classes=2)
        >>> sample.batch_shape, sample.count.tolist()
        (torch.Size([4]), [10, 10, 10, 10])
    """

    num_pixels: int | None = None
    num_repeats: int = 1
    strategy: Strategy = "uniform"
    boundary_radius: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the options."""
        require_choice("strategy", self.strategy, Strategy)
        counts = {"num_pixels": self.num_pixels, "num_repeats": self.num_repeats}
        require_at_least(1, **counts, boundary_radius=self.boundary_radius)
        if not isinstance(self.seed, Integral) or int(self.seed) not in SEEDS:
            raise ValueError(f"seed must be a whole number from -2**63 to 2**63 - 1, not {self.seed!r}")
        for name in (*counts, "boundary_radius", "seed"):  # of NumPy, too
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else int(value))

    @property
    def size(self) -> int:
        """How many pixels a sample has at most."""
        return self.num_pixels or DRAWN_PIXELS

    def check_classes(self, num_classes: int) -> None:
        """Raises where there are too few pixels for each class to have one.

        Raises:
            ValueError: fewer pixels than classes, where equally many of each are drawn.
        """
        if self.strategy == "per_class" and self.size < num_classes:
            raise ValueError(f"num_pixels={self.size} is less than a pixel for each of {num_classes} classes")

    @property
    def of_source(self) -> "Sampling":
        """How pixels of the source data set are drawn: independently of those of a target on the same grid."""
        return replace(self, seed=~self.seed)

    def warn_if_fewer(self, sample: PixelSample, side: str) -> None:
        """Warns where a sample has fewer pixels than were asked for.

        Args:
            sample: of all pixels.
            side: "target" or "source".
        """
        count = int(sample.count.min())
        if self.num_pixels is not None and 0 < count < sample.size:
            warnings.warn(
                f"{side}: {self.strategy} sampling finds {count:,} of the {self.size:,} pixels asked for; all of them"
                " are used",
                stacklevel=4,
            )

    def draw(
        self, tensor: Float[Tensor, "B D H W"], pixels: Pixels, *, num_classes: int, ignore_index: int = 255
    ) -> PixelSample:
        """The sample of a batch of pixels; those of several batches add up.

        Args:
            tensor: what the sample holds of each pixel, on the grid of the pixels.
            pixels: the batch.
            num_classes: K.
            ignore_index: label of the pixels to leave out.

        Returns:
            `[num_repeats]`.

        Raises:
            ValueError: labels outside the classes, or features that are NaN or infinite.
        """
        near = boundary(pixels.labels, self.boundary_radius, ignore_index) if self.strategy == "boundary" else None
        return PixelSample.from_images(
            tensor,
            pixels.labels,
            size=self.size,
            per_class=self.strategy == "per_class",
            num_classes=num_classes,
            ignore_index=ignore_index,
            eligible=near,
            num_repeats=self.num_repeats,
            seed=self.seed,
            stream=pixels.stream,
            offset=pixels.offset,
        )
