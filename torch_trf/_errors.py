"""Errors in a line each."""

import re
from argparse import ArgumentError

MOST_CHARACTERS = 1000  # of a line: a value or a name that is quoted may be as long as a file
FRAMES = r"\n\s*(Exception raised from|frame #0|C\+\+ CapturedTraceback)"  # of C++, of which no user is told


def in_a_line(error: BaseException) -> str:
    r"""What is wrong, in one line, after the kind of the error where its message alone may say little.

    Example:
        >>> in_a_line(ValueError("no\n  pixels")), in_a_line(KeyError("layer"))
        ('no pixels', "KeyError: 'layer'")
    """
    message = " ".join(re.split(FRAMES, str(error))[0].split())
    if len(message) > MOST_CHARACTERS:
        message = f"{message[:MOST_CHARACTERS]} ..."
    if message and isinstance(error, ArgumentError | ValueError | OSError | RuntimeError):
        return message
    return f"{type(error).__name__}: {message}".removesuffix(": ")
