"""Road scenes made from nothing: cast by rays through each pixel, labeled and seeded."""

import math
from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ._labeled import IGNORED
from ._road_domains import MOST_THINGS, ROAD_DOMAINS, RoadDomain

ROAD_CLASSES = ("sky", "road", "building", "vegetation", "vehicle", "person", "pole")
SKY, ROAD, BUILDING, VEGETATION, VEHICLE, PERSON, POLE = range(len(ROAD_CLASSES))

LEAST_SIZE = 16  # rows and columns
MOST_SURFACES = 1 + 1 + 3 + 4 * MOST_THINGS  # sky, ground, fronts and things
FOCAL_LENGTH = 0.6  # in widths of the image
NEAREST, FARTHEST = 5.0, 90.0  # things, in meters
BACKDROP, SKY_DISTANCE = 140.0, 300.0  # meters
ROAD_WIDTH, PAVEMENT = 5.0, 2.0  # meters, half of the road and what is paved beside it
STOREY, FACADE = 3.2, 14.0  # meters, height of a floor and width of a house
BLOCKS = 32  # houses along a side, after which they come again
PALETTES = (  # red, green and blue of each class, here and elsewhere
    (
        (0.55, 0.71, 0.92),
        (0.36, 0.36, 0.38),
        (0.62, 0.50, 0.42),
        (0.24, 0.42, 0.17),
        (0.52, 0.20, 0.20),
        (0.72, 0.48, 0.40),
        (0.56, 0.57, 0.57),
    ),
    (
        (0.83, 0.80, 0.72),
        (0.64, 0.59, 0.52),
        (0.40, 0.44, 0.52),
        (0.52, 0.47, 0.22),
        (0.84, 0.84, 0.88),
        (0.26, 0.24, 0.46),
        (0.24, 0.21, 0.20),
    ),
)
VARIETY = (0.03, 0.03, 0.08, 0.05, 0.18, 0.15, 0.05)  # of a class's brightness from thing to thing
HUE = 0.6  # of red, green and blue apart, in shares of that
GRAIN = (0.04, 0.10, 0.08, 0.35, 0.06, 0.08, 0.05)  # of a class's surface, where its texture is 1
BONNET = 0.12  # of the image's height, that the camera's own car hides at most
BONNET_COLOR = 0.15
WARM = (0.45, 0.05, -0.4)  # what the warmest light adds to red, green and blue, in shares
SHADE = 0.35  # how much darker houses are that the sun does not see


class RoadScenes(Dataset[tuple[UInt8[Tensor, "3 H W"], Int64[Tensor, "H W"]]]):
    """Pictures of roads with the class of every pixel; as many as are wanted, and the same ones for the same seed.

    A road in perspective between houses and trees, with vehicles, people and poles, seen through the weather from a
    car, whose bonnet is ignored (255). Domains of the same seed show the same roads.

    Args:
        domain: how it looks there: a `RoadDomain`, or the name of one of `ROAD_DOMAINS`.
        num_images: how many pictures.
        height: of a picture, in pixels, at least 16.
        width: of a picture, in pixels, at least 16.
        seed: of everything random, at least 0.

    Raises:
        ValueError: a domain that is none, or numbers that make no sense.

    Example:
        >>> image, labels = RoadScenes("dusk", num_images=4, height=48, width=64)[0]
        >>> image.shape, image.dtype, labels.shape
        (torch.Size([3, 48, 64]), torch.uint8, torch.Size([48, 64]))
        >>> [ROAD_CLASSES[k] for k in labels.unique() if k != 255][:3]
        ['sky', 'road', 'building']
    """

    def __init__(
        self,
        domain: str | RoadDomain = "noon",
        num_images: int = 100,
        height: int = 96,
        width: int = 128,
        seed: int = 0,
    ) -> None:
        look = ROAD_DOMAINS.get(domain) if isinstance(domain, str) else domain
        if not isinstance(look, RoadDomain):
            raise ValueError(f"domain: {domain!r} is neither a RoadDomain nor one of {', '.join(ROAD_DOMAINS)}")
        for name, value, least in (
            ("num_images", num_images, 1),
            ("height", height, LEAST_SIZE),
            ("width", width, LEAST_SIZE),
            ("seed", seed, 0),
        ):
            if not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value}")
        self.domain = look
        self.num_images, self.height, self.width, self.seed = num_images, height, width, seed

    def __len__(self) -> int:
        """How many pictures there are."""
        return self.num_images

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 H W"], Int64[Tensor, "H W"]]:
        """A picture, over [0, 255], and its labels."""
        if not 0 <= index < self.num_images:
            raise IndexError(f"picture {index} of {self.num_images}")
        # What is there and how it looks are drawn apart, so that domains can show the same roads.
        layout, look = (_Chance(self.seed, index, part) for part in range(2))
        scene = _Camera.placed(self.domain, self.height, self.width, layout).sees(self.domain, layout)
        labels = scene.label.masked_fill(scene.is_bonnet, IGNORED)
        return _picture(scene, self.domain, look), labels


