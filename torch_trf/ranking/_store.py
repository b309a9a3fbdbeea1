"""What is kept of a candidate, so that a ranking that was interrupted goes on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from .._files import write_bytes, write_json
from ..metrics import METRICS
from ..statistics import PixelSample
from ..transport import SOLVERS
from ._ranking import Result
from ._reading import Reading

Settings = dict[str, Any]
T = TypeVar("T", Reading, Result)
SHORT_NAMES: dict[type, str] = {
    **{type(metric): name for name, metric in METRICS.items()},
    **{solver: name for name, solver in SOLVERS.items()},
}


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """What there is of an earlier run.

    Attributes:
        value: what it gave; None where there is nothing, or nothing of these settings.
        differences: in words, why it is of no use; none where there is nothing.
    """

    value: T | None = None
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Store:
    """The folder of a candidate: `reading.pt` and `scores.json`, each with the settings that it depends on."""

    folder: Path

    def reading(self, settings: Settings) -> Kept[Reading]:
        """What the model gave with these settings."""
        path = self.folder / "reading.pt"
        if not path.exists():
            return Kept()
        try:
            value = torch.load(path, map_location="cpu", weights_only=True)
            others = tuple(differences(json.loads(value["settings"]), settings))
            samples = {name: PixelSample.from_state(state) for name, state in value["samples"].items()}
            reading = Reading(samples, value["map"], value["seconds"])
        except Exception as error:  # a damaged file fails in many ways
            return Kept(differences=(f"{path} cannot be read ({type(error).__name__})",))
        return Kept(differences=others) if others else Kept(reading)

    def save_reading(self, reading: Reading, settings: Settings) -> None:
        """Keeps what the model gave."""
        self.folder.mkdir(parents=True, exist_ok=True)
        samples = {name: sample.to("cpu").state() for name, sample in reading.samples.items()}
        value = {"settings": json.dumps(settings), "samples": samples, "map": reading.map, "seconds": reading.seconds}
        write_bytes(self.folder / "reading.pt", partial(torch.save, value))

    def result(self, settings: Settings) -> Kept[Result]:
        """The scores with these settings."""
        path = self.folder / "scores.json"
        if not path.exists():
            return Kept()
        try:
            value = json.loads(path.read_text())
            others = tuple(differences(value["settings"], settings))
            return Kept(differences=others) if others else Kept(Result.from_json(value))
        except Exception as error:
            return Kept(differences=(f"{path} cannot be read ({type(error).__name__})",))

    def save_result(self, result: Result) -> None:
        """Keeps the scores."""
        write_json(self.folder / "scores.json", result.as_json())


def plain(settings: Settings) -> Settings:
    """Settings as they come back from a file."""
    return json.loads(json.dumps(settings, default=str))


def as_class_path(value: Any) -> Any:
    """What a configuration would have of a value: of a dataclass its class and what it was made with.

    Example:
        >>> as_class_path(torch_trf.transport.Exact(strict=True))
        {'class_path': 'exact', 'init_args': {'strict': True}}
    """
    if not is_dataclass(value):
        return value
    arguments = {field.name: as_class_path(getattr(value, field.name)) for field in fields(value) if field.init}
    path = SHORT_NAMES.get(type(value), f"{type(value).__module__}.{type(value).__qualname__}")
    return {"class_path": path, "init_args": arguments}


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """In words, the settings that are not as they were."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = {**now, **before} if name else now  # a part that is not asked for any more does not matter
        if before.get("class_path") != now.get("class_path"):
            keys = {"class_path": None}  # the arguments of another class tell nothing
        for key in keys:
            yield from differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} was {before}, is {now}"
