"""Live scoring: what it costs beside the forward pass, and that its scores are those of every other way.

python benchmarks/live.py [--tables overhead folder precision ranks]
python benchmarks/live.py --tables overhead --device cuda --precision bfloat16 --height 512 --width 1024
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from made_up import CLASSES, make_feature_folder
from timing import table
from torch import Tensor, nn
from torchvision.models import segmentation

from torch_trf.cli import main as torch_trf_command
from torch_trf.inference import Precision
from torch_trf.integrations.hooks import tap
from torch_trf.integrations.torchmetrics import TransferabilityScore
from torch_trf.pixels import on_one_grid

METRICS = ("logme", "hscore", "leep")
SOURCE_CLASSES = 21
PIXELS = 100_000  # LEEP's sample is full after so many, and an update costs most


@dataclass(frozen=True)
class Case:
    """A layer of a model, which share of the forward pass scoring it may cost, and where class scores come from."""

    model: str
    layer: str
    goal: float
    logits_layer: str | None = "classifier"

    @property
    def features_are_logits(self) -> bool:
        return self.layer == self.logits_layer


CASES = (
    Case("fcn_resnet50", "classifier", 0.03),
    Case("fcn_resnet50", "backbone", 0.15),
    Case("lraspp_mobilenet_v3_large", "classifier", 0.10),
    Case("lraspp_mobilenet_v3_large", "backbone:high", 0.15),
)


@dataclass(frozen=True)
class Setting:
    """Where the models run, in which precision, on images of which size."""

    device: str
    precision: Precision
    height: int
    width: int
    rounds: int

    def model(self, name: str) -> nn.Module:
        torch.manual_seed(0)
        options = {"weights": None, "weights_backbone": None, "num_classes": SOURCE_CLASSES}
        return getattr(segmentation, name)(**options).eval().to(self.device)

    def images(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Made-up streets whose classes have colors, an image at a time."""
        with tempfile.TemporaryDirectory() as folder:
            make_feature_folder(folder, shift=0.5, num_images=count, height=self.height, width=self.width)
            colors = torch.rand(256, 3, generator=torch.Generator().manual_seed(1))
            for k in range(count):
                labels = torch.from_numpy(np.load(Path(folder) / "label" / f"{k}.npy"))
                noise = 0.3 * torch.randn(3, *labels.shape, generator=torch.Generator().manual_seed(k))
                images = (colors[labels].movedim(-1, 0) + noise).unsqueeze(0)
                yield images.to(self.device), labels.unsqueeze(0).to(self.device)

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        is_mixed = self.precision != "float32"
        with torch.inference_mode(), torch.autocast(self.device, getattr(torch, self.precision), enabled=is_mixed):
            yield


def metric(case: Case) -> TransferabilityScore:
    return TransferabilityScore(
        METRICS, num_classes=len(CLASSES), ignore_index=250, features_are_logits=case.features_are_logits
    )


def layers(case: Case) -> tuple[str, str | None]:
    return case.layer, None if case.features_are_logits else case.logits_layer


