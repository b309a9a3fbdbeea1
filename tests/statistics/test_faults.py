"""Pixels that should not be there: counted where they are met, raised when a score is asked for."""

import pytest
import torch

from torch_trf.statistics import Faults, JointMass, LogLikelihood, Moments, PixelSample


def count_faults(features, labels, statistic):
    if statistic is LogLikelihood:
        mass = torch.ones(2, features.shape[1], dtype=torch.float64, device=features.device)
        options = {"joint_mass": JointMass(mass, faults=Faults.none().to(features.device))}
    else:
        options = {"num_classes": 2} | ({"size": 3} if statistic is PixelSample else {})
    return statistic.from_pixels(features, labels, **options).faults


every_statistic = pytest.mark.parametrize("statistic", [Moments, JointMass, LogLikelihood, PixelSample])


@every_statistic
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 1], r"label 2 on 1 pixels: outside \[0, 2\) and not ignore_index=255"),
        ([0, 7, -3, 255], r"labels from -3 to 7 on 2 pixels"),
        ([255, 1000, 1000, 1000], "label 1000 on 3 pixels"),
    ],
)
def test_labels_outside_the_classes(labels, message, statistic, device):
    labels = torch.tensor(labels, device=device)
    with pytest.raises(ValueError, match=message):
        count_faults(torch.ones(4, 3, device=device), labels, statistic).check(2, 255)


@every_statistic
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite(value, statistic, device):
    features, labels = torch.ones(3, 3, device=device), torch.tensor([0, 1, 0], device=device)
    features[1:, 2] = value
    with pytest.raises(ValueError, match="features of 2 labeled pixels are NaN or infinite"):
        count_faults(features, labels, statistic).check(2, 255)


@every_statistic
def test_features_of_ignored_pixels_are_not_read(statistic, device):
    features = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf], [3.0, 5.0]], device=device)
    labels = torch.tensor([0, 255, 1], device=device)
    count_faults(features, labels, statistic).check(2, 255)


def test_merging_adds_counts_and_widens_bounds(device):
    bad = torch.tensor([True, True, False], device=device)
    low, high = (Faults.from_pixels(torch.tensor(y, device=device), bad, ~bad) for y in ([-5, 3, 9], [4, 300, 0]))
    for faults in (low + high + Faults.none().to(device), high.stack([high, low]).sum()):
        assert [int(tensor) for tensor in faults.state().values()] == [4, -5, 300, 2, 0]


def test_large_counts_are_grouped():
    faults = Faults(*(torch.tensor(value) for value in (1204, 255, 255, 0, 0)))
    with pytest.raises(ValueError, match="label 255 on 1,204 pixels"):
        faults.check(11, 250)
