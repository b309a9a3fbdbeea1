"""Commands over folders of extracted features: score and map."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from torch import distributed

from .._files import write_json
from .._versions import versions
from ..features import FeatureFolder, natural_files
from ..maps import LOG_LIKELIHOODS, Mapper
from ..score import Score, Scorer
from ..statistics._collectives import gathered_objects, rank
from ..table import METRICS, FeatureMetricName, MapMetricName, MetricName
from ._shared import NOT_ASKED, aligned, check_output, chosen_device

DEFAULT_METRICS = ["leep", "logme", "hscore", "nce"]


def score_parser() -> ArgumentParser:
    parser = _folder_parser(
        "Scores a source model on a target data set, from the model's features on target pixels and the pixels' labels"
    )
    parser.add_argument(
        "--metrics", type=MetricName, nargs="+", default=DEFAULT_METRICS, help="which metrics to compute"
    )
    parser.add_argument(
        "--softmax",
        type=FeatureMetricName,
        nargs="*",
        default=[],
        help="metrics that read the softmax of the features instead of the features",
    )
    parser.add_class_arguments(Scorer, as_group=False, as_positional=False, skip=NOT_ASKED)
    parser.add_argument("--output", type=str | None, metavar="FILE", help="JSON file to write the scores to")
    return parser


def map_parser() -> ArgumentParser:
    parser = _folder_parser(
        "Maps a metric over the images of a target data set, patch by patch, and draws it: from the model's features on"
        " target pixels and the pixels' labels, in images of one size"
    )
    parser.add_argument("--metric", type=MapMetricName, required=True, help="which metric to map; knn has no map")
    own = {"metric", "num_classes", "num_source_classes", "device", "progress"}
    parser.add_class_arguments(Mapper, as_group=False, as_positional=False, skip=own)
    parser.add_argument(
        "--scale",
        type=Literal["identity", "exp"],
        default="identity",
        help="whether to write the values or, as published maps of leep do, their exponential (leep and nce)",
    )
    parser.add_argument(
        "--images", type=str | None, metavar="DIR", help="pictures to draw the map over, in the order of the features"
    )
    parser.add_argument(
        "--output", type=str, required=True, metavar="STEM", help="write STEM.npy (float32) and STEM.png (a figure)"
    )
    return parser


def _folder_parser(description: str) -> ArgumentParser:
    """What all commands that read a folder of features ask."""
    parser = ArgumentParser(
        description=f"{description}, in the layout DIR/final/<k>.npy [D, H, W] with DIR/label/<k>.npy [H, W].",
        exit_on_error=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these options")
    parser.add_argument("--target", type=str, required=True, metavar="DIR", help="features of the target data set")
    parser.add_argument(
        "--source", type=str | None, metavar="DIR", help="features of the source data set, for otce and jc_otce"
    )
    parser.add_argument(
        "--num_classes", type=int | None, help="number of target classes; the largest label plus one by default"
    )
    parser.add_argument(
        "--num_source_classes", type=int | None, help="number of source classes; the largest label plus one by default"
    )
    parser.add_argument("--num_source_images", type=int | None, help="source images to draw; all by default")
    parser.add_class_arguments(FeatureFolder, as_group=False, as_positional=False, skip={"path", "num_images", "seed"})
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU if any")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def score(options: Namespace) -> None:
    output = None if options.output is None else Path(options.output)
    if output is not None:
        check_output(output)
    target = _folder(options, options.target, options.metrics)
    num_classes = _num_classes(target, options.num_classes, options.ignore_index, "--num_classes")
    source, num_source_classes = _source(options, options.metrics, options.seed)
    settings = {key: value for key, value in vars(options).items() if key not in ("config", "output", "debug")}
    settings |= {
        "num_classes": num_classes,
        "num_source_classes": num_source_classes,
        "device": str(chosen_device(options.device)),
    }
    scorer_options = {key: value for key, value in settings.items() if key in Scorer.__dataclass_fields__}
    for name in ("metrics", "softmax"):
        scorer_options[name] = tuple(scorer_options[name])
    scorer = Scorer(**scorer_options, all_ranks=distributed.is_initialized(), progress=rank() == 0)
    seconds: dict[str, float] = defaultdict(float)
    known = scorer.collect(_mine(target), None if source is None else _mine(source), seconds)
    if rank() > 0:
        return  # rank 0 has all that there is to know
    scores = scorer.scores(known, seconds)
    print(f"target  {target.path}: {len(target)} images, {num_classes} classes")
    if source is not None:
        print(f"source  {source.path}: {len(source)} images, {num_source_classes} classes")
    print(_table(scores))
    for name, score in scores.items():
        if score.coupling is not None:
            print(_trust(name, score.coupling))
    if output is not None:
        write_json(
            output,
            {
                "scores": {name: score.as_json() for name, score in scores.items()},
                "target": str(target.path),
                "source": None if source is None else str(source.path),
                "num_classes": num_classes,
                "settings": settings,
                "versions": versions(),
            },
        )
        print(f"written to {output}")


def map_(options: Namespace) -> None:
    from ..plots import check_pictures, draw_map, save_figure  # matplotlib is slow to import

    array, picture = (Path(f"{options.output}{suffix}") for suffix in (".npy", ".png"))
    for output in (array, picture):
        check_output(output)
    target = _folder(options, options.target, [options.metric])
    pictures = [] if options.images is None else natural_files(Path(options.images))
    if pictures and len(pictures) != len(target):
        raise ValueError(f"--images {options.images} holds {len(pictures)} files for {len(target)} images of features")
    if pictures:
        check_pictures(pictures, target.image_size())
    num_classes = _num_classes(target, options.num_classes, options.ignore_index, "--num_classes")
    given = {key: value for key, value in vars(options).items() if key in Mapper.__dataclass_fields__}
    source, num_source_classes = _source(options, [options.metric])
    given |= {"num_classes": num_classes, "num_source_classes": num_source_classes}
    given |= {"device": chosen_device(options.device), "progress": True}
    if options.scale == "exp" and options.metric not in LOG_LIKELIHOODS:
        raise ValueError(f"--scale exp is for {' and '.join(LOG_LIKELIHOODS)}, not for {options.metric}")
    made = Mapper(**given)(target, source)
    if options.scale == "exp":
        made = made.exp()
    rows, columns = made.values.shape[-2:]
    patches = f"patches of {_times(made.patch_size)} pixels, stride {_times(made.stride)}"
    pooled = f"{len(target)} images pooled" if options.pool == "dataset" else f"{len(target)} images"
    title = f"{made.metric}, {target.path.name}: {pooled}, {patches}"
    made.save(array)
    save_figure(draw_map(made, title=title, pictures=pictures, progress=True), picture)
    print(f"target  {target.path}: {len(target)} images, {num_classes} classes")
    if source is not None:
        print(f"source  {source.path}: {len(source)} images, {num_source_classes} classes")
    print(f"map     {rows} x {columns} {patches}; {int(made.valid.sum()):,} of {made.valid.numel():,} patches valid")
    if made.valid.any():
        found = made.values[made.valid]
        mean, least, largest = (f"{round(x.item(), 6) + 0.0:.6f}" for x in (found.mean(), found.min(), found.max()))
        print(f"{made.metric}  mean {mean}, from {least} to {largest} {made.unit}; higher is better")
        if made.coupling is not None:
            print(_trust(made.metric, made.coupling.diagnostics()))
    print(f"written to {array} and {picture}")


def _folder(options: Namespace, path: str, metrics: Sequence[str], **more: Any) -> FeatureFolder:
    """The folder, with class scores where a metric reads them."""
    reads_logits = any(METRICS[name].reads == "logits" for name in metrics)
    return FeatureFolder(
        path,
        feature_name=options.feature_name,
        label_name=options.label_name,
        logit_name=options.logit_name if reads_logits else None,
        **more,
    )


def _source(options: Namespace, metrics: Sequence[str], seed: int = 0) -> tuple[FeatureFolder | None, int | None]:
    """The source folder and its number of classes, where a metric couples source and target."""
    coupled = [name for name in metrics if METRICS[name].gamma is not None]
    if not coupled:
        return None, options.num_source_classes
    if options.source is None:
        raise ValueError(f"{coupled[0]} compares two data sets: give --source DIR")
    source = _folder(options, options.source, coupled, num_images=options.num_source_images, seed=seed)
    return source, _num_classes(source, options.num_source_classes, options.ignore_index, "--num_source_classes")


def _num_classes(folder: FeatureFolder, given: int | None, ignore_index: int, option: str) -> int:
    """The number of classes: as given, or the largest label plus one."""
    if given is not None:
        return given
    labels = sorted(_mine(folder).class_counts(ignore_index))
    if distributed.is_initialized():
        labels = sorted({label for labels in gathered_objects(labels, None) for label in labels})
    if not labels:
        raise ValueError(f"{folder.path}: no labeled pixel: every label is ignore_index={ignore_index}")
    if labels[-1] >= 2 * len(labels):
        warnings.warn(
            f"{folder.path} has {len(labels)} different labels up to {labels[-1]}, taken as {labels[-1] + 1} classes;"
            f" if {labels[-1]} means 'ignore', give --ignore_index {labels[-1]}, otherwise {option}",
            stacklevel=2,
        )
    return max(labels[-1] + 1, 1)


def _mine(folder: FeatureFolder) -> FeatureFolder:
    """The images that this process reads."""
    return folder.part(rank(), distributed.get_world_size()) if distributed.is_initialized() else folder


def _trust(name: str, diagnostics: dict[str, Any]) -> str:
    """In a line, how well source and target were coupled: the mean cost, and the worst of all couplings."""
    values = {key: torch.tensor(value, dtype=torch.float64) for key, value in diagnostics.items() if key != "solver"}
    numbers = {key: value[~values["cost"].isnan()] for key, value in values.items()}
    how = "exactly"
    if diagnostics["solver"] != "exact":
        epsilon, iterations = numbers["epsilon"].mean().item(), int(numbers["iterations"].max())
        how = f"by {diagnostics['solver']} (epsilon {epsilon:.3g}, up to {iterations:,} iterations)"
    cost, gap, error = numbers["cost"].mean(), numbers["duality_gap"].max(), numbers["marginal_error"].max()
    failed = "" if numbers["converged"].all() else "; NOT CONVERGED"
    trust = f"marginals within {error:.1e}, cost {cost:.6g}, at most {gap:.3g} above the least{failed}"
    return f"{name} coupled {how}: {trust}"


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _table(scores: dict[str, Score]) -> str:
    """The scores for the terminal: standard deviation over repeats, or standard error, behind the ±."""
    rows = [("metric", "score", "±", "unit", "pixels", "repeats", "seconds")]
    for name, score in scores.items():
        spread = score.std if score.std is not None else score.standard_error
        rows.append(
            (
                name,
                f"{score.score:.6f}",
                "" if spread is None else f"{spread:.6f}",
                METRICS[name].unit,
                f"{score.pixels:,}",
                str(len(score.repeats)),
                f"{score.seconds:.2f}",
            )
        )
    return aligned(rows, left={0, 3})
