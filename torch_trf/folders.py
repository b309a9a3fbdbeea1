"""Scores of folders of extracted features: what the command `torch-trf score` does."""

import warnings
from collections.abc import Sequence

import torch
from torch import distributed

from ._collectives import gathered_objects, rank
from ._files import PathLike
from .features import FeatureFolder
from .metrics import DEFAULT_METRICS, MetricLike, TransferabilityMetric, as_metrics
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
    target = open_folder(target, metrics)
    scorer_source = None
    if coupled := [metric for metric in metrics if metric.needs_source]:
        if source is None:
            raise ValueError(f"{coupled[0].name} compares two data sets: a source is needed beside the target")
        source = open_folder(source, coupled, num_images=num_source_images, seed=sampling.seed)
        num_source_classes = folder_classes(source, num_source_classes, ignore_index, "num_source_classes")
        scorer_source = rank_part(source)
    scorer = Scorer(
        metrics=metrics,
        num_classes=folder_classes(target, num_classes, ignore_index, "num_classes"),
        num_source_classes=num_source_classes,
        ignore_index=ignore_index,
        sampling=sampling,
        solver=solver,
        device=device,
        all_ranks=distributed.is_initialized(),
        progress=progress and rank() == 0,
    )
    statistics = scorer.collect(rank_part(target), source=scorer_source)
    return scorer.scores(statistics) if rank() == 0 else {}


def open_folder(
    folder: Folder, metrics: Sequence[TransferabilityMetric], *, num_images: int | None = None, seed: int = 0
) -> FeatureFolder:
    """A folder, whose class scores are read where a metric reads them.

    Raises:
        ValueError: as `FeatureFolder`, or class scores that are missing.
    """
    if not isinstance(folder, FeatureFolder):
        folder = FeatureFolder(folder)
    folder = folder.draw(num_images, seed)
    readers = [metric.name for metric in metrics if metric.reads == "logits"]
    if readers and not folder.has_logits:
        raise ValueError(
            f"{readers[0]} reads the source model's class scores: say in which subfolder of {folder.path} they are, as"
            ' logits="logits", or logits="final" where the files in final are class scores'
        )
    return folder if readers else folder.without_logits()


def folder_classes(folder: FeatureFolder, num_classes: int | None, ignore_index: int, option: str) -> int:
    """The number of classes: as given, or the largest label plus one; reads all labels.

    Args:
        folder: of all ranks.
        num_classes: what was given.
        ignore_index: label of the pixels to leave out.
        option: what warnings call it.

    Raises:
        ValueError: no labeled pixel.
    """
    if num_classes is not None:
        return num_classes
    labels = sorted(rank_part(folder).class_counts(ignore_index))
    if distributed.is_initialized():
        labels = sorted({label for labels in gathered_objects(labels, None) for label in labels})
    if not labels:
        raise ValueError(f"{folder.path}: no labeled pixel: every label is ignore_index={ignore_index}")
    if labels[-1] >= 2 * len(labels):
        warnings.warn(
            f"{folder.path} has {len(labels)} different labels up to {labels[-1]}, taken as {labels[-1] + 1} classes;"
            f" if {labels[-1]} means 'ignore', give ignore_index={labels[-1]}, otherwise {option}",
            stacklevel=3,
        )
    return max(labels[-1] + 1, 1)


def rank_part(folder: FeatureFolder) -> FeatureFolder:
    """The images that this process reads; all of them where it is alone."""
    return folder.part(rank(), distributed.get_world_size()) if distributed.is_initialized() else folder
