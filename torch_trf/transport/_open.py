"""Which part of an optimal plan double precision leaves open."""

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ._import import import_quietly

LOST_DIGITS = 1e-3  # of the least squared distance; reduced costs that may be wrong by more tell nothing of it


def distances_apart(source: Tensor, target: Tensor, ends: Int64[Tensor, "2 pairs"]) -> Float64[Tensor, "pairs"]:
    """Squared distances of pairs; infinite where both ends lie on each other, but 0 where only the square vanishes."""
    apart = source[ends[0]] - target[ends[1]]
    return apart.square().sum(-1).where((apart != 0).any(-1), torch.inf)


def open_share(
    source: Float64[Tensor, "N E"],
    target: Float64[Tensor, "M E"],
    ends: Int64[Tensor, "2 used"],
    flow: Float64[Tensor, "used"],
    tight: Int64[Tensor, "2 pairs"],
    slack: Float64[Tensor, "pairs"],
) -> float:
    """The share of the mass that might as well move along other pairs, because rounding hides which cost less.

    Mass can be moved around every cycle that goes forth along tight pairs and back along those that are used, at no
    cost that could be told. Such cycles lie in strongly connected parts that are no trees. Where distances tie, as on
    a grid, there are cycles, too, but nothing is hidden.

    Args:
        source: points.
        target: points.
        ends: of the pairs along which mass moves.
        flow: that mass.
        tight: all pairs that cost nothing above the potentials, but for the slack; with those that are used.
        slack: by how much that may be wrong.
    """
    distances = distances_apart(source, target, tight)
    if (slack <= LOST_DIGITS * distances.min()).all():
        return 0.0
    nodes = len(source) + len(target)
    forth, back = (torch.stack([pairs[0], pairs[1] + len(source)]) for pairs in (tight, ends))
    edges = torch.cat([forth, back.flip(0)], 1).numpy()
    graph = import_quietly("scipy.sparse").coo_array((np.ones(edges.shape[1]), (edges[0], edges[1])), (nodes, nodes))
    strong = import_quietly("scipy.sparse.csgraph").connected_components(graph, connection="strong")[1]
    part = torch.from_numpy(strong).long()
    inside = part[forth[0]] == part[forth[1]]
    has_cycle = part[forth[0, inside]].bincount(minlength=nodes) >= part.bincount(minlength=nodes)
    inside &= has_cycle[part[forth[0]]]
    hidden = inside & (slack > LOST_DIGITS * torch.where(inside, distances, torch.inf).min())
    is_open = part.new_zeros(nodes, dtype=torch.bool)
    is_open[part[forth[0, hidden]]] = True
    return float(flow[is_open[part[back[0]]] & (part[back[0]] == part[back[1]])].sum() / flow.sum())
