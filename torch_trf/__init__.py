"""Transferability of pretrained segmentation models, from features and labels, without fine-tuning.

torch_trf.logme(features, labels)           one score from tensors
torch_trf.metrics.logme(moments)            the same metric over statistics, batched over leading dimensions
torch_trf.Scorer(metrics=("logme",), ...)   scores over a stream of pixels or a folder of features
torch_trf.transferability_map("logme", ...) the score patch by patch; torch_trf.Mapper, over a stream
"""

from . import metrics, statistics, transport
from ._ops import has_extension
from .features import FeatureFolder
from .functional import OTCEResult, hscore, jc_otce, knn, leep, logme, nce, otce, otce_result, regularized_hscore
from .maps import Mapper, ScoreMap, transferability_map
from .score import Score, Scorer

__version__ = "0.1.0"

__all__ = [
    "FeatureFolder",
    "Mapper",
    "OTCEResult",
    "Score",
    "ScoreMap",
    "Scorer",
    "has_extension",
    "hscore",
    "jc_otce",
    "knn",
    "leep",
    "logme",
    "metrics",
    "nce",
    "otce",
    "otce_result",
    "regularized_hscore",
    "statistics",
    "transferability_map",
    "transport",
]
