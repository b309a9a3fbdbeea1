"""Domains of road scenes: what differs between the places where models learn and where they are needed."""

import math
from dataclasses import dataclass

MOST_THINGS = 24  # of a kind that a scene may hold
RANGES = {
    "light": (0.0, 10.0),
    "warmth": (-1.0, 1.0),
    "palette": (0.0, 1.0),
    "texture": (0.0, 10.0),
    "camera_height": (0.1, 1000.0),
    "visibility": (0.1, math.inf),
    "precipitation": (0.0, 1.0),
    "noise": (0.0, 10.0),
    "buildings": (0.0, 1.0),
} | dict.fromkeys(("trees", "vehicles", "people", "poles"), (0.0, float(MOST_THINGS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadDomain:
    """What a place and its weather look like, and what there is on its roads.

    Attributes:
        light: brightness, 1 at noon.
        warmth: color of the light, from -1 (blue) to 1 (red).
        palette: what things are painted with, from 0 to 1 between the palettes of two places.
        texture: contrast of surfaces; 0 is flat.
        camera_height: above the road, in meters.
        visibility: distance in meters at which fog leaves 37 % of a thing's color.
        precipitation: share of the picture over which rain or snow lies, half seen through.
        noise: of the camera, standard deviation in shares of the full scale.
        buildings: share of the roadside that is built up.
        trees: how many a scene has, on average and at most 24.
        vehicles: the same.
        people: the same.
        poles: the same.

    Raises:
        ValueError: a value out of its range.
    """

    light: float = 1.0
    warmth: float = 0.0
    palette: float = 0.0
    texture: float = 1.0
    camera_height: float = 1.4
    visibility: float = 2000.0
    precipitation: float = 0.0
    noise: float = 0.02
    buildings: float = 0.75
    trees: float = 5.0
    vehicles: float = 5.0
    people: float = 5.0
    poles: float = 5.0

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in [{low:g}, {high:g}], not {getattr(self, name)}")


ROAD_DOMAINS = {
    "noon": RoadDomain(),
    "dusk": RoadDomain(light=0.55, warmth=0.7, noise=0.04),
    "night": RoadDomain(light=0.25, warmth=-0.4, noise=0.06, people=2.0),
    "fog": RoadDomain(light=0.85, visibility=35.0, texture=0.6),
    "rain": RoadDomain(light=0.6, warmth=-0.3, visibility=150.0, precipitation=0.08, noise=0.04, people=3.0),
    "snow": RoadDomain(light=0.9, palette=0.4, visibility=120.0, precipitation=0.12, texture=0.6, trees=8.0),
    "desert": RoadDomain(light=1.1, warmth=0.4, palette=1.0, buildings=0.35, trees=1.0, people=2.0),
    "village": RoadDomain(palette=0.3, buildings=0.3, trees=12.0, vehicles=2.0, people=3.0),
    "avenue": RoadDomain(palette=0.5, camera_height=3.0, trees=8.0, vehicles=10.0, people=10.0, poles=8.0),
    "crossing": RoadDomain(light=0.9, camera_height=6.0, vehicles=8.0, people=14.0, poles=3.0),
    "evening": RoadDomain(
        light=0.5,
        warmth=0.5,
        palette=0.35,
        camera_height=2.2,
        visibility=200.0,
        precipitation=0.03,
        noise=0.05,
        trees=7.0,
    ),
}
