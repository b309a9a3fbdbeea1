"""What layers of a model give of the images of a data set."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets import LabeledImage, LabeledImages, read_batches
from ..inference import ForwardPasses
from ..integrations.hooks import tap
from ..integrations.outputs import LayerOutputs
from ..pixels import check_stride, fold_tokens, size_of


def image_features(
    passes: ForwardPasses, layers: Sequence[str], images: LabeledImages, only: Sequence[int], title: str = ""
) -> Iterator[tuple[LabeledImage, dict[str, Float[Tensor, "D h w"]]]]:
    """Runs a model over images; those of one size that follow one another share a pass.

    Warns, as `LayerOutputs` does, of layers that do not give what it seems.

    Args:
        passes: of the model, which is in evaluation mode.
        layers: as for `hooks.FeatureTap`.
        images: the data set.
        only: the images to read, by their index.
        title: of the progress bar.

    Returns:
        Each image with what the layers give of it, on the model's device.

    Raises:
        ValueError: an image that is bad, or a layer that the model does not have or that gives no features.
        RuntimeError: the model's, also where memory does not suffice for one image.
    """
    inference = passes.inference
    batches = read_batches(
        images,
        batch_size=inference.batch_size,
        num_workers=inference.num_workers,
        only=only,
        title=title if inference.progress else "",
    )
    with tap(passes.model, *layers) as caught:
        outputs_of = LayerOutputs(passes, caught, layers)
        for batch in batches:
            for _, group in groupby(batch, lambda image: image.image.shape):
                alike = list(group)
                for part, outputs in outputs_of(torch.stack([image.image for image in alike])):
                    features = {layer: _as_images(given, layer, alike[part]) for layer, given in outputs.items()}
                    for k, image in enumerate(alike[part]):
                        yield image, {layer: tensor[k] for layer, tensor in features.items()}


def _as_images(features: Tensor, layer: str, images: Sequence[LabeledImage]) -> Float[Tensor, "B D h w"]:
    """Features of a batch of images, tokens folded."""
    size = size_of(images[0].image)
    if features.dim() not in (3, 4) or len(features) != len(images):
        shapes = f"{list(features.shape)} of {len(images)} images"
        raise ValueError(f"layer {layer!r} gives {shapes}, expected images [B, D, H, W] or tokens [B, N, D]")
    if features.dim() == 3:
        features = fold_tokens(features, size)
    check_stride(f"features of layer {layer!r}", size_of(features), size, "the image")
    return features
