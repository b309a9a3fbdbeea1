"""One look of a candidate's model at the images in which pixels were drawn."""

import time
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from ..datasets import LabeledData, LabeledImages
from ..statistics import PixelSample
from ._candidate import Candidate
from ._drawn_pixels import DrawnPixels
from ._leep import leep_map
from ._passes import ForwardPasses, Precision


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look of a model at the images gave.

    Attributes:
        samples: the pixels with its features ("feature_sample"), class scores ("logit_sample"), or those of the source
            ("source_sample").
        map: of LEEP over the image that is shown, NaN where a patch has too few pixels; None without class scores.
        seconds: of the whole look, and of the model's forward passes.
    """

    samples: dict[str, PixelSample]
    map: Float64[Tensor, "rows columns"] | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How models look at images; the arguments are those of `Ranker`."""

    device: torch.device
    precision: Precision
    batch_size: int
    num_workers: int
    progress: bool

    def __call__(
        self,
        candidate: Candidate,
        target: LabeledData,
        drawn: DrawnPixels,
        source: DrawnPixels | None,
        title: str,
    ) -> Seen:
        """Runs a candidate's model.

        Args:
            candidate: whose model.
            target: the target data set.
            drawn: pixels of it.
            source: pixels of the candidate's source data set, where it has to be seen, too.
            title: of the progress bar.

        Raises:
            ValueError: a model that cannot be made, or that gives no features, or some that are NaN or infinite.
            RuntimeError: the model's.
        """
        start = time.perf_counter()
        passes = ForwardPasses(
            model=candidate.make().to(self.device),
            layers=candidate.layers,
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
        )
        transform = candidate.make_transform()
        samples, shown, labels = self._read(passes, target.make(transform), drawn, title)
        found = {"feature_sample": samples[candidate.layer]}
        made = None
        if candidate.logits_layer is not None:
            found["logit_sample"] = samples[candidate.logits_layer]
            made = leep_map(shown[candidate.logits_layer], labels, found["logit_sample"], target.num_classes)
        if source is not None and candidate.source is not None:
            samples, _, _ = self._read(passes, candidate.source.make(transform), source, f"{title}: source")
            found["source_sample"] = samples[candidate.layer]
        for sample in found.values():
            sample.faults.check(target.num_classes, target.ignore_index)
        return Seen(found, made, {"all": time.perf_counter() - start, "forward": passes.seconds})

    def _read(
        self, passes: ForwardPasses, images: LabeledImages, drawn: DrawnPixels, title: str
    ) -> tuple[dict[str, PixelSample], dict[str, Tensor], Tensor]:
        """What each layer gives at the pixels, and of the image that is shown, with the labels of this."""
        parts = drawn.of_images()
        rows: dict[str, Tensor] = {}
        shown: dict[str, Tensor] = {}
        labels = torch.empty(0)
        for image, features in passes(images, sorted(parts.keys() | {drawn.shown}), title if self.progress else ""):
            if image.index == drawn.shown:
                shown = {layer: tensor.clone() for layer, tensor in features.items()}  # without its batch
                labels = image.labels
            if image.index in parts:
                pixels = parts[image.index]
                for layer, tensor in features.items():
                    found = drawn.read(tensor, pixels)
                    if layer not in rows:
                        rows[layer] = found.new_zeros(drawn.sample.labels.numel(), found.shape[1])
                    rows[layer][pixels.to(found.device)] = found
        return {layer: drawn.filled(found) for layer, found in rows.items()}, shown, labels
