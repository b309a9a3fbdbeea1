"""Metrics: pure functions from statistics to scores, batched over leading dimensions."""

from ._hscore import hscore
from ._knn import knn
from ._leep import leep
from ._logme import logme, logme_by_class
from ._nce import nce
from ._otce import otce
from ._regularized_hscore import regularized_hscore

__all__ = ["hscore", "knn", "leep", "logme", "logme_by_class", "nce", "otce", "regularized_hscore"]
