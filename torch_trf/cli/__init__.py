"""The command line `torch-trf`."""

from ._main import main

__all__ = ["main"]
