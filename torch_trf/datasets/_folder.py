"""Images in a folder, and their labels in another one."""

import unicodedata
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from .._files import PathLike
from ._picture_files import picture_files, read_picture


class SegmentationFolder(Dataset[tuple[Image.Image, Image.Image]]):
    """Images in a folder, and their label images in another one, paired by name.

    Label images hold class numbers (gray, of 8 or 16 bits), or a palette or colors, which a label map tells apart.
    Subfolders and hidden files are not looked at; of files that are no pictures by their names there is a warning.

    Args:
        images: folder of the images, in any format that Pillow reads.
        labels: folder of the label images, in any that keeps numbers as they are, as PNG.
        label_suffix: what a label image's name has behind that of its image, as "_L".

    Raises:
        ValueError: a folder that is missing or empty, an image without its labels, two pictures of one name, or what
            is no file; when it is read, a file that is no whole picture, or holds several pages. The message names the
            file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, mode in (("images", "RGB"), ("labels", "L")):
        ...     (folder / name).mkdir()
        ...     Image.new(mode, (6, 4)).save(folder / name / "a.png")
        >>> image, labels = SegmentationFolder(folder / "images", folder / "labels")[0]
        >>> image.size, labels.mode
        ((6, 4), 'L')
    """

    def __init__(self, images: PathLike, labels: PathLike, label_suffix: str = "") -> None:
        label_of = _by_name(Path(labels), "labels")
        self.files = []
        for name, path in _by_name(Path(images), "image").items():
            if f"{name}{label_suffix}" not in label_of:
                raise ValueError(f"{path} has no labels {Path(labels) / f'{path.stem}{label_suffix}'}.*, as a picture")
            self.files.append((path, label_of[f"{name}{label_suffix}"]))

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        """An image and its label image, decoded, in the modes of their files."""
        image, labels = self.files[index]
        return read_picture(image), read_picture(labels)


def _by_name(folder: Path, what: str) -> dict[str, Path]:
    """The pictures of a folder by the names that pair them, which some file systems write with combining accents."""
    files: dict[str, Path] = {}
    for path in picture_files(folder):
        name = unicodedata.normalize("NFC", path.stem)
        if name in files:
            raise ValueError(f"{files[name]} and {path} are of one name: which is the {what}?")
        files[name] = path
    return files
