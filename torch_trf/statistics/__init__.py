"""Statistics: the little that a metric must know of the pixels, small frozen values that merge by `+`."""

from ._faults import Faults
from ._joint_mass import JointMass
from ._log_likelihood import LogLikelihood
from ._moments import Moments
from ._pixel_sample import PixelSample
from ._ranks import all_reduce
from ._running import Running
from ._statistic import Statistic

__all__ = ["Faults", "JointMass", "LogLikelihood", "Moments", "PixelSample", "Running", "Statistic", "all_reduce"]
