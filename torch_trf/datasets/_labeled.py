"""Labeled images: data sets of any kind brought to one form."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import pil_to_tensor
from tqdm import tqdm

from .._class_path import ClassPath, instantiate

IGNORED = 255  # what every ignored pixel is labeled with, whatever the files say
LabelMap = Mapping[int | str, int]


@dataclass(frozen=True, slots=True)
class LabeledImage:
    """An image of a data set with its labels, as tensors; the image as the model wants it, at whatever resolution."""

    index: int
    image: Shaped[Tensor, "C h w"]
    labels: Int64[Tensor, "H W"]


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
        if len(self.dataset) == 0:
            raise ValueError("the data set is empty")
        if not 1 <= self.num_classes <= IGNORED:
            raise ValueError(f"num_classes={self.num_classes}: at least 1 and at most {IGNORED} classes")

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
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            return ValueError(f"image {index}: {kind}{error}")

    def read(self, index: int) -> LabeledImage:
        """An image.

        Raises:
            ValueError: an image that is bad.
        """
        pair = self.dataset[index]
        if not isinstance(pair, Sequence) or len(pair) < 2:
            raise ValueError(f"the data set gives a {type(pair).__name__}, expected a pair (image, labels)")
        image, labels = as_image(pair[0]), as_labels(pair[1], self.label_map)
        if image.shape[1:] != labels.shape:
            raise ValueError(f"an image of {_size(image)} pixels with labels on {_size(labels)}")
        ignored = labels == self.ignore_index
        wrong = ~ignored & ((labels < 0) | (labels >= self.num_classes))
        if wrong.any():
            values = ", ".join(str(value) for value in labels[wrong].unique().tolist()[:5])
            outside = f"outside [0, {self.num_classes}) and not ignore_index={self.ignore_index}"
            raise ValueError(f"label {values} on {int(wrong.sum()):,} pixels: {outside}")
        labels = labels.masked_fill(ignored, IGNORED)
        return LabeledImage(index, image if self.transform is None else self.transform(image), labels)


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
    label_map: dict[int | str, int] | None = None
    ignore_index: int = IGNORED
    class_names: list[str] | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for num_classes={self.num_classes}")

    def make(self, transform: Callable[[Tensor], Tensor] | None = None) -> LabeledImages:
        """The images.

        Raises:
            ValueError: a path that leads nowhere, arguments that do not fit, or a data set that is empty.
        """
        return LabeledImages(
            dataset=instantiate(self.dataset),
            num_classes=self.num_classes,
            label_map=self.label_map,
            ignore_index=self.ignore_index,
            transform=transform,
        )


def as_image(image: Any) -> Shaped[Tensor, "C H W"]:
    """An image as a tensor.

    Raises:
        ValueError: neither a Pillow image nor a tensor `[C, H, W]`.
    """
    if isinstance(image, Image.Image):
        return pil_to_tensor(image.convert("RGB"))
    if isinstance(image, Tensor) and image.ndim == 3:
        return image
    raise ValueError(f"an image is a {_kind(image)}, expected a Pillow image or a tensor [C, H, W]")


def as_labels(labels: Any, label_map: LabelMap | None = None) -> Int64[Tensor, "H W"]:
    """A label image as classes.

    Raises:
        ValueError: neither a Pillow image nor integers `[H, W]`, colors without a label map, or values that the map
            does not name.

    Example:
        >>> labels = Image.new("RGB", (3, 2), "#804080")
        >>> as_labels(labels, {"#804080": 7}).tolist()
        [[7, 7, 7], [7, 7, 7]]
    """
    by_color = label_map is not None and any(isinstance(value, str) for value in label_map)
    if isinstance(labels, Image.Image):
        if labels.mode in ("RGB", "RGBA") or by_color:
            if not by_color:
                raise ValueError("a label image of colors needs a label map that tells the class of each color")
            red, green, blue = np.moveaxis(np.array(labels.convert("RGB"), dtype=np.int64), -1, 0)
            values = torch.from_numpy(red << 16 | green << 8 | blue)
        else:
            values = torch.from_numpy(np.array(labels).astype(np.int64))
            if labels.mode == "F" or values.ndim != 2:
                raise ValueError(f"a label image of mode {labels.mode} holds no class numbers")
    elif isinstance(labels, Tensor) and not labels.is_floating_point() and labels.shape[:-2] in ((), (1,)):
        values = labels.reshape(labels.shape[-2:]).to(torch.int64)
    else:
        raise ValueError(f"labels are a {_kind(labels)}, expected a Pillow image or integers [H, W]")
    return values if label_map is None else _named_classes(values, label_map, by_color)


def _named_classes(values: Int64[Tensor, "H W"], label_map: LabelMap, by_color: bool) -> Int64[Tensor, "H W"]:
    class_of = {_number(value): number for value, number in label_map.items()}
    present, place = values.unique(return_inverse=True)
    unnamed = [value for value in present.tolist() if value not in class_of]
    if unnamed:
        first = ", ".join(f"#{value:06x}" if by_color else str(value) for value in unnamed[:5])
        pixels = int(torch.isin(values, torch.tensor(unnamed)).sum())
        raise ValueError(f"labels hold {first}, on {pixels:,} pixels, which the label map does not name")
    return torch.tensor([class_of[value] for value in present.tolist()])[place]


def _number(value: int | str) -> int:
    if isinstance(value, int):
        return value
    if not re.fullmatch("#[0-9a-fA-F]{6}", value):
        raise ValueError(f"label map: {value!r} is neither a number nor a color like '#804080'")
    return int(value[1:], 16)


def _kind(value: Any) -> str:
    return f"{value.dtype} tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _size(tensor: Shaped[Tensor, "..."]) -> str:
    return f"{tensor.shape[-2]} x {tensor.shape[-1]}"


@dataclass(frozen=True, slots=True)
class _Values(Dataset[Any]):
    """What a function gives of some of the images; without one, these images."""

    images: LabeledImages
    function: Callable[[LabeledImage], Any] | None
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Any:
        image = self.images[self.chosen[index]]
        return image if self.function is None or isinstance(image, ValueError) else self.function(image)


def read_batches(
    images: LabeledImages,
    function: Callable[[LabeledImage], Any] | None = None,
    *,
    batch_size: int,
    num_workers: int,
    only: Sequence[int] | None = None,
    title: str = "",
) -> Iterator[list[Any]]:
    """Images, or what a function gives of each, in batches, by worker processes.

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
    loader = DataLoader(_Values(images, function, chosen), batch_size, num_workers=num_workers, collate_fn=list)
    with tqdm(total=len(chosen), desc=title, unit="image", disable=not title) as bar:
        for batch in loader:
            for each in batch:
                if isinstance(each, ValueError):
                    raise each
            yield batch
            bar.update(len(batch))
