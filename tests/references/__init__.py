"""Slow float64 NumPy versions of what the package computes, written from the papers and sharing no code with it."""

from . import transport
from .hscore import hscore
from .knn import knn
from .leep import leep
from .logme import logme
from .map import transferability_map
from .moments import moments
from .nce import nce
from .otce import otce
from .regularized_hscore import regularized_hscore

__all__ = [
    "hscore",
    "knn",
    "leep",
    "logme",
    "moments",
    "nce",
    "otce",
    "regularized_hscore",
    "transferability_map",
    "transport",
]
