"""A model's forward passes over images, whatever memory there is."""

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from ..datasets import LabeledImage, LabeledImages, read_batches
from ..integrations.hooks import FeatureTap, tap
from ..pixels import check_stride, fold_tokens, size_of

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(slots=True, kw_only=True)
class ForwardPasses:
    """Runs a model over images, and gives what some of its layers give of each.

    Args:
        model: in evaluation mode, on the device.
        layers: as for `hooks.FeatureTap`.
        device: where the model is.
        precision: of the passes; other than float32 by autocast.
        batch_size: images at once; halved where memory does not suffice.
        num_workers: processes that decode images.
        seconds: what the passes took, on a CPU.
    """

    model: nn.Module
    layers: Sequence[str]
    device: torch.device
    precision: Precision
    batch_size: int
    num_workers: int
    seconds: float = 0.0

    def __call__(
        self, images: LabeledImages, only: Sequence[int], progress: str
    ) -> Iterator[tuple[LabeledImage, dict[str, Tensor]]]:
        """What the layers give of each of these images, `[D, h, w]` on the device.

        Raises:
            ValueError: an image that is bad, or a layer that the model does not have or that gives no features.
            RuntimeError: the model's, also where memory does not suffice for one image.
        """
        with tap(self.model, *self.layers) as features:
            for batch in read_batches(
                images, batch_size=self.batch_size, num_workers=self.num_workers, only=only, progress=progress
            ):
                for _, group in groupby(batch, lambda image: image.image.shape):
                    yield from self._run(list(group), features)

    def _run(
        self, images: list[LabeledImage], features: FeatureTap
    ) -> Iterator[tuple[LabeledImage, dict[str, Tensor]]]:
        while images:
            some = images[: self.batch_size]
            start = time.perf_counter()
            try:
                self._forward(some)
            except RuntimeError as error:
                if len(some) == 1 or not _is_out_of_memory(error):
                    raise
                self.batch_size = len(some) // 2
            else:
                self.seconds += time.perf_counter() - start
                caught = {layer: _folded(features.take(layer), layer, some) for layer in self.layers}
                yield from ((image, {layer: caught[layer][k] for layer in caught}) for k, image in enumerate(some))
                images = images[len(some) :]
                continue
            warnings.warn(
                f"memory does not suffice for {len(some)} images at once: going on with {self.batch_size}", stacklevel=2
            )
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _forward(self, images: list[LabeledImage]) -> None:
        batch = torch.stack([image.image for image in images]).to(self.device, non_blocking=True)
        dtype = getattr(torch, self.precision)
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            self.model(batch)


def _folded(features: Tensor, layer: str, images: list[LabeledImage]) -> Tensor:
    """Features of a batch as images."""
    size = size_of(images[0].image)
    if features.dim() not in (3, 4) or len(features) != len(images):
        shapes = f"{list(features.shape)} of {len(images)} images"
        raise ValueError(f"layer {layer!r} gives {shapes}, expected images [B, D, H, W] or tokens [B, N, D]")
    if features.dim() == 3:
        features = fold_tokens(features, size)
    check_stride(f"features of layer {layer!r}", size_of(features), size, "the image")
    return features


def _is_out_of_memory(error: RuntimeError) -> bool:
    """On a GPU, or by the allocator of the CPU."""
    words = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(each in str(error) for each in words)
