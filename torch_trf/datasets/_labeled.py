"""Labeled images: data sets of any kind brought to one form."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .._checks import require_types
from .._class_path import ClassPath, instantiate
from .._digest import digest, of_tensor
from .._errors import in_a_line
from ._folder import SegmentationFolder
from ._notes import Notes
from ._pictures import LabelMap, as_image, as_labels, is_by_color, notes_on_image, notes_on_labels, palette_colors

IGNORED = 255  # what every ignored pixel is labeled with, whatever the files say


@dataclass(frozen=True, slots=True)
class LabeledImage:
    """An image of a data set with its labels, as tensors; the image as the model wants it, at whatever resolution.

    Attributes:
        index: its place in the data set.
        image: what a model is given.
        labels: classes, or `IGNORED`.
        notes: what is doubtful about it. Each is a sentence about images of this kind that names none, so that many
            images can share it: `read_batches` says it once, with the first of them.
        colors: of label images with a palette that are read by number, the color of every number in it.
        digest: tells the image, as it is before a transform, and its labels from any others.
    """

    index: int
    image: Shaped[Tensor, "C h w"]
    labels: Int64[Tensor, "H W"]
    notes: tuple[str, ...] = ()
    colors: Mapping[int, str] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledImages(Dataset[LabeledImage | ValueError]):
    """Any data set of (image, labels) pairs, in one form: labels are classes, or `IGNORED`.

    Args:
        dataset: gives pairs of Pillow images or tensors, as those of torchvision do.
        num_classes: K.
        label_map: the class of every value, or color ("#rrggbb"), of a label image; `ignore_index` is a class, too. A
            value that it does not name is an error. Values are classes by default.
        ignore_index: label of the pixels to leave out.
        transform: what a model needs done with an image; it must keep all of the image in view.
    """

    dataset: Any
    num_classes: int
    label_map: LabelMap | None = None
    ignore_index: int = IGNORED
    transform: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        if not isinstance(self.dataset, Sized):
            kind = type(self.dataset).__name__
            raise ValueError(f"the data set, a {kind}, is iterable without a length: images are read by their number")
        if len(self.dataset) == 0:
            raise ValueError("the data set is empty")
        if not 1 <= self.num_classes <= IGNORED:
            raise ValueError(f"num_classes={self.num_classes}: at least 1 and at most {IGNORED} classes")
        for value, number in (self.label_map or {}).items():
            if number != self.ignore_index and not (isinstance(number, Integral) and 0 <= number < self.num_classes):
                outside = f"outside [0, {self.num_classes}) and not ignore_index={self.ignore_index}"
                raise ValueError(f"label map: {value!r} is class {number!r}, {outside}")

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> LabeledImage | ValueError:
        """An image; of one that is bad the error, which a worker process could not raise in one line."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        try:
            return self.read(index)
        except Exception as error:
            message = in_a_line(error)
            files = self.dataset.files[index] if isinstance(self.dataset, SegmentationFolder) else ()
            named = "" if any(str(file) in message for file in files) else "".join(f" ({file})" for file in files[:1])
            return ValueError(f"image {index}{named}: {message}")

    def read(self, index: int) -> LabeledImage:
        """An image.

        Raises:
            ValueError: an image that is bad.
        """
        pair = self.dataset[index]
        if not isinstance(pair, Sequence) or len(pair) < 2:
            raise ValueError(f"the data set gives a {type(pair).__name__}, expected a pair (image, labels)")
        image, labels = as_image(pair[0]), as_labels(pair[1], self.label_map)
        if labels.numel() == 0 or image.shape[1:] != labels.shape:
            raise ValueError(f"an image of {_size(image)} pixels with labels on {_size(labels)}")
        ignored = labels == self.ignore_index
        wrong = ~ignored & ((labels < 0) | (labels >= self.num_classes))
        if wrong.any():
            values = ", ".join(str(value) for value in labels[wrong].unique().tolist()[:5])
            outside = f"outside [0, {self.num_classes}) and not ignore_index={self.ignore_index}"
            raise ValueError(f"label {values} on {int(wrong.sum()):,} pixels: {outside}")
        labels = labels.masked_fill(ignored, IGNORED)
        notes = (*notes_on_image(pair[0], image), *notes_on_labels(pair[1]))
        colors = {} if is_by_color(self.label_map) else palette_colors(pair[1])
        name = digest([*of_tensor(image), *of_tensor(labels.to(torch.uint8))])
        given = image if self.transform is None else self.transform(image)
        return LabeledImage(index, given, labels, notes, colors, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledData:
    """Which labeled images, in words that a configuration file has.

    Args:
        dataset: what makes the data set: a path of a class, or `{"class_path": ..., "init_args": {...}}`.
        num_classes: K.
        label_map: as for `LabeledImages`.
        ignore_index: label of the pixels to leave out.
        class_names: for reports.
    """

    dataset: ClassPath
    num_classes: int
    label_map: LabelMap | None = None
    ignore_index: int = IGNORED
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        require_types(self, "data set")
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for num_classes={self.num_classes}")

    def make(self, transform: Callable[[Tensor], Tensor] | None = None) -> LabeledImages:
        """The images.

        Raises:
            ValueError: a path that leads nowhere, arguments that do not fit, or a data set that is empty.
        """
        return LabeledImages(
            dataset=instantiate(self.dataset, kinds=(Dataset, Sized)),
            num_classes=self.num_classes,
            label_map=self.label_map,
            ignore_index=self.ignore_index,
            transform=transform,
        )


def _size(tensor: Shaped[Tensor, "..."]) -> str:
    return f"{tensor.shape[-2]} x {tensor.shape[-1]}"


@dataclass(frozen=True, slots=True)
class _Values(Dataset[Any]):
    """What a function gives of some of the images, or these images; beside it, what is told of each."""

    images: LabeledImages
    function: Callable[[LabeledImage], Any] | None
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[Any, int, tuple[str, ...], Mapping[int, str]] | ValueError:
        image = self.images[self.chosen[index]]
        if isinstance(image, ValueError):
            return image
        value = image if self.function is None else self.function(image)
        return value, image.index, image.notes, image.colors


def read_batches(
    images: LabeledImages,
    function: Callable[[LabeledImage], Any] | None = None,
    *,
    batch_size: int,
    num_workers: int,
    only: Sequence[int] | None = None,
    title: str = "",
) -> Iterator[list[Any]]:
    """Images, or what a function gives of each, in batches, by worker processes; warns of what is doubtful, once.

    Args:
        images: the data set.
        function: of a `LabeledImage`, called by the worker processes; the images by default.
        batch_size: images a batch.
        num_workers: processes that decode images; none but this one with 0.
        only: the images to read, by their index; all by default.
        title: of the progress bar; there is none by default.

    Raises:
        ValueError: an image that is bad.
    """
    chosen = range(len(images)) if only is None else only
    workers = min(num_workers, len(chosen))
    loader = DataLoader(_Values(images, function, chosen), batch_size, num_workers=workers, collate_fn=list)
    notes = Notes()
    with tqdm(total=len(chosen), desc=title, unit="image", disable=not title) as bar:
        for batch in loader:
            values = []
            for each in batch:
                if isinstance(each, ValueError):
                    raise each
                value, *told = each
                values.append(value)
                notes.tell(*told)
            yield values
            bar.update(len(values))
