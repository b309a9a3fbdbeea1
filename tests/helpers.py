"""What the tests share: random pixels, comparisons, what metrics see of pixels, another Python."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from torch_trf.datasets import ROAD_CLASSES, RoadScenes
from torch_trf.metrics import METRICS
from torch_trf.pixels import Pixels
from torch_trf.statistics import JointMass, LogLikelihood, Moments

IGNORED = 250
SOURCE_CLASSES = 3
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LABEL_DTYPES = [torch.int64, torch.int32, torch.uint8]
every_kind_of_no_file = pytest.mark.parametrize("kind", ["pipe", "folder", "link", "loop"])
every_pool = pytest.mark.parametrize("pool_batch", [True, False], ids=["dataset", "image"])
LAYOUTS = {  # the same values with other strides
    "contiguous": lambda t: t,
    "rows": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda t: t.mT.contiguous().mT,
    "sliced": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
    "offset": lambda t: torch.nn.functional.pad(t, (3, 2))[..., 3:-2],
    "expanded": lambda t: t[:1].expand_as(t),
}
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


def random_images(
    batch, channels, height, width, *, device, classes=4, dtype=torch.float32, ignore_index=255, skew=0.0, seed=0
):
    """Features `[B, D, H, W]` scattered around class means, and labels; a fifth of the pixels is ignored and NaN."""
    features, labels = random_pixels(
        batch * height * width, channels, classes, device="cpu", dtype=dtype, skew=skew, seed=seed
    )
    ignored = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)) < 0.2
    labels[ignored], features[ignored] = ignore_index, torch.nan
    features = features.reshape(batch, height, width, channels).movedim(-1, 1).contiguous()
    return features.to(device), labels.reshape(batch, height, width).to(device)


def faulty_images(*size, label_dtype=torch.int64, **options):
    """Random images with labels that are no class and, in the last channel, features that are not finite."""
    features, labels = random_images(*size, ignore_index=IGNORED, **options)
    chance = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)).to(labels.device)
    labels[chance < 0.06] = 77
    labels[chance < 0.03] = 255
    features[:, -1][chance > 0.95] = torch.inf
    features[:, -1][chance > 0.98] = -torch.inf
    return features, labels.to(label_dtype)


def arrays(*tensors):
    """NumPy arrays of the tensors, real ones in float64."""
    return [(t.double() if t.is_floating_point() else t).cpu().numpy() for t in tensors]


def assert_close(actual, expected, rtol=1e-9, atol=1e-11, **options):
    expected = torch.as_tensor(expected, dtype=actual.dtype, device=actual.device)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, **options)


def assert_matches_reference(op, reference, *arguments, rtol=1e-11, atol=1e-9):
    """A kernel, as the op calls it, against the reference of the op: sums are taken in another order."""
    actual, expected = op(*arguments), reference(*arguments)
    torch.testing.assert_close(tuple(actual), expected, rtol=rtol, atol=atol)


def assert_same_bits(call):
    """What `call` returns, on one thread and on two, one after the other."""
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 2):
            torch.set_num_threads(number)
            results.append(call())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


def assert_same(actual, expected, rtol=1e-10, atol=1e-10):
    """Two statistics of the same pixels; moments wherever their origins lie.

    What class scores look like is asked of the first pixels of a batch, and so depends on the batches.
    """
    if isinstance(actual, Moments):
        actual, expected = (moments.around(torch.zeros_like(moments.origin)) for moments in (actual, expected))
    states = [{**each.state(), "faults.class_scores": torch.tensor(0)} for each in (actual, expected)]
    torch.testing.assert_close(*states, rtol=rtol, atol=atol)


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


def last_look(metric, tensor, labels, *, num_classes, ignore_index=255, **options):
    """What a metric's last look gives of pixels, each look given what the one before gave; of a sample, one repeat."""
    pixels, statistic = Pixels.of(tensor, labels, tensor), None
    for look in metric.looks:
        statistic = look(pixels, statistic, num_classes=num_classes, ignore_index=ignore_index, **options)
    return statistic[0] if metric.draws else statistic


def some_source(channels, *, device):
    """Features and labels of source pixels, for metrics that need a source."""
    return random_pixels(12, channels, SOURCE_CLASSES, device=device, seed=9)


def score_of(metric, statistic, *, num_classes):
    """A metric's score of what its last look gave; a metric that needs a source has `some_source`."""
    if metric.needs_source:
        statistic = metric.couple_pixels(
            statistic.features,
            statistic.labels,
            source=some_source(statistic.channels, device=statistic.device),
            num_classes=num_classes,
            num_source_classes=SOURCE_CLASSES,
        )
    return metric.score(statistic)


def score_of_pixels(metric, tensor, labels, *, num_classes, **options):
    """A metric's score of pixels, by its looks; NaN where there is none."""
    return score_of(
        metric, last_look(metric, tensor, labels, num_classes=num_classes, **options), num_classes=num_classes
    )


def metrics_that(condition):
    """Parametrises a test over the metrics of the table that fulfil a condition."""
    metrics = [metric for metric in METRICS.values() if condition(metric)]
    return pytest.mark.parametrize("metric", metrics, ids=[metric.name for metric in metrics])


every_metric = metrics_that(lambda metric: True)


def write_features(folder, *, shift=0.5, seed=0, num_images=3, height=24, width=32):
    """A feature folder of road scenes, as models further from their domain by `shift` might see it; 250 is ignored."""
    scenes = RoadScenes("noon", num_images=num_images, height=height, width=width, seed=seed)
    fixed, noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(seed)
    of_class, confused = 5 * torch.randn(2, len(ROAD_CLASSES), 12, generator=fixed)
    means = torch.cat([of_class + shift * confused, torch.zeros(1, 12)])  # the last one of ignored pixels
    for name in ("final", "label"):
        (folder / name).mkdir(parents=True)
    for k in range(num_images):
        labels = scenes[k][1]
        features = means[labels.clamp(max=len(ROAD_CLASSES))].movedim(-1, 0)
        features = features + (3 + 3 * shift) * torch.randn(features.shape, generator=noise)
        np.save(folder / "final" / f"{k}.npy", features.numpy())
        np.save(folder / "label" / f"{k}.npy", labels.masked_fill(labels == 255, IGNORED).numpy())


def put_what_is_no_file(path, kind):
    """A pipe, a folder, or a link to nothing or to itself, where a file might be."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else path.parent / "gone")


def run_python(code, *, folder, **environment):
    """Runs `code` in a fresh interpreter in `folder`, without the package's own variables unless given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TORCH_TRF_")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=inherited | environment, capture_output=True, text=True
    )
