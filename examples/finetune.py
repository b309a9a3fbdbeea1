"""Which checkpoint of a training run should another domain start from?

A segmentation model of torchvision learns made-up roads at noon from scratch, and after every epoch it is evaluated on
a few labeled roads in fog, the target domain. In that pass torch_trf listens: three lines, marked below, add LogME,
H-score and LEEP to the mean IoU. One of them chooses a checkpoint. To show how well, the first, the last and the chosen
checkpoint are fine-tuned on eight of the target's labeled pictures, three times with others, and tested on pictures
that were not seen before.

    python examples/finetune.py                 # three minutes on one core; --help lists the options

The mean IoU on the source grows to the end. That on the target makes most of its gain in three epochs and then wavers
or creeps up; yet late checkpoints fine-tune better than early ones. LogME does not see that, and its choice is worse
than the last checkpoint with every seed. LEEP follows the mean IoU on the target, and its choice is about as good as
the last checkpoint. Fine-tuned, with seeds 0 to 4, by epoch:

    last              16: 0.5515   16: 0.5569   16: 0.4927   16: 0.4666   16: 0.4823
    LogME's choice     8: 0.5171    3: 0.4741    3: 0.3925    5: 0.3956    5: 0.4308
    H-score's choice  16: 0.5515    7: 0.5336   16: 0.4927    5: 0.3956    5: 0.4308
    LEEP's choice     16: 0.5515    7: 0.5336   15: 0.4829   14: 0.4831   16: 0.4823
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from tqdm import tqdm

from torch_trf.datasets import IGNORED, ROAD_CLASSES, RoadScenes
from torch_trf.integrations.torchmetrics import TransferabilityScore

SOURCE, TARGET = "noon", "fog"
SCORES = ("logme", "hscore", "leep")
COLUMNS = ("epoch", "loss", "source_miou", "target_miou", *SCORES)
BATCH_SIZE = 8
LEARNING_RATE = 2e-3
FEW_PICTURES, FEW_STEPS, REPEATS, FINE_LEARNING_RATE = 8, 10, 3, 1e-3  # of fine-tuning

Scenes = TensorDataset | Subset[tuple[Tensor, ...]]


def read(scenes: RoadScenes) -> TensorDataset:
    """Pictures `[count, 3, H, W]` around zero and labels `[count, H, W]`, drawn once for all epochs."""
    pictures, labels = next(iter(DataLoader(scenes, len(scenes))))
    return TensorDataset(pictures / 255 - 0.5, labels)


def make_model() -> nn.Module:
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(ROAD_CLASSES))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # torchvision's 0.01 is for long trainings
    return model


def train_epoch(model: nn.Module, batches: Iterable[Sequence[Tensor]], optimizer: torch.optim.Optimizer) -> float:
    """The mean loss of an epoch."""
    model.train()
    losses = []
    for pictures, labels in batches:
        loss = nn.functional.cross_entropy(model(pictures)["out"], labels, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.inference_mode()
def evaluate(model: nn.Module, scenes: Scenes) -> float:
    """The mean IoU."""
    model.eval()
    iou = MulticlassJaccardIndex(len(ROAD_CLASSES), ignore_index=IGNORED)
    for pictures, labels in DataLoader(scenes, BATCH_SIZE):
        iou.update(model(pictures)["out"], labels)
    return iou.compute().item()


@torch.inference_mode()
def evaluate_and_score(model: nn.Module, scenes: Scenes) -> dict[str, float]:
    """The mean IoU, and what torch_trf hears of the class scores, before they are brought to the pictures' size."""
    model.eval()
    iou = MulticlassJaccardIndex(len(ROAD_CLASSES), ignore_index=IGNORED)
    # torch_trf, line 1: which scores, of the target's classes
    scores = TransferabilityScore(SCORES, num_classes=len(ROAD_CLASSES), ignore_index=IGNORED, features_are_logits=True)
    # torch_trf, line 2: listens to a layer
    with scores.attach(model, "classifier") as live:
        for pictures, labels in DataLoader(scenes, BATCH_SIZE):
            iou.update(model(pictures)["out"], labels)
            # torch_trf, line 3: the labels of what the model has just seen
            live.update(labels)
    return {"target_miou": iou.compute().item()} | {name: score.item() for name, score in scores.compute().items()}


