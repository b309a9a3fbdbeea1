"""Scores of folders of extracted features: what the command `torch-trf score` does."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import distributed

from ._checks import require_ignore_index
from ._collectives import failing_together, gathered_objects, rank
from ._files import PathLike
from .features import FeatureFolder
from .metrics import DEFAULT_METRICS, MetricLike, TransferabilityMetric, as_metrics
from .pixels import classes_up_to
from .sampling import Sampling
from .score import Score, Scorer
from .transport import SolverLike

Folder = PathLike | FeatureFolder


def score_folder(
    target: Folder,
    *,
    source: Folder | None = None,
    metrics: MetricLike | Sequence[MetricLike] = DEFAULT_METRICS,
    num_classes: int | None = None,
    num_source_classes: int | None = None,
    num_source_images: int | None = None,
    ignore_index: int = 255,
    sampling: Sampling = Sampling(),
    solver: SolverLike = "auto",
    device: torch.device | str | None = None,
    progress: bool = False,
) -> dict[str, Score]:
    """Scores a source model on a target data set, from folders of its features and of labels.

    Args:
        target: a path, as for `FeatureFolder`, or such a folder, which may have class scores, too.
        source: of the source data set, seen through the same model, for metrics that need a source.
        metrics: as for `Scorer`.
        num_classes: K; the largest target label plus one by default.
        num_source_classes: the largest source label plus one by default.
        num_source_images: how many source images to draw; all by default.
        ignore_index: label of the pixels to leave out, in both folders.
        sampling: as for `Scorer`.
        solver: as for `Scorer`.
        device: as for `Scorer`.
        progress: whether to show progress bars.

    Returns:
        The scores by name. Under torch.distributed the ranks share the images: rank 0 has the scores, the others none.

    Raises:
        ValueError: as `FeatureFolder` and `Scorer`, or class scores or a source that are missing.
        ConvergenceError: as `Scorer`.
        RuntimeError: a rank that ended.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, array in (("final", np.eye(12).reshape(3, 4, 12)), ("label", np.arange(48).reshape(4, 12) % 2)):
        ...     (folder / name).mkdir()
        ...     np.save(folder / name / "0.npy", array)
        >>> score_folder(folder, metrics="logme")["logme"].pixels
        48
    """
    metrics = as_metrics(metrics)
    target_side, source_side = folder_sides(
        target,
        source,
        metrics,
        num_classes=num_classes,
        num_source_classes=num_source_classes,
        num_source_images=num_source_images,
        ignore_index=ignore_index,
        seed=sampling.seed,
    )
    scorer = Scorer(
        metrics=metrics,
        num_classes=target_side.num_classes,
        num_source_classes=None if source_side is None else source_side.num_classes,
        ignore_index=ignore_index,
        sampling=sampling,
        solver=solver,
        device=device,
        all_ranks=distributed.is_initialized(),
        progress=progress and rank() == 0,
    )
    source_part = None if source_side is None else _part_of_rank(source_side.folder)
    statistics = scorer.collect(_part_of_rank(target_side.folder), source=source_part)
    return scorer.scores(statistics) if rank() == 0 else {}


@dataclass(frozen=True, slots=True)
class Side:
    """A data set that is compared, target or source, and how many classes it has."""

    folder: FeatureFolder
    num_classes: int

    def __str__(self) -> str:
        return f"{self.folder.path}: {len(self.folder)} images, {self.num_classes} classes"


def folder_sides(
    target: Folder,
    source: Folder | None,
    metrics: Sequence[TransferabilityMetric],
    *,
    num_classes: int | None = None,
    num_source_classes: int | None = None,
    num_source_images: int | None = None,
    ignore_index: int = 255,
    seed: int = 0,
    **subfolders: str,
) -> tuple[Side, Side | None]:
    """The target and, where a metric compares two data sets, the source; class scores where a metric reads them.

    Args:
        target: as for `score_folder`.
        source: as for `score_folder`.
        metrics: which are asked for.
        num_classes: as for `score_folder`.
        num_source_classes: as for `score_folder`.
        num_source_images: as for `score_folder`.
        ignore_index: as for `score_folder`.
        seed: by which source images are drawn.
        **subfolders: features, labels and logits of what is given as a path, as for `FeatureFolder`.

    Raises:
        ValueError: as `FeatureFolder`, class scores or a source that are missing, or no labeled pixel.
    """
    require_ignore_index(ignore_index)
    coupled = [metric for metric in metrics if metric.needs_source]
    if coupled and source is None:
        raise ValueError(f"{coupled[0].name} compares two data sets: give source, or --source DIR")
    folder = _feature_folder(target, metrics, subfolders)
    num_classes = _num_classes(folder, num_classes, ignore_index, "num_classes")
    if source is None or not coupled:
        return Side(folder, num_classes), None
    other = _feature_folder(source, coupled, subfolders).draw(num_source_images, seed)
    num_source_classes = _num_classes(other, num_source_classes, ignore_index, "num_source_classes")
    return Side(folder, num_classes), Side(other, num_source_classes)


def _feature_folder(
    folder: Folder, metrics: Sequence[TransferabilityMetric], subfolders: Mapping[str, str]
) -> FeatureFolder:
    """A folder, whose class scores are read where a metric reads them."""
    readers = [metric.name for metric in metrics if metric.reads == "logits"]
    has_logits = folder.has_logits if isinstance(folder, FeatureFolder) else "logits" in subfolders
    if readers and not has_logits:
        raise ValueError(
            f"{readers[0]} reads the source model's class scores: say in which subfolder they are, by --logits NAME or"
            ' FeatureFolder(path, logits="NAME"); it is "final" where the files in final are class scores'
        )
    if isinstance(folder, FeatureFolder):
        return folder if readers else folder.without_logits()
    return FeatureFolder(folder, **{name: of for name, of in subfolders.items() if readers or name != "logits"})


def _num_classes(folder: FeatureFolder, num_classes: int | None, ignore_index: int, option: str) -> int:
    """The number of classes: as given, or the largest label plus one of all ranks; reads all labels."""
    if num_classes is not None:
        return num_classes
    with failing_together() if distributed.is_initialized() else nullcontext():
        labels = sorted(_part_of_rank(folder).class_counts(ignore_index))
    if distributed.is_initialized():
        labels = sorted({label for labels in gathered_objects(labels, None) for label in labels})
    if not labels:
        raise ValueError(f"{folder.path}: no labeled pixel: every label is ignore_index={ignore_index}")
    try:
        num_classes = classes_up_to(labels[-1])
    except ValueError as error:
        raise ValueError(f"{folder.path}: {error}") from error
    if labels[-1] >= 2 * len(labels):
        warnings.warn(
            f"{folder.path} has {len(labels)} different labels up to {labels[-1]}, taken as {labels[-1] + 1} classes;"
            f" if {labels[-1]} means 'ignore', give ignore_index, otherwise {option}",
            stacklevel=4,
        )
    return num_classes


def _part_of_rank(folder: FeatureFolder) -> FeatureFolder:
    """The images that this process reads; all of them where it is alone."""
    return folder.part(rank(), distributed.get_world_size()) if distributed.is_initialized() else folder
