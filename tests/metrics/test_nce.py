"""NCE against its definition and known answers."""

import math

import pytest
import torch

from torch_trf.metrics import NCE
from torch_trf.statistics import Faults, JointMass

from .. import references
from ..helpers import arrays, assert_close


def test_matches_definition(pixels):
    joint_mass = JointMass.from_pixels(*pixels, num_classes=7, hard=True)
    assert_close(NCE().score(joint_mass), references.nce(*arrays(*pixels)))


@pytest.mark.parametrize(
    ("mass", "expected"),
    [
        ([[3, 0], [0, 5]], 0),  # the source class tells the target class
        ([[2, 2], [2, 2]], -math.log(2)),  # independent
        ([[4, 0], [4, 0]], -math.log(2)),  # one source class
        ([[4, 1, 7]], 0),  # one target class
        ([[1, 0], [1, 2]], -math.log(2) / 2),
        ([[0.25, 0], [0.25, 0.5]], -math.log(2) / 2),  # mass of a coupling
    ],
)
def test_known_answers(mass, expected, device):
    mass = torch.tensor(mass, dtype=torch.float64, device=device)
    assert_close(NCE().score(JointMass(mass, faults=Faults.none().to(device))), expected)


def test_no_entropy_has_no_sign(device):
    mass = torch.eye(3, dtype=torch.float64, device=device)
    assert math.copysign(1, NCE().score(JointMass(mass, faults=Faults.none().to(device))).item()) == 1
