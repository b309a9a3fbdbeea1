"""Transport: optimal couplings of source and target pixels, as the label mass that they carry."""

from ._couple import JC_GAMMA, couple, label_distances
from ._joint_label_mass import ConvergenceError, ConvergenceWarning, JointLabelMass, joint_label_mass
from ._options import Solver, SolverOptions

__all__ = [
    "JC_GAMMA",
    "ConvergenceError",
    "ConvergenceWarning",
    "JointLabelMass",
    "Solver",
    "SolverOptions",
    "couple",
    "joint_label_mass",
    "label_distances",
]
