"""Transferability maps: a metric, patch by patch, over statistics that are not merged."""

from ._mapper import Mapper, transferability_map
from ._score_map import LOG_LIKELIHOODS, MIN_PIXELS, ScoreMap

__all__ = ["LOG_LIKELIHOODS", "MIN_PIXELS", "Mapper", "ScoreMap", "transferability_map"]
