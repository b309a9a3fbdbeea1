"""What makes the scores of moments doubtful."""

from jaxtyping import Bool
from torch import Tensor

from ..statistics import Moments

DOUBTFUL = 3e-4  # by how much rounding may change a score without a warning; of the score, where that is more than 1
ROUNDINGS = 1000  # of which hardly a digit is left of what is not more
MOST_ENTRIES = 32  # of a map that are looked at once more, where that costs as much as the score


def first_entries(moments: Moments, among: Bool[Tensor, "*batch"]) -> Moments:
    """The first of these entries, along one leading dimension."""
    return moments[among & (among.flatten().cumsum(0).reshape(among.shape) <= MOST_ENTRIES)]


def largest_channel(moments: Moments) -> str:
    """Which channel of a single entry has the largest values, and their size."""
    square, channel = moments.mean_square.max(-1)
    return f"the root mean square of channel {int(channel)} is {square.sqrt().item():.3g}"


def too_few_digits(moments: Moments) -> str:
    """What to say where rounding changes the score of a single entry."""
    return (
        f"double precision has too few digits for features of such different sizes ({largest_channel(moments)}): the"
        " score may be wrong; look for outliers, scale the channels, or leave this one out"
    )
