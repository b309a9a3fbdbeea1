"""Accuracy of a nearest-neighbor classifier."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from .._checks import require_at_least
from ..statistics import NOT_DRAWN, PixelSample
from ._look import Look
from ._metric import TransferabilityMetric

DISTANCES = 2**22  # at most so many are held at once, 32 MiB
ROUNDING = 8e-12  # of the squared norm of a pixel and a squared distance from it: a matrix product rounds it by less
TIE = 1e-12  # of a distance: the square root of a sum over channels is rounded by less


@dataclass(frozen=True, kw_only=True)
class KNN(TransferabilityMetric):
    r"""How many pixels are classified rightly by those of the most similar features; a baseline.

    The leave-one-out accuracy of a k-nearest-neighbor classifier: every pixel is given the class that most of its
    neighbors have, all other pixels no farther away than the k-th nearest.

    $$ \mathrm{kNN} = \frac1N \sum_i \frac{[y_i \in C_i]}{|C_i|}, \qquad
       C_i = \arg\max_y |\{j \in \mathcal{N}_i : y_j = y\}|, \qquad
       \mathcal{N}_i = \{j \ne i : \lVert x_i - x_j \rVert \le r_i\} $$

    with $r_i$ the k-th smallest distance of pixel i from another. So the score depends neither on the order of pixels
    nor on how labels are numbered: pixels as far away as the k-th all vote, and where several classes have most votes,
    the pixel counts as the share that a blind choice among them would get right. Distances that differ by less than
    1e-12 of themselves are equal. In `[0, 1]`; 1 with a single class.

    Pixels of one image are neighbors of each other, the next pixel on the same object among them, so the score is
    optimistic about features that merely tell images apart: a new image has no such neighbors. The pixels of a patch
    are alike, whatever the features: there is no map.

    Time grows with the square of the number of pixels: on two cores 10,000 of 256 channels take about two seconds. A
    `Scorer` draws a sample where there are many more.

    Args:
        neighbors: k, the number of nearest pixels that vote for the class of a pixel; all others where there are fewer.
        softmax: whether to read the softmax of the features instead of the features.

    Raises:
        ValueError: less than one neighbor.

    Example:
        >>> features, labels = torch.tensor([[0.0], [1.0], [2.0], [9.0]]), torch.tensor([0, 0, 0, 1])
        >>> KNN(neighbors=1)(features, labels)
        tensor(0.7500, dtype=torch.float64)

    Sources, where the accuracy of a nearest-neighbor classifier stands for that after fine-tuning: J. Puigcerver et
    al., "Scalable transfer learning with expert models", ICLR 2021; C. Renggli et al., "Which model to transfer?
    Finding the needle in the growing haystack", CVPR 2022.
    """

    name: ClassVar = "knn"
    unit: ClassVar = "share"
    least_pixels: ClassVar = 2  # a pixel is no neighbor of its own

    neighbors: int = 5
    softmax: bool = False

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        require_at_least(1, neighbors=self.neighbors)

    @property
    def looks(self) -> tuple[Look, ...]:
        """The pixels themselves."""
        return (Look(PixelSample, softmax=self.softmax),)

    def score(self, sample: PixelSample) -> Float64[Tensor, "*batch"]:
        """The share of pixels that are classified rightly; NaN with fewer than two."""
        is_drawn = sample.labels != NOT_DRAWN
        features = sample.features.to(torch.float64).masked_fill(~is_drawn.unsqueeze(-1), 0)
        features = features * _power_of_two(features)
        one_hot = (sample.labels.unsqueeze(-1) == sample.labels.unique()).to(torch.float64)
        right = torch.zeros_like(features[..., 0])
        rows_at_once = max(DISTANCES // max(right.numel(), 1), 1)
        for first in range(0, right.shape[-1], rows_at_once):
            rows = slice(first, first + rows_at_once)
            votes = _are_neighbors(features, is_drawn, rows, self.neighbors).to(torch.float64) @ one_hot
            most = votes.amax(-1, keepdim=True)
            is_winner = votes == most
            share = (is_winner * one_hot[..., rows, :]).sum(-1) / is_winner.sum(-1)
            right[..., rows] = share.where(most[..., 0] > 0, torch.nan)  # without a neighbor there is no choice
        return right.where(is_drawn, 0).sum(-1) / sample.count

    def bounds(self, num_classes: int, channels: int) -> tuple[float, float]:
        """`[0, 1]`."""
        return 0.0, 1.0


def _power_of_two(features: Float64[Tensor, "*batch places D"]) -> Float64[Tensor, "*batch 1 1"]:
    """What brings features below 1 near it, so that their squares do not vanish."""
    exponent = features.abs().sum((-2, -1), keepdim=True).clamp(max=1).frexp().exponent
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), -exponent)


def _are_neighbors(
    features: Float64[Tensor, "*batch places D"], is_drawn: Bool[Tensor, "*batch places"], rows: slice, count: int
) -> Bool[Tensor, "*batch rows places"]:
    """Which pixels are neighbors of those in these rows."""
    # Centered, because an offset leaves the distances as they are and takes their digits.
    centered = features - features.sum(-2, keepdim=True) / is_drawn.sum(-1)[..., None, None]
    square = centered.square().sum(-1)
    distance = -2 * centered[..., rows, :] @ centered.mT  # squared, as is the radius
    distance += square[..., rows, None]
    distance += square.unsqueeze(-2)
    distance.masked_fill_(~is_drawn.unsqueeze(-2), torch.inf)
    distance.diagonal(rows.start, -2, -1).fill_(torch.inf)  # a pixel is no neighbor of its own
    nearest = distance.topk(min(count + 1, distance.shape[-1]), largest=False).values
    radius = nearest[..., :count][..., -1]
    margin = radius + ROUNDING * (square[..., rows] + radius)
    is_neighbor = (distance <= margin.unsqueeze(-1)) & distance.isfinite()
    # Where more pixels than asked for are as near, up to rounding, their distances are computed one by one.
    is_open = ~(nearest[..., -1] > margin) & ~radius.isinf() & is_drawn[..., rows]
    for entry in map(tuple, is_open.any(-1).nonzero().tolist()):
        is_neighbor[(*entry, is_open[entry])] = _are_exact_neighbors(
            features[entry], is_drawn[entry], rows.start + is_open[entry].nonzero().flatten(), count
        )
    return is_neighbor


def _are_exact_neighbors(
    features: Float64[Tensor, "places D"], is_drawn: Bool[Tensor, "places"], rows: Int64[Tensor, "rows"], count: int
) -> Bool[Tensor, "rows places"]:
    """The same by the differences of the features, which takes longer and keeps their digits."""
    # Of pixels that are the same, one is enough.
    distinct, which = features.unique(dim=0, return_inverse=True)
    asked, row = which[rows].unique(return_inverse=True)
    distance = torch.cdist(distinct[asked], distinct, compute_mode="donot_use_mm_for_euclid_dist")[row][:, which]
    distance.masked_fill_(~is_drawn, torch.inf)
    distance[torch.arange(len(rows), device=rows.device), rows] = torch.inf
    radius = distance.topk(min(count, distance.shape[-1]), largest=False).values[:, -1:]
    return (distance <= radius * (1 + TIE)) & distance.isfinite()
