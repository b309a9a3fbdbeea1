"""Scores of live features in a Lightning training run. Needs `lightning`: `pip install torch_trf[lightning]`."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from .hooks import FeatureTap, Layer
from .torchmetrics import LiveFeatures, TransferabilityScore


class TransferabilityCallback(Callback):
    """Scores what a model gives at a layer during every validation, and logs the scores.

    They are logged as `<name>/<metric>` beside whatever the module logs, so that a `ModelCheckpoint` can monitor them
    (mode "max"), merged over ranks. The sanity check before training is left out. A compiled module is compiled anew at
    every validation, with the hooks in it, and after it, without: score the module that was compiled less often then.

    Args:
        metric: what to compute.
        layer: whose features to read, by its name in the LightningModule, as in "model.backbone", or a module; as for
            `hooks.FeatureTap`.
        logits_layer: which gives class scores, for metrics that read them.
        labels: the labels `[B, H, W]` of a batch; its second item by default.
        dataloader_idx: which of the validation data sets is the target.
        name: what the names of logged scores begin with; of several callbacks each needs its own.

    Raises:
        ValueError: when training starts, two callbacks of one name.

    Example:
        >>> from torch_trf.integrations.lightning import TransferabilityCallback
        >>> from torch_trf.integrations.torchmetrics import TransferabilityScore
        >>> callback = TransferabilityCallback(TransferabilityScore(("logme",), num_classes=19), "model.backbone")
    """

    def __init__(
        self,
        metric: TransferabilityScore,
        layer: Layer,
        logits_layer: Layer | None = None,
        *,
        labels: Callable[[Any], Tensor] = itemgetter(1),
        dataloader_idx: int = 0,
        name: str = "transferability",
    ) -> None:
        self.metric = metric
        self.layers = [layer] if logits_layer is None else [layer, logits_layer]
        self.labels = labels
        self.dataloader_idx = dataloader_idx
        self.name = name
        self._features: FeatureTap | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks the names."""
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, TransferabilityCallback) and other is not self and other.name == self.name:
                raise ValueError(f"two callbacks would log scores as {self.name}/...: give each a name")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hooks the layers; not for the sanity check."""
        if not trainer.sanity_checking:
            self.metric.reset()
            self._features = FeatureTap(pl_module, *self.layers)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the batch."""
        if self._features is not None and dataloader_idx == self.dataloader_idx:
            LiveFeatures(self.metric, self._features, self.layers).update(self.labels(batch))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the scores."""
        if self._features is not None:
            scores = {f"{self.name}/{name}": score for name, score in self.metric.compute().items()}
            pl_module.log_dict(scores, sync_dist=True, add_dataloader_idx=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the hooks."""
        if self._features is not None:
            self._features.remove()
            self._features = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Removes the hooks."""
        self.on_validation_end(trainer, pl_module)
