r"""Sums over the plan $P_{ij} = a_i b_j \exp(f_i + g_j - \lVert x_i - x'_j \rVert^2)$ of dual potentials f and g.

Costs and potentials are in units of epsilon. A matrix of all pairs is in memory, or there is none: then KeOps computes
the sums, or PyTorch where KeOps does not run.
"""

from copy import copy

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ._costs import reduced_costs, shifted
from ._import import import_quietly
from ._problem import Problem

FAR = 20.0  # potentials that far from the absorbed ones, in units of epsilon, would soon leave single precision
VANISHED = 80.0  # costs of which single precision leaves next to nothing
NO_PIXEL = -1e6  # an exponent whose exponential is 0; KeOps cannot be given an infinite one


class DenseKernel:
    """Keeps the plan of absorbed potentials, so that a sum over the plan of others is one product with a matrix.

    Args:
        problem: in units of epsilon; the matrix has its precision.
        target_potential: to begin with.
    """

    def __init__(self, problem: Problem, target_potential: Float64[Tensor, "p M"]) -> None:
        self.problem, self._dtype = problem, problem.precision
        self._absorb(target_potential)

    def follow(self, target_potential: Float64[Tensor, "p M"]) -> None:
        """Absorbs potentials that have moved far; waits for the device."""
        if FAR < (target_potential - self._target_potential).abs().amax() < torch.inf:  # what diverged is taken back
            self._absorb(target_potential)

    def some(self, index: Bool[Tensor, "p"]) -> "DenseKernel":
        """The kernel of some of the problems; where it is all of them, nothing is copied."""
        if index.all():
            return self
        kernel = copy(self)
        kernel.problem, kernel._rows = self.problem[index], self._rows[index]
        kernel._source_potential, kernel._target_potential = (
            self._source_potential[index],
            self._target_potential[index],
        )
        return kernel

    def source_potential(self, target_potential: Float64[Tensor, "p M"]) -> Float64[Tensor, "p N"]:
        """The source potential that makes the rows of the plan sum to the source weights."""
        total = self._rows_times((target_potential - self._target_potential).exp().unsqueeze(-1)).squeeze(-1)
        return self._source_potential - self._log(total)

    def target_potential(self, source_potential: Float64[Tensor, "p N"]) -> Float64[Tensor, "p M"]:
        """The target potential that makes the columns of the plan sum to the target weights."""
        factor = self._source_factor(source_potential).unsqueeze(-2).to(self._dtype)
        total = (factor @ self._rows).squeeze(-2).to(torch.float64)
        weight = self.problem.target_weight
        return self._target_potential + torch.where(weight > 0, weight.log() - self._log(total), 0)

    def plan_times(
        self,
        source_potential: Float64[Tensor, "p N"],
        target_potential: Float64[Tensor, "p M"],
        values: Float64[Tensor, "p M c"],
    ) -> Float64[Tensor, "p N c"]:
        """The product of the plan and a matrix."""
        right = (target_potential - self._target_potential).exp().unsqueeze(-1) * values
        return self._source_factor(source_potential).unsqueeze(-1) * self._rows_times(right)

    def _absorb(self, target_potential: Float64[Tensor, "p M"]) -> None:
        """Makes the matrix, in double precision; its rows sum to 1, so that no entry overflows."""
        problem = self.problem
        shape = (*problem.source_weight.shape, problem.target_weight.shape[-1])
        self._rows = torch.empty(shape, dtype=self._dtype, device=problem.source.device)
        self._source_potential = torch.zeros_like(problem.source_weight)
        self._target_potential = target_potential
        log_weight = problem.target_weight.log().unsqueeze(-2)
        potentials = shifted(problem.source, self._source_potential), shifted(problem.target, target_potential)
        for rows, costs in reduced_costs(problem.source, problem.target, *potentials):
            plan = log_weight - costs
            log_total = plan.logsumexp(-1)
            self._rows[..., rows, :] = (plan - log_total.unsqueeze(-1)).exp()
            self._source_potential[..., rows] = -log_total

    def _source_factor(self, source_potential: Tensor) -> Float64[Tensor, "p N"]:
        return self.problem.source_weight * (source_potential - self._source_potential).exp()

    def _rows_times(self, values: Tensor) -> Float64[Tensor, "p N c"]:
        return (self._rows @ values.to(self._dtype)).to(torch.float64)

    def _log(self, total: Tensor) -> Tensor:
        """The logarithm of a sum; where it underflows, the potential makes a large step and not an infinite one."""
        return total.clamp(min=torch.finfo(self._dtype).tiny).log()


