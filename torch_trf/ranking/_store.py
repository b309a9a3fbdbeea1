"""What is kept of a candidate, so that a ranking that was interrupted goes on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .._files import write_bytes, write_json
from ..statistics import PixelSample
from ._look import Seen
from ._ranking import Result

Settings = dict[str, Any]


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
            others = list(differences(json.loads(found["settings"]), settings))
            samples = {name: PixelSample.from_state(state) for name, state in found["samples"].items()}
            return others or Seen(samples, found["map"], found["seconds"])
        except Exception as error:  # a damaged file fails in many ways
            return [f"{path} cannot be read ({type(error).__name__})"]

    def save_seen(self, seen: Seen, settings: Settings) -> None:
        """Keeps what the model gave."""
        self.folder.mkdir(parents=True, exist_ok=True)
        samples = {name: sample.to("cpu").state() for name, sample in seen.samples.items()}
        value = {"settings": json.dumps(settings), "samples": samples, "map": seen.map, "seconds": seen.seconds}
        write_bytes(self.folder / "seen.pt", partial(torch.save, value))

    def result(self, settings: Settings) -> Result | list[str]:
        """The scores with these settings; otherwise in which they differ."""
        path = self.folder / "scores.json"
        if not path.exists():
            return []
        try:
            found = json.loads(path.read_text())
            return list(differences(found["settings"], settings)) or Result.from_json(found)
        except Exception as error:
            return [f"{path} cannot be read ({type(error).__name__})"]

    def save_result(self, result: Result) -> None:
        """Keeps the scores."""
        write_json(self.folder / "scores.json", result.as_json())


def plain(settings: Settings) -> Settings:
    """Settings as they come back from a file."""
    return json.loads(json.dumps(settings, default=str))


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """In words, the settings that are not as they were."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**now, **before} if name else now:  # a part that is not asked for any more does not matter
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} was {before}, is {now}"
