"""Data sets of labeled images: folders, any that give pairs, and road scenes made from nothing."""

from ._folder import SegmentationFolder
from ._labeled import (
    IGNORED,
    LabeledData,
    LabeledImage,
    LabeledImages,
    read_batches,
)
from ._notes import DataWarning
from ._pictures import as_image, as_labels
from ._road_domains import ROAD_DOMAINS, RoadDomain
from ._road_scenes import ROAD_CLASSES, RoadScenes

__all__ = [
    "IGNORED",
    "ROAD_CLASSES",
    "ROAD_DOMAINS",
    "DataWarning",
    "LabeledData",
    "LabeledImage",
    "LabeledImages",
    "RoadDomain",
    "RoadScenes",
    "SegmentationFolder",
    "as_image",
    "as_labels",
    "read_batches",
]
