"""Batches of small eigenproblems: against the library's solver, one matrix at a time, and what defines the answer."""

import numpy as np
import pytest
import torch

from torch_trf._ops import MOST_CHANNELS, eigenbasis

from ..helpers import assert_same_bits


def random_matrix(channels, rank=None):
    """A Gram matrix of as many rows as its rank."""
    features = np.random.default_rng(channels).normal(size=(rank or 2 * channels, channels))
    return features.T @ features


def rotated(eigenvalues):
    """A matrix of these eigenvalues."""
    vectors = np.linalg.qr(random_matrix(len(eigenvalues)))[0]
    matrix = vectors @ np.diag(eigenvalues) @ vectors.T
    return (matrix + matrix.T) / 2


MATRICES = {  # of D channels
    "full rank": random_matrix,
    "rank 1": lambda channels: random_matrix(channels, rank=1),
    "half the rank": lambda channels: random_matrix(channels, rank=channels // 2 or 1),
    "zero": lambda channels: np.zeros((channels, channels)),
    "diagonal": lambda channels: np.diag(np.random.default_rng(0).normal(size=channels)),
    "identity": np.eye,
    "indefinite": lambda channels: rotated(np.random.default_rng(0).normal(size=channels)),
    "repeated": lambda channels: rotated(np.arange(channels) // 3.0),
    "opposite": lambda channels: np.eye(channels)[::-1],
    "ill-conditioned": lambda channels: rotated(np.logspace(0, -12, channels)),
    "large": lambda channels: 1e150 * random_matrix(channels),
    "small": lambda channels: 1e-150 * random_matrix(channels),
}
CHANNELS = [1, 2, 3, 4, 7, 16, 19, 33, 48, 49, 64, 65, 70]


def solve(matrix, rows, device):
    """The op on arrays, as arrays."""
    return [x.cpu().numpy() for x in eigenbasis(*(torch.from_numpy(np.array(a)).to(device) for a in (matrix, rows)))]


def assert_solves(matrix, rows, values, coordinates):
    """Eigenvalues are the library's; R A Rᵀ = Σ λ (RV)² and R Rᵀ = Σ (RV)² hold whatever the signs in V."""
    norm = np.linalg.norm(matrix, 2) or 1.0
    matrix, values = matrix / norm, values / norm
    tolerance = {"rtol": 0, "atol": 1e-12 * np.square(rows).sum(-1).max(initial=1)}
    np.testing.assert_allclose(values, np.linalg.eigh(matrix).eigenvalues, rtol=0, atol=1e-12)
    assert (np.diff(values) >= 0).all()
    np.testing.assert_allclose((coordinates * values) @ coordinates.T, rows @ matrix @ rows.T, **tolerance)
    np.testing.assert_allclose(coordinates @ coordinates.T, rows @ rows.T, **tolerance)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES.keys())
def test_matrices(make, channels, device):
    matrix, rows = make(channels), np.eye(channels)  # the rows are V itself
    assert_solves(matrix, rows, *solve(matrix, rows, device))


def test_both_ways_of_solving_are_tested():
    for most in MOST_CHANNELS.values():
        assert {most, most + 1} <= set(CHANNELS)


@pytest.mark.parametrize("channels", [3, 70])
@pytest.mark.parametrize("num_rows", [0, 1, 5])
@pytest.mark.parametrize("batch", [(), (2,), (1, 2), (3, 4), (0,), (2, 0)])
def test_leading_dimensions_are_independent(batch, num_rows, channels, device):
    random = np.random.default_rng(0)
    features = random.normal(size=(*batch, 2 * channels, channels))
    matrix, rows = features.swapaxes(-1, -2) @ features, random.normal(size=(*batch, num_rows, channels))
    values, coordinates = solve(matrix, rows, device)
    assert values.shape == (*batch, channels)
    assert coordinates.shape == rows.shape
    for index in np.ndindex(batch):
        assert_solves(matrix[index], rows[index], values[index], coordinates[index])


@pytest.mark.parametrize("channels", [3, 70])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_nan_in_its_entry_alone(value, channels, device):
    matrix = np.stack([random_matrix(channels)] * 10)
    rows = np.stack([np.eye(channels)] * 10)
    matrix[4, channels // 2, 0] = matrix[4, 0, channels // 2] = value
    values, coordinates = solve(matrix, rows, device)
    for entry in range(10):
        if entry == 4:
            assert np.isnan(values[entry]).all()
            assert np.isnan(coordinates[entry]).all()
        else:
            assert_solves(matrix[entry], rows[entry], values[entry], coordinates[entry])


@pytest.mark.parametrize("channels", [5, 70])
def test_the_lower_triangle_is_read(channels, device):
    matrix, rows = random_matrix(channels), np.eye(channels)
    other = np.tril(matrix) + np.triu(np.full_like(matrix, 7.0), 1)
    assert_solves(matrix, rows, *solve(other, rows, device))


def test_strides(device):
    matrix = torch.from_numpy(np.stack([random_matrix(4), 2 * random_matrix(4)], -1)).to(device).movedim(-1, 0)
    rows = torch.eye(4, dtype=torch.float64, device=device)[::2].expand(2, 2, 4)
    copies = eigenbasis(matrix.contiguous(), rows.contiguous())
    torch.testing.assert_close(eigenbasis(matrix, rows), copies, rtol=0, atol=0)


@pytest.mark.usefixtures("kernel")
def test_same_bits_on_any_number_of_threads(device):
    features = torch.randn(100, 20, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    assert_same_bits(lambda: eigenbasis(features.mT @ features, features))
