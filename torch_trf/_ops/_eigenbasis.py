"""The op `torch_trf::eigenbasis`: batches of small symmetric eigenproblems, and vectors expressed in their bases."""

import torch
from jaxtyping import Float64
from torch import Tensor

from ._checks import check_tensor
from ._registration import define, run

# Where Jacobi rotations are the faster way; larger matrices go to the library's solver, one after the other.
MOST_CHANNELS = {"cpu": 48, "cuda": 64}


def eigenbasis(
    matrix: Float64[Tensor, "*batch D D"], rows: Float64[Tensor, "*batch K D"]
) -> tuple[Float64[Tensor, "*batch D"], Float64[Tensor, "*batch K D"]]:
    r"""Eigenvalues of symmetric matrices $A = V \mathrm{diag}(\lambda) V^\top$, and rows R in the basis: R V.

    V itself is never formed, and the sign of a column of R V is arbitrary. Up to `MOST_CHANNELS` channels the kernels
    use cyclic Jacobi rotations (Golub and Van Loan, "Matrix Computations", 4th edition, section 8.5), many matrices at
    a time; beyond, `torch.linalg.eigh`.

    Args:
        matrix: `[..., D, D]`; the lower triangle is read.
        rows: `[..., K, D]`.

    Returns:
        The eigenvalues `[..., D]`, ascending, and R V `[..., K, D]`. A matrix that is not finite gives NaN. There is
        no backward.

    Raises:
        ValueError: shapes or devices that do not fit, or tensors that are not float64.

    Example:
        >>> values, rows = eigenbasis(torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double(), torch.ones(1, 2).double())
        >>> values.tolist(), [round(x, 6) for x in rows.square().flatten().tolist()]
        ([1.0, 3.0], [0.0, 2.0])
    """
    batch, channels = matrix.shape[:-2], matrix.shape[-1]
    check_tensor("matrix", matrix, (*batch, channels, channels), matrix.device)
    check_tensor("rows", rows, (*batch, *rows.shape[-2:-1], channels), matrix.device)
    if channels > MOST_CHANNELS.get(matrix.device.type, 0):
        return eigenbasis_reference(matrix, rows)
    return run("eigenbasis", matrix.contiguous(), rows.contiguous())


def eigenbasis_reference(matrix: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The op by the library's solver: what every kernel must agree with, and what runs where there is none."""
    finite = matrix.isfinite().all(-1).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(matrix.where(finite, 0))
    return values.where(finite.squeeze(-1), torch.nan), (rows @ vectors).where(finite, torch.nan)


def _shapes(matrix: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    return matrix.new_empty(matrix.shape[:-1]), rows.new_empty(rows.shape)


define(
    "eigenbasis",
    "(Tensor matrix, Tensor rows) -> (Tensor eigenvalues, Tensor coordinates)",
    eigenbasis_reference,
    _shapes,
)