class OnlineKernel:
    """Computes the plan anew for every sum, in memory for the points alone; of a single problem.

    Args:
        problem: in units of epsilon; a leading dimension of 1. The sums have its precision.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self._dtype = problem, problem.precision
        self._source, self._target = problem.source[0], problem.target[0]
        self._source_weight, self._target_weight = problem.source_weight[0], problem.target_weight[0]

    def follow(self, target_potential: Float64[Tensor, "1 M"]) -> None:
        """Nothing is absorbed."""

    def some(self, index: Bool[Tensor, "1"]) -> "OnlineKernel":
        """The kernel of the problem."""
        return self

    def source_potential(self, target_potential: Float64[Tensor, "1 M"]) -> Float64[Tensor, "1 N"]:
        """As `DenseKernel.source_potential`."""
        exponent = _weighted(target_potential[0], self._target_weight)
        return -self._log_sums(self._source, self._target, exponent).to(torch.float64).unsqueeze(0)

    def target_potential(self, source_potential: Float64[Tensor, "1 N"]) -> Float64[Tensor, "1 M"]:
        """As `DenseKernel.target_potential`."""
        return self.target_potential_at(self.problem.target, source_potential)

    def target_potential_at(
        self, points: Float64[Tensor, "1 m E"], source_potential: Float64[Tensor, "1 N"]
    ) -> Float64[Tensor, "1 m"]:
        """The same of other target points."""
        exponent = _weighted(source_potential[0], self._source_weight)
        return -self._log_sums(points[0], self._source, exponent).to(torch.float64).unsqueeze(0)

    def plan_times(
        self,
        source_potential: Float64[Tensor, "1 N"],
        target_potential: Float64[Tensor, "1 M"],
        values: Float64[Tensor, "1 M c"],
    ) -> Float64[Tensor, "1 N c"]:
        """As `DenseKernel.plan_times`."""
        right = _weighted(target_potential[0], self._target_weight)
        sums = self._sums(source_potential[0], right, values[0].to(self._dtype)).to(torch.float64)
        return (self._source_weight.unsqueeze(-1) * sums).unsqueeze(0)

    def _log_sums(
        self, points: Float64[Tensor, "n E"], others: Float64[Tensor, "m E"], exponent: Float64[Tensor, "m"]
    ) -> Float[Tensor, "n"]:
        """Logarithms of the sums over others of the exponential of their exponent less the squared distance."""
        raise NotImplementedError

    def _sums(
        self, left: Float64[Tensor, "N"], right: Float64[Tensor, "M"], values: Float[Tensor, "M c"]
    ) -> Float[Tensor, "N c"]:
        """Sums over the targets of values times the exponential of both exponents less the squared distance."""
        raise NotImplementedError


class KeopsKernel(OnlineKernel):
    """An `OnlineKernel` by KeOps, which compiles its sums when they are first asked for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        keops = import_quietly("pykeops.torch")
        self._vi, self._vj = keops.Vi, keops.Vj

    def _log_sums(self, points: Tensor, others: Tensor, exponent: Tensor) -> Tensor:
        i, j, of_j = self._vi(self._cast(points)), self._vj(self._cast(others)), self._vj(self._cast(exponent[:, None]))
        return (of_j - i.sqdist(j)).logsumexp(1).squeeze(-1)

    def _sums(self, left: Tensor, right: Tensor, values: Tensor) -> Tensor:
        i, j = self._vi(self._cast(self._source)), self._vj(self._cast(self._target))
        of_i, of_j = self._vi(self._cast(left[:, None])), self._vj(self._cast(right[:, None]))
        return ((of_i + of_j - i.sqdist(j)).exp() * self._vj(values)).sum(1)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype)


class ChunkedKernel(OnlineKernel):
    """An `OnlineKernel` in PyTorch alone, some rows of the plan at a time."""

    def _log_sums(self, points: Tensor, others: Tensor, exponent: Tensor) -> Tensor:
        none = torch.zeros_like(points[:, 0])
        potentials = shifted(points, none), shifted(others, exponent)
        logarithms = []
        for _, costs in reduced_costs(points, others, *potentials):
            least = costs.amin(-1, keepdim=True)
            logarithms.append(self._exponentials(costs.sub_(least)).sum(-1).log() - least.squeeze(-1))
        return torch.cat(logarithms)

    def _sums(self, left: Tensor, right: Tensor, values: Tensor) -> Tensor:
        potentials = shifted(self._source, left), shifted(self._target, right)
        rows = reduced_costs(self._source, self._target, *potentials)
        return torch.cat([self._exponentials(costs) @ values for _, costs in rows])

    def _exponentials(self, costs: Tensor) -> Tensor:
        """What costs leave of a mass; processors take ten times as long for numbers below the normal ones."""
        return costs.clamp_(max=VANISHED).neg_().to(self._dtype).exp_()


def _weighted(potential: Tensor, weight: Tensor) -> Tensor:
    """The potential with the logarithm of the weight; what has no weight lies below every exponent."""
    return torch.where(weight > 0, potential + weight.log(), NO_PIXEL)
