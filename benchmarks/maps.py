"""Seconds of transferability maps, of the kernels beneath them, and of the slow references, in one run.

The data are made up: 20 street scenes, 12 channels, 180 x 240 pixels. The reference is the loop over
patches in tests/references; it is timed on every ninth row of patches, and the time is multiplied.

python benchmarks/maps.py
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from made_up import CLASSES, IGNORE_INDEX, make_feature_folder
from timing import medians, table

import torch_trf
from torch_trf._ops import eigenbasis, patch_joint_mass, patch_log_likelihood, patch_moments
from torch_trf._ops._eigenbasis import eigenbasis_reference

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests import references

IMAGES, HEIGHT, WIDTH, NUM_CLASSES = 20, 180, 240, len(CLASSES)
SHARE = 9  # one row of patches in so many goes to the reference
METRICS = ("leep", "nce", "logme", "hscore", "regularized_hscore")
CASES = {  # patch size, stride and pool
    ("4, stride 4", "dataset"): (4, 4, "dataset"),
    ("4, stride 4", "image"): (4, 4, "image"),
    ("16, stride 4", "dataset"): (16, 4, "dataset"),
}


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of a made-up target domain."""
    with tempfile.TemporaryDirectory() as folder:
        make_feature_folder(folder, shift=0.5, num_images=IMAGES, height=HEIGHT, width=WIDTH)
        batches = list(torch_trf.FeatureFolder(folder))
    return torch.cat([batch.features for batch in batches]), torch.cat([batch.labels for batch in batches])


def map_rows(features: torch.Tensor, labels: torch.Tensor) -> list[tuple[str, ...]]:
    """Each metric's map, by several patches; the reference of the first."""
    options = {"num_classes": NUM_CLASSES, "ignore_index": IGNORE_INDEX, "features_are_logits": True}
    # As the reference has it, with every look anew in each patch.
    options |= {"first_look": "patch"}
    map_of = partial(torch_trf.transferability_map, features=features, labels=labels, **options)
    functions = {
        (metric, *case): partial(map_of, metric, patch_size=size, stride=stride, pool=pool)
        for metric in METRICS
        for case, (size, stride, pool) in CASES.items()
    }
    seconds = medians(functions | {"read": features.sum})
    rows = torch.arange(HEIGHT) // 4 % SHARE == SHARE // 2
    few = features[..., rows, :].double().numpy(), labels[:, rows].numpy()
    slow = {
        metric: partial(
            references.transferability_map,
            getattr(references, metric),
            *few,
            (4, 4),
            (4, 4),
            "dataset",
            ignore_index=IGNORE_INDEX,
        )
        for metric in METRICS
    }
    reference = {metric: SHARE * each for metric, each in medians(slow, rounds=1).items()}
    return [
        (
            metric,
            patch,
            pool,
            f"{1e3 * seconds[metric, patch, pool]:.0f}",
            *(
                (f"{reference[metric]:.1f}", f"{reference[metric] / seconds[metric, patch, pool]:.0f}")
                if (patch, pool) == next(iter(CASES))
                else ("", "")
            ),
            f"{seconds[metric, patch, pool] / seconds['read']:.0f}",
        )
        for metric, patch, pool in functions
    ]


def kernel_rows(features: torch.Tensor, labels: torch.Tensor) -> list[tuple[str, ...]]:
    """The kernels on the same pixels: pixels a second and bytes of input a second."""
    common = (NUM_CLASSES, 4, 4, True, IGNORE_INDEX)
    whole = (NUM_CLASSES, HEIGHT, WIDTH, True, IGNORE_INDEX)
    mass = patch_joint_mass(features, labels, *common, False).mass
    conditional = (mass / mass.sum(-2, keepdim=True)).nan_to_num()
    functions = {
        "patch_moments, cells of 4 x 4": partial(patch_moments, features, labels, *common),
        "patch_moments, one cell": partial(patch_moments, features, labels, *whole),
        "patch_joint_mass, cells of 4 x 4": partial(patch_joint_mass, features, labels, *common, False),
        "patch_joint_mass, one cell": partial(patch_joint_mass, features, labels, *whole, False),
        "patch_log_likelihood, patches of 4 x 4": partial(
            patch_log_likelihood, features, labels, conditional, 4, 4, 4, 4, True, IGNORE_INDEX
        ),
    }
    size = features.numel() * features.element_size() + labels.numel() * labels.element_size()
    return [
        (name, f"{1e3 * seconds:.1f}", f"{labels.numel() / seconds / 1e6:.0f}", f"{size / seconds / 1e9:.1f}")
        for name, seconds in medians(functions, rounds=15).items()
    ]


def channel_rows() -> list[tuple[str, ...]]:
    """Moments of 86,400 pixels and 100 eigenproblems by the number of channels, against the libraries."""
    rows = []
    for channels in (12, 20, 32, 48, 64, 128, 256):
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(2, channels, HEIGHT, WIDTH, generator=generator)
        labels = torch.randint(0, NUM_CLASSES, (2, HEIGHT, WIDTH), generator=generator)
        pixels = features.movedim(1, -1).reshape(-1, channels).double()
        matrices = torch.randn(100, 2 * channels, channels, generator=generator, dtype=torch.float64)
        matrices = matrices.mT @ matrices
        vectors = torch.randn(100, NUM_CLASSES, channels, generator=generator, dtype=torch.float64)
        seconds = medians(
            {
                "moments": partial(patch_moments, features, labels, NUM_CLASSES, HEIGHT, WIDTH, True, IGNORE_INDEX),
                "product": partial(torch.matmul, pixels.T, pixels),
                "eigenbasis": partial(eigenbasis, matrices, vectors),
                "eigh": partial(eigenbasis_reference, matrices, vectors),
            },
            rounds=3,
        )
        rows.append((str(channels), *(f"{1e3 * seconds[name]:.1f}" for name in seconds)))
    return rows


def main() -> None:
    """Prints three tables."""
    data = images()
    print(f"{IMAGES} images of {HEIGHT} x {WIDTH} pixels, 12 channels, float32, {torch.get_num_threads()} threads\n")
    header = ("metric", "patch", "pool", "ms", "reference, s", "times faster", "times one read")
    print(table(header, map_rows(*data)) + "\n")
    print(table(("kernel", "ms", "million pixels/s", "GB/s"), kernel_rows(*data)) + "\n")
    header = ("channels", "moments, ms", "one product FᵀF, ms", "100 eigenbasis, ms", "100 by the library, ms")
    print(table(header, channel_rows()))


if __name__ == "__main__":
    main()
