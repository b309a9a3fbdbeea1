"""The mass that target and source classes share."""

import pytest
import torch

from torch_trf.statistics import JointMass

from ..helpers import assert_close, assert_same, random_pixels


@pytest.mark.parametrize("hard", [True, False])
def test_matches_definition(pixels, hard):
    logits, labels = pixels
    mass = torch.zeros(7, logits.shape[1], dtype=torch.float64)
    for row, y in zip(logits.double().cpu(), labels.tolist(), strict=True):
        if hard:
            mass[y, row.tolist().index(row.max())] += 1
        else:
            mass[y] += row.softmax(0)
    joint_mass = JointMass.from_pixels(logits, labels, num_classes=7, hard=hard)
    assert_close(joint_mass.mass, mass)
    assert_close(joint_mass.total, len(labels))


@pytest.mark.parametrize("pool", ["dataset", "image"])
@pytest.mark.parametrize("shape", [(3, 1024, 20, 20), (2, 4096, 2, 100)], ids=["some rows", "some columns"])
def test_many_channels_are_one_image(shape, pool, device):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).to(device)
    labels = torch.randint(0, 3, (shape[0], *shape[2:]), generator=generator).to(device)
    joint_mass = JointMass.from_pixels(logits, labels, num_classes=3, pool=pool)
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    expected = torch.einsum("bhwk,bzhw->bkz", one_hot, logits.double().softmax(1))
    assert_close(joint_mass.mass, expected.sum(0) if pool == "dataset" else expected)


def test_images_apart(device):
    logits, labels = random_pixels(24, 4, 3, device=device)
    images, image_labels = logits.reshape(2, 3, 4, 4).permute(0, 3, 1, 2), labels.reshape(2, 3, 4)
    apart = JointMass.from_pixels(images, image_labels, num_classes=3, pool="image")
    for i, rows in enumerate((slice(12), slice(12, 24))):
        assert_same(apart[i], JointMass.from_pixels(logits[rows], labels[rows], num_classes=3))


def test_target_given_source_sums_to_one_where_a_source_class_has_mass(device):
    logits = torch.tensor([[9.0, 0.0, -2000.0], [0.0, 9.0, -2000.0]], device=device)
    joint_mass = JointMass.from_pixels(logits, torch.tensor([0, 1], device=device), num_classes=3)
    assert_close(joint_mass.target_given_source.sum(-2), [1.0, 1.0, 0.0])
