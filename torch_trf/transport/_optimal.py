"""The optimal plan between points: POT's network simplex over all pairs, or over those that turn out to matter."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ._costs import c_transform, reduced_costs, shifted
from ._import import import_quietly
from ._open import LOST_DIGITS, distances_apart, open_share

DENSE_POINTS = 1000  # up to so many on either side the simplex is given all pairs at once
NEAREST = 8  # pairs of each point that are tried first
TOLERANCES = (1e-10, 1e-13)  # of reduced costs; the second where the first leaves open which pairs are best
ROUNDING = 1e-14  # of potentials, in terms of the largest cost, for each point and coordinate
LEAST_REACH = 1e-6  # of the mean cost, where points and potentials are small
MAX_CORRECTIONS = 6  # of the potentials, until they are within the tolerance
MAX_PIVOTS = 100_000_000  # of the simplex; POT's default of 100,000 is too few for 10,000 points
LOST_MASS = 1e-9  # share, far above rounding and far below a pixel's weight


@dataclass(frozen=True, slots=True)
class Points:
    """Points of one side, how many pixels lie on each, and how many of their coordinates are features."""

    at: Float64[Tensor, "n E"]
    count: Int64[Tensor, "n"]
    num_channels: int

    @property
    def features(self) -> Float64[Tensor, "n D"]:
        """The points without what labels cost."""
        return self.at[:, : self.num_channels]

    def half(self) -> "Points":
        """Every second of them."""
        return Points(self.at[::2], self.count[::2], self.num_channels)


@dataclass(frozen=True, slots=True)
class Plan:
    """An optimal plan.

    Attributes:
        ends: source and target of the pairs along which mass moves.
        flow: that mass, where each pixel of the source gives one for each pixel of the target.
        target_potential: dual, `shifted`.
        rounds: how many times the simplex ran.
        open: share of the mass that might as well move along other pairs, for all that double precision can tell.
    """

    ends: Int64[Tensor, "2 pairs"]
    flow: Float64[Tensor, "pairs"]
    target_potential: Float64[Tensor, "M"]
    rounds: int
    open: float


def optimal_plan(source: Points, target: Points) -> Plan:
    """The plan of least cost.

    Where there are many points, the simplex is given few pairs: those nearest by the potentials of a problem with half
    the points, solved likewise. Its own potentials then tell which other pairs would lower the cost; these are added
    until there are none, and the plan is optimal over all pairs.

    The simplex rounds each potential by what the largest cost is worth. Where that is too much, as beside a pixel that
    lies far away, it runs again on what the costs are above these potentials, which corrects them. Then a cost that is
    more than all errors along a cycle of pairs is of no use, and is cut.

    Raises:
        RuntimeError: the simplex did not end with a coupling.
    """
    pairs, potentials = _start(source, target)
    if pairs is None:
        ends, flow, changes, largest = _simplex(source, target, potentials, pairs, math.inf)
        if _is_precise(source, target, ends, largest):
            return Plan(ends, flow, potentials[1] + changes[1], 1, 0.0)
    reach = _reach(source.at, target.at)
    tolerances, limit, rounds, added, corrections = list(TOLERANCES), math.inf, 0, 0, 0
    while True:
        rounds += 1
        ends, flow, changes, _ = _simplex(source, target, potentials, pairs, limit)
        potentials = _balanced(potentials[0] + changes[0], potentials[1] + changes[1])
        slack = (
            tolerances[0] * (reach[0] + potentials[0].abs()),
            tolerances[0] * (reach[1] + potentials[1].abs()),
        )
        # Where points lie near each other, few pairs more change little: every time twice as many are added.
        near, above = _nearest(source.at, target.at, potentials, slack, NEAREST * 2**added)
        used = reduced_of_pairs(source.at, target.at, potentials, ends)
        missed, kept = above < -_of_pairs(slack, near), used <= _of_pairs(slack, ends)
        known, pairs = pairs, None if pairs is None else _united(pairs, near, len(target.at))
        if known is not None and pairs is not None and missed.any() and len(pairs) > len(known):
            added += 1
        elif missed.any() or not kept.all():
            corrections += 1
            if corrections > MAX_CORRECTIONS:
                return Plan(ends, flow, potentials[1], rounds, 1.0)
        else:
            share = open_share(source.features, target.features, ends, flow, near, _of_pairs(slack, near))
            if share == 0 or len(tolerances) == 1:
                return Plan(ends, flow, potentials[1], rounds, share)
            del tolerances[0]
        wrong = torch.cat([-above[missed], used[~kept], slack[0].median()[None] + slack[1].median()])
        limit = 2 * (len(source.at) + len(target.at)) * float(wrong.max())


def _is_precise(source: Points, target: Points, ends: Int64[Tensor, "2 pairs"], largest: float) -> bool:
    """Whether what the simplex rounds is nothing beside usual distances, and those of the points that it couples."""
    rounding = ROUNDING * largest * (len(source.at) + len(target.at) + source.at.shape[-1])
    usual = [side.features.square().sum(-1).median() for side in (source, target)]
    return rounding <= LOST_DIGITS * float(min(*usual, distances_apart(source.features, target.features, ends).min()))


def _start(source: Points, target: Points) -> tuple[Tensor | None, tuple[Tensor, Tensor]]:
    """The pairs that the simplex is given first, None for all, and potentials to begin with."""
    if max(len(source.at), len(target.at)) <= DENSE_POINTS:
        zeros = torch.zeros_like(source.at[:, 0]), torch.zeros_like(target.at[:, 0])
        return None, (shifted(source.at, zeros[0]), shifted(target.at, zeros[1]))
    coarse = optimal_plan(source.half(), target.half()).target_potential
    source_potential = c_transform(source.at, target.at[::2], coarse)
    target_potential = c_transform(target.at, source.at, source_potential)
    both, mirrored = (source_potential, target_potential), (target_potential, source_potential)
    forth, _ = _nearest(source.at, target.at, both, None, NEAREST)
    back, _ = _nearest(target.at, source.at, mirrored, None, NEAREST)
    some = _feasible(source.count, target.count)
    return _united(some, torch.cat([forth, back.flip(0)], 1), len(target.at)), both


def _simplex(
    source: Points,
    target: Points,
    potentials: tuple[Tensor, Tensor],
    pairs: Int64[Tensor, "pairs"] | None,
    limit: float,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], float]:
    """Ends and flow of the best plan over some or all pairs, by reduced costs up to a limit.

    Also the changes of the potentials, and the largest cost.
    """
    if pairs is None:
        costs = torch.cat([rows.clone() for _, rows in reduced_costs(source.at, target.at, *potentials)])
    else:
        ends = torch.stack([pairs // len(target.at), pairs % len(target.at)])
        costs = reduced_of_pairs(source.at, target.at, potentials, ends)
    costs.clamp_(max=limit)
    unit = costs.abs().max().clamp(min=torch.finfo(costs.dtype).tiny)  # POT takes 1 for a small cost
    arcs = costs.div_(unit).numpy()
    if pairs is not None:
        arcs = import_quietly("scipy.sparse").coo_array((arcs, ends.numpy()), (len(source.at), len(target.at)))
    total = int(source.count.sum() * target.count.sum())
    # Whole numbers, so that no flow is rounded.
    masses = ((side.count * (total // side.count.sum())).to(costs.dtype).numpy() for side in (source, target))
    options = {"numItermax": MAX_PIVOTS, "log": True, "center_dual": False, "check_marginals": False}
    plan, log = import_quietly("ot").emd(*masses, arcs, **options)
    used = plan.nonzero() if pairs is None else (plan.row, plan.col)
    flow = plan[used] if pairs is None else plan.data
    error = abs(float(flow.sum() / total) - 1)
    if log["warning"] is not None or not error <= LOST_MASS:
        raise RuntimeError(f"the exact coupling was not found: {log['warning']}, its mass is off by {error:.2g}")
    changes = torch.from_numpy(log["u"]) * unit, torch.from_numpy(log["v"]) * unit
    ends = torch.from_numpy(np.stack(used).astype(np.int64))
    return ends, torch.from_numpy(flow), changes, float(unit)


def _balanced(source_potential: Tensor, target_potential: Tensor) -> tuple[Tensor, Tensor]:
    """The same potentials, so that those of most targets are small, whatever those of far ones are."""
    middle = target_potential.median()
    return source_potential + middle, target_potential - middle


def _reach(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The size of the numbers that costs of each point with usual others are made of."""
    norms = source.norm(dim=-1), target.norm(dim=-1)
    least = LEAST_REACH * sum(norm[norm > 0].median().nan_to_num() for norm in norms) ** 2
    return norms[0] * norms[1].median() + least, norms[1] * norms[0].median() + least


