"""Costs of all pairs of source and target points less their potentials, a few rows at a time."""

from collections.abc import Iterator

import torch
from jaxtyping import Float64
from torch import Tensor

CHUNK_NUMBERS = 2**20  # of a matrix of costs, held at a time


def reduced_costs(
    source: Float64[Tensor, "*batch N E"],
    target: Float64[Tensor, "*batch M E"],
    source_potential: Float64[Tensor, "*batch N"],
    target_potential: Float64[Tensor, "*batch M"],
) -> Iterator[tuple[slice, Float64[Tensor, "*batch rows M"]]]:
    r"""Rows of $-2 \langle x_i, x'_j \rangle - f_i - g_j$, with the slice of the sources they are for.

    They lie in one piece of memory, which the next rows overwrite.

    Such costs differ from squared distances by $\lVert x_i \rVert^2 + \lVert x'_j \rVert^2$, which every coupling pays:
    potentials of the squared distances are `shifted`. The squares of few far points would cost the others all digits.

    One matrix product gives them, of points with two more coordinates. None is negative where the potentials are
    feasible, and where a coupling is optimal it moves mass along zeros alone.

    Example:
        >>> points, zero = torch.tensor([[0.0], [3.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        >>> next(reduced_costs(points, points, shifted(points, zero), shifted(points, zero)))[1].tolist()
        [[0.0, 9.0], [9.0, 0.0]]
    """
    left = torch.stack([-source_potential, torch.ones_like(source_potential)], -1)
    right = torch.stack([torch.ones_like(target_potential), -target_potential], -1)
    left, right = torch.cat([-2 * source, left], -1), torch.cat([target, right], -1).mT
    count = min(max(1, CHUNK_NUMBERS // right[..., 0, :].numel()), source.shape[-2])
    chunk = right.new_empty(*right.shape[:-2], count, right.shape[-1])
    for start in range(0, source.shape[-2], count):
        rows = slice(start, min(start + count, source.shape[-2]))
        yield rows, torch.matmul(left[..., rows, :], right, out=chunk[..., : rows.stop - start, :])


def shifted(
    points: Float64[Tensor, "*batch n E"], potential: Float64[Tensor, "*batch n"]
) -> Float64[Tensor, "*batch n"]:
    """A potential of squared distances as one of what `reduced_costs` are of."""
    return potential - points.square().sum(-1)


def c_transform(
    source: Float64[Tensor, "*batch N E"],
    target: Float64[Tensor, "*batch M E"],
    target_potential: Float64[Tensor, "*batch M"],
) -> Float64[Tensor, "*batch N"]:
    r"""The largest source potential that is feasible beside a target potential, both `shifted`.

    Example:
        >>> points = torch.tensor([[0.0], [3.0]], dtype=torch.float64)
        >>> c_transform(points, points, torch.tensor([1.0, -9.0], dtype=torch.float64)).tolist()
        [-1.0, -9.0]

    Source: C. Villani, "Optimal transport: old and new", 2009, definition 5.2.
    """
    zero = torch.zeros_like(source[..., 0])
    return torch.cat([rows.amin(-1) for _, rows in reduced_costs(source, target, zero, target_potential)], -1)
