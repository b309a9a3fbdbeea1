"""One look of a candidate's model at the images in which pixels were drawn."""

import time
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..datasets import LabelledData, LabelledImages
from ..maps import MIN_PIXELS
from ..metrics import leep
from ..pixels import bilinear, size_of
from ..statistics import JointMass, LogLikelihood, PixelSample
from ..statistics._pixel_sample import NOT_DRAWN
from ._candidate import Candidate
from ._drawn_pixels import DrawnPixels
from ._passes import ForwardPasses, Precision
from ._ranking import map_patch_size


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
        target: LabelledData,
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
        layers = [candidate.layer, *([] if candidate.logits_layer is None else [candidate.logits_layer])]
        passes = ForwardPasses(
            model=candidate.make().to(self.device),
            layers=tuple(dict.fromkeys(layers)),
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
        )
        transform = candidate.make_transform()
        samples, shown = self._read(passes, target.make(transform), drawn, title)
        found = {"feature_sample": samples[candidate.layer]}
        leep_map = None
        if candidate.logits_layer is not None:
            found["logit_sample"] = samples[candidate.logits_layer]
            labels = target.make().read(drawn.shown).labels
            leep_map = _leep_map(shown[candidate.logits_layer], labels, samples[candidate.logits_layer], target)
        if source is not None and candidate.source is not None:
            samples, _ = self._read(passes, candidate.source.make(transform), source, f"{title}: source")
            found["source_sample"] = samples[candidate.layer]
        for sample in found.values():
            sample.faults.check(target.num_classes, target.ignore_index)
        return Seen(found, leep_map, {"all": time.perf_counter() - start, "forward": passes.seconds})

    def _read(
        self, passes: ForwardPasses, images: LabelledImages, drawn: DrawnPixels, title: str
    ) -> tuple[dict[str, PixelSample], dict[str, Tensor]]:
        """What each layer gives at the pixels; and of the image that is shown."""
        parts = drawn.of_images()
        rows: dict[str, Tensor] = {}
        shown: dict[str, Tensor] = {}
        for image, features in passes(images, sorted(parts.keys() | {drawn.shown}), title if self.progress else ""):
            if image.index == drawn.shown:
                shown = {layer: tensor.clone() for layer, tensor in features.items()}  # without its batch
            if image.index in parts:
                pixels = parts[image.index]
                for layer, tensor in features.items():
                    found = drawn.read(tensor, pixels)
                    if layer not in rows:
                        rows[layer] = found.new_zeros(drawn.sample.labels.numel(), found.shape[1])
                    rows[layer][pixels.to(found.device)] = found
        return {layer: drawn.filled(found) for layer, found in rows.items()}, shown


def _leep_map(
    logits: Float[Tensor, "Z h w"], labels: Int64[Tensor, "H W"], sample: PixelSample, target: LabelledData
) -> Float64[Tensor, "rows columns"]:
    """LEEP patch by patch over an image, given how classes go together over all drawn pixels."""
    rows = sample.features.flatten(0, -2), sample.labels.flatten()
    mass = JointMass.from_pixels(*rows, num_classes=target.num_classes, ignore_index=NOT_DRAWN)
    size, patch = size_of(labels), map_patch_size(size_of(labels))
    resized = bilinear(logits.unsqueeze(0).to(torch.float32), size)
    seen = LogLikelihood.from_pixels(
        resized, labels.unsqueeze(0).to(resized.device), joint_mass=mass, patch_size=(patch, patch)
    )
    return leep(seen).where(seen.count >= MIN_PIXELS, torch.nan).cpu()
