"""Scores of live features in a Lightning training run. Needs `lightning`: `pip install torch_trf[lightning]`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from .hooks import FeatureTap, Layer
from .torchmetrics import LiveFeatures, TransferabilityScore

LABELS = ("labels", "label", "masks", "mask", "targets", "target", "segmentation")  # as data sets call them


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
        labels: where in a batch the labels `[B, H, W]` are: a key, a place, or a function of the batch. By default its
            second item or, of a dictionary, the one item that is called "labels", "mask" or the like (`LABELS`).
        dataloader_idx: which of the validation data sets is the target.
        name: what the names of logged scores begin with; of several callbacks each needs its own.

    Raises:
        ValueError: when training starts, two callbacks of one name; in validation, a batch whose labels are not found.

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
        labels: str | int | Callable[[Any], Tensor] | None = None,
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
        if self._features is None:
            return
        if dataloader_idx == self.dataloader_idx:
            LiveFeatures(self.metric, self._features, self.layers).update(labels_of(batch, self.labels))
        else:
            self._features.forget()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the scores."""
        if self._features is not None:
            computed = self.metric.compute()
            scores = computed if isinstance(computed, dict) else {self.metric.scorer.names[0]: computed}
            scores = {f"{self.name}/{name}": score for name, score in scores.items()}
            pl_module.log_dict(scores, sync_dist=True, add_dataloader_idx=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the hooks."""
        if self._features is not None:
            self._features.remove()
            self._features = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Removes the hooks."""
        self.on_validation_end(trainer, pl_module)


def labels_of(batch: Any, where: str | int | Callable[[Any], Tensor] | None = None) -> Tensor:
    """The labels of a batch.

    Args:
        batch: as a `DataLoader` gives it.
        where: as `labels` of a `TransferabilityCallback`.

    Raises:
        ValueError: none there, several that may be meant, or no tensor.

    Example:
        >>> labels_of({"image": torch.zeros(1, 3, 2, 2), "mask": torch.ones(1, 2, 2, dtype=torch.int64)})
        tensor([[[1, 1],
                 [1, 1]]])
    """
    if callable(where):
        labels = where(batch)
    else:
        usual: tuple[str | int, ...] = LABELS if isinstance(batch, Mapping) else (1,)
        pairs = batch if isinstance(batch, Mapping) else enumerate(batch) if isinstance(batch, Sequence) else ()
        items = dict(pairs)
        found = [name for name in (usual if where is None else (where,)) if name in items]
        if len(found) != 1:
            kind = f"{type(batch).__name__} of {', '.join(map(repr, items)) or 'no items'}"
            raise ValueError(
                f"a batch is a {kind}: {len(found)} of them may be the labels; say which by labels, as in"
                ' TransferabilityCallback(..., labels="mask") or labels=lambda batch: batch["mask"]'
            )
        labels = items[found[0]]
    if not isinstance(labels, Tensor):
        raise ValueError(f"the labels of a batch are a {type(labels).__name__}, expected a tensor [B, H, W]")
    return labels
