"""Transferability maps: a metric, patch by patch, over statistics that are not merged."""

from ._mapper import Mapper
from ._score_map import MIN_PIXELS, FirstLook, ScoreMap
from ._transferability_map import transferability_map

__all__ = ["MIN_PIXELS", "FirstLook", "Mapper", "ScoreMap", "transferability_map"]
