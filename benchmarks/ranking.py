"""Ranking: what it costs beside the forward passes, and how far output strides move scores.

python benchmarks/ranking.py --images DIR --labels DIR --num_classes 11 --ignore_index 11 [--tables models strides]
"""

import argparse
import tempfile
import time

import torch
from timing import table
from torch import Tensor, nn
from torchvision.models import get_model

from torch_trf import Sampling
from torch_trf.datasets import LabeledData
from torch_trf.integrations.checkpoint import score_checkpoint
from torch_trf.ranking import Candidate, Ranker

METRICS = ("logme", "hscore", "leep", "nce")
MODELS = {
    "fcn_resnet50": ("backbone", "classifier"),
    "fcn_resnet101": ("backbone", "classifier"),
    "deeplabv3_resnet50": ("backbone", "classifier"),
    "deeplabv3_resnet101": ("backbone", "classifier"),
    "deeplabv3_mobilenet_v3_large": ("backbone", "classifier"),
    "lraspp_mobilenet_v3_large": ("backbone:high", "classifier"),
}
TWICE = ("fcn_resnet50", "lraspp_mobilenet_v3_large")  # with other heads
STRIDES = (1, 2, 4, 8)


def candidates() -> list[Candidate]:
    """Eight models of torchvision with random weights."""
    models = [
        Candidate(name=name, model=name, layer=layer, logits_layer=logits) for name, (layer, logits) in MODELS.items()
    ]
    for name in TWICE:
        model = {"class_path": name, "init_args": {"num_classes": 19}}
        logits = MODELS[name][1]
        models.append(Candidate(name=f"{name}, class scores", model=model, layer=logits, logits_layer=logits))
    return models


def models(target: LabeledData, num_pixels: int) -> str:
    """Wall time of a ranking, and the share that is not spent in forward passes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ranker = Ranker(
            target=target,
            output=folder,
            metrics=METRICS,
            sampling=Sampling(num_pixels=num_pixels, strategy="per_class"),
        )
        ranking = ranker(candidates())
        wall = time.perf_counter() - start
    rows = []
    for row in ranking.rows():
        seconds = next(each.seconds for each in ranking.results if each.name == row["name"])
        scores = (f"{row[metric]:.4f} ({row[f'{metric}_rank']})" for metric in METRICS)
        rows.append((row["name"], *scores, str(row["consensus_rank"]), f"{seconds['forward']:.1f}"))
    forward = sum(each.seconds["forward"] for each in ranking.results)
    share = f"{wall:.1f} s in all, {forward:.1f} s in forward passes: {100 * (1 - forward / wall):.1f} % outside"
    return f"{table(('candidate', *METRICS, 'consensus', 'forward, s'), rows)}\n\n{share}"


class Strided(nn.Module):
    """A model whose features are averaged over squares, as if its output stride were so many times as large."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.model = get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None)
        self.features = nn.AvgPool2d(stride)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(self.model.backbone(images)["low"])


def strides(target: LabeledData, num_pixels: int) -> str:
    """One model's scores at 1, 2, 4, 8 times its output stride of 8: on its grid, and at pixels common to all."""
    metrics = ("logme", "hscore")
    strided = [
        Candidate(name=str(k), model={"class_path": "ranking.Strided", "init_args": {"stride": k}}, layer="features")
        for k in STRIDES
    ]
    sampling = Sampling(num_pixels=num_pixels)
    with tempfile.TemporaryDirectory() as folder:
        ranking = Ranker(target=target, output=folder, metrics=metrics, sampling=sampling)(strided)
    rows = []
    for candidate, common in zip(strided, ranking.results, strict=True):
        images = target.make(candidate.make_transform())
        loader = [(images[k].image.unsqueeze(0), images[k].labels.unsqueeze(0)) for k in range(len(images))]
        grid = score_checkpoint(candidate.make(), loader, "features", num_classes=target.num_classes, metrics=metrics)
        values = (f"{scores[name].score:.4f}" for name in metrics for scores in (grid, common.scores))
        rows.append((str(8 * int(candidate.name)), f"{grid['logme'].pixels:,}", *values))
    header = [f"{name} {where}" for name in metrics for where in ("on the grid", "at common pixels")]
    return table(("stride", "pixels of the grid", *header), rows)


def main() -> None:
    """Prints the tables asked for."""
    tables = {function.__name__: function for function in (models, strides)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--labels", required=True, help="folder of their label images")
    parser.add_argument("--num_classes", type=int, required=True)
    parser.add_argument("--ignore_index", type=int, default=255)
    parser.add_argument("--num_pixels", type=int, default=10_000)
    parser.add_argument("--tables", nargs="+", choices=tables, default=list(tables))
    arguments = parser.parse_args()
    dataset = {
        "class_path": "torch_trf.datasets.SegmentationFolder",
        "init_args": {"images": arguments.images, "labels": arguments.labels},
    }
    target = LabeledData(dataset=dataset, num_classes=arguments.num_classes, ignore_index=arguments.ignore_index)
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in arguments.tables:
        print(f"\n{tables[name].__doc__}\n\n{tables[name](target, arguments.num_pixels)}")


if __name__ == "__main__":
    main()
