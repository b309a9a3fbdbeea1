"""What the tests share: random pixels, comparisons, statistics along leading dimensions, another Python."""

import os
import subprocess
import sys
from functools import partial

import torch
from hypothesis import strategies as st

from torch_trf import metrics
from torch_trf.statistics import JointMass, LogLikelihood, Moments

SIZES = st.fixed_dictionaries(
    {
        "count": st.integers(2, 40),
        "channels": st.integers(1, 5),
        "classes": st.integers(1, 4),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def random_pixels(count, channels, classes, *, device, dtype=torch.float64, skew=0.0, seed=0):
    """Features `[N, D]` scattered around class means, and labels `[N]` whose class k weighs exp(-skew k)."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.arange(classes, dtype=torch.float64).mul(-skew).exp()
    labels = torch.multinomial(weights, count, replacement=True, generator=generator)
    means = torch.randn(classes, channels, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    return (means[labels] + noise).to(device, dtype), labels.to(device)


def arrays(*tensors):
    """NumPy arrays of the tensors, real ones in float64."""
    return [(t.double() if t.is_floating_point() else t).cpu().numpy() for t in tensors]


def assert_close(actual, expected, rtol=1e-9, atol=1e-11):
    expected = torch.as_tensor(expected, dtype=actual.dtype, device=actual.device)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def assert_same(actual, expected, rtol=1e-10, atol=1e-10):
    """Two statistics of the same pixels; moments wherever their origins lie."""
    if isinstance(actual, Moments):
        actual, expected = (moments.around(torch.zeros_like(moments.origin)) for moments in (actual, expected))
    torch.testing.assert_close(actual.state(), expected.state(), rtol=rtol, atol=atol)


def nest(statistics, batch):
    """As many statistics as `batch` has entries, along these leading dimensions."""
    if not batch:
        return statistics[0]
    size = len(statistics) // batch[0]
    parts = [nest(statistics[i : i + size], batch[1:]) for i in range(0, len(statistics), size)]
    return parts[0].stack(parts)


def log_likelihood(logits, labels, *, num_classes, **options):
    """LEEP's two looks at the same pixels."""
    joint_mass = JointMass.from_pixels(logits, labels, num_classes=num_classes, **options)
    return LogLikelihood.from_pixels(logits, labels, joint_mass=joint_mass, **options)


METRICS = {  # a statistic from pixels, and the metric on it
    "leep": (log_likelihood, metrics.leep),
    "nce": (partial(JointMass.from_pixels, hard=True), metrics.nce),
    "logme": (Moments.from_pixels, metrics.logme),
    "hscore": (Moments.from_pixels, metrics.hscore),
    "regularized_hscore": (Moments.from_pixels, metrics.regularized_hscore),
}


def run_python(code, *, folder, **environment):
    """Runs `code` in a fresh interpreter in `folder`, without the package's own variables unless given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TORCH_TRF_")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=inherited | environment, capture_output=True, text=True
    )
