"""Solvers as values: what they are equal to, how they are named, what they refuse."""

import math
import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch

from torch_trf.transport import Auto, Exact, Sinkhorn, Solver, as_solver

from .cases import random_problem, solve

SOLVERS = [Auto(), Exact(), Sinkhorn()]
every_value = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)


@every_value
def test_a_solver_is_a_value(solver):
    again = type(solver)()
    assert solver == again == eval(repr(solver)) == pickle.loads(pickle.dumps(solver))
    assert hash(solver) == hash(again)
    assert solver != type(solver)(strict=True)
    with pytest.raises(FrozenInstanceError):
        solver.strict = True


def test_solvers_of_other_options_are_others():
    solvers = {*SOLVERS, Sinkhorn(epsilon=0.01), Auto(sinkhorn=Sinkhorn(epsilon=0.01)), Sinkhorn(tolerance=0.01)}
    assert len(solvers) == len(SOLVERS) + 3


def test_defaults():
    expected = "Sinkhorn(strict=False, epsilon=0.005, relative_epsilon=True, tolerance=0.001, max_iterations=10000)"
    assert repr(Sinkhorn()) == expected
    assert repr(Auto()) == f"Auto(strict=False, sinkhorn={expected})"


@every_value
def test_what_is_taken_for_a_solver(solver):
    assert as_solver(solver) is solver
    path = f"torch_trf.transport.{type(solver).__name__}"
    for what in (solver.name, {"class_path": solver.name}, path, {"class_path": path, "init_args": {}}):
        assert as_solver(what) == solver
    assert as_solver({"class_path": solver.name, "init_args": {"strict": True}}) == type(solver)(strict=True)


def test_a_solver_in_the_arguments_of_another():
    sinkhorn = {"class_path": "sinkhorn", "init_args": {"epsilon": 0.01}}
    solver = as_solver({"class_path": "auto", "init_args": {"sinkhorn": sinkhorn}})
    assert solver == Auto(sinkhorn=Sinkhorn(epsilon=0.01))


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("simplex", "solver: 'simplex' is none of auto, exact, sinkhorn"),
        ({"class_path": "exact", "init_args": {"epsilon": 0.1}}, "solver: exact cannot be made: .*'epsilon'"),
        ({"class_path": "sinkhorn", "init_args": {"epsilon": 0}}, "epsilon must be above 0 and finite, not 0"),
        ({"class_path": "sinkhorn", "epsilon": 0.1}, "solver: .* is neither a path nor"),
        ("torch.nn.ReLU", "solver: torch.nn.ReLU makes a ReLU, not a Solver"),
    ],
)
def test_what_is_no_solver(what, message):
    with pytest.raises(ValueError, match=message):
        as_solver(what)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        (Sinkhorn, {"epsilon": 0.0}, "epsilon must be above 0 and finite, not 0"),
        (Sinkhorn, {"epsilon": -0.1}, "epsilon must be above 0 and finite, not -0.1"),
        (Sinkhorn, {"epsilon": math.nan}, "epsilon must be above 0 and finite, not nan"),
        (Sinkhorn, {"epsilon": math.inf}, "epsilon must be above 0 and finite, not inf"),
        (Sinkhorn, {"tolerance": 0.0}, "tolerance must be above 0 and finite, not 0"),
        (Sinkhorn, {"tolerance": math.nan}, "tolerance must be above 0 and finite, not nan"),
        (Sinkhorn, {"max_iterations": 0}, "max_iterations must be at least 1, not 0"),
        (Auto, {"sinkhorn": "sinkhorn"}, "sinkhorn must be Sinkhorn, not 'sinkhorn'"),
        (Sinkhorn, {"epsilon": "0.1"}, "epsilon must be float, not '0.1'"),
        (Exact, {"strict": "yes"}, "strict must be bool, not 'yes'"),
    ],
)
def test_bad_options_are_errors(solver, options, message):
    with pytest.raises(ValueError, match=message):
        solver(**options)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("solver", [Auto, Exact, Sinkhorn])
def test_a_misspelt_option_is_an_error_of_the_solver(solver):
    with pytest.raises(TypeError, match=rf"{solver.__name__}.*'epsilom'"):
        solver(epsilom=0.1)


@pytest.mark.parametrize("divisor", [0.5, 0.25])
def test_where_costs_are_divided(divisor):
    absolute, relative = Sinkhorn(epsilon=2.0, relative_epsilon=False), Sinkhorn(epsilon=2.0)
    divided = Sinkhorn(epsilon=2.0 / divisor, relative_epsilon=False)
    assert absolute.for_cost_divided_by(divisor) == divided
    assert Auto(sinkhorn=absolute).for_cost_divided_by(divisor) == Auto(sinkhorn=divided)
    for solver in (relative, Exact(), Auto(sinkhorn=relative)):
        assert solver.for_cost_divided_by(divisor) == solver


@pytest.mark.parametrize("strict", [False, True])
def test_auto_chooses_by_device_and_pixels(strict):
    auto = Auto(strict=strict, sinkhorn=Sinkhorn(epsilon=0.01))
    sinkhorn = Sinkhorn(strict=strict, epsilon=0.01)
    assert auto.choose(10_000, torch.device("cpu")) == Exact(strict=strict)
    assert auto.choose(10_001, torch.device("cpu")) == sinkhorn
    assert auto.choose(1, torch.device("cuda")) == sinkhorn
    assert Auto(sinkhorn=Sinkhorn(strict=True)).choose(1, torch.device("cuda")).strict
    for solver in (Exact(), sinkhorn):
        assert solver.choose(10_001, torch.device("cpu")) is solver


def test_a_solver_of_ones_own(device):
    class Patient(Sinkhorn):
        name = "patient"

    coupling = solve(random_problem(device=device), Patient(epsilon=0.5))
    assert isinstance(Patient(), Solver)
    assert coupling.solver == "patient"
