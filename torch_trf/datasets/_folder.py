"""Images in a folder, and their labels in another one."""

from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset

from .._files import PathLike
from ..features import natural_files


class SegmentationFolder(Dataset[tuple[Image.Image, Image.Image]]):
    """Images in a folder, and their label images in another one, paired by name.

    Label images hold class numbers (gray, of 8 or 16 bits), or a palette or colors, which a label map tells apart.

    Args:
        images: folder of the images, in any format that Pillow reads.
        labels: folder of the label images.
        label_suffix: what a label image's name has behind that of its image, as "_L".

    Raises:
        ValueError: a folder that is missing or empty, or an image without its labels; when it is read, a file that is
            no whole picture. The message names the file.

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
        label_of: dict[str, Path] = {}
        for path in natural_files(Path(labels)):
            if path.stem in label_of:
                raise ValueError(f"{label_of[path.stem]} and {path} are of one name: which are the labels?")
            label_of[path.stem] = path
        self.files = []
        for path in natural_files(Path(images)):
            if f"{path.stem}{label_suffix}" not in label_of:
                raise ValueError(f"{path} has no labels {Path(labels) / f'{path.stem}{label_suffix}'}.*")
            self.files.append((path, label_of[f"{path.stem}{label_suffix}"]))

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        """An image and its label image, decoded."""
        image, labels = self.files[index]
        return _picture(image).convert("RGB"), _picture(labels)


def _picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except Exception as error:  # Pillow fails in many ways
        raise ValueError(f"{path} is not a whole picture: {error}") from error