class _Chance:
    """Random numbers that some integers determine."""

    def __init__(self, *integers: int) -> None:
        [seed] = np.random.SeedSequence(integers).generate_state(1).tolist()  # torch takes 32 bits of a seed
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self._generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def smooth(self, rows: int, columns: int, height: int, width: int) -> Float[Tensor, "height width"]:
        """Normal noise on a coarse grid, continued smoothly between."""
        coarse = self.normal(1, 1, rows, columns)
        return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0, 0]


class _Surfaces(NamedTuple):
    """What rays may hit: where, and what it is there."""

    depth: Float[Tensor, "S H W"]  # meters; infinite where a ray misses
    label: Int64[Tensor, "S H W"]
    shade: Float[Tensor, "S H W"]  # of the drawing on it, from dark (-1) to bright (1)


class _Scene(NamedTuple):
    """What every ray hits first."""

    depth: Float[Tensor, "H W"]
    label: Int64[Tensor, "H W"]
    shade: Float[Tensor, "H W"]
    thing: Int64[Tensor, "H W"]  # which surface it is
    is_bonnet: Bool[Tensor, "H W"]


class _Camera(NamedTuple):
    """Rays `(right, up, 1)` through the pixels, from a point above the road and beside its middle."""

    right: Float[Tensor, "1 W"]
    up: Float[Tensor, "H 1"]
    height: float  # meters
    beside: float  # meters
    is_bonnet: Bool[Tensor, "H W"]

    @staticmethod
    def placed(domain: RoadDomain, height: int, width: int, layout: _Chance) -> "_Camera":
        """A camera somewhere on the right lane, that looks almost straight ahead."""
        row, column = torch.arange(height).unsqueeze(1) + 0.5, torch.arange(width).unsqueeze(0) + 0.5
        horizon, middle = layout.uniform(0.38, 0.5), layout.uniform(0.4, 0.6)
        beside, top = layout.uniform(0.5, 3.0), layout.uniform(0.0, BONNET)
        focal_length = FOCAL_LENGTH * width
        return _Camera(
            right=(column - middle * width) / focal_length,
            up=(horizon * height - row) / focal_length,
            height=domain.camera_height,
            beside=beside.item(),
            is_bonnet=row / height > 1 - top + top * (2 * column / width - 1) ** 2,
        )

    def sees(self, domain: RoadDomain, layout: _Chance) -> _Scene:
        """The scene, as it lies before the camera."""
        parts = [self._sky(layout), self._ground(), self._houses(domain, layout), self._things(domain, layout)]
        depth, label, shade = (torch.cat(part) for part in zip(*parts, strict=True))
        first = depth.argmin(0, keepdim=True)
        depth, label, shade = (each.gather(0, first)[0] for each in (depth, label, shade))
        return _Scene(depth, label, shade, first[0], self.is_bonnet)

    def _size(self) -> tuple[int, int]:
        return self.up.shape[0], self.right.shape[1]

    def _sky(self, layout: _Chance) -> _Surfaces:
        depth = torch.where(self.up >= 0, SKY_DISTANCE, math.inf).expand(1, *self._size())
        clouds = layout.smooth(5, 4, *self._size()).clamp(-1, 2) / 2
        return _Surfaces(depth, torch.full(depth.shape, SKY), clouds.unsqueeze(0))

    def _ground(self) -> _Surfaces:
        depth = torch.where(self.up < 0, -self.height / self.up, math.inf)
        across = (self.right * depth + self.beside).nan_to_num()
        depth = depth.expand_as(across)
        paved = across.abs() < ROAD_WIDTH + PAVEMENT
        line = (across.abs() < 0.12) & (depth % 8 < 4)
        kerb = (across.abs() - ROAD_WIDTH).abs() < 0.15
        shade = torch.where(line | kerb, 1.0, torch.where(across.abs() > ROAD_WIDTH, 0.2, 0.0))
        label = torch.where(paved, ROAD, VEGETATION)
        return _Surfaces(depth.unsqueeze(0), label.unsqueeze(0), torch.where(paved, shade, 0.0).unsqueeze(0))

    def _houses(self, domain: RoadDomain, layout: _Chance) -> _Surfaces:
        """Fronts along both sides of the road, and those that close the view; trees where nothing is built."""
        side = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1)
        distance = ROAD_WIDTH + PAVEMENT + layout.uniform(0.5, 7.0, 2, 1, 1) - side * self.beside
        beside = torch.where(self.right * side > 0, distance / (self.right * side), math.inf)
        ahead = torch.full((1, *self._size()), BACKDROP)
        depth = torch.cat([beside.expand(2, *self._size()), ahead])
        along = torch.cat([depth[:2], self.right * ahead]).nan_to_num(0.0, 0.0, 0.0)
        along = along + layout.uniform(0.0, FACADE, 3, 1, 1)
        up = self.height + self.up * depth

        is_built = layout.uniform(0.0, 1.0, 3, BLOCKS) < domain.buildings
        storeys, hedge = layout.uniform(1.5, 6.5, 3, BLOCKS).round(), layout.uniform(1.0, 5.0, 3, BLOCKS)
        top = torch.where(is_built, (storeys + 0.3) * STOREY, hedge)
        block = (along / FACADE).floor().long() % BLOCKS
        is_built, top = (each.gather(1, block.flatten(1)).reshape(block.shape) for each in (is_built, top))

        in_column = ((along / 2.6) % 1 - 0.5).abs() < 0.28
        in_row = (((up / STOREY) % 1 - 0.5).abs() < 0.25) & (up < top - 0.3 * STOREY)
        sunny = layout.uniform(0.0, 2.0).long()  # one side of the road
        shade = torch.where(torch.arange(3).reshape(3, 1, 1) == sunny, 0.0, -SHADE)
        shade = torch.where(in_column & in_row, shade - 0.8, shade)
        is_hit = (up >= 0) & (up < top) & (depth <= BACKDROP)
        label = torch.where(is_built, BUILDING, VEGETATION)
        return _Surfaces(torch.where(is_hit, depth, math.inf), label, torch.where(is_built, shade, 0.0))

    def _things(self, domain: RoadDomain, layout: _Chance) -> _Surfaces:
        """Trees, vehicles, people and poles, upright on the ground and facing the camera."""
        parts = []
        for kind in _KINDS:
            chance, near, side = layout.uniform(0.0, 1.0, 3, MOST_THINGS, 1, 1)
            away, wide, tall = layout.uniform(0.0, 1.0, 3, MOST_THINGS, 1, 1)
            depth = NEAREST * (FARTHEST / NEAREST) ** near  # evenly over the picture's rows
            across = (kind.nearest + (kind.farthest - kind.nearest) * away) * (2 * side - 1).sign() - self.beside
            width, height = (size * (0.8 + 0.4 * by) for size, by in ((kind.width, wide), (kind.height, tall)))
            width = width.maximum(depth * (self.right[0, 1] - self.right[0, 0]))  # a pixel, to be seen
            there = (chance < getattr(domain, kind.name) / MOST_THINGS).flatten()
            depth, across, width, height = (each[there] for each in (depth, across, width, height))
            is_hit, shade = kind.outline(
                (self.right * depth - across) / width, (self.height + self.up * depth) / height
            )
            label = torch.full(is_hit.shape, kind.label)
            parts.append((torch.where(is_hit, depth, math.inf), label, shade.expand(is_hit.shape)))
        return _Surfaces(*(torch.cat(part) for part in zip(*parts, strict=True)))


