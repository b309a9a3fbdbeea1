"""Statistics: the little that a metric must know of the pixels, small frozen values that merge by `+`."""

from ._class_scores import of_all_classes, require_channels
from ._faults import Faults, checked_classes
from ._joint_mass import JointMass
from ._log_likelihood import LogLikelihood
from ._moments import Moments
from ._pixel_sample import PixelSample
from ._ranks import all_reduce
from ._running import Running
from ._statistic import NOT_DRAWN, Statistic

__all__ = [
    "NOT_DRAWN",
    "Faults",
    "JointMass",
    "LogLikelihood",
    "Moments",
    "PixelSample",
    "Running",
    "Statistic",
    "all_reduce",
    "checked_classes",
    "of_all_classes",
    "require_channels",
]