def save(model: nn.Module, path: Path) -> None:
    """Writes a checkpoint; a file of that name is always whole."""
    partial = path.with_suffix(".partial")
    torch.save(model.state_dict(), partial)
    partial.replace(path)


def train(options: argparse.Namespace, training: Scenes, validation: Scenes, labeled: Scenes) -> dict[int, float]:
    """Trains on the source domain, scores for the target and saves after every epoch; gives the score that chooses."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    choosing = {}
    print_row(*COLUMNS)
    for epoch in range(1, options.epochs + 1):
        batches = DataLoader(training, BATCH_SIZE, shuffle=True)
        loss = train_epoch(model, tqdm(batches, f"epoch {epoch}", unit="batch", leave=False), optimizer)
        save(model, options.output / f"epoch_{epoch}.pt")
        results = {"loss": loss, "source_miou": evaluate(model, validation)} | evaluate_and_score(model, labeled)
        print_row(epoch, *(results[name] for name in COLUMNS[1:]))
        choosing[epoch] = results[options.choose_by]
    return choosing


def load(path: Path) -> nn.Module:
    model = make_model()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def fine_tune(path: Path, few: Scenes, seed: int) -> nn.Module:
    """A checkpoint after a few steps on a few pictures."""
    torch.manual_seed(seed)
    model = load(path)
    optimizer = torch.optim.AdamW(model.parameters(), FINE_LEARNING_RATE)
    for _ in range(FEW_STEPS):
        train_epoch(model, DataLoader(few, FEW_PICTURES, shuffle=True), optimizer)
    return model


def compare(options: argparse.Namespace, epochs: dict[str, int], labeled: Scenes, unseen: Scenes) -> None:
    """Fine-tunes checkpoints, all on the same few pictures, and prints their mean IoU on unseen ones."""
    draws = [torch.randperm(len(labeled))[:FEW_PICTURES].tolist() for _ in range(REPEATS)]
    accuracies = {}
    for epoch in tqdm(sorted(set(epochs.values())), "fine-tuning", unit="checkpoint", leave=False):
        path = options.output / f"epoch_{epoch}.pt"
        tuned = [fine_tune(path, Subset(labeled, draw), options.seed) for draw in draws]
        before, *after = (evaluate(model, unseen) for model in (load(path), *tuned))
        accuracies[epoch] = (before, sum(after) / REPEATS, *after)
    print_row("checkpoint", "epoch", "before", "after", *(f"draw_{draw}" for draw in range(1, REPEATS + 1)))
    for name, epoch in epochs.items():
        print_row(name, epoch, *accuracies[epoch])


def print_row(*cells: str | int | float) -> None:
    print(*(f"{cell:12.4f}" if isinstance(cell, float) else f"{cell:>12}" for cell in cells), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=16, help="16 by default")
    parser.add_argument("--images", type=int, default=240, help="to train on; a fifth as many to test: 240 by default")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), help="height and width: 96 128 by default")
    parser.add_argument("--seed", type=int, default=0, help="of everything random: 0 by default")
    parser.add_argument("--output", type=Path, default=Path("build/finetune"), help="of checkpoints: build/finetune")
    parser.add_argument("--choose_by", choices=SCORES, default="leep", help="the score that chooses: leep by default")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    held_out = max(1, options.images // 5)
    plan = ((SOURCE, options.images), (SOURCE, held_out), (TARGET, held_out), (TARGET, held_out))
    height, width = options.size
    training, validation, labeled, unseen = (
        read(RoadScenes(domain, count, height, width, seed=len(plan) * options.seed + part))
        for part, (domain, count) in enumerate(plan)
    )

    choosing = train(options, training, validation, labeled)
    chosen = max(choosing, key=choosing.__getitem__)
    print(f"\n{options.choose_by} chooses epoch {chosen}")
    print(f"target mean IoU on unseen pictures, before and after {FEW_STEPS} steps on {FEW_PICTURES} labeled ones\n")
    compare(options, {"first": 1, "last": options.epochs, "chosen": chosen}, labeled, unseen)


if __name__ == "__main__":
    main()