def tapped(case: Case, model: nn.Module, setting: Setting, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features and, where they are another layer's, logits of one forward pass."""
    names = [layer for layer in layers(case) if layer is not None]
    with setting.forward(), tap(model, *names) as features:
        model(images)
        taken = [features.take(name) for name in names]
    return taken[0], taken[1] if len(taken) > 1 else None


def seconds(run: Callable[[], object], device: str) -> float:
    """Of one run, with what it left on the device."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def overhead(setting: Setting) -> str:
    """Forward passes alone and with live updates in turn, once LEEP's sample is full; medians if not said otherwise."""
    header = (
        "model",
        "layer",
        "channels",
        "grid",
        "forward, ms",
        "with scoring, ms",
        "update alone, mean ms",
        "added, ms",
        "share",
        "goal",
    )
    return table(header, [overhead_of(case, setting) for case in CASES])


def overhead_of(case: Case, setting: Setting) -> tuple[str, ...]:
    """A row of that table."""
    model, live_metric = setting.model(case.model), metric(case)
    ((images, labels),) = setting.images(1)
    features, logits = tapped(case, model, setting, images)
    for _ in range(-(-PIXELS // (features.shape[2] * features.shape[3]))):
        live_metric.update(features, labels, logits)
    alone, together, update = [], [], []
    for number in range(setting.rounds):
        with setting.forward():
            if number % 2:  # whichever comes second finds the caches as a forward pass leaves them
                alone.append(seconds(lambda: model(images), setting.device))
            with live_metric.attach(model, *layers(case)) as live:
                together.append(seconds(lambda: (model(images), live.update(labels)), setting.device))
            if not number % 2:
                alone.append(seconds(lambda: model(images), setting.device))
            update.append(seconds(lambda: live_metric.update(features, labels, logits), setting.device))
    forward = statistics.median(alone)
    # Merging into a large sample falls on few updates, which a median does not see.
    rare = statistics.mean(update) - statistics.median(update)
    added = statistics.median(both - one for both, one in zip(together, alone, strict=True)) + rare
    return (
        case.model,
        case.layer,
        f"{features.shape[1]:,}",
        f"{features.shape[2]} x {features.shape[3]}",
        f"{1e3 * forward:.1f}",
        f"{1e3 * statistics.median(together):.1f}",
        f"{1e3 * statistics.mean(update):.2f}",
        f"{1e3 * added:.2f}",
        f"{100 * added / forward:.1f} %",
        f"{100 * case.goal:.0f} %",
    )


def scores(case: Case, setting: Setting, images: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Live scores of some images."""
    model, live_metric = setting.model(case.model), metric(case)
    with setting.forward(), live_metric.attach(model, *layers(case)) as live:
        for image, labels in images:
            model(image)
            live.update(labels)
    return {name: score.item() for name, score in live_metric.compute().items()}


def folder(setting: Setting) -> str:
    """Live scores, and those of the same features saved to a folder and scored by the command line."""
    rows = []
    images = list(setting.images(8))
    for case in CASES:
        live, model = scores(case, setting, images), setting.model(case.model)
        with tempfile.TemporaryDirectory() as name:
            path = Path(name)
            for k, (image, labels) in enumerate(images):
                features, logits = tapped(case, model, setting, image)
                pixels = on_one_grid(features, labels, features if logits is None else logits)
                for part, tensor in (("final", pixels.features), ("logits", pixels.logits), ("label", pixels.labels)):
                    (path / part).mkdir(exist_ok=True)
                    np.save(path / part / f"{k}.npy", tensor[0].cpu().numpy())
            command = [
                "score",
                "--target",
                name,
                "--logits",
                "logits",
                "--ignore_index",
                "250",
                "--output",
                f"{name}/scores.json",
            ]
            command += ["--metrics", *METRICS, "--num_classes", str(len(CLASSES))]
            saved = run_command(torch_trf_command, command, path / "scores.json")
        rows.append((case.model, case.layer, *(f"{live[name]:.9f}" for name in METRICS), largest(live, saved)))
    return table(("model", "layer", *METRICS, "largest difference from the folder's"), rows)


def precision(setting: Setting) -> str:
    """Scores of a run in bfloat16 less those of a run in float32."""
    rows = []
    images = list(setting.images(8))
    for case in CASES:
        plain, half = (
            scores(case, replace(setting, precision=precision), images) for precision in ("float32", "bfloat16")
        )
        differences = (f"{plain[name]:.6f}, {half[name] - plain[name]:+.1e}" for name in METRICS)
        rows.append((case.model, case.layer, *differences))
    return table(("model", "layer", *(f"{name}, and bfloat16 less float32" for name in METRICS)), rows)


def ranks(setting: Setting) -> str:
    """The scores of a folder by one process and by several."""
    metrics = ("leep", "logme", "hscore", "nce", "otce")
    rows, alone = [], {}
    with tempfile.TemporaryDirectory() as name:
        for side, shift in (("source", 0.0), ("target", 0.5)):
            make_feature_folder(Path(name) / side, shift=shift, num_images=11)
        for options in ([], ["--num_pixels", "1000", "--num_repeats", "3"]):
            for count in (1, 2, 4):
                output = Path(name) / "scores.json"
                command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
                command += ["-m", "torch_trf", "score", "--target", f"{name}/target", "--source", f"{name}/source"]
                command += ["--logits", "final", "--ignore_index", "250", "--output", str(output)]
                command += ["--metrics", *metrics, *options]
                start = time.perf_counter()
                results = run_command(
                    lambda line: subprocess.run(line, check=True, capture_output=True), command, output
                )
                took = time.perf_counter() - start
                alone = results if count == 1 else alone
                pixels = "1,000, three times" if options else "all (otce: 10,000)"
                values = (f"{results[metric]:.6f}" for metric in metrics)
                rows.append((pixels, str(count), *values, largest(results, alone), f"{took:.1f}"))
    return table(("pixels", "processes", *metrics, "largest difference", "seconds, imports and all"), rows)


def run_command(run: Callable[[list[str]], object], command: list[str], output: Path) -> dict[str, float]:
    """The scores that a command writes; what it prints is dropped."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run(command)
    written = json.loads(output.read_text())["scores"]
    return {name: score["score"] for name, score in written.items()}


def largest(actual: dict[str, float], expected: dict[str, float]) -> str:
    """The largest difference."""
    return f"{max(abs(actual[name] - expected[name]) for name in expected):.1e}"


def main() -> None:
    """Prints the tables asked for."""
    tables = {function.__name__: function for function in (overhead, folder, precision, ranks)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=tables, default=list(tables))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=get_args(Precision), help="of forward passes")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=40, help="runs of which the median is taken")
    arguments = vars(parser.parse_args())
    names = arguments.pop("tables")
    setting = Setting(**arguments)
    print(f"{setting}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in names:
        print(f"\n{tables[name].__doc__}\n\n{tables[name](setting)}")


if __name__ == "__main__":
    main()
