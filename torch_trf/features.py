"""Folders of extracted features, in the layout of the published code."""

import json
import os
import random
import re
from collections.abc import Iterable, Iterator
from copy import copy
from pathlib import Path

import numpy as np
import torch

from ._checks import require_at_least
from ._errors import in_a_line
from ._files import PathLike
from .pixels import Pixels

MANIFEST = "extract.json"  # what `extract` leaves beside the features: of what they are, and of how many images


class FeatureFolder:
    """Images of features and labels on disk: `<path>/final/<k>.npy` with `<path>/label/<k>.npy`.

    Features are float16, float32 or float64 `[D, H, W]`, labels any integer `[H, W]` on the same grid; images may
    differ in size, not in D. Files are taken in natural order of their names (2 before 10). The headers of all files
    are checked at once, the data of one image is read when it is asked for, so a folder of any size fits into memory.
    It can be iterated any number of times. Hidden files are not looked at.

    Args:
        path: the folder.
        features: subfolder of the features.
        labels: subfolder of the labels.
        logits: subfolder of the source model's class scores; none by default. It may be that of the features: the
            published layout holds class scores in `final`, which `logits="final"` says.

    Raises:
        ValueError: what is no path, a folder that is missing or empty, a file without its partner, a file that is no
            .npy array, is cut off or pickled, a wrong rank or type, grids or channels that differ, or fewer images than
            `extract` was to write; the message names the file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, array in (("final", np.zeros((3, 4, 5), np.float32)), ("label", np.zeros((4, 5), np.uint8))):
        ...     (folder / name).mkdir()
        ...     np.save(folder / name / "0.npy", array)
        >>> len(FeatureFolder(folder)), next(iter(FeatureFolder(folder))).features.shape
        (1, torch.Size([1, 3, 4, 5]))
    """

    def __init__(
        self,
        path: PathLike,
        *,
        features: str = "final",
        labels: str = "label",
        logits: str | None = None,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise ValueError(f"{path!r} is not the path of a folder")
        self.path = Path(path)
        subfolders = dict.fromkeys(name for name in (features, labels, logits) if name is not None)
        partners = {name: _array_files(self.path / name) for name in subfolders}
        self._features, self._labels = partners[features], partners[labels]
        self._logits = None if logits is None else partners[logits]
        _check_finished(self.path, partners.values())
        for files in partners.values():
            for other, others in partners.items():
                if alone := sorted(files.keys() - others.keys(), key=_natural):
                    raise ValueError(f"{files[alone[0]]} has no partner {self.path / other / alone[0]}.npy")
        self.names = sorted(self._features, key=_natural)
        self._check_headers([files for name, files in partners.items() if name != labels])
        self._streams = range(len(self.names))

    @property
    def has_logits(self) -> bool:
        """Whether there are class scores."""
        return self._logits is not None

    def without_logits(self) -> "FeatureFolder":
        """The same images, of which class scores are not read."""
        folder = copy(self)
        folder._logits = None
        return folder

    def draw(self, num_images: int | None, seed: int = 0) -> "FeatureFolder":
        """Some of the images, drawn without replacement; all of them for None or where there are no more.

        Raises:
            ValueError: less than one image.
        """
        require_at_least(1, num_images=num_images)
        if num_images is None or num_images >= len(self.names):
            return self
        drawn = copy(self)
        drawn.names = sorted(random.Random(seed).sample(self.names, num_images), key=_natural)
        drawn._streams = range(num_images)
        return drawn

    def part(self, index: int, parts: int) -> "FeatureFolder":
        """One of so many parts of the images, for a rank; it may be empty. Samples do not depend on the parts."""
        part = copy(self)
        part.names, part._streams = self.names[index::parts], self._streams[index::parts]
        return part

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def __iter__(self) -> Iterator[Pixels]:
        """The images, one batch each, read from disk one at a time."""
        return self.rows(slice(None))

    def rows(self, rows: slice) -> Iterator[Pixels]:
        """The same rows of every image; no others are read."""
        for stream, name in zip(self._streams, self.names, strict=True):
            features = _tensor(self._features[name], rows).unsqueeze(0)
            logits = None
            if self._logits is not None:
                logits = features if self._logits is self._features else _tensor(self._logits[name], rows).unsqueeze(0)
            labels = _tensor(self._labels[name], rows).unsqueeze(0)
            yield Pixels(features, labels, logits, stream=stream, name=str(self._features[name]))

    def image_size(self) -> tuple[int, int]:
        """Height and width of the images; reads headers alone.

        Raises:
            ValueError: images of different sizes, with the file.
        """
        first = _array(self._labels[self.names[0]])
        for name in self.names:
            labels = _array(self._labels[name])
            if labels.shape != first.shape:
                expected = f"{_size(first)}: a map needs images of one size"
                raise ValueError(f"{self._labels[name]} has {_size(labels)} pixels, the first image {expected}")
        return first.shape

    def class_counts(self, ignore_index: int) -> dict[int, int]:
        """How many pixels carry each label, `ignore_index` left out; reads all labels and no features."""
        counts: dict[int, int] = {}
        for name in self.names:
            values, number = np.unique(_tensor(self._labels[name]).numpy(), return_counts=True)
            for value, count in zip(values.tolist(), number.tolist(), strict=True):
                if value != ignore_index:
                    counts[value] = counts.get(value, 0) + count
        return counts

    def _check_headers(self, of_channels: list[dict[str, Path]]) -> None:
        channels: dict[Path, int] = {}  # of the first file of each subfolder
        for name in self.names:
            labels = _array(self._labels[name])
            if labels.ndim != 2 or labels.dtype.kind not in "iu":
                raise _format_error(self._labels[name], "integer labels [H, W]", labels)
            for files in of_channels:
                features = _array(files[name])
                if features.ndim != 3 or features.dtype.kind != "f" or features.dtype.itemsize > 8:
                    raise _format_error(files[name], "float16, float32 or float64 features [D, H, W]", features)
                if features.shape[1:] != labels.shape:
                    grids = f"a grid of {_size(features)}, its labels {self._labels[name]} one of {_size(labels)}"
                    raise ValueError(f"{files[name]} has {grids}")
                expected = channels.setdefault(files[name].parent, len(features))
                if len(features) != expected:
                    raise ValueError(f"{files[name]} has {len(features)} channels, the first file has {expected}")


def _array_files(folder: Path) -> dict[str, Path]:
    """The .npy files of a folder by the name that pairs them."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    files = {}
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.suffix != ".npy" or not path.is_file():
            raise ValueError(f"{path} does not belong here: the folder must hold .npy files alone")
        files[path.stem] = path
    if not files:
        raise ValueError(f"{folder} holds no .npy file")
    return files


def _check_finished(path: Path, subfolders: Iterable[dict[str, Path]]) -> None:
    """Raises where `extract` has not written all images yet; of a folder from elsewhere nothing is known."""
    manifest = path / MANIFEST
    if not manifest.exists():
        return
    try:
        images = json.loads(manifest.read_text())["images"]
        count = images if isinstance(images, int) else len(images)
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"{manifest} cannot be read: {in_a_line(error)}") from error
    there = min(sum(name.isdecimal() and int(name) < count for name in files) for files in subfolders)
    if there < count:
        raise ValueError(
            f"{path} holds {there:,} of the {count:,} images that extract was to write: it has not finished; run it"
            f" again, or remove {manifest} to read what is there"
        )


def natural_files(folder: PathLike) -> list[Path]:
    """The files of a folder that are not hidden, in natural order of their names (2 before 10).

    Raises:
        ValueError: a folder that is missing or empty, or that holds what is no file, but named as one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    endings = {path.suffix for path in entries if path.is_file()} - {""}
    files = [path for path in entries if not path.is_dir() or path.suffix in endings]
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path} is no file, but a folder, a link to nothing, a pipe or a device")
    if not files:
        raise ValueError(f"{folder} is empty")
    return sorted(files, key=lambda path: _natural(path.stem))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts numbers inside names by their value."""
    parts = re.findall(r"\d+|\D+", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]  # a raised 2 is no number


def _array(path: Path) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # reads no pickle and no archive
        if (more := path.stat().st_size - array.offset - array.nbytes) > 0:
            raise ValueError(f"its header tells of {list(array.shape)} {array.dtype}, behind which are {more:,} bytes")
        return array
    except Exception as error:  # a damaged header fails in many ways
        raise ValueError(f"{path} is not a whole .npy array of numbers: {error}") from error


def _tensor(path: Path, rows: slice = slice(None)) -> torch.Tensor:
    array = _array(path)[..., rows, :]
    if array.dtype.kind in "iu" and array.dtype not in (np.uint8, np.int32):
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _format_error(path: Path, expected: str, array: np.ndarray) -> ValueError:
    return ValueError(f"{path} holds {array.dtype} {list(array.shape)}, expected {expected}")


def _size(array: np.ndarray) -> str:
    return f"{array.shape[-2]} x {array.shape[-1]}"
