"""Transferability of pretrained segmentation models, from features and labels, without fine-tuning.

torch_trf.logme(features, labels)           the score of tensors; every metric of torch_trf.metrics is such an object
torch_trf.logme.score(moments)              the same metric over statistics, batched over leading dimensions
torch_trf.Scorer(metrics=("logme",), ...)   scores over a stream of pixels or a folder of features
torch_trf.score_folder("features")          what the command `torch-trf score` does
torch_trf.transferability_map("leep", ...)  the score patch by patch; torch_trf.Mapper, over a stream
torch_trf.TransferabilityScore(...)         live scores, as a metric of torchmetrics; torch_trf.TransferabilityMap
"""

import importlib
from typing import Any

from . import metrics, statistics, transport
from ._ops import has_extension
from .features import FeatureFolder
from .folders import score_folder
from .maps import Mapper, ScoreMap, transferability_map
from .metrics import METRICS
from .sampling import Sampling
from .score import Score, Scorer

__version__ = "0.1.0"

LIVE = ("TransferabilityMap", "TransferabilityScore")  # imported when asked for: torchmetrics takes its time

__all__ = [
    "FeatureFolder",
    "Mapper",
    "Sampling",
    "Score",
    "ScoreMap",
    "Scorer",
    "has_extension",
    "metrics",
    "score_folder",
    "statistics",
    "transferability_map",
    "transport",
]
__all__ += [*LIVE, *METRICS]


def __getattr__(name: str) -> Any:
    if name in METRICS:
        return METRICS[name]
    if name in LIVE:
        return getattr(importlib.import_module(".integrations.torchmetrics", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
