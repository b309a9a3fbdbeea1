"""What is asked of options, and of scores before they are given out as numbers."""

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxtyping import Float64
from torch import Tensor

FIRST = 3  # of many values that an error is about


def require_types(options: object, of: str = "") -> None:
    """Raises where a field of a dataclass is not of the type that it is annotated with.

    Numbers are what counts as such, those of NumPy among them; truth values are none, and a text is no sequence.

    Args:
        options: a dataclass.
        of: what they are options of, which an error names.

    Raises:
        ValueError: with the field's name, its type and its value.

    Example:
        >>> from dataclasses import make_dataclass
        >>> Options = make_dataclass("Options", [("seed", int), ("names", list[str] | None)])
        >>> require_types(Options(seed=3, names=None))
        >>> require_types(Options(seed=3, names=[7]), of="sampling")
        Traceback (most recent call last):
        ValueError: sampling: names must be list[str] | None, not [7]
    """
    for name, hint in _hints(type(options)).items():
        value = getattr(options, name)
        if not _is_of(value, hint):
            raise ValueError(f"{of and f'{of}: '}{name} must be {_in_words(hint)}, not {reprlib.repr(value)}")


def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields; none of a class of somebody whose annotations are for a type checker alone."""
    try:
        hints = get_type_hints(kind)
    except Exception:
        return {}
    return {field.name: hints[field.name] for field in fields(kind)}


def _is_of(value: Any, hint: Any) -> bool:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_is_of(value, each) for each in arguments)
    if kind is Literal:
        return isinstance(value, tuple(map(type, arguments)))  # which of them, `require_choice` tells
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is Any or not isinstance(kind, type):
        return True
    is_of_kind = isinstance(value, kind)
    if is_of_kind and arguments and issubclass(kind, Mapping):
        return all(_is_of(each, hint) for pair in value.items() for each, hint in zip(pair, arguments, strict=True))
    if is_of_kind and arguments and issubclass(kind, Sequence) and kind is not tuple:
        return not isinstance(value, str) and all(_is_of(each, arguments[0]) for each in value)
    return is_of_kind


def _in_words(hint: Any) -> str:
    """A type as it is written, without the modules."""
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else re.sub(r"(\w+\.)+", "", str(hint))


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
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool)):
            raise ValueError(f"{name} must be a whole number, not {value!r}")
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")


def require_num_classes(num_classes: int | None) -> None:
    """Raises where the number of classes is none, of pixels that come as a stream.

    Raises:
        ValueError: with the value.
    """
    if num_classes is None:
        raise ValueError("num_classes must be given: it is not known of a stream of pixels before its end")
    require_at_least(1, num_classes=num_classes)


def require_ignore_index(ignore_index: object) -> None:
    """Raises where the label of pixels to leave out is none.

    Raises:
        ValueError: no whole number.
    """
    if not isinstance(ignore_index, Integral):
        raise ValueError(
            f"ignore_index must be a whole number, not {ignore_index!r}: one that is no label, as -1, ignores nothing"
        )


def require_finite(score: Float64[Tensor, "*batch"], of: str) -> Float64[Tensor, "*batch"]:
    """The score, if it is a number.

    Args:
        score: any leading dimensions.
        of: the metric, which an error names.

    Raises:
        ValueError: NaN or infinite, which sound pixels give only where numbers overflow or vanish; with the first ones.

    Example:
        >>> require_finite(torch.tensor([0.5, torch.nan], dtype=torch.float64), "nce")
        Traceback (most recent call last):
        ValueError: nce: 1 of 2 scores is nan: the features, or powers of them, are beyond double precision: scale them
    """
    bad = score[~score.isfinite()]
    if bad.numel():
        which = "the score" if score.numel() == 1 else f"{bad.numel():,} of {score.numel():,} scores"
        first = ", ".join(map(str, bad[:FIRST].tolist())) + (", ..." if bad.numel() > FIRST else "")
        raise ValueError(
            f"{of}: {which} {'is' if bad.numel() == 1 else 'are'} {first}: the features, or powers of them, are beyond"
            " double precision: scale them"
        )
    return score
