"""Figures of transferability maps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from tqdm import tqdm

from ._files import PathLike, whole_file
from .maps import ScoreMap

MOST_PANELS = 12  # of a map for every image
PERCENTILES = (1, 99)  # of the values, where the colors end: single patches do not set the scale
SLACK = 0.01  # of the range, by which a value may leave it unsaid
COLORS = "viridis"
OPACITY = 0.6  # of a map over a picture
HATCHING = "////"
LARGEST_DISTORTION = 0.05  # of a picture's height to width against the map's


def draw_map(
    score_map: ScoreMap, *, title: str = "", pictures: Sequence[PathLike] = (), progress: bool = False
) -> Figure:
    """Draws a map: colors for valid patches, hatching where there is none, over pictures where they are given.

    Every value fills the tile of one stride around the center of its patch, so that what is drawn is what `save`
    writes. A map that pools all images lies over the mean of the pictures. Of a map for every image the first
    `MOST_PANELS` are drawn, with one scale of colors.

    Args:
        score_map: the map.
        title: of the figure.
        pictures: image files, one for each image that was mapped, in the same order; of any resolution.
        progress: whether to show a progress bar while many pictures are read.

    Returns:
        A Matplotlib figure; `save_figure` writes it.

    Raises:
        ValueError: another number of pictures than of maps, a picture of other proportions, or a file that is none.

    Example:
        >>> labels = torch.randint(0, 2, (1, 8, 12))
        >>> score_map = torch_trf.transferability_map("logme", torch.randn(1, 3, 8, 12), labels, patch_size=4)
        >>> len(draw_map(score_map, title="noise").axes)  # the map and its color bar
        2
    """
    values = np.ma.masked_array(score_map.values.cpu().numpy(), ~score_map.valid.cpu().numpy())
    pooled = values.ndim == 2
    if pooled:
        values = values[np.newaxis]
    elif pictures and len(pictures) != len(values):
        raise ValueError(f"{len(pictures)} pictures for maps of {len(values)} images")
    check_pictures(pictures, score_map.image_size)
    shown = values[:MOST_PANELS]
    height, width = score_map.image_size
    columns = min(len(shown), 4)
    rows = -(-len(shown) // columns)
    panel_width = 7.0 if len(shown) == 1 else 3.5
    panel_height = panel_width * min(max(height / width, 0.3), 3.0)
    figure = blank_figure(columns * panel_width + 1.5, rows * panel_height + 1.0)
    valid_values = shown.compressed()
    low, high = np.percentile(valid_values, PERCENTILES) if valid_values.size else (0.0, 1.0)
    norm = Normalize(low, high)
    beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    margin = SLACK * (high - low)
    extend = beyond[bool((valid_values < low - margin).any()), bool((valid_values > high + margin).any())]
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    for index, (axis, tiles) in enumerate(zip(axes, shown, strict=False)):
        picture = None
        if pictures:
            picture = _mean(pictures, progress) if pooled else _read(pictures[index])
        _draw_panel(axis, tiles, score_map, picture, norm)
        axis.set_title("" if pooled else f"image {index}", fontsize=9)
    for axis in axes[: len(shown)]:
        axis.label_outer()
    more = "" if len(shown) == len(values) else f" (the first {len(shown)} of {len(values)} images)"
    figure.suptitle(title + more, fontsize=11)
    bar = figure.colorbar(ScalarMappable(norm, COLORS), ax=axes.tolist(), extend=extend, shrink=0.9)
    bar.set_label(f"{score_map.name} ({score_map.unit}); higher is better")
    return figure


def check_pictures(pictures: Sequence[PathLike], image_size: tuple[int, int]) -> None:
    """Raises where a picture could not lie under a map of images of this size; reads headers alone.

    Raises:
        ValueError: a file that is no picture, or one of other proportions than height and width.
    """
    height, width = image_size
    for path in pictures:
        with _opened(path) as picture:
            if abs(picture.height * width / (picture.width * height) - 1) > LARGEST_DISTORTION:
                sizes = f"{picture.height} x {picture.width} pixels, the images {height} x {width}"
                raise ValueError(f"{path} has {sizes}: they do not have the same proportions")


def blank_figure(width: float, height: float) -> Figure:
    """A figure of this size, in inches, that no window shows and no global state remembers."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: PathLike) -> None:
    """Writes a figure, in the format of the suffix; the whole file or nothing."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _draw_panel(
    axis: Axes,
    tiles: np.ma.MaskedArray,
    score_map: ScoreMap,
    picture: np.ndarray | None,
    norm: Normalize,
) -> None:
    height, width = score_map.image_size
    top, left = ((size - step) / 2 for size, step in zip(score_map.patch_size, score_map.stride, strict=True))
    bottom, right = top + len(tiles) * score_map.stride[0], left + tiles.shape[1] * score_map.stride[1]
    everywhere = (0, width, height, 0)
    hatched = Rectangle((0, 0), width, height, facecolor="0.95", edgecolor="0.6", hatch=HATCHING, linewidth=0)
    if picture is None:
        axis.add_patch(hatched)
    else:
        hatched.set_facecolor("none")
        axis.imshow(picture, extent=everywhere)
        axis.add_patch(hatched)
        axis.imshow(_where_valid(picture, tiles, score_map, top, left), extent=everywhere, zorder=2)
    axis.imshow(
        tiles,
        extent=(left, right, bottom, top),
        interpolation="nearest",
        cmap=COLORS,
        norm=norm,
        alpha=1 if picture is None else OPACITY,
        zorder=3,
    )
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xlabel="column (pixels)", ylabel="row (pixels)")


def _where_valid(
    picture: np.ndarray, tiles: np.ma.MaskedArray, score_map: ScoreMap, top: float, left: float
) -> np.ndarray:
    """The picture with an alpha channel: 1 under valid tiles, so that the hatching shows elsewhere."""
    inside, index = [], []
    for axis, start in enumerate((top, left)):
        scale = score_map.image_size[axis] / picture.shape[axis]
        place = np.floor(((np.arange(picture.shape[axis]) + 0.5) * scale - start) / score_map.stride[axis]).astype(int)
        inside.append((place >= 0) & (place < tiles.shape[axis]))
        index.append(place.clip(0, tiles.shape[axis] - 1))
    valid = ~np.ma.getmaskarray(tiles)[np.ix_(*index)] & np.outer(*inside)
    return np.dstack([picture, valid.astype(picture.dtype)])


def _read(path: PathLike) -> np.ndarray:
    """A picture `[height, width, 3]`, in [0, 1]."""
    with _opened(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


@contextmanager
def _opened(path: PathLike) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except OSError as error:
        raise ValueError(f"{path} is not a picture: {error}") from error


def _mean(paths: Sequence[PathLike], progress: bool) -> np.ndarray:
    """The mean of pictures of one size."""
    total = _read(paths[0])
    for path in tqdm(paths[1:], "pictures", unit="picture", disable=not progress):
        picture = _read(path)
        if picture.shape != total.shape:
            raise ValueError(f"{path} has {picture.shape[:2]} pixels, {paths[0]} {total.shape[:2]}")
        total = total + picture
    return total / len(paths)
