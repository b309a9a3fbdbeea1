"""The report of a ranking: one page that needs nothing beside it."""

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from jinja2 import Environment, StrictUndefined
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype, to_pil_image

from .._class_path import ClassPath
from .._files import PathLike, whole_file
from .._versions import versions
from ..datasets import IGNORED
from ..metrics import TransferabilityMetric
from ..plots import COLORS, OPACITY, PERCENTILES
from ._ranking import Ranking, map_patch_size
from ._store import Settings

DECIMALS = 4  # of every score
LEAST_SPAN = 10 * 10**-DECIMALS  # of an axis: less is not to be seen in the numbers either
MARGIN = 0.05  # of a chart, beyond the farthest score
TICK_INTERVALS = 5  # of an axis, at most
LARGEST_WIDTH = 640  # of the sample image
CLASS_COLORS = (("tab10", 10), ("tab20b", 20), ("tab20c", 20))  # in this order, then again
BY_CLASS = {  # what a metric's scores by class are, by what it is a mean over
    "classes": "The score of each class, of which {metric} is the mean",
    "pixels": "The mean over the pixels of each class; {metric} is the mean over all pixels",
}


def write_report(
    ranking: Ranking,
    image: Shaped[Tensor, "C H W"],
    labels: Int64[Tensor, "H W"],
    path: PathLike,
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes a ranking as one HTML file, which opens without a network; the whole file or nothing.

    It holds scores with their spread over repeats, each candidate's map over a sample image, scores by class, failures,
    doubts, settings and versions, and no date: the same ranking gives the same bytes.

    Args:
        ranking: what `Ranker` gave.
        image: the one that was mapped: over the range of an integer type, or floating point in [0, 1].
        labels: of its pixels; 255 is ignored.
        path: of the file.
        class_names: one for each class; by default those of the target's settings, or "class 0" and so on.

    Raises:
        ValueError: labels on another grid than the image, another number of names than of classes, labels that are no
            classes, or a map of another image.
        OSError: a file that cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from torch_trf.ranking import Ranking, Result
        >>> scores = {"logme": torch_trf.Score(score=0.3, values=(0.2, 0.4), pixels=500, unit="nats")}
        >>> result = Result(name="a", scores=scores, map=None, settings={}, seconds={})
        >>> ranking = Ranking(results=(result,), metrics=(torch_trf.logme,), by="logme", map_metric=torch_trf.leep,
        ...                   target={"dataset": "voc.Validation", "num_classes": 21}, shown=0)
        >>> image, labels = torch.rand(3, 60, 90), torch.randint(0, 21, (60, 90))
        >>> path = Path(tempfile.mkdtemp()) / "report.html"
        >>> write_report(ranking, image, labels, path)
        >>> "ranks first" in path.read_text(encoding="utf-8")
        True
    """
    num_classes = ranking.target["num_classes"]
    names = class_names or ranking.target.get("class_names") or [f"class {k}" for k in range(num_classes)]
    present = labels[labels != IGNORED].unique().tolist()
    if image.shape[1:] != labels.shape:
        raise ValueError(f"an image of {list(image.shape[1:])} pixels with labels on {list(labels.shape)}")
    if len(names) != num_classes:
        raise ValueError(f"{len(names)} class_names for num_classes={num_classes}")
    if wrong := [label for label in present if not 0 <= label < num_classes]:
        raise ValueError(f"label {wrong[0]} is outside [0, {num_classes}) and not {IGNORED}")
    page = _environment().from_string(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    colors = _class_colors()
    visible = image[:3] if len(image) >= 3 else image[:1]  # of images that have other bands
    picture = to_pil_image(to_dtype(visible, torch.uint8, scale=True)).convert("RGB")
    text = page.render(
        ranking=ranking,
        rows=ranking.rows(),
        by=next(metric for metric in ranking.metrics if metric.name == ranking.by),
        charts=[_chart(ranking, metric) for metric in ranking.metrics],
        maps=_maps(ranking, (labels.shape[0], labels.shape[1])),
        size=tuple(labels.shape),
        image=_scaled_uri(picture, Image.Resampling.LANCZOS, "JPEG", quality=85),
        labels=_labels_uri(labels, colors),
        legend=[(names[label], f"#{bytes(colors[label]).hex()}") for label in present],
        ignored=bool((labels == IGNORED).any()),
        opacity=OPACITY,
        heat_tables=[_heat_table(ranking, metric, names) for metric in ranking.metrics if metric.mean_over],
        versions=versions(),
    )
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Axis:
    """The values from one end of a scale to the other."""

    low: float
    high: float

    @staticmethod
    def over(values: Iterable[float], margin: float = 0.0) -> "Axis":
        """An axis that holds all values, and at either end a margin, in shares of their spread."""
        numbers = [float(value) for value in values]
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        middle, half = (low + high) / 2, (0.5 + margin) * max(high - low, LEAST_SPAN)
        return Axis(middle - half, middle + half)

    def place(self, value: float) -> str:
        """Where a value lies, as CSS and SVG say it."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def percent(self, value: float) -> int:
        """Where a value lies, in whole percent."""
        return round(100 * (value - self.low) / (self.high - self.low))

    @property
    def ticks(self) -> list[tuple[str, str]]:
        """Round values along the axis: their places and what they are called."""
        ticks = MaxNLocator(TICK_INTERVALS, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
        return [(self.place(tick), _number(tick, decimals)) for tick in ticks if self.low <= tick <= self.high]


def _environment() -> Environment:
    """Jinja with what the page says in numbers."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "one_line": _one_line, "indented": _indented, "sha256": _sha256}
    return environment


def _number(value: float, decimals: int = DECIMALS) -> str:
    """A number with a minus sign, which is as wide as a digit; none before zero."""
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _one_line(what: ClassPath) -> str:
    """A data set in one line: what makes it, and of what."""
    if not isinstance(what, dict):
        return str(what)
    arguments = ", ".join(f"{name}={value}" for name, value in what.get("init_args", {}).items())
    return f"{what['class_path'].rpartition('.')[2]}({arguments})"


def _indented(settings: Settings) -> str:
    return json.dumps(settings, indent=2, ensure_ascii=False, default=str)


def _sha256(text: str) -> str:
    """By what the page's policy knows the style and the script that are its own."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _chart(ranking: Ranking, metric: TransferabilityMetric) -> dict[str, Any]:
    """A metric's axis, and the candidates along it, best first."""
    name = metric.name
    rows = sorted(ranking.rows(), key=lambda row: -row[name])
    ends = [row[name] + sign * (row[f"{name}_std"] or 0.0) for row in rows for sign in (-1, 1)]
    return {"metric": metric, "axis": Axis.over(ends, MARGIN), "rows": rows}


def _maps(ranking: Ranking, size: tuple[int, int]) -> dict[str, Any]:
    """The candidates' maps as images, how much of the picture they cover, and the colors that they share.

    Raises:
        ValueError: a map that is not of an image of this size.
    """
    patch_size = map_patch_size(size)
    rows, columns = size[0] // patch_size, size[1] // patch_size  # the remainder at the border is in no patch
    tiles = {each.name: np.array(each.map, dtype=np.float64) for each in ranking.scored if each.map is not None}
    for name, values in tiles.items():
        if values.shape != (rows, columns):
            has = f"its map has {' x '.join(map(str, values.shape))} patches"
            raise ValueError(f"{name}: {has}, an image of {size[0]} x {size[1]} pixels {rows} x {columns}")
    finite = np.concatenate([values[np.isfinite(values)] for values in tiles.values()] or [np.empty(0)])
    axis = Axis.over(np.percentile(finite, PERCENTILES) if finite.size else ())
    norm, colors = Normalize(axis.low, axis.high), colormaps[COLORS]
    painted = {name: colors(norm(np.ma.masked_invalid(values)), bytes=True) for name, values in tiles.items()}
    return {
        "images": {name: _png_uri(picture) for name, picture in painted.items()},
        "holes": any(np.isnan(values).any() for values in tiles.values()),
        "patch_size": patch_size,
        "width": f"{100 * columns * patch_size / size[1]:.3f}%",
        "height": f"{100 * rows * patch_size / size[0]:.3f}%",
        "axis": axis,
        "bar": _png_uri(colors(np.linspace(0, 1, 256)[np.newaxis], bytes=True)),
    }


def _heat_table(ranking: Ranking, metric: TransferabilityMetric, names: Sequence[str]) -> dict[str, Any]:
    """Scores by class, of the candidates that have them, best first."""
    scores = {each.name: each.scores[metric.name].by_class for each in ranking.scored}
    columns = {name: by_class for name, by_class in scores.items() if by_class is not None}
    axis = Axis.over(value for column in columns.values() for value in column if value is not None)
    rows = list(zip(names, *columns.values(), strict=True))
    about = BY_CLASS[str(metric.mean_over)].format(metric=metric.name)
    return {"metric": metric, "about": about, "candidates": list(columns), "axis": axis, "rows": rows}


def _class_colors() -> np.ndarray:
    """Red, green and blue of every value that a label image may have."""
    colors = [colormaps[name](range(count), bytes=True)[:, :3] for name, count in CLASS_COLORS]
    return np.resize(np.concatenate(colors), (256, 3))


def _labels_uri(labels: Int64[Tensor, "H W"], colors: np.ndarray) -> str:
    drawn = Image.fromarray(labels.to(torch.uint8).cpu().numpy())
    drawn.putpalette(colors.tobytes())
    return _scaled_uri(drawn, Image.Resampling.NEAREST, "PNG", transparency=IGNORED)


def _scaled_uri(picture: Image.Image, by: Image.Resampling, kind: str, **options: Any) -> str:
    """A picture that is no wider than it is shown."""
    picture.thumbnail((LARGEST_WIDTH, picture.height), by)
    return _uri(picture, kind, **options)


def _png_uri(colors: np.ndarray) -> str:
    return _uri(Image.fromarray(colors), "PNG")


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    """A picture as an address that holds it."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
