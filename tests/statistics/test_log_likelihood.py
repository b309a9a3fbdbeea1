"""The log-likelihood of labels under a source model, and how well a sample knows its mean."""

import pytest
import torch

from torch_trf.statistics import JointMass, LogLikelihood, PixelSample

from ..helpers import assert_close, log_likelihood, random_pixels


def test_matches_definition(pixels):
    logits, labels = pixels
    joint_mass = JointMass.from_pixels(logits, labels, num_classes=7)
    likelihood = LogLikelihood.from_pixels(logits, labels, joint_mass=joint_mass)
    rows = zip(logits.double().cpu(), labels.tolist(), strict=True)
    logs = torch.stack([(joint_mass.target_given_source[y].cpu() @ row.softmax(0)).log() for row, y in rows])
    assert_close(likelihood.total, logs.sum())
    assert_close(likelihood.total_square, logs.square().sum())
    assert_close(likelihood.mean, logs.mean())
    assert likelihood.count.item() == len(labels)


def test_each_image_may_have_its_own_joint_mass(device):
    logits, labels = random_pixels(24, 4, 3, device=device)
    images, image_labels = logits.reshape(2, 3, 4, 4).permute(0, 3, 1, 2), labels.reshape(2, 3, 4)
    apart = log_likelihood(images, image_labels, num_classes=3, pool="image")
    for i, rows in enumerate((slice(12), slice(12, 24))):
        assert_close(apart.mean[i], log_likelihood(logits[rows], labels[rows], num_classes=3).mean)


def test_other_number_of_source_classes_is_an_error(device):
    logits, labels = random_pixels(9, 4, 3, device=device)
    joint_mass = JointMass.from_pixels(logits, labels, num_classes=3)
    with pytest.raises(ValueError, match="logits of 3 source classes, but a joint mass of 4"):
        LogLikelihood.from_pixels(logits[:, :3], labels, joint_mass=joint_mass)


def test_standard_error_is_zero_where_the_sample_holds_all(device):
    likelihood = log_likelihood(*random_pixels(50, 4, 3, device=device), num_classes=3)
    assert likelihood.standard_error(likelihood.count).item() == 0


def test_standard_error_is_the_spread_of_samples(device):
    logits, labels = random_pixels(400, 4, 3, device=device)
    joint_mass = JointMass.from_pixels(logits, labels, num_classes=3)
    samples = PixelSample.from_pixels(logits, labels, size=100, num_classes=3, num_repeats=2000)
    likelihood = LogLikelihood.from_pixels(*samples.as_images(), joint_mass=joint_mass, ignore_index=-1, pool="image")
    claimed = likelihood.standard_error(samples.population).square().mean()
    assert_close(claimed, likelihood.mean.var(), rtol=0.15)  # five standard deviations of a variance of 2,000 draws
