"""What a candidate's model gives at the drawn pixels, and its map over one image."""

import time
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..datasets import LabeledData, LabeledImages
from ..inference import ForwardPasses, Inference
from ..maps import Mapper
from ..metrics import TransferabilityMetric
from ..pixels import Pixels, bilinear, size_of
from ..score import SOURCE_SAMPLE, sample_name
from ..statistics import NOT_DRAWN, PixelSample, Statistic
from ._candidate import Candidate
from ._drawn_pixels import DrawnPixels
from ._first_images import check_transform, first_images, require_same
from ._image_features import image_features
from ._ranking import map_patch_size


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run of a model over the images gave.

    Attributes:
        samples: the pixels with its features ("features_sample"), its class scores ("logits_sample"), or its features
            of the source ("source_sample").
        map: over the image that is shown, NaN where a patch has too few pixels; None where the candidate does not give
            what the mapped metric reads.
        seconds: of the whole run, and of the model's forward passes.
        doubts: what was warned of meanwhile.
    """

    samples: dict[str, PixelSample]
    map: Float64[Tensor, "rows columns"] | None
    seconds: dict[str, float]
    doubts: tuple[str, ...] = ()


def read_model(
    candidate: Candidate,
    target: LabeledData,
    drawn: DrawnPixels,
    source: DrawnPixels | None,
    *,
    map_metric: TransferabilityMetric,
    inference: Inference,
    title: str,
) -> Reading:
    """Runs a candidate's model over the images in which pixels were drawn.

    Args:
        candidate: whose model.
        target: the target data set.
        drawn: pixels of it.
        source: pixels of the candidate's source data set, where that has to be seen, too.
        map_metric: which is mapped over the image that is shown.
        inference: how the model is run.
        title: of the progress bar.

    Raises:
        ValueError: a model that cannot be made, or that gives no features, or some that are NaN or infinite.
        RuntimeError: the model's.
    """
    start = time.perf_counter()
    passes = ForwardPasses(candidate.make(), inference)
    transform = candidate.make_transform()
    of_target = _outputs(candidate, passes, target.make(transform), drawn, title)
    samples = {sample_name(reads): of_target.samples[layer] for reads, layer in candidate.layer_of.items()}
    if source is not None and candidate.source is not None:
        images = candidate.source.make(transform)
        check_transform(candidate, transform, first_images(images, sorted(source.of_images()), source.digests))
        of_source = _outputs(candidate, passes, images, source, f"{title}: source")
        samples[SOURCE_SAMPLE] = of_source.samples[candidate.layer]
    for sample in samples.values():
        sample.faults.check(target.num_classes, target.ignore_index)
    layer = mapped_layer(candidate, map_metric)
    shown_map = None
    if layer is not None:
        sample = of_target.samples[layer]
        shown_map = _map(map_metric, of_target.shown[layer], of_target.labels, sample, target.num_classes)
    return Reading(samples, shown_map, {"all": time.perf_counter() - start, "forward": passes.seconds})


def mapped_layer(candidate: Candidate, metric: TransferabilityMetric) -> str | None:
    """The layer that a metric is mapped of; None where the candidate does not give what it reads."""
    return candidate.layer_of.get(metric.reads)


@dataclass(frozen=True, slots=True)
class _Outputs:
    """What a model's layers give of the images of a data set: at the drawn pixels, and of the image that is shown."""

    samples: dict[str, PixelSample]
    shown: dict[str, Float[Tensor, "D h w"]]
    labels: Int64[Tensor, "H W"]


def _outputs(
    candidate: Candidate, passes: ForwardPasses, images: LabeledImages, drawn: DrawnPixels, title: str
) -> _Outputs:
    parts = drawn.of_images()
    indices = sorted(parts.keys() | {drawn.shown})
    layers = tuple(dict.fromkeys(candidate.layer_of.values()))
    rows: dict[str, Tensor] = {}
    shown: dict[str, Tensor] = {}
    labels = torch.empty(0, 0, dtype=torch.int64, device="cpu")
    for image, features in image_features(passes, layers, images, indices, title):
        require_same(image, drawn.digests)
        if image.index == drawn.shown:
            shown = {layer: tensor.clone() for layer, tensor in features.items()}  # without its batch
            labels = image.labels
        if image.index in parts:
            pixels = parts[image.index]
            for layer, tensor in features.items():
                values = drawn.read(tensor, pixels)
                if layer not in rows:
                    rows[layer] = values.new_zeros(drawn.sample.labels.numel(), values.shape[1])
                rows[layer][pixels.to(values.device)] = values
    return _Outputs({layer: drawn.filled(values) for layer, values in rows.items()}, shown, labels)


def _map(
    metric: TransferabilityMetric,
    features: Float[Tensor, "D h w"],
    labels: Int64[Tensor, "H W"],
    sample: PixelSample,
    num_classes: int,
) -> Float64[Tensor, "rows columns"]:
    """The metric over an image, patch by patch, on the CPU; NaN where a patch has too few pixels.

    The first look of a metric that looks twice is at the drawn pixels.
    """
    size = size_of(labels)
    on_labels = bilinear(features.unsqueeze(0).to(torch.float32), size)
    image = Pixels(on_labels, labels.unsqueeze(0).to(on_labels.device), on_labels)
    rows = sample.features.flatten(0, -2)
    drawn = Pixels.of(rows, sample.labels.flatten(), rows)
    given: Statistic | None = None
    for look in metric.looks[:-1]:
        given = look(drawn, given, num_classes=num_classes, ignore_index=NOT_DRAWN)
    mapper = Mapper(metric=metric, patch_size=map_patch_size(size), num_classes=num_classes)
    return mapper([image], given=given).values.cpu()
