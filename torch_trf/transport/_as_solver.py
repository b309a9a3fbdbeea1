"""What is taken for a solver: the value itself, its name, or a class with its arguments."""

from typing import Any

from .._class_path import instantiate
from ._auto import Auto
from ._exact import Exact
from ._sinkhorn import Sinkhorn
from ._solver import Solver

SolverLike = Solver | str | dict[str, Any]
SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in (Auto, Exact, Sinkhorn)}


def as_solver(what: SolverLike) -> Solver:
    """The solver that is meant.

    Args:
        what: a solver; "auto", "exact" or "sinkhorn", at its defaults; or `{"class_path": ..., "init_args": {...}}`
            with one of these names or the dotted path of a class.

    Raises:
        ValueError: a name that is none of these, arguments that the class does not take, or what makes no solver.

    Example:
        >>> as_solver("exact")
        Exact(strict=False)
        >>> as_solver({"class_path": "sinkhorn", "init_args": {"epsilon": 0.01}}).epsilon
        0.01
    """
    if isinstance(what, Solver):
        return what
    try:
        return instantiate(what, SOLVERS, kinds=(Solver,))
    except ValueError as error:
        raise ValueError(f"solver: {error}") from error
