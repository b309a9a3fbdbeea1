"""The scores of a model, from a DataLoader of the target data set."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import length_hint

from torch import Tensor, nn

from .._collectives import rank
from ..inference import ForwardPasses, Inference
from ..metrics import DEFAULT_METRICS, MetricLike
from ..pixels import GridName, Pixels, class_scores, on_one_grid
from ..sampling import Sampling
from ..score import Score, Scorer
from ..transport import SolverLike
from .hooks import Layer, tap
from .outputs import LayerOutputs

Loader = Iterable[Sequence[Tensor]]


def score_checkpoint(
    model: nn.Module,
    loader: Loader,
    layer: Layer,
    *,
    num_classes: int,
    metrics: MetricLike | Sequence[MetricLike] = DEFAULT_METRICS,
    logits_layer: Layer | None = None,
    features_are_logits: bool = False,
    source: Loader | None = None,
    grid: GridName = "features",
    num_source_classes: int | None = None,
    ignore_index: int = 255,
    sampling: Sampling = Sampling(),
    solver: SolverLike = "auto",
    stream_pixels: int = 100_000,
    all_ranks: bool = False,
    inference: Inference = Inference(),
) -> dict[str, Score]:
    """Runs a model once over a data set and scores the features that it gives on the way; they never leave its device.

    The model is put into evaluation mode and gets its own mode back, also after an error. After the first batch it sees
    the first image again, which may warn of layers that do not give what it seems (`outputs.LayerOutputs`).

    Args:
        model: any module that takes a batch of images.
        loader: batches (images `[B, C, H, W]`, labels `[B, H, W]`, ...) of the target data set.
        layer: whose features to score; a name or a module, as for `hooks.FeatureTap`.
        num_classes: K, number of target classes.
        metrics: as for `Scorer`.
        logits_layer: which gives the source model's class scores, for metrics that read them; "" is the model's own
            output.
        features_are_logits: whether the features are class scores themselves.
        source: batches of the source data set, for metrics that need a source.
        grid: where features and labels meet: "features" or "labels", as for `pixels.on_one_grid`.
        num_source_classes: as for `Scorer`.
        ignore_index: label of the pixels to leave out.
        sampling: as for `Scorer`.
        solver: as for `Scorer`.
        stream_pixels: as for `Scorer`.
        all_ranks: as for `Scorer`.
        inference: where the model is run, in which precision, and whether progress bars are shown; how many images at
            once and by how many workers is up to the loader.

    Returns:
        The scores by name. A metric that looks at pixels twice, such as LEEP, has a standard error where there are more
        than `stream_pixels` pixels.

    Raises:
        ValueError: as `Scorer`, `hooks.FeatureTap` and `pixels.on_one_grid`, a logits_layer beside features that are
            class scores, or batches that are no pairs.
        ConvergenceError: as `Scorer`.

    Example:
        >>> from torch_trf.integrations.checkpoint import score_checkpoint
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.Conv2d(8, 5, 1))
        >>> loader = [(torch.randn(2, 3, 16, 16), torch.randint(0, 3, (2, 16, 16)))]
        >>> scores = score_checkpoint(model, loader, "0", logits_layer="1", num_classes=3, metrics=("logme", "leep"))
        >>> scores["leep"].pixels
        128
    """
    scorer = Scorer(
        metrics=metrics,
        num_classes=num_classes,
        num_source_classes=num_source_classes,
        ignore_index=ignore_index,
        sampling=sampling,
        solver=solver,
        stream_pixels=stream_pixels,
        all_ranks=all_ranks,
        progress=inference.progress,
    )
    passes = ForwardPasses(model, inference)
    layer_of_logits = class_scores(layer, logits_layer, features_are_logits)
    layers = dict.fromkeys([layer] if layer_of_logits is None else [layer, layer_of_logits])
    with tap(model, *layers) as features, _evaluating(model):

        def live(batches: Loader) -> _LivePixels:
            outputs = LayerOutputs(passes, features, tuple(layers))
            return _LivePixels(outputs, batches, layer, layer_of_logits, grid)

        return scorer(live(loader), source=None if source is None else live(source))


@dataclass(slots=True)
class _LivePixels(Iterator[Pixels]):
    """Pixels as the model gives them, batch by batch, once."""

    outputs: LayerOutputs[Layer]
    loader: Loader
    layer: Layer
    layer_of_logits: Layer | None
    grid: GridName
    pixels: Iterator[Pixels] = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = self._read()  # which asks for the first batch, and so starts the workers, not before it must

    def __next__(self) -> Pixels:
        return next(self.pixels)

    def __length_hint__(self) -> int:
        return length_hint(self.loader)

    def _read(self) -> Iterator[Pixels]:
        offset = 0
        for batch in self.loader:
            if not isinstance(batch, Sequence) or len(batch) < 2:
                raise ValueError(f"a batch is {type(batch).__name__}, expected (images, labels)")
            images, labels = batch[:2]
            for part, outputs in self.outputs(images):
                features = outputs[self.layer]
                logits = None if self.layer_of_logits is None else outputs[self.layer_of_logits]
                here = labels[part].to(self.outputs.passes.device, non_blocking=True)
                pixels = on_one_grid(features, here, logits, grid=self.grid, stream=rank(), offset=offset)
                offset += pixels.labels.numel()
                yield pixels


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
