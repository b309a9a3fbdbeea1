"""Training a model, and its accuracy."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..datasets import IGNORED, LabeledData
from ..ranking import Candidate

MIRRORED = 0.5  # share of batches
TEST_BATCH_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What became of a model: mean IoU over classes, in [0, 1], on pictures that it has not seen.

    Attributes:
        name: of its source domain.
        accuracy: on the target domain after fine-tuning, the mean over all fine-tunings.
        deviation: of that, standard deviation over fine-tunings; None of a single one.
        source_accuracy: on its own domain.
        before: on the target domain before fine-tuning.
    """

    name: str
    accuracy: float
    deviation: float | None
    source_accuracy: float
    before: float


def read_all(data: LabeledData, candidate: Candidate) -> tuple[Float[Tensor, "B 3 H W"], Int64[Tensor, "B H W"]]:
    """All pictures as the model wants them, and their labels."""
    images = data.make(candidate.make_transform())
    read = [images.read(k) for k in range(len(images))]
    return torch.stack([each.image for each in read]), torch.stack([each.labels for each in read])


def fit(
    model: nn.Module,
    pictures: Float[Tensor, "B 3 H W"],
    labels: Int64[Tensor, "B H W"],
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Trains a model on batches that are drawn at random, half of them mirrored; the rate rises once, and falls.

    On one thread, because the order of sums depends on how many there are, and after some steps the models would, too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randperm(len(pictures), generator=generator)[:batch_size]
        batch = pictures[chosen], labels[chosen]
        if torch.rand((), generator=generator) < MIRRORED:
            batch = batch[0].flip(-1), batch[1].flip(-1)
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1], ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.set_num_threads(threads)


@torch.inference_mode()
def mean_iou(model: nn.Module, pictures: Float[Tensor, "B 3 H W"], labels: Int64[Tensor, "B H W"]) -> float:
    """Mean IoU over the classes, over all pictures."""
    from torchmetrics.classification import MulticlassJaccardIndex  # is slow to import

    model.eval()
    num_classes = model(pictures[:1]).shape[1]
    iou = MulticlassJaccardIndex(num_classes, ignore_index=IGNORED)
    for batch, batch_labels in zip(pictures.split(TEST_BATCH_SIZE), labels.split(TEST_BATCH_SIZE), strict=True):
        iou.update(model(batch), batch_labels)
    return iou.compute().item()