def _nearest(
    source: Float64[Tensor, "N E"],
    target: Float64[Tensor, "M E"],
    potentials: tuple[Tensor, Tensor],
    slack: tuple[Tensor, Tensor] | None,
    count: int,
) -> tuple[Int64[Tensor, "2 pairs"], Float64[Tensor, "pairs"]]:
    """For each source the targets of least reduced cost, of those that are within the slack, and these costs."""
    below = math.inf if slack is None else 0.0
    slack = slack or (torch.zeros_like(potentials[0]), torch.zeros_like(potentials[1]))
    ends, values = [], []
    raised = potentials[0] + slack[0], potentials[1] + slack[1]
    for rows, costs in reduced_costs(source, target, *raised):
        is_near = costs <= below
        if is_near.count_nonzero() <= count * len(costs):
            index = is_near.nonzero().T
        else:
            least, nearest = costs.topk(min(count, len(target)), largest=False, sorted=False)
            row, place = (least <= below).nonzero().T
            index = torch.stack([row, nearest[row, place]])
        values.append(costs[index[0], index[1]])
        ends.append(torch.stack([index[0] + rows.start, index[1]]))
    near = torch.cat(ends, 1)
    return near, torch.cat(values) + _of_pairs(slack, near)


def reduced_of_pairs(
    source: Tensor, target: Tensor, potentials: tuple[Tensor, Tensor], ends: Int64[Tensor, "2 pairs"]
) -> Float64[Tensor, "pairs"]:
    """The reduced costs of some pairs."""
    return -2 * torch.linalg.vecdot(source[ends[0]], target[ends[1]]) - _of_pairs(potentials, ends)


def _of_pairs(sides: tuple[Tensor, Tensor], ends: Int64[Tensor, "2 pairs"]) -> Tensor:
    """The sum of what both ends have."""
    return sides[0][ends[0]] + sides[1][ends[1]]


def _united(pairs: Int64[Tensor, "pairs"], ends: Int64[Tensor, "2 more"], targets: int) -> Int64[Tensor, "all"]:
    """Pairs as single numbers, with more of them."""
    return torch.cat([pairs, ends[0] * targets + ends[1]]).unique()


def _feasible(source_count: Int64[Tensor, "N"], target_count: Int64[Tensor, "M"]) -> Int64[Tensor, "pairs"]:
    """Pairs that suffice for some coupling: where mass goes that is moved in the order of the points."""
    begins = [
        (count.cumsum(0) - count) * other.sum()
        for count, other in ((source_count, target_count), (target_count, source_count))
    ]
    moved = torch.cat(begins).unique()
    source, target = (torch.searchsorted(begin, moved, right=True) - 1 for begin in begins)
    return source * len(target_count) + target
