"""Scores in a Lightning run: logged at every validation, monitored, kept in checkpoints."""

import csv
import logging

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torch_trf

pytest.importorskip("lightning")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from torch_trf.integrations.lightning import TransferabilityCallback, labels_of
from torch_trf.integrations.torchmetrics import TransferabilityScore
from torch_trf.pixels import on_one_grid

K = 3
LOGME, LEEP = "transferability/logme", "transferability/leep"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated"),
    pytest.mark.filterwarnings("ignore:The `srun` command is available"),
]


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Segmenter(LightningModule):
    """A backbone at stride 2 and a head for the target classes."""

    def __init__(self, rate=0.5):
        super().__init__()
        self.rate = rate
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, K, 1)

    def forward(self, images):
        return self.head(self.backbone(images))

    def loss(self, batch):
        return nn.functional.cross_entropy(self(batch[0]), batch[1][:, 1::2, 1::2])

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Segmenter()


def loader(seed):
    """Five images in batches of two; they tell something of the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (5, 16, 24), generator=generator)
    images = torch.randn(5, 3, 16, 24, generator=generator) + 4 * torch.eye(3)[labels].movedim(-1, 1)
    return DataLoader(TensorDataset(images, labels), batch_size=2)


@pytest.fixture(scope="module")
def data():
    return loader(0), loader(1)


@pytest.fixture
def trainer(tmp_path):
    def make(*callbacks, **options):
        options = {"max_epochs": 2, "num_sanity_val_steps": 1, "enable_checkpointing": False} | options
        return Trainer(
            accelerator="cpu",
            logger=CSVLogger(tmp_path),
            log_every_n_steps=1,
            callbacks=list(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )

    return make


def callback(*layers, **options):
    metric = TransferabilityScore(("logme", "leep"), num_classes=K)
    return TransferabilityCallback(metric, *(layers or ("backbone", "head")), **options)


def by_hand(model, loader):
    """LogME of the backbone's features and LEEP of the head's scores, in evaluation mode."""
    images, labels = loader.dataset.tensors
    model.eval()
    with torch.no_grad():
        features = model.backbone(images)
        pixels = on_one_grid(features, labels, model.head(features))
    logme, leep = (getattr(torch_trf, name) for name in ("logme", "leep"))
    return {
        LOGME: pytest.approx(logme(pixels.features, pixels.labels, num_classes=K).item(), rel=1e-5),
        LEEP: pytest.approx(leep(pixels.logits, pixels.labels, num_classes=K).item(), rel=1e-5),
    }


def logged(trainer, *names):
    """What the logger wrote under these names, by epoch."""
    with open(trainer.logger.experiment.metrics_file_path) as file:
        rows = list(csv.DictReader(file))
    return [{name: float(row[name]) for name in names} for row in rows if row[names[0]]]


def hooks(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


class Keeper(Callback):
    """Keeps the weights that each epoch is validated with, and what the sanity check had logged."""

    def __init__(self):
        self.weights, self.sanity = [], None

    def on_sanity_check_end(self, trainer, module):
        self.sanity = set(trainer.callback_metrics)

    def on_validation_start(self, trainer, module):
        if not trainer.sanity_checking:
            self.weights.append({name: tensor.clone() for name, tensor in module.state_dict().items()})


def test_scores_are_logged_at_every_epoch_beside_the_modules_own(model, data, trainer):
    keeper = Keeper()
    run = trainer(callback(), keeper)
    run.fit(model, *data)
    rows = logged(run, LOGME, LEEP, "loss")
    assert len(rows) == len(keeper.weights) == 2
    for row, weights in zip(rows, keeper.weights, strict=True):
        model.load_state_dict(weights)
        expected = by_hand(model, data[1])
        assert {name: row[name] for name in expected} == expected
    assert rows[0] != rows[1]
    assert rows[0]["loss"] > 0
    assert not hooks(model)


def test_the_sanity_check_scores_nothing(model, data, trainer):
    keeper = Keeper()
    run = trainer(callback(), keeper, max_epochs=1, limit_train_batches=1)
    run.fit(model, *data)
    assert keeper.sanity == {"loss"}
    assert LOGME in run.callback_metrics


class Blinding(Callback):
    """Leaves the backbone, from the second epoch on, nothing that tells of the labels."""

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            nn.init.zeros_(module.backbone[0].weight)


def test_a_checkpoint_monitors_the_score(data, trainer, tmp_path):
    torch.manual_seed(0)
    model, keeper = Segmenter(rate=0.0), Keeper()
    nn.init.zeros_(model.backbone[0].weight)
    nn.init.dirac_(model.backbone[0].weight[:3, :, 1:, 1:])  # sees the pixel whose label is read, and no other
    best = ModelCheckpoint(tmp_path / "best", monitor=LOGME, mode="max")
    run = trainer(callback(), keeper, Blinding(), best, enable_checkpointing=True)
    run.fit(model, *data)
    scores = [row[LOGME] for row in logged(run, LOGME)]
    assert scores[0] > scores[1]
    assert best.best_model_score.item() == pytest.approx(scores[0])
    kept = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    torch.testing.assert_close(kept, keeper.weights[0], rtol=0, atol=0)


@pytest.mark.parametrize("dataloader_idx", [0, 1])
def test_one_of_several_validation_data_sets_is_the_target(dataloader_idx, model, data, trainer):
    run = trainer(callback(dataloader_idx=dataloader_idx))
    run.validate(model, list(data), verbose=False)
    expected = by_hand(model, data[dataloader_idx])
    assert {name: run.callback_metrics[name].item() for name in expected} == expected
    assert not hooks(model)


def test_layers_labels_and_names_are_chosen(model, data, trainer):
    named = [{"image": image, "mask": labels} for image, labels in data[1].dataset]
    model.validation_step = lambda batch, batch_idx: model(batch["image"])
    own = callback(model.backbone, model.head, labels=lambda batch: batch["mask"], name="target")
    run = trainer(own)
    run.validate(model, DataLoader(named, batch_size=2), verbose=False)
    for name, expected in by_hand(model, data[1]).items():
        assert run.callback_metrics[name.replace("transferability", "target")].item() == expected


IMAGE, LABELS = torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("batch", "where"),
    [
        ((IMAGE, LABELS), None),
        ([LABELS, IMAGE], 0),
        ({"image": IMAGE, "mask": LABELS}, None),
        ({"pixel_values": IMAGE, "labels": LABELS}, None),
        ({"image": IMAGE, "mask": IMAGE, "label": LABELS}, "label"),
        ({"image": IMAGE, "truth": LABELS}, lambda batch: batch["truth"]),
    ],
)
def test_labels_are_found_in_a_batch(batch, where):
    assert labels_of(batch, where) is LABELS


@pytest.mark.parametrize(
    ("batch", "where", "message"),
    [
        ({"image": IMAGE, "truth": LABELS}, None, "a batch is a dict of 'image', 'truth': 0 of them may be the labels"),
        ({"mask": IMAGE, "label": LABELS}, None, "a batch is a dict of 'mask', 'label': 2 of them may be the labels"),
        ({"image": IMAGE}, "mask", "a batch is a dict of 'image': 0 of them may be the labels"),
        ((IMAGE,), None, "a batch is a tuple of 0: 0 of them"),
        (IMAGE, None, "a batch is a Tensor of no items: 0 of them"),
        ((IMAGE, [{"masks": LABELS}]), None, r"the labels of a batch are a list, expected a tensor \[B, H, W\]"),
    ],
)
def test_labels_that_are_not_found_are_told(batch, where, message):
    with pytest.raises(ValueError, match=message):
        labels_of(batch, where)


def test_a_batch_that_is_a_dictionary_is_scored(model, data, trainer):
    named = [{"pixel_values": image, "labels": labels} for image, labels in data[1].dataset]
    model.validation_step = lambda batch, batch_idx: model(batch["pixel_values"])
    run = trainer(callback())
    run.validate(model, DataLoader(named, batch_size=2), verbose=False)
    expected = by_hand(model, data[1])
    assert {name: run.callback_metrics[name].item() for name in expected} == expected


def test_a_single_metric_is_logged_by_its_name(model, data, trainer):
    run = trainer(TransferabilityCallback(TransferabilityScore("logme", num_classes=K), "backbone"))
    run.validate(model, data[1], verbose=False)
    assert run.callback_metrics[LOGME].item() == by_hand(model, data[1])[LOGME]


def test_a_layer_can_give_features_and_class_scores(model, data, trainer):
    run = trainer(callback("head", "head"))
    run.validate(model, data[1], verbose=False)
    assert run.callback_metrics[LEEP].item() == by_hand(model, data[1])[LEEP]


def test_two_callbacks_of_one_name_are_an_error(model, data, trainer):
    with pytest.raises(ValueError, match=r"two callbacks would log scores as transferability/\.\.\."):
        trainer(callback("backbone"), callback("head")).fit(model, *data)
    metrics = TransferabilityScore(("logme",), num_classes=K), TransferabilityScore(("logme",), num_classes=K)
    two = (TransferabilityCallback(metric, "backbone", name=name) for metric, name in zip(metrics, "ab", strict=True))
    fitted = trainer(*two)
    fitted.fit(model, *data)
    both = zip(logged(fitted, "a/logme"), logged(fitted, "b/logme"), strict=True)
    assert all(a["a/logme"] == b["b/logme"] for a, b in both)


def test_an_error_leaves_no_hook_behind(model, data, trainer):
    def fail(batch, batch_idx):
        assert hooks(model)
        raise RuntimeError("out of memory")

    model.validation_step = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer(callback(), num_sanity_val_steps=0).fit(model, *data)
    assert not hooks(model)


def test_a_layer_that_is_not_there_is_an_error(model, data, trainer):
    with pytest.raises(ValueError, match=r"the model has no layer 'model\.backbone'; it has 'backbone'"):
        trainer(callback("backbone", "model.backbone")).validate(model, data[1], verbose=False)
    assert not hooks(model)


@pytest.mark.slow
def test_sees_inside_a_compiled_module(model, data, trainer):
    torch.compiler.reset()
    run = trainer(callback())
    run.fit(torch.compile(model, backend="eager"), *data)
    expected = by_hand(model, data[1])
    assert {name: run.callback_metrics[name].item() for name in expected} == expected
    torch.compiler.reset()


class Scored(Segmenter):
    """Scores itself."""

    def __init__(self):
        super().__init__()
        self.metric = TransferabilityScore(("logme", "leep"), num_classes=K)
        self.metric.persistent(True)

    def on_validation_epoch_start(self):
        self.metric.reset()

    def validation_step(self, batch, batch_idx):
        features = self.backbone(batch[0])
        self.metric.update(features, batch[1], self.head(features))

    def on_validation_epoch_end(self):
        self.log_dict({f"transferability/{name}": score for name, score in self.metric.compute().items()})


def test_a_metric_of_the_module_is_logged_and_kept_in_checkpoints(data, trainer, tmp_path):
    torch.manual_seed(0)
    model = Scored()
    run = trainer()
    run.fit(model, *data)
    expected = by_hand(model, data[1])
    rows = logged(run, LOGME, LEEP)
    assert len(rows) == 2
    assert rows[-1] == expected
    run.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Scored.load_from_checkpoint(tmp_path / "last.ckpt")
    assert {f"transferability/{name}": score.item() for name, score in loaded.metric.compute().items()} == expected
    fresh = Scored()
    again = trainer(max_epochs=3)
    again.fit(fresh, *data, ckpt_path=tmp_path / "last.ckpt")
    assert again.current_epoch == 3
    assert {name: again.callback_metrics[name].item() for name in expected} == by_hand(fresh, data[1])