# Outlines: from places across (-1/2 to 1/2) and up (0 to 1) a thing, whether it is hit there, and its drawing.


def _tree(across: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    leaves = 0.85 + 0.15 * torch.sin(9 * across) * torch.sin(14 * up)
    crown = across.square() * 4 + ((up - 0.64) / 0.36).square() < leaves
    trunk = (across.abs() < 0.06) & (up >= 0) & (up < 0.5)
    return crown | trunk, 0.4 * (up - 0.6) - 0.3 * (up < 0.3)


def _vehicle(across: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    body = (across.abs() < 0.5) & (up > 0.1) & (up < 0.6)
    cabin = (up >= 0.6) & (up < 1) & (across.abs() < 0.44 - 0.25 * (up - 0.6))
    wheels = ((across.abs() - 0.32).abs() < 0.09) & (up >= 0) & (up <= 0.1)
    window = (up > 0.64) & (up < 0.9) & (across.abs() < 0.32)
    return body | cabin | wheels, -0.7 * window - 0.8 * (up < 0.15)


def _person(across: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    body = (across.abs() < 0.28 + 0.35 * up * (up < 0.6)) & (up >= 0) & (up < 0.82)
    head = (across / 0.28).square() + ((up - 0.9) / 0.1).square() < 1
    return body | head, 0.4 * (up > 0.82) - 0.4 * (up < 0.45)


def _pole(across: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return (across.abs() < 0.5) & (up >= 0) & (up < 1), 0.0 * up


class _Kind(NamedTuple):
    """Things that stand somewhere between `nearest` and `farthest` beside the middle of the road; sizes in meters."""

    name: str
    label: int
    width: float
    height: float
    nearest: float
    farthest: float
    outline: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


_KINDS = (
    _Kind("trees", VEGETATION, 4.5, 7.0, ROAD_WIDTH + PAVEMENT, ROAD_WIDTH + PAVEMENT + 3.0, _tree),
    _Kind("vehicles", VEHICLE, 2.0, 1.6, 1.5, ROAD_WIDTH - 0.8, _vehicle),
    _Kind("people", PERSON, 0.6, 1.75, ROAD_WIDTH - 1.0, ROAD_WIDTH + PAVEMENT, _person),
    _Kind("poles", POLE, 0.2, 6.0, ROAD_WIDTH + 0.3, ROAD_WIDTH + 0.8, _pole),
)


def _picture(scene: _Scene, domain: RoadDomain, look: _Chance) -> UInt8[Tensor, "3 H W"]:
    """The scene in its colors and its light, through the air and the camera."""
    here, elsewhere = torch.tensor(PALETTES)
    palette = here.lerp(elsewhere, domain.palette)
    things = (look.normal(1, MOST_SURFACES) + HUE * look.normal(3, MOST_SURFACES))[:, scene.thing]
    color = palette[scene.label].movedim(-1, 0) + torch.tensor(VARIETY)[scene.label] * things

    height, width = scene.label.shape
    grain = look.normal(height, width) + look.smooth(height // 4, width // 4, height, width)
    surface = scene.shade / 2 + torch.tensor(GRAIN)[scene.label] * grain
    color = color.clamp(0.02, 1) * (1 + domain.texture * surface)

    light = domain.light * (1 + domain.warmth * torch.tensor(WARM)).reshape(3, 1, 1)
    air = palette[SKY].mean() * light
    color = air.lerp(light * color, torch.exp(-scene.depth / domain.visibility))
    streaks = torch.nn.functional.interpolate(look.uniform(0.0, 1.0, 1, 1, -(-height // 4), width), (height, width))[0]
    color = torch.where(streaks < domain.precipitation, 0.5 * (color + light), color)
    color = color.masked_fill(scene.is_bonnet, BONNET_COLOR * domain.light)
    color = color + domain.noise * look.normal(3, height, width)
    return (255 * color.clamp(0, 1)).round().to(torch.uint8)
