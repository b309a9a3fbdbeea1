"""Commands over folders of extracted features: score and map."""

import time
from dataclasses import fields
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from .._collectives import rank
from .._files import write_json
from .._versions import versions
from ..features import FeatureFolder, natural_files
from ..folders import Side, folder_sides, score_folder
from ..maps import Mapper
from ..metrics import METRICS, TransferabilityMetric, as_metric, as_metrics
from ..score import Score
from ..transport import Coupling
from ._configuration import MODE, add_configuration
from ._shared import (
    add_device,
    add_metric,
    add_metrics,
    add_sampling,
    add_solver,
    aligned,
    check_output,
    chosen_device,
    chosen_metrics,
    chosen_sampling,
    say,
)


def score_parser() -> ArgumentParser:
    """What `torch-trf score` asks."""
    parser = _folder_parser(
        "Scores a source model on a target data set, from the model's features on target pixels and the pixels' labels"
    )
    add_metrics(parser)
    add_sampling(parser)
    add_solver(parser)
    parser.add_argument("--output", type=str | None, metavar="FILE", help="JSON file to write the scores to")
    return parser


def map_parser() -> ArgumentParser:
    """What `torch-trf map` asks."""
    parser = _folder_parser(
        "Maps a metric over the images of a target data set, patch by patch, and draws it: from the model's features on"
        " target pixels and the pixels' labels, in images of one size"
    )
    add_metric(parser)
    own = {"metric", "num_classes", "num_source_classes", "ignore_index", "solver", "device", "progress"}
    parser.add_class_arguments(Mapper, as_group=False, as_positional=False, skip=own)
    add_solver(parser)
    parser.add_argument(
        "--scale",
        type=Literal["identity", "exp"],
        default="identity",
        help="whether to write the values or, as published maps of leep do, their exponential, of a metric that is a"
        f" mean log-likelihood ({', '.join(_log_likelihoods())})",
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
        parser_mode=MODE,
    )
    coupled = " and ".join(name for name, metric in METRICS.items() if metric.needs_source)
    add_configuration(parser)
    parser.add_argument("--target", type=str, required=True, metavar="DIR", help="features of the target data set")
    parser.add_argument(
        "--source", type=str | None, metavar="DIR", help=f"features of the source data set, for {coupled}"
    )
    parser.add_argument(
        "--num_classes", type=int | None, help="number of target classes; the largest label plus one by default"
    )
    parser.add_argument(
        "--num_source_classes", type=int | None, help="number of source classes; the largest label plus one by default"
    )
    parser.add_argument("--num_source_images", type=int | None, help="source images to draw; all by default")
    parser.add_argument("--ignore_index", type=int, default=255, help="label of the pixels to leave out")
    parser.add_class_arguments(FeatureFolder, as_group=False, as_positional=False, skip={"path"})
    add_device(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def score(options: Namespace) -> None:
    """Scores, writes the file, and only then prints the table: perhaps nobody reads it."""
    start = time.perf_counter()
    output = None if options.output is None else Path(options.output)
    if output is not None:
        check_output(output)
    given, device = chosen_metrics(options), chosen_device(options.device)
    metrics = as_metrics(given)
    target, source = _sides(options, metrics, options.seed)
    scores = score_folder(
        target.folder,
        source=None if source is None else source.folder,
        metrics=metrics,
        num_classes=target.num_classes,
        num_source_classes=None if source is None else source.num_classes,
        ignore_index=options.ignore_index,
        sampling=chosen_sampling(options),
        solver=options.solver,
        device=device,
        progress=True,
    )
    seconds = time.perf_counter() - start
    if rank() > 0:
        return  # rank 0 has the scores
    if output is not None:
        chosen = {"metrics": given, "num_classes": target.num_classes, "device": str(device)}
        if source is not None:
            chosen["num_source_classes"] = source.num_classes
        how = ("config", "trusted_modules", "output", "debug")
        settings = {name: value for name, value in vars(options).items() if name not in how}
        write_json(
            output,
            {
                "scores": {name: score.as_json() for name, score in scores.items()},
                "seconds": seconds,
                "target": options.target,
                "source": None if source is None else options.source,
                "num_classes": target.num_classes,
                "settings": settings | chosen,
                "versions": versions(),
            },
        )
    _print_sides(target, source)
    say(_table(scores))
    for name, each in scores.items():
        if each.coupling is not None:
            say(_coupling_line(name, each.coupling))
    say(f"scored in {seconds:.1f} s")
    if output is not None:
        say(f"written to {output}")


def map_(options: Namespace) -> None:
    """Maps, writes the array and the figure, and says what is in them."""
    from ..plots import check_pictures, draw_map, save_figure  # matplotlib is slow to import

    array, picture = (Path(f"{options.output}{suffix}") for suffix in (".npy", ".png"))
    for output in (array, picture):
        check_output(output)
    metric = as_metric(options.metric)
    if options.scale == "exp" and not metric.is_log_likelihood:
        raise ValueError(f"--scale exp is for {' and '.join(_log_likelihoods())}, not for {metric.name}")
    target, source = _sides(options, (metric,))
    pictures = [] if options.images is None else natural_files(options.images)
    if pictures and len(pictures) != len(target.folder):
        counts = f"{len(pictures)} files for {len(target.folder)} images of features"
        raise ValueError(f"--images {options.images} holds {counts}")
    if pictures:
        check_pictures(pictures, target.folder.image_size())
    mapper_options = {field.name: options[field.name] for field in fields(Mapper) if field.name in options} | {
        "metric": metric,
        "num_classes": target.num_classes,
        "num_source_classes": None if source is None else source.num_classes,
        "device": chosen_device(options.device),
        "progress": True,
    }
    score_map = Mapper(**mapper_options)(target.folder, source=None if source is None else source.folder)
    if options.scale == "exp":
        score_map = score_map.exp()
    rows, columns = score_map.values.shape[-2:]
    patches = f"patches of {_size_text(score_map.patch_size)} pixels, stride {_size_text(score_map.stride)}"
    pooled = " pooled" if options.pool == "dataset" else ""
    title = f"{score_map.name}, {target.folder.path.name}: {len(target.folder)} images{pooled}, {patches}"
    score_map.save(array)
    save_figure(draw_map(score_map, title=title, pictures=pictures, progress=True), picture)
    _print_sides(target, source)
    valid = score_map.values[score_map.valid]
    say(f"map     {rows} x {columns} {patches}; {len(valid):,} of {score_map.valid.numel():,} patches valid")
    if len(valid):
        mean, least, largest = (f"{round(x.item(), 6) + 0.0:.6f}" for x in (valid.mean(), valid.min(), valid.max()))
        say(f"{score_map.name}  mean {mean}, from {least} to {largest} {score_map.unit}; higher is better")
        if score_map.coupling is not None:
            say(_coupling_line(score_map.name, score_map.coupling))
    say(f"written to {array} and {picture}")


def _sides(options: Namespace, metrics: tuple[TransferabilityMetric, ...], seed: int = 0) -> tuple[Side, Side | None]:
    """The data sets that the options name."""
    return folder_sides(
        options.target,
        options.source,
        metrics,
        num_classes=options.num_classes,
        num_source_classes=options.num_source_classes,
        num_source_images=options.num_source_images,
        ignore_index=options.ignore_index,
        seed=seed,
        **{name: options[name] for name in ("features", "labels", "logits") if options[name] is not None},
    )


def _print_sides(target: Side, source: Side | None) -> None:
    say(f"target  {target}")
    if source is not None:
        say(f"source  {source}")


def _coupling_line(name: str, coupling: Coupling) -> str:
    """In a line, how well source and target were coupled: the mean cost, and the worst of all couplings."""
    coupling = coupling[~coupling.cost.isnan()]  # of pixels
    how = "exactly"
    if coupling.epsilon.any():
        epsilon, iterations = coupling.epsilon.mean(), int(coupling.iterations.max())
        how = f"by {coupling.solver} (epsilon {epsilon:.3g}, up to {iterations:,} iterations)"
    cost, gap, error = coupling.cost.mean(), coupling.duality_gap.max(), coupling.marginal_error.max()
    failed = "" if coupling.converged.all() else "; NOT CONVERGED"
    quality = f"marginals within {error:.1e}, cost {cost:.6g}, at most {gap:.3g} above the least{failed}"
    return f"{name} coupled {how}: {quality}"


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _log_likelihoods() -> list[str]:
    return [name for name, metric in METRICS.items() if metric.is_log_likelihood]


def _table(scores: dict[str, Score]) -> str:
    """The scores for the terminal: standard deviation over repeats, or standard error, behind the ±."""
    rows = [("metric", "score", "±", "unit", "pixels", "repeats")]
    for name, score in scores.items():
        spread = score.std if score.std is not None else score.standard_error
        rows.append(
            (
                name,
                f"{score.score:.6f}",
                "" if spread is None else f"{spread:.6f}",
                score.unit,
                f"{score.pixels:,}",
                str(len(score.values)),
            )
        )
    return aligned(rows, left={0, 3})
