"""What is told of the images of a data set, once each."""

import warnings
from collections.abc import Mapping


class DataWarning(UserWarning):
    """Something doubtful about the images of a data set, whatever model is run over them."""


class Notes:
    """Warns of what is doubtful about images, with the first image of each kind, and of palettes that differ."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._first: dict[int, tuple[str, int]] = {}  # of every number, its color and the image
        self._palettes_differ = False

    def tell(self, index: int, notes: tuple[str, ...], colors: Mapping[int, str]) -> None:
        """Warns of an image, as far as this was not told of another one; fields as of `LabeledImage`."""
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                _warn(f"{note} (first in image {index})")
        for number, color in colors.items():
            first_color, first = self._first.setdefault(number, (color, index))
            if color != first_color and not self._palettes_differ:
                self._palettes_differ = True
                where = f"{first_color} in image {first} and {color} in image {index}"
                _warn(f"palettes of label images differ: {number} is {where}; the numbers are taken as classes")


def _warn(note: str) -> None:
    warnings.warn(
        note, DataWarning, stacklevel=1
    )  # of one place, so that Python says it once, however often images are read
