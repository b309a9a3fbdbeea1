"""Imports of libraries that take long and print."""

import importlib
import io
import sys
from contextlib import redirect_stdout
from types import ModuleType


def import_quietly(name: str) -> ModuleType:
    """A module that imports KeOps, which prints that it found no GPU; imported where it is used, because it is slow."""
    if name in sys.modules:
        return sys.modules[name]
    with redirect_stdout(io.StringIO()):  # of the whole process: not in threads
        return importlib.import_module(name)
