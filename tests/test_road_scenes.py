"""Road scenes: seeded, labeled as they are drawn, in perspective, and different where their domains are."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_trf.datasets import IGNORED, ROAD_CLASSES, ROAD_DOMAINS, LabeledData, RoadDomain, RoadScenes

SIZE = {"height": 32, "width": 48}
EMPTY = RoadDomain(buildings=0.0, trees=0.0, vehicles=0.0, people=0.0, poles=0.0, noise=0.0, visibility=1e6)
ROAD, BUILDING = ROAD_CLASSES.index("road"), ROAD_CLASSES.index("building")
PAVED = 14.0  # meters, from one edge of the pavement to the other


def pictures(domain, count=8, **options):
    """Pictures in [0, 1] and labels of the first scenes."""
    scenes = RoadScenes(domain, num_images=count, **SIZE | options)
    images, labels = zip(*(scenes[k] for k in range(count)), strict=True)
    return torch.stack(images) / 255, torch.stack(labels)


def share(domain, name):
    """Of the labeled pixels, those of a class."""
    labels = pictures(domain, 12)[1]
    return ((labels == ROAD_CLASSES.index(name)).sum() / (labels != IGNORED).sum()).item()


@pytest.mark.parametrize("name", ROAD_DOMAINS)
def test_pictures_have_classes_and_are_no_two_alike(name):
    images, labels = pictures(name)
    assert images.shape == (8, 3, 32, 48)
    assert set(labels.unique().tolist()) == {*range(len(ROAD_CLASSES)), IGNORED}
    assert len({label.numpy().tobytes() for label in labels}) == 8
    assert images.std() > 0.02


def test_a_picture_depends_on_its_number_and_the_seed_alone():
    few, many = RoadScenes("rain", num_images=3, **SIZE), RoadScenes("rain", num_images=9, **SIZE)
    for part, same in zip(few[2], many[2], strict=True):
        assert torch.equal(part, same)
    other = RoadScenes("rain", num_images=3, seed=1, **SIZE)
    assert not any(torch.equal(few[k][1], other[j][1]) for k in range(3) for j in range(3))


@pytest.mark.parametrize("other", ["dusk", "fog"])
def test_domains_show_the_same_roads_in_another_look(other):
    noon, changed = pictures("noon"), pictures(other)
    assert torch.equal(noon[1], changed[1])
    assert (noon[0] - changed[0]).abs().mean() > 0.05


@pytest.mark.parametrize("camera_height", [1.4, 2.8])
def test_roads_are_in_perspective(camera_height):
    """Ground y meters below the camera is y f / z pixels below the horizon, and 14 meters of it 14 f / z wide."""
    domain = replace(EMPTY, camera_height=camera_height)
    _, labels = RoadScenes(domain, num_images=1, height=40, width=640)[0]
    paved = (labels == ROAD).sum(-1)
    inside = (paved > 0) & (labels[:, 0] != ROAD) & (labels[:, -1] != ROAD) & (labels != IGNORED).all(-1)
    widening = paved[inside].diff().double()
    assert len(widening) > 5
    assert (widening - PAVED / camera_height).abs().max() <= 2
    assert widening.mean().item() == pytest.approx(PAVED / camera_height, rel=0.05)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("buildings", "building"),
        ("trees", "vegetation"),
        ("vehicles", "vehicle"),
        ("people", "person"),
        ("poles", "pole"),
    ],
)
def test_more_of_something_is_seen_more(name, label):
    some, more = {"buildings": (0.3, 0.9)}.get(name, (3.0, 12.0))
    none, few, many = (share(replace(EMPTY, **{name: value}), label) for value in (0.0, some, more))
    assert none <= few < many
    assert none == 0 or label == "vegetation"


def test_light_and_air():
    noon, labels = pictures("noon")
    road = labels == ROAD

    def road_in(**changes):
        image, _ = pictures(replace(ROAD_DOMAINS["noon"], **changes))
        return image.movedim(1, -1)[road]

    plain = noon.movedim(1, -1)[road]
    assert road_in(light=0.5).mean() == pytest.approx(plain.mean().item() / 2, rel=0.05)
    warm, cold = (road_in(warmth=warmth).mean(0) for warmth in (0.8, -0.8))
    assert warm[0] - warm[2] > 0.1 > -0.1 > cold[0] - cold[2]
    assert road_in(noise=0.2).std() > plain.std() + 0.1
    assert road_in(texture=0.0, noise=0.0).std() < plain.std() - 0.02
    assert road_in(precipitation=0.5).std() > plain.std() + 0.05
    assert (road_in(palette=1.0).mean(0) - plain.mean(0)).abs().max() > 0.1


def test_fog_hides_what_is_far():
    clear, foggy = (pictures(replace(EMPTY, buildings=1.0, visibility=visibility))[0] for visibility in (1e6, 0.1))
    _, labels = pictures(replace(EMPTY, buildings=1.0))
    houses = (labels == BUILDING).unsqueeze(1).expand_as(clear)
    assert foggy[houses].std() < 0.02 < clear[houses].std()


@settings(max_examples=10, deadline=None)
@given(
    share=st.floats(0, 1),
    warmth=st.floats(-1, 1),
    count=st.floats(0, 24),
    height=st.floats(0.5, 30),
    size=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    seed=st.integers(0, 2**40),
)
def test_any_domain_and_size_can_be_seen(share, warmth, count, height, size, seed):
    things = dict.fromkeys(("trees", "vehicles", "people", "poles"), count)
    domain = RoadDomain(buildings=share, palette=share, warmth=warmth, camera_height=height, **things)
    image, labels = RoadScenes(domain, num_images=1, height=size[0], width=size[1], seed=seed)[0]
    assert image.shape == (3, *size)
    assert labels.shape == size
    assert ((labels < len(ROAD_CLASSES)) | (labels == IGNORED)).all()
    below = labels[size[0] // 2 + 1 :]  # the horizon is never lower than the middle
    assert not (below == ROAD_CLASSES.index("sky")).any()


def test_they_are_a_data_set_by_its_path():
    arguments = {"domain": "evening", "num_images": 2, **SIZE}
    data = LabeledData(
        dataset={"class_path": "torch_trf.datasets.RoadScenes", "init_args": arguments}, num_classes=len(ROAD_CLASSES)
    ).make()
    image, labels = RoadScenes(**arguments)[1]
    assert torch.equal(data.read(1).image, image)
    assert torch.equal(data.read(1).labels, labels)
    with pytest.raises(IndexError, match="picture 2 of 2"):
        data.dataset[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "mars"}, "'mars' is neither a RoadDomain nor one of noon, dusk"),
        ({"num_images": 0}, "num_images must be a whole number of at least 1, not 0"),
        ({"height": 8}, "height must be a whole number of at least 16, not 8"),
        ({"width": 15}, "width must be a whole number of at least 16, not 15"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RoadScenes(**arguments)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"light": -0.1}, r"light must be in \[0, 10\], not -0.1"),
        ({"light": float("inf")}, r"light must be in \[0, 10\], not inf"),
        ({"warmth": -2.0}, r"warmth must be in \[-1, 1\], not -2.0"),
        ({"palette": 1.5}, r"palette must be in \[0, 1\], not 1.5"),
        ({"people": 25.0}, r"people must be in \[0, 24\], not 25.0"),
        ({"noise": float("nan")}, r"noise must be in \[0, 10\], not nan"),
        ({"visibility": 0.0}, r"visibility must be in \[0.1, inf\], not 0.0"),
        ({"camera_height": 0.0}, r"camera_height must be in \[0.1, 1000\], not 0.0"),
    ],
)
def test_bad_domains(values, message):
    with pytest.raises(ValueError, match=message):
        RoadDomain(**values)
