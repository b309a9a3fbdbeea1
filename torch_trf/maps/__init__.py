"""Transferability maps: a metric, patch by patch, over statistics that are not merged."""

from ._mapper import Mapper, transferability_map
from ._transferability_map import LOG_LIKELIHOODS, TransferabilityMap

__all__ = ["LOG_LIKELIHOODS", "Mapper", "TransferabilityMap", "transferability_map"]
