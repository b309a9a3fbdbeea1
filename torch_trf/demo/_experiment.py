"""Models learn domains of road scenes, are ranked for another domain, and are fine-tuned on it."""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torchvision.transforms.v2.functional import to_pil_image
from tqdm import tqdm

from .._files import PathLike, whole_file, write_bytes, write_csv
from ..datasets import ROAD_CLASSES, ROAD_DOMAINS, LabeledData
from ..inference import Inference
from ..metrics import METRICS
from ..plots import save_figure
from ..ranking import Candidate, extract
from ._figure import draw_scenes
from ._model import SmallSegmenter
from ._training import Tuned, fit, mean_iou, read_all

TARGET = "evening"
RANKED_BY = "logme"
BATCH_SIZE, LEARNING_RATE = 8, 3e-3  # of training
FINE_BATCH_SIZE, FINE_LEARNING_RATE = 4, 1e-3  # of fine-tuning
K = len(ROAD_CLASSES)
TRAINING, SOURCE_TEST, LABELED, TARGET_TEST = range(PARTS := 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is done.

    Attributes:
        sources: the domains, of each of which a model learns.
        size: height and width of pictures, in pixels.
        training_pictures: of each source domain.
        training_steps: of each model, with batches of 8 pictures.
        labeled_pictures: of the target domain, for ranking and for fine-tuning.
        tuning_steps: of each fine-tuning, with batches of 4 pictures.
        tunings: of each model, whose accuracies are averaged.
        test_pictures: of the target domain and of each source domain, for accuracies.
        num_pixels: on which models are ranked.
        num_repeats: how many times these are drawn.
    """

    sources: tuple[str, ...]
    size: tuple[int, int] = (64, 96)
    training_pictures: int = 96
    training_steps: int = 200
    labeled_pictures: int = 8
    tuning_steps: int = 20
    tunings: int = 4
    test_pictures: int = 64
    num_pixels: int = 2000
    num_repeats: int = 3


SOURCES = tuple(name for name in ROAD_DOMAINS if name != TARGET)
FULL = Plan(sources=SOURCES)
QUICK = Plan(
    sources=("noon", "dusk", "rain", "snow", "desert", "avenue"),
    training_pictures=32,
    training_steps=60,
    tunings=1,
    test_pictures=16,
    num_pixels=700,
    num_repeats=2,
)


@dataclass(frozen=True, slots=True)
class Experiment:
    """The experiment, whose files lie in a folder.

    Args:
        folder: of all results.
        plan: how much is done.
        seed: of pictures, models and training, at least 0.
        progress: whether to show progress bars.
    """

    folder: PathLike
    plan: Plan = FULL
    seed: int = 0
    progress: bool = False

    @property
    def target(self) -> LabeledData:
        """The labeled pictures of the target domain."""
        return self._scenes(TARGET, self.plan.labeled_pictures, LABELED)

    @property
    def candidates(self) -> list[Candidate]:
        """The models, as `Ranker` takes them."""
        return [
            Candidate(
                name=name,
                model={"class_path": "torch_trf.demo.SmallSegmenter", "init_args": {"num_classes": K}},
                checkpoint=str(self._checkpoint(name)),
                layer="decoder",
                logits_layer="head",
                source=self._source(name),
            )
            for name in self.plan.sources
        ]

    def train(self) -> None:
        """Trains a model on each source domain, from the same weights; writes checkpoints and `rank.yaml`."""
        (self._folder / "checkpoints").mkdir(parents=True)
        for candidate in self._bar(self.candidates, "training"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                model = SmallSegmenter(K)
            pictures = read_all(self._scenes(candidate.name, self.plan.training_pictures, TRAINING), candidate)
            fit(model, *pictures, self.plan.training_steps, BATCH_SIZE, LEARNING_RATE, self.seed)
            write_bytes(self._checkpoint(candidate.name), partial(torch.save, model.state_dict()))
        settings = {
            "target": _without_none(asdict(self.target)),
            "candidates": [_without_none(asdict(each)) for each in self.candidates],
            "metrics": list(METRICS),
            "by": RANKED_BY,
            "num_pixels": self.plan.num_pixels,
            "num_repeats": self.plan.num_repeats,
            "num_workers": 0,
        }
        with whole_file(self._folder / "rank.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(settings, sort_keys=False))

    def fine_tune(self) -> list[Tuned]:
        """Fine-tunes every model on the labeled pictures of the target domain; writes `accuracies.csv`."""
        results = []
        first = self.candidates[0]  # all of them want pictures alike
        labeled = read_all(self.target, first)
        test = read_all(self._scenes(TARGET, self.plan.test_pictures, TARGET_TEST), first)
        for candidate in self._bar(self.candidates, "fine-tuning"):
            own = read_all(self._scenes(candidate.name, self.plan.test_pictures, SOURCE_TEST), candidate)
            after = []
            for k in range(self.plan.tunings):
                model, seed = candidate.make(), self.seed * self.plan.tunings + k
                fit(model, *labeled, self.plan.tuning_steps, FINE_BATCH_SIZE, FINE_LEARNING_RATE, seed)
                after.append(mean_iou(model, *test))
            model = candidate.make()
            results.append(
                Tuned(
                    name=candidate.name,
                    accuracy=statistics.mean(after),
                    deviation=statistics.stdev(after) if len(after) > 1 else None,
                    source_accuracy=mean_iou(model, *own),
                    before=mean_iou(model, *test),
                )
            )
        write_csv(self._folder / "accuracies.csv", list(asdict(results[0])), map(asdict, results))
        return results

    def draw(self, tuned: Sequence[Tuned]) -> None:
        """Draws `scenes.png`."""
        figure = draw_scenes(self._ranking(), self.target, self.candidates, tuned)
        save_figure(figure, self._folder / "scenes.png")

    def extract(self) -> None:
        """Writes what the model that ranks first gives on the target and on its source domain; and the pictures."""
        name = self._ranking()["ranking"][0]["name"]
        first = next(each for each in self.candidates if each.name == name)
        for side, data in (("target", self.target), ("source", self._source(name))):
            extract(first, data, self._folder / "features" / side, inference=Inference(num_workers=0))
        pictures = self.target.make()
        (self._folder / "pictures").mkdir()
        for k in range(len(pictures)):
            to_pil_image(pictures.read(k).image).save(self._folder / "pictures" / f"{k}.png")

    @property
    def _folder(self) -> Path:
        return Path(self.folder)

    def _ranking(self) -> dict[str, Any]:
        return json.loads((self._folder / "ranking.json").read_text())

    def _source(self, name: str) -> LabeledData:
        """As many pictures of a source domain as are labeled of the target."""
        return self._scenes(name, self.plan.labeled_pictures, TRAINING)

    def _checkpoint(self, name: str) -> Path:
        return self._folder / "checkpoints" / f"{name}.pt"

    def _scenes(self, domain: str, num_images: int, part: int) -> LabeledData:
        """Scenes of a domain; the parts of an experiment never show the same roads."""
        height, width = self.plan.size
        arguments = {"domain": domain, "num_images": num_images, "height": height, "width": width}
        return LabeledData(
            dataset={
                "class_path": "torch_trf.datasets.RoadScenes",
                "init_args": arguments | {"seed": PARTS * self.seed + part},
            },
            num_classes=K,
            class_names=list(ROAD_CLASSES),
        )

    def _bar(self, candidates: list[Candidate], what: str) -> Iterator[Candidate]:
        with tqdm(candidates, unit="model", disable=not self.progress) as bar:
            for candidate in bar:
                bar.set_description(f"{what} {candidate.name}")
                yield candidate


def _without_none(value: Any) -> Any:
    """Settings as a configuration file has them: without those that are not set."""
    if not isinstance(value, dict):
        return value
    return {name: _without_none(part) for name, part in value.items() if part is not None}
