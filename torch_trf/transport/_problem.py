"""Transport problems side by side, each in units of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from .._entries import Entries
from ._costs import c_transform

ROUNDING = 1e-14  # of a mean, relative to the largest number in it


@dataclass(frozen=True, slots=True, eq=False)
class Problem(Entries):
    """Points, labels and weights of transport problems, side by side.

    Each side is moved so that its mean is 0, and the points are scaled so that the mean cost over all pairs is 1 then.
    What labels cost is written as further coordinates, whose squared distances are that cost and a part of either pixel
    alone. All of this changes what couplings cost by the same amount, so none of it changes which one is optimal.

    Attributes:
        source: points.
        source_labels: in `[0, Z)`; negative where there is no pixel.
        source_weight: equal for all pixels and 1 in sum; 0 where there is no pixel.
        target: points.
        target_labels: in `[0, K)`; negative where there is no pixel.
        target_weight: as of the source.
        unit: cost, in units of the features squared, of what costs 1 here.
        surplus: what every coupling pays more here than in truth, in these units.
        mean_cost: in truth, over all pairs, in these units; 1 where nothing costs anything.
        num_classes: K.
        num_source_classes: Z.
        precision: of the features, at least single.
    """

    source: Float64[Tensor, "*problems N E"]
    source_labels: Int64[Tensor, "*problems N"]
    source_weight: Float64[Tensor, "*problems N"]
    target: Float64[Tensor, "*problems M E"]
    target_labels: Int64[Tensor, "*problems M"]
    target_weight: Float64[Tensor, "*problems M"]
    unit: Float64[Tensor, "*problems"]
    surplus: Float64[Tensor, "*problems"]
    mean_cost: Float64[Tensor, "*problems"]
    num_classes: int
    num_source_classes: int
    precision: torch.dtype

    @classmethod
    def of(
        cls,
        features: Float[Tensor, "problems M D"],
        labels: Int64[Tensor, "problems M"],
        *,
        source: tuple[Float[Tensor, "problems N D"], Int64[Tensor, "problems N"]],
        num_classes: int,
        num_source_classes: int,
        label_cost: Float64[Tensor, "problems K Z"] | None = None,
    ) -> "Problem":
        """Problems for the squared Euclidean distance plus what labels cost; a negative label stands for no pixel."""
        source_features, source_labels = source
        weights = [_uniform(source_labels), _uniform(labels)]
        points = [
            x.to(torch.float64).where((weight > 0).unsqueeze(-1), 0)
            for x, weight in zip((source_features, features), weights, strict=True)
        ]
        points, shift = _centered(points, weights)
        # Squares of very large or very small numbers would leave the range of double precision.
        magnitude = torch.maximum(torch.maximum(*(x.abs().amax((-2, -1)) for x in points)), shift.abs().amax(-1))
        if label_cost is not None:
            magnitude = torch.maximum(magnitude, label_cost.amax((-2, -1)).sqrt())
        magnitude = _or_one(magnitude)
        points = [x / magnitude[:, None, None] for x in points]
        surplus = -(shift / magnitude[:, None]).square().sum(-1)
        if label_cost is not None:
            cost = label_cost / magnitude.square()[:, None, None]
            coordinates = _label_coordinates(cost, source_labels, labels, weights[0])
            surplus = surplus + mean_squares(coordinates, weights)
            coordinates, shift = _centered(coordinates, weights)
            surplus = surplus - shift.square().sum(-1)
            points = [torch.cat(pair, -1) for pair in zip(points, coordinates, strict=True)]
        squares = mean_squares(points, weights)
        scale = _or_one(squares)
        source_points, target_points = (x / scale.sqrt()[:, None, None] for x in points)
        precision = torch.promote_types(torch.promote_types(source_features.dtype, features.dtype), torch.float32)
        return cls(
            source=source_points,
            source_labels=source_labels,
            source_weight=weights[0],
            target=target_points,
            target_labels=labels,
            target_weight=weights[1],
            unit=magnitude.square() * scale,
            surplus=surplus / scale,
            mean_cost=_or_one((squares - surplus) / scale),
            num_classes=num_classes,
            num_source_classes=num_source_classes,
            precision=precision,
        )

    def lower_bound(self, target_potential: Float64[Tensor, "problems M"]) -> Float64[Tensor, "problems"]:
        """What every coupling costs at least, in these units: the dual value of a target potential."""
        is_pixel = self.target_weight > 0
        target_value = (self.target_weight * target_potential).sum(-1)
        source_potential = c_transform(self.source, self.target, target_potential.where(is_pixel, -math.inf))
        return target_value + (self.source_weight * source_potential).sum(-1)


def _uniform(labels: Int64[Tensor, "problems n"]) -> Float64[Tensor, "problems n"]:
    is_pixel = (labels >= 0).to(torch.float64)
    return is_pixel / is_pixel.sum(-1, keepdim=True).clamp(min=1)


def _centered(
    points: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[list[Tensor], Float64[Tensor, "problems E"]]:
    """Both sides around their own means, and how far these lie apart; rounding alone moves no point."""
    means = [weight.unsqueeze(-2) @ x for x, weight in zip(points, weights, strict=True)]
    noise = ROUNDING * torch.maximum(*(x.abs().amax((-2, -1), keepdim=True) for x in points))
    differences = [
        (x - mean) * (weight > 0).unsqueeze(-1) for x, mean, weight in zip(points, means, weights, strict=True)
    ]
    source, target, shift = (
        x.where(x.abs().amax((-2, -1), keepdim=True) > noise, 0) for x in (*differences, means[0] - means[1])
    )
    return [source, target], shift.squeeze(-2)


def mean_squares(points: Sequence[Tensor], weights: Sequence[Tensor]) -> Float64[Tensor, "problems"]:
    """The mean square of the source points plus that of the target points."""
    source, target = ((weight * x.square().sum(-1)).sum(-1) for x, weight in zip(points, weights, strict=True))
    return source + target


def _or_one(value: Float64[Tensor, "problems"]) -> Float64[Tensor, "problems"]:
    """What can be divided by: problems in which nothing costs anything have any unit."""
    return torch.where(value > 0, value, 1)


def _label_coordinates(
    cost: Float64[Tensor, "problems K Z"],
    source_labels: Int64[Tensor, "problems N"],
    target_labels: Int64[Tensor, "problems M"],
    source_weight: Float64[Tensor, "problems N"],
) -> list[Tensor]:
    r"""Points p, q of which $\lVert p_i - q_j \rVert^2$ is the cost of their labels and a part for either pixel alone.

    That is $-2 \langle p_i, q_j \rangle = $ cost$[y_j, z_i]$; all couplings pay the parts of single pixels alike.
    """
    classes = cost.shape[-2]
    per_class = torch.cat([cost.mT, cost.new_zeros(len(cost), 1, classes)], -2)  # the last row for no pixel
    source = per_class.take_along_dim((source_labels % per_class.shape[-2]).unsqueeze(-1), -2) / -2
    one_hot = torch.eye(classes + 1, classes, dtype=torch.float64, device=cost.device)
    target = one_hot[target_labels % (classes + 1)]
    # Of all ways to share a factor, the one with the least squares to be subtracted again.
    share = _or_one((source_weight * source.square().sum(-1)).sum(-1)).pow(0.25)[:, None, None]
    return [source / share, target * share]
