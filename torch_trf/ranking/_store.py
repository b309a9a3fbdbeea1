"""What is kept of a candidate, so that a ranking that was interrupted goes on."""

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from .._digest import digest
from .._errors import in_a_line
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
    """The folder of a candidate: `reading.pt` and `scores.json`, each with the settings that it depends on.

    Either file ends with a digest of all the rest, so what was damaged or edited since is noticed.
    """

    folder: Path

    def reading(self, settings: Settings) -> Kept[Reading]:
        """What the model gave with these settings.

        Raises:
            OSError: a pipe, a folder or a dangling link where the file should be.
        """
        return self._kept("reading.pt", _load, _reading, settings)

    def save_reading(self, reading: Reading, settings: Settings) -> None:
        """Keeps what the model gave."""
        self.folder.mkdir(parents=True, exist_ok=True)
        samples = {name: sample.to("cpu").state() for name, sample in reading.samples.items()}
        value = {
            "settings": json.dumps(settings),
            "samples": samples,
            "map": reading.map,
            "seconds": reading.seconds,
            "doubts": reading.doubts,
        }
        write_bytes(self.folder / "reading.pt", partial(_save, value))

    def result(self, settings: Settings) -> Kept[Result]:
        """The scores with these settings.

        Raises:
            OSError: as `reading`.
        """
        return self._kept("scores.json", _load_json, Result.from_json, settings)

    def save_result(self, result: Result) -> None:
        """Keeps the scores."""
        value = result.as_json()
        write_json(self.folder / "scores.json", value | {"digest": _json_digest(value)})

    def _kept(
        self,
        name: str,
        load: Callable[[Path], dict[str, Any]],
        make: Callable[[dict[str, Any]], T],
        settings: Settings,
    ) -> Kept[T]:
        path = self.folder / name
        if not os.path.lexists(path):
            return Kept()
        if not path.is_file():
            raise OSError(f"{path} is not a file, but a folder, a pipe, a device or a dangling link: remove it")
        try:
            value = load(path)
            others = tuple(differences(value["settings"], settings))
            return Kept(differences=others) if others else Kept(make(value))
        except Exception as error:  # a damaged file fails in many ways
            return Kept(differences=(f"{path} cannot be read: {in_a_line(error)}",))


def _save(value: dict[str, Any], buffer: io.BytesIO) -> None:
    """Writes a value and, behind it, where `torch.load` does not look, the digest."""
    torch.save(value, buffer)
    buffer.write(digest([buffer.getbuffer()]).encode())


def _load(path: Path) -> dict[str, Any]:
    contents = path.read_bytes()
    length = len(digest([]))
    _check_digest(digest([memoryview(contents)[:-length]]).encode(), contents[-length:])
    value = torch.load(path, map_location="cpu", weights_only=True)
    return value | {"settings": json.loads(value["settings"])}


def _reading(value: dict[str, Any]) -> Reading:
    samples = {name: PixelSample.from_state(state) for name, state in value["samples"].items()}
    return Reading(samples, value["map"], value["seconds"], value["doubts"])


def _load_json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    kept = value.pop("digest", None)
    _check_digest(_json_digest(value), kept)
    return value


def _json_digest(value: dict[str, Any]) -> str:
    return digest([json.dumps(value).encode()])


def _check_digest(of_contents: object, kept: object) -> None:
    if of_contents != kept:
        raise ValueError("it is not as it was written, but was damaged or edited")


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
