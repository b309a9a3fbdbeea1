"""Pictures in files: what Pillow reads whole, and a clear word on what it does not."""

import warnings
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLESPERPIXEL, ImageFileDirectory_v2, TiffImageFile

from ..features import natural_files

OF_ONE_PICTURE = ("MPO", "PSD")  # their further frames are previews and layers of the first
SUBFILE_TYPE, PREVIEW_OR_MASK = 254, 0b101  # of a page of a TIFF


def picture_files(folder: Path) -> list[Path]:
    """The files of a folder that are pictures by their names, in natural order; warns of what else lies there.

    Raises:
        ValueError: a folder that is missing or holds no picture.
    """
    endings = {
        ending for ending, kind in Image.registered_extensions().items() if kind in (*Image.OPEN, *OF_ONE_PICTURE)
    }
    pictures: list[Path] = []
    others: list[Path] = []
    for path in natural_files(folder):
        (pictures if path.suffix.lower() in endings else others).append(path)
    if not pictures:
        first = f"files as {others[0].name}, which a data set of your own can read"
        raise ValueError(f"{folder} holds no picture that Pillow reads, but {first}")
    if others:
        count = f"{len(others)} of the files in {folder}"
        warnings.warn(f"{count} are no pictures by their names and are left out, as {others[0].name}", stacklevel=3)
    return pictures


def read_picture(path: Path) -> Image.Image:
    """A picture, decoded, in the mode of its file. `info["raw_mode"]` tells how its numbers lie in the file.

    Raises:
        ValueError: no picture, or not a whole one, or several; the message names the file.
    """
    try:
        with path.open("rb") as file:  # of a path Pillow maps some files into memory, and takes turned ones wrongly
            Image.open(file).verify()  # the checksums of a PNG, which are not looked at while it is decoded
            file.seek(0)
            with Image.open(file) as picture:
                pages = _pages(picture)
                picture.info["raw_mode"] = _raw_mode(picture)
                picture.load()
                picture.getexif()  # which may be damaged, too
    except UnidentifiedImageError as error:
        reason = _bands(path) or "it is damaged, or of a format that Pillow does not read"
        raise ValueError(f"{path} is not a whole picture: {reason}") from error
    except Exception as error:  # Pillow fails in many ways
        raise ValueError(f"{path} is not a whole picture: {error}") from error
    if pages > 1:
        raise ValueError(f"{path} holds {pages} pages, of which one alone would be read: save each page as a file")
    picture.filename = str(path)
    return picture


def _raw_mode(picture: ImageFile.ImageFile) -> str:
    """How numbers lie in a file, as "RGB;16B"; of a PGM whose white is 15, "L;15"."""
    if not picture.tile:
        return ""
    codec, _, _, arguments = picture.tile[0]
    if not isinstance(arguments, tuple):
        return str(arguments)
    if codec in ("ppm", "ppm_plain") and arguments[1] not in (255, 65_535):
        return f"{arguments[0]};{arguments[1]}"
    return str(arguments[0])


def _pages(picture: Image.Image) -> int:
    """How many pictures a file holds, previews and masks of others left out."""
    frames = 1 if picture.format in OF_ONE_PICTURE else getattr(picture, "n_frames", 1)
    if frames == 1 or not isinstance(picture, TiffImageFile):
        return frames
    pages = 0
    for frame in range(frames):
        picture.seek(frame)
        pages += not picture.tag_v2.get(SUBFILE_TYPE, 0) & PREVIEW_OR_MASK
    picture.seek(0)
    return pages


def _bands(path: Path) -> str | None:
    """What Pillow does not say of a TIFF that it cannot read: how many bands it has; None where it is none."""
    try:
        with path.open("rb") as file:
            header = file.read(8)
            tags = ImageFileDirectory_v2(header if header[2] != 43 else header + file.read(8))  # 43: BigTIFF
            file.seek(tags.next)
            tags.load(file)
        bits = tags[BITSPERSAMPLE][0]
        bands = f"Pillow cannot read its {tags.get(SAMPLESPERPIXEL, 1)} bands of {bits} bits"
        return f"{bands}; a data set of your own can give them as a tensor [C, H, W]"
    except Exception:  # no TIFF, or a damaged one
        return None
