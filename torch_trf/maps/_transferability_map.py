"""A map of tensors that lie in memory."""

import math
from collections.abc import Sequence

from jaxtyping import Float, Integer
from torch import Tensor

from ..metrics import MetricLike
from ..pixels import Pixels, Pool, class_scores, count_classes
from ..transport import SolverLike
from ._mapper import Mapper
from ._score_map import MIN_PIXELS, FirstLook, ScoreMap


def transferability_map(
    metric: MetricLike,
    features: Float[Tensor, "B D H W"],
    labels: Integer[Tensor, "B H W"],
    logits: Float[Tensor, "B Z H W"] | None = None,
    *,
    source: tuple[Float[Tensor, "B2 D H2 W2"], Integer[Tensor, "B2 H2 W2"]] | None = None,
    features_are_logits: bool = False,
    patch_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    pool: Pool = "dataset",
    first_look: FirstLook = "dataset",
    num_classes: int | None = None,
    num_source_classes: int | None = None,
    ignore_index: int = 255,
    min_pixels: int = MIN_PIXELS,
    fill_value: float = math.nan,
    solver: SolverLike = "auto",
) -> ScoreMap:
    """Where in the images a source model transfers well: a metric, patch by patch.

    Args:
        metric: as for `Mapper`.
        features: `[B, D, H, W]`, of any layer, on the CPU or a GPU.
        labels: `[B, H, W]`, target classes.
        logits: `[B, Z, H, W]`, the source model's class scores before softmax, for metrics that read them.
        source: features and labels of source images, likewise, for metrics that need a source. Each target patch is
            coupled with the source patch at the same place (`Mapper`), of all source images together.
        features_are_logits: whether the features are the source model's class scores.
        patch_size: height and width of a patch in pixels; one number for both.
        stride: rows and columns from one patch to the next; the size of a patch by default. 1 gives a value for
            every pixel at which a whole patch begins.
        pool: "dataset" for one map, of each position over all images; "image" for a map of every image.
        first_look: as for `Mapper`.
        num_classes: K; the largest label plus one by default.
        num_source_classes: Z; the largest source label plus one by default.
        ignore_index: label of the pixels to leave out.
        min_pixels: patches with fewer labeled pixels are not valid.
        fill_value: the value of patches that are not valid.
        solver: as for `Mapper`.

    Returns:
        The map: `values` `[H', W']` or `[B, H', W']`, where H' = (H - patch height) // row stride + 1 and W' alike.
        Rows and columns that are left at the bottom and on the right are dropped.

    Raises:
        ValueError: an unknown metric, a patch that does not fit into the images, class scores that a metric reads and
            that are not given, logits beside features that are class scores, or as a metric that is called. Patches
            without labeled pixels are no error.

    Example:
        >>> labels = torch.tensor([[[0, 0, 0, 1], [0, 0, 1, 1]]])
        >>> logits = torch.eye(2)[labels].movedim(-1, 1)
        >>> transferability_map(
        ...     "nce", logits, labels, features_are_logits=True, patch_size=2, min_pixels=1).values.tolist()
        [[0.0, 0.0]]

    Source: Y. Tan et al., "Efficient prediction of model transferability in semantic segmentation tasks", ICIP 2023
    (maps by patch); the metrics as in `torch_trf.metrics`.
    """
    pixels = Pixels.of(features, labels, class_scores(features, logits, features_are_logits))
    source_pixels = None if source is None else Pixels.of(*source)
    if source_pixels is not None:
        num_source_classes = count_classes(source_pixels.labels, num_source_classes, ignore_index)
    mapper = Mapper(
        metric=metric,
        patch_size=patch_size,
        num_classes=count_classes(pixels.labels, num_classes, ignore_index),
        stride=stride,
        pool=pool,
        first_look=first_look,
        ignore_index=ignore_index,
        min_pixels=min_pixels,
        fill_value=fill_value,
        num_source_classes=num_source_classes,
        solver=solver,
    )
    return mapper([pixels], source=None if source_pixels is None else [source_pixels])
