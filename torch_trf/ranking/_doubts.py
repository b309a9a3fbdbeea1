"""What is doubtful about the images of a data set as a whole."""

from collections.abc import Iterator, Mapping

from jaxtyping import Int64
from torch import Tensor

from ..datasets import IGNORED


def doubts(label_counts: Int64[Tensor, "256"], digests: Mapping[int, str], ignore_index: int) -> Iterator[str]:
    """Says where there is a single class, and where images are there twice.

    Args:
        label_counts: how many pixels there are of every label; the last one is `IGNORED`.
        digests: of every image, as of `LabeledImage`.
        ignore_index: of the labels as the data set gives them.
    """
    present = label_counts[:IGNORED].nonzero().flatten().tolist()
    if len(present) == 1:
        share = label_counts[IGNORED] / label_counts.sum()
        ignored = (
            f", and {share:.0%} of the pixels are ignored (ignore_index={ignore_index}): if these are a class, too,"
            f" name it in a label_map, as {{0: 0, {ignore_index}: 1}}"
        )
        doubt = f"all labeled pixels are of class {present[0]}"
        yield f"{doubt}{ignored}" if share else f"{doubt}: scores tell how well classes are told apart"
    first: dict[str, int] = {}
    again = [(first[name], index) for index, name in sorted(digests.items()) if first.setdefault(name, index) != index]
    if again:
        others = f", and so are {len(again) - 1:,} others of earlier ones" if len(again) > 1 else ""
        yield f"image {again[0][1]} and its labels are the same as image {again[0][0]}{others}: each counts"
