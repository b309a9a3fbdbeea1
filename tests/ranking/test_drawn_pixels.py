"""Pixels that all models are read at: which they are, and that features of any stride are read there bilinearly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_trf import Sampling, Scorer
from torch_trf.datasets import LabeledImage, LabeledImages
from torch_trf.pixels import Pixels, on_one_grid
from torch_trf.ranking._drawn_pixels import DrawnImage, DrawnPixels

from .helpers import K, Scenes

SAMPLINGS = [
    {"num_pixels": 40},
    {"num_pixels": 40, "strategy": "per_class", "num_repeats": 3},
    {"num_pixels": 20, "strategy": "boundary", "boundary_radius": 1, "num_repeats": 2},
    {"num_pixels": 10_000, "strategy": "per_class"},  # more than there are
]
every_sampling = pytest.mark.parametrize("options", SAMPLINGS, ids=["uniform", "per_class", "boundary", "all"])


def make_sampling(**options):
    return Sampling(**{"num_pixels": 40, "seed": 3} | options)


def make_scorer(**options):
    return Scorer(metrics=("logme",), num_classes=K, sampling=make_sampling(**options))


def scenes(**options):
    return read(Scenes(**options).pairs)


def read(pairs):
    return list(LabeledImages(dataset=pairs, num_classes=K))


def draw(images, **options):
    sampling = make_sampling(**options)
    return DrawnPixels.from_images(DrawnImage.from_labels(image, sampling=sampling, num_classes=K) for image in images)


def filled(drawn, feature_maps):
    """The drawn pixels with features read from a map of each image."""
    parts = drawn.of_images()
    rows = torch.zeros(drawn.sample.labels.numel(), feature_maps[0].shape[0], dtype=torch.float64)
    for index, pixels in parts.items():
        rows[pixels] = drawn.read(feature_maps[index], pixels).double()
    return drawn.filled(rows)


def assert_same_pixels(sample, other):
    for name in ("key", "labels", "population"):
        assert torch.equal(getattr(sample, name), getattr(other, name))


@every_sampling
def test_draws_as_a_scorer_does(options):
    images, scorer = scenes(), make_scorer(**options)
    drawn = draw(images, **options)
    statistics = [
        scorer.statistics(Pixels(each.image[None], each.labels[None], stream=each.index))["features_sample"]
        for each in images
    ]
    expected = sum(statistics[1:], statistics[0])
    assert_same_pixels(drawn.sample, expected)
    sample = filled(drawn, [each.image for each in images])
    torch.testing.assert_close(sample.features, expected.features, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("height", [1, 2, 3, 4, 6, 12])
def test_reads_what_one_grid_has_there(height, dtype):
    """Features of every stride, with sizes rounded down and up, on the grid of the labels."""
    image = scenes(count=1, sizes=((12, 20),))[0]
    drawn = draw([image], strategy="per_class", num_repeats=2)
    stride = 12 // height
    for width in {20 // stride, -(-20 // stride)}:
        features = torch.randn(4, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)
        exact = features.to(max(dtype, torch.float32, key=lambda each: each.itemsize))
        on_grid = on_one_grid(exact[None], image.labels[None], grid="labels")
        expected = make_scorer(strategy="per_class", num_repeats=2).statistics(on_grid)["features_sample"]
        sample = drawn.filled(drawn.read(features, torch.arange(drawn.sample.labels.numel())))
        is_drawn = drawn.sample.labels >= 0
        assert_same_pixels(sample, expected)
        assert sample.features.dtype == exact.dtype
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(
            sample.features[is_drawn], expected.features[is_drawn], rtol=tolerance, atol=tolerance
        )


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    of_features=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_reads_as_interpolation_does(size, of_features, seed):
    labels = torch.zeros(size, dtype=torch.int64)
    image = LabeledImage(7, torch.zeros(3, *size), labels)
    drawn = draw([image], num_pixels=81, seed=seed)
    features = torch.randn(2, *of_features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    everywhere = torch.nn.functional.interpolate(features[None], size, mode="bilinear", align_corners=False)
    expected = make_scorer(num_pixels=81, seed=seed).statistics(Pixels(everywhere, labels[None], stream=7))
    [(index, pixels)] = drawn.of_images().items()
    assert (index, len(pixels)) == (7, labels.numel())
    torch.testing.assert_close(drawn.read(features, pixels), expected["features_sample"].features[0][pixels])


@every_sampling
def test_does_not_depend_on_the_order_of_images(options):
    images = scenes()
    drawn, other = (draw(some, **options) for some in (images, images[::-1]))
    assert_same_pixels(drawn.sample, other.sample)
    assert (drawn.fingerprint, drawn.shown) == (other.fingerprint, other.shown)


@every_sampling
def test_every_pixel_lies_in_one_image(options):
    images = scenes()
    drawn = draw(images, **options)
    parts = drawn.of_images()
    assert list(parts) == sorted(parts)
    together = torch.cat(list(parts.values())).sort().values
    assert torch.equal(together, (drawn.sample.labels.flatten() >= 0).nonzero()[:, 0])
    for index, pixels in parts.items():
        labels = images[index].labels
        place = drawn.sample.features.flatten(0, -2)[pixels]
        row, column = (place[:, 1:] * torch.tensor(labels.shape)).long().unbind(-1)
        assert torch.equal(labels[row, column], drawn.sample.labels.flatten()[pixels])
        assert (place[:, 0] == index).all()


def test_images_without_drawn_pixels_are_none_of_them():
    images = scenes(count=3)
    for each in images[1:]:
        each.labels.fill_(255)
    assert list(draw(images).of_images()) == [0]


@pytest.mark.parametrize("strategy", ["uniform", "per_class", "boundary"])
def test_no_labeled_pixel_is_an_error(strategy):
    images = scenes(count=2)
    for each in images:
        each.labels.fill_(255)
    with pytest.raises(ValueError, match="no labeled pixel"):
        draw(images, strategy=strategy)


def changed_image():
    pairs = Scenes().pairs
    pairs[1][0][0, 0, 0] += 1e-9
    return read(pairs)


def changed_label():
    pairs = Scenes().pairs
    pairs[1][1][0, 0] = 0  # which was ignored
    return read(pairs)


@pytest.mark.parametrize(
    ("images", "options"),
    [
        (changed_image, {}),
        (changed_label, {}),
        (lambda: scenes()[:4], {}),
        (lambda: scenes(seed=1), {}),
        (scenes, {"seed": 4}),
        (scenes, {"num_pixels": 41}),
        (scenes, {"num_repeats": 2}),
        (scenes, {"strategy": "per_class"}),
    ],
)
def test_fingerprints_tell_images_and_draws_apart(images, options):
    before = draw(scenes()).fingerprint
    assert draw(scenes()).fingerprint == before
    assert draw(images(), **options).fingerprint != before


def test_the_image_of_most_classes_is_shown():
    images = scenes(count=5)
    for each, classes in zip(images, (1, 2, 3, 3, 2), strict=True):
        each.labels.copy_(torch.arange(each.labels.numel()).reshape(each.labels.shape) % classes)
    images[1].labels[0, 0] = 255  # which is no class
    assert draw(images[::-1]).shown == 2


def test_features_that_are_no_numbers_are_counted():
    images = scenes(count=2)
    drawn = draw(images, num_pixels=10_000)
    for value in (torch.nan, torch.inf):
        features = [each.image.clone() for each in images]
        features[1][0] = value
        count = len(drawn.of_images()[1])
        with pytest.raises(ValueError, match=f"features of {count} labeled pixels are NaN or infinite"):
            filled(drawn, features).faults.check(K, 255)


def test_places_without_a_pixel_hold_no_fault():
    """Rows that no pixel fills may hold anything."""
    drawn = draw(scenes(count=1), num_pixels=10_000, strategy="per_class")
    rows = torch.full((drawn.sample.labels.numel(), 2), torch.nan)
    rows[drawn.sample.labels.flatten() >= 0] = 1.0
    drawn.filled(rows).faults.check(K, 255)
