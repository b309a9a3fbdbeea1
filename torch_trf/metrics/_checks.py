"""What a front end asks before it gives out a score as a number."""

from jaxtyping import Float64
from torch import Tensor

from ..statistics import JointMass, LogLikelihood, Moments, PixelSample


def require_pixels(
    statistic: Moments | JointMass | LogLikelihood | PixelSample, *, num_classes: int, ignore_index: int
) -> None:
    """Raises where a statistic met bad pixels or has an entry without pixels; waits for the device.

    Raises:
        ValueError: as `Faults.check`, or no labeled pixel.
    """
    statistic.faults.check(num_classes, ignore_index)
    if not statistic.count.all():
        raise ValueError(f"no labeled pixel: every label is ignore_index={ignore_index}")


def require_finite(score: Float64[Tensor, "*batch"]) -> Float64[Tensor, "*batch"]:
    """The score, if it is a number.

    Raises:
        ValueError: NaN or infinite, which pixels that pass `require_pixels` give only by overflow.
    """
    if not score.isfinite().all():
        raise ValueError(f"the score is {score.tolist()}: the features are too large for double precision")
    return score
