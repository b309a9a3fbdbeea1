"""An experiment that everybody can run: do scores predict which model fine-tunes best?"""

from ._experiment import FULL, QUICK, TARGET, Experiment, Plan
from ._model import SmallSegmenter
from ._training import Tuned

__all__ = ["FULL", "QUICK", "TARGET", "Experiment", "Plan", "SmallSegmenter", "Tuned"]
