"""What is kept of a candidate, so that a ranking that was interrupted goes on."""

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import whole_file
from ..statistics import PixelSample
from ._ranking import Result

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look of a model at the images gave.

    Attributes:
        samples: the pixels with its features ("feature_sample"), class scores ("logit_sample"), or those of the source
            ("source_sample").
        map: of LEEP over the image that is shown, NaN where a patch has too few pixels; None without class scores.
        seconds: of the whole look, and of the model's forward passes.
    """

    samples: dict[str, PixelSample]
    map: Tensor | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Store:
    """The folder of a candidate: `seen.pt` and `scores.json`, each with the settings that it depends on."""

    folder: Path

    def seen(self, settings: Settings) -> Seen | list[str]:
        """What the model gave with these settings; otherwise in which they differ, nothing if there was nothing."""
        path = self.folder / "seen.pt"
        if not path.exists():
            return []
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError):
            return [f"{path} is damaged"]
        if others := list(differences(json.loads(found["settings"]), settings)):
            return others
        samples = {name: PixelSample.from_state(state) for name, state in found["samples"].items()}
        return Seen(samples, found["map"], found["seconds"])

    def save_seen(self, seen: Seen, settings: Settings) -> None:
        """Keeps what the model gave."""
        self.folder.mkdir(parents=True, exist_ok=True)
        samples = {name: sample.to("cpu").state() for name, sample in seen.samples.items()}
        value = {"settings": json.dumps(settings), "samples": samples, "map": seen.map, "seconds": seen.seconds}
        with whole_file(self.folder / "seen.pt") as temporary:
            torch.save(value, temporary)

    def result(self, settings: Settings) -> Result | list[str]:
        """The scores with these settings; otherwise in which they differ."""
        path = self.folder / "scores.json"
        if not path.exists():
            return []
        try:
            found = json.loads(path.read_text())
        except ValueError:
            return [f"{path} is damaged"]
        if others := list(differences(found["settings"], settings)):
            return others
        return Result.from_json(found)

    def save_result(self, result: Result) -> None:
        """Keeps the scores."""
        with whole_file(self.folder / "scores.json") as temporary:
            temporary.write_text(json.dumps(result.as_json(), indent=2, allow_nan=False) + "\n")


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """In words, the settings that are not as they were."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**now, **before} if name else now:  # a part that is not asked for any more does not matter
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} was {before}, is {now}"
