"""Transport problems side by side, each in units of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from .._entries import Entries
from ._costs import c_transform, shifted

VANISHING = 1e-10  # what is less, of a center, loses its digits where the center is subtracted
FEW = 0.01  # share of the pixels
OUTLYING = 1e3  # times the farthest values of every other channel


@dataclass(frozen=True, slots=True, eq=False)
class Problem(Entries):
    """Points, labels and weights of transport problems, side by side.

    Each side is moved so that its medians are 0, and the points are scaled so that the mean cost over all
    pairs is about 1 then, by powers of two, so that nothing is rounded.
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
        shift: how far the center of the source lies from that of the target.
        surplus: what the coordinates of labels cost more than labels in every coupling, in these units.
        mean_cost: in truth, over all pairs, in these units; 1 where nothing costs anything.
        num_channels: of the features, the first coordinates.
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
    shift: Float64[Tensor, "*problems E"]
    surplus: Float64[Tensor, "*problems"]
    mean_cost: Float64[Tensor, "*problems"]
    num_channels: int
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
        magnitude = _power_of_two(magnitude)
        points, shift = [x / magnitude[:, None, None] for x in points], shift / magnitude[:, None]
        surplus = torch.zeros_like(magnitude)
        if label_cost is not None:
            cost = label_cost / magnitude.square()[:, None, None]
            coordinates = _label_coordinates(cost, source_labels, labels, weights[0])
            surplus = mean_squares(coordinates, weights)
            coordinates, label_shift = _centered(coordinates, weights)
            points = [torch.cat(pair, -1) for pair in zip(points, coordinates, strict=True)]
            shift = torch.cat([shift, label_shift], -1)
        mean_cost = mean_squares(points, weights) - 2 * torch.linalg.vecdot(*_means(points, weights))
        scale = _power_of_two(mean_cost.sqrt())
        source_points, target_points = (x / scale[:, None, None] for x in points)
        precision = torch.promote_types(torch.promote_types(source_features.dtype, features.dtype), torch.float32)
        return cls(
            source=source_points,
            source_labels=source_labels,
            source_weight=weights[0],
            target=target_points,
            target_labels=labels,
            target_weight=weights[1],
            shift=shift / scale[:, None],
            unit=(magnitude * scale).square(),
            surplus=surplus / scale.square(),
            mean_cost=_or_one((mean_cost + _apart(points, weights, shift) - surplus) / scale.square()),
            num_channels=features.shape[-1],
            num_classes=num_classes,
            num_source_classes=num_source_classes,
            precision=precision,
        )

    def true_cost(self, cost: Float64[Tensor, "problems"]) -> Float64[Tensor, "problems"]:
        """What couplings cost in truth that cost this between the points, in these units."""
        sides = (self.source, self.target), (self.source_weight, self.target_weight)
        return cost + _apart(*sides, self.shift) - self.surplus

    def lower_bound(self, target_potential: Float64[Tensor, "problems M"]) -> Float64[Tensor, "problems"]:
        """What every coupling costs at least, in these units: the dual value of a target potential."""
        target_value = (self.target_weight * target_potential).sum(-1)
        target_potential = shifted(self.target, target_potential).where(self.target_weight > 0, -math.inf)
        source_potential = c_transform(self.source, self.target, target_potential)
        source_value = (self.source_weight * (source_potential + self.source.square().sum(-1))).sum(-1)
        return target_value + source_value

    def usual_cost(self) -> Float64[Tensor, "problems"]:
        """Of pixels as far from the medians as half of those off them, in these units; infinite where all lie there."""
        sides = (self.source, self.source_weight), (self.target, self.target_weight)
        source, target = (_usual_square(x, weight) for x, weight in sides)
        usual = source + target
        return torch.where(usual > 0, usual, math.inf)

    def farthest(self) -> str:
        """What lies farthest apart in the first problem, and what to do about it, in words."""
        sizes = torch.stack([*self.source[0].abs(), *self.target[0].abs(), self.shift[0].abs()]).amax(0)
        size, channel = float(sizes.max() * self.unit[0].sqrt()), int(sizes.argmax())
        if channel >= self.num_channels:
            return "what labels cost is far more than what features cost"
        others = sizes[: self.num_channels][torch.arange(self.num_channels, device=sizes.device) != channel]
        if len(others) and (sizes[channel] > OUTLYING * others).all():
            return f"channel {channel} has values that lie {size:.3g} apart; scale it, or leave such pixels out"
        return (
            f"many pixels lie far closer together than the farthest, {size:.3g} apart in channel {channel}, as those of"
            " saturated probabilities do; use the scores before softmax, or leave such pixels out"
        )


