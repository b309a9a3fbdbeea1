"""What is asked of options, and of scores before they are given out as numbers."""

from numbers import Integral
from typing import Any, get_args

from jaxtyping import Float64
from torch import Tensor


def require_choice(name: str, value: object, choices: Any) -> None:
    """Raises where an option is none of a `Literal`'s values.

    Raises:
        ValueError: with the option's name, its value, and the choices.

    Example:
        >>> from typing import Literal
        >>> require_choice("pool", "all", Literal["dataset", "image"])
        Traceback (most recent call last):
        ValueError: pool: 'all' is none of dataset, image
    """
    if value not in get_args(choices):
        raise ValueError(f"{name}: {value!r} is none of {', '.join(map(str, get_args(choices)))}")


def require_at_least(least: int, **options: int | None) -> None:
    """Raises where an option that is given is no whole number, or less than it may be.

    Raises:
        ValueError: with the option's name and its value.

    Example:
        >>> require_at_least(1, num_classes=0)
        Traceback (most recent call last):
        ValueError: num_classes must be at least 1, not 0
    """
    for name, value in options.items():
        if value is not None and not isinstance(value, Integral):
            raise ValueError(f"{name} must be a whole number, not {value!r}")
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")


def require_finite(score: Float64[Tensor, "*batch"]) -> Float64[Tensor, "*batch"]:
    """The score, if it is a number.

    Raises:
        ValueError: NaN or infinite, which sound pixels give only by overflow.
    """
    if not score.isfinite().all():
        raise ValueError(f"the score is {score.tolist()}: the features are too large for double precision")
    return score
