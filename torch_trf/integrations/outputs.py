"""What layers of a model give of images, probed once: whether it is the same twice, and follows the image."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from .._ops import Size
from ..inference import ForwardPasses
from ..pixels import check_stride, fold_tokens, size_of
from .hooks import FeatureTap, Layer, name_of

MOST_NOISE = 0.05  # of two passes over one image, relative; of half precision there is less
# How far the corner that features depend on must go along with where they lie: by two standard deviations of N queries
# that know of no place, which is far less than features do; of few places the sign alone is looked at.
LEAST_DEVIATIONS, FEW_PLACES = 2, 64
LEAST_CHANGE = 1e-3  # of the mean change: places that change less depend on no corner
MOST_UNCHANGED = 0.75  # of the places; the others are too few to judge by

L = TypeVar("L", bound=Layer)


@dataclass(slots=True)
class LayerOutputs(Generic[L]):
    """What layers give of batches of images, pass by pass; after the first pass one more tells whether to believe it.

    The pass more is over the first image again, and with a corner that is changed. It warns of a layer that gives other
    features of the same image, and of one whose features do not change most where the image does, nor, in another pass,
    where noise does.

    Args:
        passes: of the model, which is in evaluation mode.
        features: a tap of the model.
        layers: of the tap.

    Example:
        >>> from torch_trf.inference import Inference
        >>> from torch_trf.integrations.hooks import tap
        >>> model = torch.nn.Conv2d(3, 8, 1)
        >>> with tap(model, "") as features:
        ...     outputs = LayerOutputs(ForwardPasses(model, Inference()), features, [""])
        ...     [(part, given[""].shape) for part, given in outputs(torch.rand(4, 3, 6, 6))]
        [(slice(0, 4, None), torch.Size([4, 8, 6, 6]))]
    """

    passes: ForwardPasses
    features: FeatureTap
    layers: Sequence[L]
    is_probed: bool = field(default=False, init=False)

    def __call__(self, images: Shaped[Tensor, "B C H W"]) -> Iterator[tuple[slice, dict[L, Tensor]]]:
        """What each layer gives of a batch, and of which of its images.

        Raises:
            RuntimeError: as `ForwardPasses`.
        """
        for part, outputs in self._run(images):
            if not self.is_probed:
                self.is_probed = True
                self._probe(images[part], outputs)
            yield part, outputs

    def _run(self, images: Shaped[Tensor, "B C H W"]) -> Iterator[tuple[slice, dict[L, Tensor]]]:
        for part in self.passes(images, before=self.features.forget):
            yield part, {layer: self.features.take(layer) for layer in self.layers}

    def _probe(self, images: Shaped[Tensor, "B C H W"], outputs: dict[L, Tensor]) -> None:
        """Warns of layers whose outputs are not what they seem, after passes over as many images."""
        batch, image_size = len(images), size_of(images)
        given = {layer: tensor[0] for layer, tensor in outputs.items() if len(tensor) == batch}
        changes = self._changes(images[0], batch, given)
        doubts = {layer: _doubt_of_second_pass(given[layer], same) for layer, (same, *_) in changes.items()}
        places = {layer: _doubt_of_place(*changes[layer], image_size) for layer in given if not doubts[layer]}
        if any(places.values()):  # of one image chance may say so
            again = self._changes(_noise_like(images[0]), batch, given)
            doubts |= {layer: _doubt_of_place(*again[layer], image_size) and doubt for layer, doubt in places.items()}
        for layer, doubt in doubts.items():
            if doubt:
                warnings.warn(f"{name_of(layer)} {doubt}", stacklevel=4)

    def _changes(
        self, image: Shaped[Tensor, "C H W"], batch: int, layers: Iterable[L]
    ) -> dict[L, tuple[Tensor, Tensor, Tensor]]:
        """What layers give of an image, and of it with its upper right and with its lower left changed."""
        probes = [image, _with_changed_corner(image, upper=True), _with_changed_corner(image, upper=False)]
        probes += [image] * (-len(probes) % batch)
        passes = [given for part in torch.stack(probes).split(batch) for _, given in self._run(part)]
        of_images = {layer: [tensor for given in passes for tensor in given[layer]] for layer in layers}
        return {layer: (same, upper, lower) for layer, (same, upper, lower, *_) in of_images.items()}


def _noise_like(image: Shaped[Tensor, "C H W"]) -> Shaped[Tensor, "C H W"]:
    """Noise of the range of the image, the same every time."""
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)).to(image.device)
    low, high = image.to(torch.float32).aminmax()
    return (low + noise * (high - low)).to(image.dtype)


def _with_changed_corner(image: Shaped[Tensor, "C H W"], *, upper: bool) -> Shaped[Tensor, "C H W"]:
    """The image, whose upper right or lower left quarter is half way to its negative."""
    corner = image.to(torch.float32)
    negative = corner.amax() + corner.amin() - corner
    changed = image.clone()
    _quarter(changed, upper=upper).copy_(_quarter((corner + negative + (negative == corner)) / 2, upper=upper))
    return changed


def _quarter(image: Shaped[Tensor, "... H W"], *, upper: bool) -> Shaped[Tensor, "... h w"]:
    """The upper right or the lower left quarter."""
    height, width = (size // 2 for size in size_of(image))
    return image[..., :height, -width:] if upper else image[..., -height:, :width]


def _doubt_of_second_pass(given: Tensor, again: Tensor) -> str | None:
    """Whether a layer gives another thing of the same image."""
    is_alike = given.shape == again.shape
    noise = float((again - given).float().norm() / given.float().norm()) if is_alike else math.inf
    if noise > MOST_NOISE:
        return (
            f"gives other features of the same image in a second pass, by {noise:.0%}: the model draws at random (a"
            " dropout that stays on, a mask) or mixes the images of a batch, and the score holds for this draw alone"
        )
    return None


def _doubt_of_place(given: Tensor, upper: Tensor, lower: Tensor, image_size: Size) -> str | None:
    """Whether the features do not change most where the image does, in its upper right and in its lower left."""
    try:
        if given.dim() == 2:
            given, upper, lower = fold_tokens(torch.stack([given, upper, lower]), image_size)
        check_stride("features", size_of(given), image_size, "the image")
    except (ValueError, IndexError):
        return None  # it is no image, which is an error where it is read
    if min(size_of(given)) < 2:
        return None
    upper_right, lower_left = ((tensor - given).float().abs().mean(0) for tensor in (upper, lower))
    change = upper_right + lower_left
    is_changed = change > LEAST_CHANGE * change.mean()
    places = int(is_changed.sum())
    if places < (1 - MOST_UNCHANGED) * is_changed.numel():
        return None
    depends = (upper_right - lower_left) / change  # 1: on the upper right alone
    rows, columns = (torch.linspace(-1, 1, size, device=given.device) for size in size_of(given))
    correlation = torch.stack([depends, columns - rows.unsqueeze(-1)])[:, is_changed].corrcoef()[0, 1]
    if correlation < (0 if places < FEW_PLACES else LEAST_DEVIATIONS / places**0.5):
        return (
            "does not follow the image: which corner of the image its features depend on has little to do with where"
            f" they lie (correlation {correlation:.2f}). Queries, or [B, H, W, D], may be taken for an image: choose a"
            " layer whose features lie where the image shows what they are of"
        )
    return None
