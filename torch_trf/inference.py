"""How models are run: where, in which precision, and over how many images at once."""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from ._checks import require_at_least, require_choice

Precision = Literal["float32", "bfloat16", "float16"]
MOST_WORKERS = max(64, 4 * (os.cpu_count() or 1))  # to make more of them takes longer than they save


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """How models are run over images.

    Args:
        device: where; each model is moved there. Where its parameters are by default.
        precision: of the forward passes; other than float32 by autocast.
        batch_size: images at once; halved where memory does not suffice.
        num_workers: processes that decode images, at most 64, or 4 for each CPU; none but this one with 0.
        progress: whether to show progress bars.

    Raises:
        ValueError: an option out of its range.

    Example:
        >>> Inference(precision="bfloat16")
        Inference(device=None, precision='bfloat16', batch_size=4, num_workers=2, progress=False)
    """

    device: torch.device | str | None = None
    precision: Precision = "float32"
    batch_size: int = 4
    num_workers: int = 2
    progress: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        require_choice("precision", self.precision, Precision)
        require_at_least(1, batch_size=self.batch_size)
        require_at_least(0, num_workers=self.num_workers)
        if self.num_workers > MOST_WORKERS:
            raise ValueError(f"num_workers={self.num_workers}: at most {MOST_WORKERS} processes on this machine")

    def place(self, model: nn.Module) -> torch.device:
        """Moves a model to where it is run, and tells where that is."""
        if self.device is not None:
            model.to(self.device)
        default = torch.device(self.device or "cpu")  # of a model without parameters
        return next((parameter.device for parameter in model.parameters()), default)


class ForwardPasses:
    """A model's forward passes over batches of images, each whole, or in parts where memory does not suffice.

    What layers give is caught by a `FeatureTap` and taken after each pass, before the next one.

    Args:
        model: any module that takes a batch of images; it is moved to where it is run, and keeps its mode.
        inference: how it is run.

    Attributes:
        model: as given.
        inference: as given.
        device: where the model is run.
        seconds: what the passes took so far, on a CPU.

    Example:
        >>> passes = ForwardPasses(torch.nn.Conv2d(3, 8, 1), Inference())
        >>> list(passes(torch.rand(4, 3, 6, 6)))
        [slice(0, 4, None)]
    """

    def __init__(self, model: nn.Module, inference: Inference) -> None:
        self.model, self.inference = model, inference
        self.device = inference.place(model)
        self.seconds = 0.0
        self._most: int | None = None  # images for which memory suffices, as far as is known

    def __call__(self, images: Shaped[Tensor, "B C H W"], before: Callable[[], None] = lambda: None) -> Iterator[slice]:
        """Runs the model over a batch, and says after each pass which of its images that was.

        Args:
            images: on whatever device.
            before: what to do before each pass, also before one for which memory may not suffice.

        Raises:
            RuntimeError: the model's, also where memory does not suffice for one image.
        """
        first = 0
        while first < len(images):
            part = slice(first, min(first + (self._most or len(images)), len(images)))
            before()
            if self._fits(images[part]):
                yield part
                first = part.stop

    def _fits(self, images: Shaped[Tensor, "B C H W"]) -> bool:
        """Runs the model, unless that takes too much memory: then fewer images are to be tried."""
        start = time.perf_counter()
        try:
            self._run(images)
        except RuntimeError as error:
            if len(images) == 1 or not _is_out_of_memory(error):
                raise
        else:
            self.seconds += time.perf_counter() - start
            return True
        self._most = len(images) // 2
        warnings.warn(
            f"memory does not suffice for {len(images)} images at once: going on with {self._most}", stacklevel=3
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # here, where the error no longer holds what the pass had made
        return False

    def _run(self, images: Shaped[Tensor, "B C H W"]) -> None:
        dtype = getattr(torch, self.inference.precision)
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            self.model(images.to(self.device, non_blocking=True))


def _is_out_of_memory(error: RuntimeError) -> bool:
    """On a GPU, or by the allocator of the CPU."""
    phrases = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(phrase in str(error) for phrase in phrases)
