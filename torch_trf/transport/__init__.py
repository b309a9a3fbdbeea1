"""Optimal couplings of source and target pixels, as the label mass that they carry."""

from ._as_solver import SOLVERS, SolverLike, as_solver
from ._auto import Auto
from ._couple import couple
from ._couple_jointly import JC_GAMMA, couple_jointly, couple_sides_jointly, label_distances
from ._coupling import Coupling
from ._exact import Exact
from ._sides import Sides
from ._sinkhorn import Sinkhorn
from ._solver import ConvergenceError, ConvergenceWarning, Solver

__all__ = [
    "JC_GAMMA",
    "SOLVERS",
    "Auto",
    "ConvergenceError",
    "ConvergenceWarning",
    "Coupling",
    "Exact",
    "Sides",
    "Sinkhorn",
    "Solver",
    "SolverLike",
    "as_solver",
    "couple",
    "couple_jointly",
    "couple_sides_jointly",
    "label_distances",
]
