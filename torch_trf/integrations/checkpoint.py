"""The scores of a model, from a DataLoader of the target data set."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, nn

from ..pixels import GridName, Pixels, on_one_grid
from ..score import Score, Scorer
from ..statistics._collectives import rank
from .hooks import FeatureTap, Layer, tap

Loader = Iterable[Sequence[Tensor]]


def score_checkpoint(
    model: nn.Module,
    loader: Loader,
    layer: Layer,
    *,
    num_classes: int,
    metrics: Sequence[str] = ("logme", "hscore"),
    logits_layer: Layer | None = None,
    features_are_logits: bool = False,
    source: Loader | None = None,
    grid: GridName = "features",
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
    progress: bool = True,
    **options: Any,
) -> dict[str, Score]:
    """Runs a model once over a data set and scores the features that it gives on the way; they never leave its device.

    The model is put into evaluation mode and gets its own mode back, also after an error.

    Args:
        model: any module that takes a batch of images.
        loader: batches (images `[B, C, H, W]`, labels `[B, H, W]`, ...) of the target data set.
        layer: whose features to score; a name or a module, as for `hooks.FeatureTap`.
        num_classes: K, number of target classes.
        metrics: which metrics, by name.
        logits_layer: which gives the source model's class scores, for LEEP and NCE; "" is the model's own output.
        features_are_logits: whether the features are class scores themselves.
        source: batches of the source data set, for OTCE and JC-OTCE.
        grid: where features and labels meet: "features" or "labels", as for `pixels.on_one_grid`.
        device: the model is moved there; where its parameters are by default.
        autocast: the precision of the forward pass, as torch.bfloat16; that of the model by default.
        progress: whether to show progress bars.
        **options: any other of `Scorer`, as ignore_index, num_pixels, num_repeats or num_source_classes.

    Returns:
        The scores by name. That of LEEP has a standard error where there are more than `stream_pixels` pixels.

    Raises:
        ValueError: as `Scorer`, `hooks.FeatureTap` and `pixels.on_one_grid`, or batches that are no pairs.

    Example:
        >>> from torch_trf.integrations.checkpoint import score_checkpoint
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.Conv2d(8, 5, 1))
        >>> loader = [(torch.randn(2, 3, 16, 16), torch.randint(0, 3, (2, 16, 16)))]
        >>> scores = score_checkpoint(model, loader, "0", logits_layer="1", num_classes=3, metrics=("logme", "leep"),
        ...                           progress=False)
        >>> scores["leep"].pixels
        128
    """
    scorer = Scorer(metrics=tuple(metrics), num_classes=num_classes, progress=progress, **options)
    if device is not None:
        model.to(device)
    where = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    second = layer if features_are_logits else logits_layer
    layers = dict.fromkeys([layer] if second is None else [layer, second])
    with tap(model, *layers) as features, _evaluating(model):

        def live(batches: Loader) -> _LivePixels:
            return _LivePixels(model, batches, features, (layer, second), grid, where, autocast)

        return scorer(live(loader), None if source is None else live(source))


@dataclass(slots=True)
class _LivePixels(Iterator[Pixels]):
    """Pixels as the model gives them, batch by batch."""

    model: nn.Module
    loader: Loader
    features: FeatureTap
    layers: tuple[Layer, Layer | None]
    grid: GridName
    device: torch.device
    autocast: torch.dtype | None
    batches: Iterator[Sequence[Tensor]] | None = None
    seen: int = 0

    def __next__(self) -> Pixels:
        if self.batches is None:
            self.batches = iter(self.loader)  # workers start when the first batch is asked for
        batch = next(self.batches)
        if not isinstance(batch, Sequence) or len(batch) < 2:
            raise ValueError(f"a batch is {type(batch).__name__}, expected (images, labels)")
        images, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch[:2])
        with torch.inference_mode(), torch.autocast(self.device.type, self.autocast, self.autocast is not None):
            self.model(images)
        layer, second = self.layers
        features = self.features.take(layer)
        logits = None if second is None else features if second == layer else self.features.take(second)
        pixels = on_one_grid(features, labels, logits, grid=self.grid, stream=rank(), offset=self.seen)
        self.seen += pixels.labels.numel()
        return pixels

    def __length_hint__(self) -> int:
        return length_hint(self.loader)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module has its own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