def _uniform(labels: Int64[Tensor, "problems n"]) -> Float64[Tensor, "problems n"]:
    is_pixel = (labels >= 0).to(torch.float64)
    return is_pixel / is_pixel.sum(-1, keepdim=True).clamp(min=1)


def _centered(
    points: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[list[Tensor], Float64[Tensor, "problems E"]]:
    """Both sides around centers of their own, and how far these lie apart; one center where that loses no digits."""
    centers = [_center(x, weight) for x, weight in zip(points, weights, strict=True)]
    source, target = _less(points, weights, centers)
    spread = torch.maximum(source.abs().amax(-2, keepdim=True), target.abs().amax(-2, keepdim=True))
    is_near = (centers[0] - centers[1]).abs() <= spread
    centers = [centers[0], centers[0].where(is_near, centers[1])]
    return _less(points, weights, centers), (centers[0] - centers[1]).squeeze(-2)


def _less(points: Sequence[Tensor], weights: Sequence[Tensor], centers: Sequence[Tensor]) -> list[Tensor]:
    """Points around centers, 0 where there is no pixel."""
    return [
        (x - center) * (weight > 0).unsqueeze(-1) for x, center, weight in zip(points, centers, weights, strict=True)
    ]


def _center(points: Float64[Tensor, "problems n E"], weight: Float64[Tensor, "problems n"]) -> Tensor:
    """The median of every coordinate, or 0 where the median would round many pixels away.

    The median is the value of a pixel: less that, what is constant is 0. And far pixels do not move it, which would
    round the others.
    """
    weight = weight.unsqueeze(-1)
    center = points.masked_fill(weight == 0, math.nan).nanmedian(-2, keepdim=True).values
    rounded = (points != 0) & (points.abs() < VANISHING * center.abs())
    return center.where((weight * rounded).sum(-2, keepdim=True) < FEW, 0)


def _usual_square(points: Float64[Tensor, "problems n E"], weight: Float64[Tensor, "problems n"]) -> Tensor:
    """The median of the squared distances from the medians, of pixels that do not lie there; 0 where all do."""
    pixels = points.where((weight > 0).unsqueeze(-1), math.nan)
    squares = (pixels - pixels.nanmedian(-2, keepdim=True).values).square().sum(-1)
    return squares.where(squares > 0, math.nan).nanmedian(-1).values.nan_to_num(0)


def _means(points: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    return [(weight.unsqueeze(-2) @ x).squeeze(-2) for x, weight in zip(points, weights, strict=True)]


def _apart(
    points: Sequence[Tensor], weights: Sequence[Tensor], shift: Float64[Tensor, "problems E"]
) -> Float64[Tensor, "problems"]:
    """How much more every coupling costs where the centers are so far apart."""
    source_mean, target_mean = _means(points, weights)
    return torch.linalg.vecdot(shift, shift + 2 * (source_mean - target_mean))


def mean_squares(points: Sequence[Tensor], weights: Sequence[Tensor]) -> Float64[Tensor, "problems"]:
    """The mean square of the source points plus that of the target points."""
    source, target = ((weight * x.square().sum(-1)).sum(-1) for x, weight in zip(points, weights, strict=True))
    return source + target


def _or_one(value: Float64[Tensor, "problems"]) -> Float64[Tensor, "problems"]:
    """What can be divided by: problems in which nothing costs anything have any unit."""
    return torch.where(value > 0, value, 1)


def _power_of_two(value: Float64[Tensor, "problems"]) -> Float64[Tensor, "problems"]:
    """The one below, by which numbers are divided without rounding; 1 for 0."""
    return torch.ldexp(torch.ones_like(value), torch.frexp(_or_one(value)).exponent - 1)


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
