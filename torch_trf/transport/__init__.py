"""Transport: optimal couplings of source and target pixels, as the label mass that they carry."""

from ._couple import couple, label_distances
from ._joint_label_mass import ConvergenceError, ConvergenceWarning, JointLabelMass, Solver, joint_label_mass

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "JointLabelMass",
    "Solver",
    "couple",
    "joint_label_mass",
    "label_distances",
]
