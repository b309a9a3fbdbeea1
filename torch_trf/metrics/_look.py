"""A look at pixels: which statistic a metric must know, and of which tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..pixels import Pixels
from ..statistics import NOT_DRAWN, PixelSample, Statistic, of_all_classes, require_channels

TensorName = Literal["features", "logits"]
S = TypeVar("S", bound=Statistic)

PACKAGE = f"{__name__.partition('.')[0]}."  # whose statistics are known by their names alone


@dataclass(frozen=True, slots=True)
class Look:
    """A statistic of one of a batch's tensors.

    Args:
        statistic: its class.
        reads: "features", or "logits" for the source model's class scores.
        softmax: whether to read the softmax over channels instead of the tensor.
        options: of the statistic's `from_images`.
        given: under which name `from_images` takes what the look before gave; None for a first look.

    Example:
        >>> str(Look(Moments, softmax=True)), str(Look(JointMass, "logits", options={"hard": True}))
        ('Moments(softmax of features)', 'JointMass(logits, hard=True)')
    """

    statistic: type[Statistic]
    reads: TensorName = "features"
    softmax: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    given: str | None = None

    def __str__(self) -> str:
        module, name = self.statistic.__module__, self.statistic.__name__
        statistic = name if module.startswith(PACKAGE) else f"{module}.{name}"
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{statistic}({'softmax of ' if self.softmax else ''}{self.reads}{options})"

    def read(self, pixels: Pixels) -> Tensor:
        """The tensor of a batch that the statistic is of, before its softmax.

        Raises:
            ValueError: class scores that are missing, or softmax of one channel.
        """
        tensor: Tensor | None = getattr(pixels, self.reads)
        if tensor is None:
            raise ValueError(
                "there are no class scores of the source model to read: give logits beside features and labels; "
                "features_are_logits=True, or the very same tensor again, where the features are the class scores"
            )
        return self._checked(tensor, 1)

    def softened(self, tensor: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
        """The softmax over channels, in float64, where that is to be read; otherwise the tensor itself.

        Raises:
            ValueError: one channel.
        """
        tensor = self._checked(tensor, 1)
        return tensor.softmax(1, torch.float64) if self.softmax else tensor

    def __call__(
        self, pixels: Pixels, before: Statistic | None = None, *, num_classes: int, ignore_index: int, **options: Any
    ) -> Statistic:
        """The statistic of a batch of pixels.

        Args:
            pixels: the batch.
            before: what the look before gave; None for a first look.
            num_classes: K.
            ignore_index: label of the pixels to leave out.
            **options: pool, and cell_size, or patch_size and stride.

        Raises:
            ValueError: class scores that are missing; or as the statistic's `from_images`.
        """
        tensor = self.read(pixels)
        self.statistic.require_fits(tensor.shape[1], num_classes)
        options |= {**self.options, **self._context(before, num_classes)}
        softened = self.softened(tensor)
        statistic = self.statistic.from_images(softened, pixels.labels, ignore_index=ignore_index, **options)
        return self._looked_at(statistic, tensor)

    def at_sample(self, sample: PixelSample, before: Statistic | None = None, *, num_classes: int) -> Statistic:
        """The statistic of drawn pixels, an entry for each repeat; arguments and errors as for a call."""
        sample = replace(sample, features=self._checked(sample.features, -1))
        self.statistic.require_fits(sample.channels, num_classes)
        context = self._context(before, num_classes)
        statistic = self.statistic.from_sample(sample, softmax=self.softmax, **self.options, **context)
        statistic = self._looked_at(statistic, sample.as_images()[0])
        statistic.faults.check(num_classes, NOT_DRAWN)
        return statistic

    def _checked(self, tensor: Tensor, dim: int) -> Tensor:
        """The tensor, class scores of all source classes; raises where softmax would say nothing."""
        if self.reads == "logits":
            return of_all_classes(tensor, dim)
        if self.softmax:
            require_channels(tensor.shape[dim])
        return tensor

    def _looked_at(self, statistic: S, images: Float[Tensor, "B C H W"]) -> S:
        """The statistic, which carries what the class scores look like whose softmax it is of."""
        return replace(statistic, faults=statistic.faults.with_class_scores(images)) if self.softmax else statistic

    def _context(self, before: Statistic | None, num_classes: int) -> dict[str, Any]:
        """What the statistic must be told: the number of classes, which a statistic that came before knows."""
        return {"num_classes": num_classes} if self.given is None else {self.given: before}
