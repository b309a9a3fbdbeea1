"""Pictures and tensors as images and as labels, and what is doubtful about them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import SAMPLESPERPIXEL
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

LabelMap = Mapping[int | str, int]
LOSSY = ("JPEG", "MPO", "AVIF")  # formats whose compression changes numbers
OF_16_BITS = 65_535
OF_12_BITS = 4_095
OF_PICTURES = (torch.uint8, torch.uint16, torch.bool)


def as_image(image: Any) -> Shaped[Tensor, "C H W"]:
    """An image as a tensor: a tensor as it is, a picture in three channels and upright, as its EXIF data say.

    A picture of 8 bits gives uint8, one of 16 bits float32 from 0 to 1.

    Raises:
        ValueError: neither a Pillow image of 8 or 16 bits nor a tensor `[C, H, W]`.
    """
    if isinstance(image, Image.Image):
        picture = _upright(image)
        if _has_16_bits(picture):
            gray = torch.from_numpy(np.asarray(picture).astype(np.float32) / OF_16_BITS)
            return gray.repeat(3, 1, 1)
        if picture.mode in ("I", "F"):
            numbers = f"numbers of 32 bits (mode {picture.mode})"
            raise ValueError(f"{_name(image, 'an image')} holds {numbers}, of which nothing tells what is white")
        return pil_to_tensor(_in_colors(picture))
    if isinstance(image, Tensor) and image.ndim == 3:
        return image
    raise ValueError(f"an image is a {_kind(image)}, expected a Pillow image or a tensor [C, H, W]")


def notes_on_image(image: Any, tensor: Shaped[Tensor, "C H W"]) -> Iterator[str]:
    """What is doubtful about an image, of which `as_image` made this tensor."""
    if not isinstance(image, Image.Image):
        if not (tensor.is_floating_point() or tensor.dtype in OF_PICTURES):
            white = f"{torch.iinfo(tensor.dtype).max:,}"
            unknown = f"images are tensors of {tensor.dtype}, and nothing tells the range of their numbers"
            yield f"{unknown}: a transform that scales by the type takes {white} for white"
        return
    yield from _notes_on_picture(image, "images")
    if _is_transparent(image):
        yield "images have an alpha channel that is not opaque everywhere: it is left out, the colors below it count"
    if image.mode.startswith(("RGB", "LA")) and "16" in _raw_mode(image):
        yield "images have 16 bits a color, of which the upper 8 are read: if white is less than 65,535, scale them"
    if _has_16_bits(image):
        yield "images have 16 bits: they are read as numbers from 0 to 1, of which 1 is 65,535"
        if 0 < tensor.max() <= OF_12_BITS / OF_16_BITS:
            yield "images of 16 bits hold no number above 4,095, and so are nearly black: if white is less, scale them"


def as_labels(labels: Any, label_map: LabelMap | None = None) -> Int64[Tensor, "H W"]:
    """A label image as classes, upright, as its EXIF data say.

    Raises:
        ValueError: neither a Pillow image nor integers `[H, W]`, a picture whose compression changes numbers (JPEG),
            colors without a label map, or values that the map does not name.

    Example:
        >>> labels = Image.new("RGB", (3, 2), "#804080")
        >>> as_labels(labels, {"#804080": 7}).tolist()
        [[7, 7, 7], [7, 7, 7]]
    """
    by_color = is_by_color(label_map)
    if isinstance(labels, Image.Image):
        if label_map is None and _raw_mode(labels).startswith("L;"):
            scaled = (
                f"has gray values of other bits or of another white ({_raw_mode(labels)}), which Pillow scales to 255"
            )
            raise ValueError(f"{_name(labels, 'a label image')} {scaled}: make labels anew, with 8 bits")
        values = _values(labels, by_color)
    elif isinstance(labels, Tensor) and not labels.is_floating_point() and labels.shape[:-2] in ((), (1,)):
        values = labels.reshape(labels.shape[-2:]).to(torch.int64)
    else:
        raise ValueError(f"labels are a {_kind(labels)}, expected a Pillow image or integers [H, W]")
    return values if label_map is None else _named_classes(values, label_map, by_color)


def _values(labels: Image.Image, by_color: bool) -> Int64[Tensor, "H W"]:
    """The numbers of a label image; of a color the number that it is in hexadecimal."""
    name, picture = _name(labels, "a label image"), _upright(labels)
    if _is_lossy(labels):
        changed = f"is compressed as {labels.format} in a way that changes class numbers"
        raise ValueError(f"{name} {changed}: make labels anew, as PNG")
    if not by_color:
        if picture.mode in ("RGB", "RGBA"):
            raise ValueError("a label image of colors needs a label map that tells the class of each color")
        values = torch.from_numpy(np.array(picture).astype(np.int64))
        if picture.mode == "F" or values.ndim != 2:
            kind = "floating-point numbers" if picture.mode == "F" else f"bands of mode {picture.mode}"
            raise ValueError(f"{name} holds no class numbers, but {kind}")
        return values
    if picture.mode.startswith(("I", "F")) or "16" in _raw_mode(labels):
        raise ValueError(f"{name} has more than 8 bits a color, and 8 are read")
    red, green, blue = np.moveaxis(np.array(_in_colors(picture), dtype=np.int64), -1, 0)
    return torch.from_numpy(red << 16 | green << 8 | blue)


def notes_on_labels(labels: Any) -> Iterator[str]:
    """What is doubtful about labels."""
    if isinstance(labels, Image.Image):
        yield from _notes_on_picture(labels, "label images")
        if labels.mode == "RGBA" and _is_transparent(labels):
            yield "label images are transparent in places: the colors below count there, too"


def palette_colors(labels: Any) -> dict[int, str]:
    """The color of every number of a label image that has a palette."""
    if not isinstance(labels, Image.Image) or labels.mode != "P":
        return {}
    palette = bytes(labels.getpalette() or ())
    return {
        number: f"#{palette[3 * number : 3 * number + 3].hex()}"
        for number, pixels in enumerate(labels.histogram())
        if pixels
    }


def is_by_color(label_map: LabelMap | None) -> bool:
    """Whether a label map tells the classes of colors, not of numbers."""
    return label_map is not None and any(isinstance(value, str) for value in label_map)


def _named_classes(values: Int64[Tensor, "H W"], label_map: LabelMap, by_color: bool) -> Int64[Tensor, "H W"]:
    class_of = {_number(value): number for value, number in label_map.items()}
    if len(class_of) < len(label_map):
        raise ValueError(f"label map: two of {', '.join(map(str, label_map))} are the same")
    present, place = values.unique(return_inverse=True)
    unnamed = [value for value in present.tolist() if value not in class_of]
    if unnamed:
        first = ", ".join(f"#{value:06x}" if by_color else str(value) for value in unnamed[:5])
        pixels = int(torch.isin(values, torch.tensor(unnamed, device="cpu")).sum())
        raise ValueError(f"labels hold {first}, on {pixels:,} pixels, which the label map does not name")
    return torch.tensor([class_of[value] for value in present.tolist()], device="cpu")[place]


def _number(value: int | str) -> int:
    if isinstance(value, int):
        return value
    if not re.fullmatch("#[0-9a-fA-F]{6}", value):
        raise ValueError(f"label map: {value!r} is neither a number nor a color like '#804080'")
    return int(value[1:], 16)


def _notes_on_picture(picture: Image.Image, what: str) -> Iterator[str]:
    if _is_turned(picture):
        yield f"{what} are turned upright, as their EXIF data say"
    bands, read = getattr(picture, "tag_v2", {}).get(SAMPLESPERPIXEL, 1), len(picture.getbands())
    if bands > read:
        yield f"{what} have {bands} bands, of which the first {read} are read: a data set of your own can give all"


def _is_turned(picture: Image.Image) -> bool:
    return picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)


def _upright(picture: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(picture) if _is_turned(picture) else picture


def _has_16_bits(picture: Image.Image) -> bool:
    """Whether gray values go to 65,535; Pillow has several modes for that."""
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))


def _raw_mode(picture: Image.Image) -> str:
    """How numbers lie in a file that `read_picture` read; of other pictures nothing tells."""
    return str(picture.info.get("raw_mode", ""))


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info


def _is_transparent(picture: Image.Image) -> bool:
    return _has_alpha(picture) and any(picture.convert("RGBA").getchannel("A").histogram()[:255])


def _in_colors(picture: Image.Image) -> Image.Image:
    if _has_alpha(picture):
        picture = picture.convert("RGBA")  # Pillow warns of some palettes otherwise
    return picture.convert("RGB")


def _is_lossy(picture: Image.Image) -> bool:
    """Whether a picture is of a file whose compression changes numbers, as far as can be told."""
    path = getattr(picture, "filename", "")
    if picture.format == "WEBP" and path:
        return b"VP8L" not in Path(path).read_bytes()
    if picture.format == "JPEG2000" and path:
        contents = Path(path).read_bytes()
        return contents[contents.index(b"\xff\x52\x00") + 13] == 0  # the wavelets of its COD marker: 9-7, not 5-3
    return picture.format in LOSSY or "jpeg" in str(picture.info.get("compression", ""))


def _name(picture: Image.Image, otherwise: str) -> str:
    return getattr(picture, "filename", "") or otherwise


def _kind(value: Any) -> str:
    return f"{value.dtype} tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
