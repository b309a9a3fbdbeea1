"""Figures of maps: what is drawn where, and what does not fit together."""

import numpy as np
import pytest
import torch
from PIL import Image

import torch_trf
from torch_trf.plots import MOST_PANELS, draw_map, save_figure


def noise_map(images=2, **options):
    """A map of LogME over 9 x 13 pixels, the first 5 columns of which are not labeled."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (images, 9, 13), generator=generator)
    labels[..., :5] = 255
    features = torch.randn(images, 4, 9, 13, generator=generator)
    return torch_trf.transferability_map("logme", features, labels, **{"patch_size": 4} | options)


@pytest.fixture
def pictures(tmp_path):
    """Writes pictures of 18 x 26 pixels, black above and white below, and returns their paths."""

    def write(count, size=(26, 18)):
        paths = [tmp_path / f"{k}.png" for k in range(count)]
        for path in paths:
            picture = np.zeros((size[1], size[0], 3), np.uint8)
            picture[size[1] // 2 :] = 255
            Image.fromarray(picture).save(path)
        return paths

    return write


def colors_of(figure):
    """The pixels of a figure as they are painted, `[height, width, 3]` in [0, 255]."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def painted(figure, row, column):
    """The color at the middle of a pixel of the map."""
    axis, colors = figure.axes[0], colors_of(figure)
    x, y = axis.transData.transform((column + 0.5, row + 0.5))
    return colors[len(colors) - 1 - int(y), int(x)]


def test_tiles_lie_where_their_patches_are():
    score_map = noise_map()
    figure = draw_map(score_map, title="noise")
    image = figure.axes[0].images[-1]
    assert tuple(image.get_extent()) == (0, 12, 8, 0)
    assert (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) == ((0, 13), (9, 0))
    np.testing.assert_array_equal(image.get_array().mask, ~score_map.valid)
    np.testing.assert_array_equal(image.get_array().compressed(), score_map.values[score_map.valid])
    expected = 255 * np.array(image.cmap(image.norm(score_map.values[1, 2].item()))[:3])
    np.testing.assert_allclose(painted(figure, 5, 9), expected, atol=2)


def test_tiles_of_overlapping_patches_lie_around_their_centers():
    image = draw_map(noise_map(stride=1)).axes[0].images[-1]
    assert tuple(image.get_extent()) == (1.5, 11.5, 7.5, 1.5)


def test_invalid_patches_and_the_remainder_show_hatching():
    figure = draw_map(noise_map())
    colors = colors_of(figure)
    for row, column in ((2, 2), (8, 6), (2, 12)):
        red, green, blue = painted(figure, row, column)
        assert red == green == blue  # gray lines on nearly white
    assert figure.axes[0].patches[0].get_hatch()
    assert colors.std() > 0


def test_the_figure_says_what_it_shows():
    figure = draw_map(noise_map(), title="noise")
    axis, bar = figure.axes
    assert figure.get_suptitle() == "noise"
    assert bar.get_ylabel() == "logme (nats); higher is better"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("column (pixels)", "row (pixels)")


@pytest.mark.parametrize(
    ("first_look", "scale", "label"),
    [
        ("dataset", "identity", "leep (nats)"),
        ("patch", "identity", "local leep (nats)"),
        ("dataset", "exp", "exp(leep) (likelihood)"),
        ("patch", "exp", "exp(local leep) (likelihood)"),
    ],
)
def test_the_color_bar_says_which_map_it_is(first_look, scale, label):
    labels = torch.randint(0, 3, (1, 9, 13), generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double() - 1
    score_map = torch_trf.transferability_map("leep", logits, labels, logits, patch_size=4, first_look=first_look)
    _, bar = draw_map(score_map.exp() if scale == "exp" else score_map).axes
    assert bar.get_ylabel() == f"{label}; higher is better"


def test_pictures_lie_beneath_right_way_up(pictures):
    figure = draw_map(noise_map(), pictures=pictures(2))
    above, below = figure.axes[0].images[0].get_array()[[0, -1], 0, 0]
    assert (above, below) == (0, 1)
    assert painted(figure, 2, 9).mean() < painted(figure, 6, 9).mean()  # the map is translucent
    alpha = figure.axes[0].images[1].get_array()[..., 3]
    np.testing.assert_array_equal(
        alpha[::2, ::2][:8, :12], noise_map().valid.repeat_interleave(4, 0).repeat_interleave(4, 1)
    )


def test_a_map_for_every_image_has_panels_with_one_scale(pictures):
    score_map = noise_map(images=MOST_PANELS + 1, pool="image")
    figure = draw_map(score_map, title="noise", pictures=pictures(MOST_PANELS + 1))
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == MOST_PANELS
    assert len({axis.images[-1].get_clim() for axis in panels}) == 1
    assert figure.get_suptitle() == f"noise (the first {MOST_PANELS} of {MOST_PANELS + 1} images)"


def test_no_valid_patch_is_a_figure_of_hatching():
    score_map = noise_map(min_pixels=1000)
    assert not score_map.valid.any()
    colors_of(draw_map(score_map))


@pytest.mark.parametrize(
    ("count", "size", "options", "message"),
    [
        (1, (26, 18), {"pool": "image"}, "1 pictures for maps of 2 images"),
        (2, (26, 26), {}, "do not have the same proportions"),
    ],
)
def test_pictures_that_do_not_fit_are_an_error(pictures, count, size, options, message):
    with pytest.raises(ValueError, match=message):
        draw_map(noise_map(**options), pictures=pictures(count, size))


def test_pictures_and_figures_by_text(pictures, tmp_path):
    figure = draw_map(noise_map(), pictures=[str(path) for path in pictures(2)])
    save_figure(figure, str(tmp_path / "map.png"))
    assert (tmp_path / "map.png").stat().st_size > 0


def test_pictures_of_different_sizes_have_no_mean(pictures, tmp_path):
    first = pictures(1)[0]
    Image.new("RGB", (52, 36)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"other.png has \(36, 52\) pixels"):
        draw_map(noise_map(), pictures=[first, tmp_path / "other.png"])


def test_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = draw_map(noise_map())
    save_figure(figure, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert image.format == "PNG"
    before = (tmp_path / "map.png").read_bytes()
    monkeypatch.setattr("torch_trf._files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]
