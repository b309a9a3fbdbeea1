"""The exact optimal coupling, by network simplex."""

import io
import warnings
from contextlib import redirect_stdout

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..statistics import Faults, JointMass

MAX_ITERATIONS = 100_000_000  # of the simplex; POT's default of 100,000 is too few for 10,000 pixels
MARGINAL_TOLERANCE = 1e-9  # L1, far above rounding and far below a pixel's weight


def joint_label_mass(
    source_features: Float[Tensor, "N D"],
    source_labels: Int64[Tensor, "N"],
    target_features: Float[Tensor, "M D"],
    target_labels: Int64[Tensor, "M"],
    *,
    num_classes: int,
    num_source_classes: int,
) -> JointMass:
    r"""The mass that an optimal coupling of source and target pixels moves between their classes.

    $$ \min_P \sum_{ij} P_{ij} \lVert x_i - x'_j \rVert^2 \quad \text{with} \quad P 1 = 1/N, \; P^\top 1 = 1/M,
       \; P \ge 0 $$

    solved exactly by POT's network simplex on the CPU, in double precision. Features on another device are copied to
    the host. Memory: about 24 bytes for each pair of pixels. Where features repeat, the optimal coupling is not unique
    and the mass may depend on the order of the pixels.

    Args:
        source_features: `[N, D]`, finite.
        source_labels: `[N]`, in `[0, Z)`.
        target_features: `[M, D]`, finite.
        target_labels: `[M]`, in `[0, K)`.
        num_classes: K, the number of target classes.
        num_source_classes: Z.

    Returns:
        `[K, Z]`, which sums to 1; on the target features' device.

    Raises:
        RuntimeError: the simplex did not end with a coupling.

    Example:
        >>> x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([0, 1])
        >>> joint_label_mass(x, y, x + 1, y, num_classes=2, num_source_classes=2).mass.tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    with redirect_stdout(io.StringIO()):  # POT imports KeOps, which prints that it found no GPU
        import ot

    source, target = (features.to("cpu", torch.float64).numpy() for features in (source_features, target_features))
    cost = ot.dist(source, target, metric="sqeuclidean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the log holds what POT warns of, and it becomes an error
        plan, log = ot.emd([], [], cost, numItermax=MAX_ITERATIONS, log=True)
    coupling = torch.from_numpy(plan).to_sparse()
    total_error = abs(float(coupling.values().sum()) - 1)
    if log["warning"] is not None or not total_error <= MARGINAL_TOLERANCE:
        raise RuntimeError(f"the exact coupling was not found: {log['warning']}, its mass is off by {total_error:.2g}")
    source_index, target_index = coupling.indices()
    mass = torch.zeros(num_classes, num_source_classes, dtype=torch.float64)
    classes = (target_labels.to("cpu")[target_index], source_labels.to("cpu")[source_index])
    mass.index_put_(classes, coupling.values(), accumulate=True)
    return JointMass(mass, Faults.none()).to(target_features.device)
