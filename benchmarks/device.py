"""Checks every CUDA path against the CPU and times it; needs a GPU and the built extension.

pip install --no-build-isolation -e . && python benchmarks/device.py [--output benchmarks/results/FILE.md]
"""

import argparse
from pathlib import Path

import torch
from timing import medians, table

import torch_trf
from torch_trf import Scorer
from torch_trf._ops import patch_moments
from torch_trf.statistics import JointMass, LogLikelihood, Moments, PixelSample

NUM_CLASSES = 11
FEATURES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LABELS = (torch.int64, torch.int32, torch.uint8)


def images(batch: int, channels: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that tell something of their labels; some pixels ignored, features there NaN."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, NUM_CLASSES, (batch, height, width), generator=generator)
    means = torch.randn(NUM_CLASSES, channels, generator=generator)
    noise = torch.randn(batch, channels, height, width, generator=generator)
    features = means[labels].movedim(-1, 1) + noise
    labels[:, ::7] = 255
    return features.masked_fill((labels == 255).unsqueeze(1), torch.nan), labels


def check_kernel() -> int:
    """The CUDA kernel against the CPU kernel: dtypes, strides, cells, pooling, faults, and the same bits twice."""
    checks = 0
    for channels in (1, 5, 19, 33, 70):
        features, labels = images(3, channels, 61, 47)
        labels[0, 1, :3], labels[1, 1, 0] = 99, -4
        features[2, 0, 1, 5] = torch.inf
        for feature_type, label_type in [(f, torch.int64) for f in FEATURES] + [(torch.float32, lab) for lab in LABELS]:
            kept = labels.where(labels >= 0, 98) if label_type == torch.uint8 else labels
            cpu = features.to(feature_type), kept.to(label_type)
            for layout in (torch.contiguous_format, torch.channels_last):
                gpu = cpu[0].cuda().contiguous(memory_format=layout), cpu[1].cuda()
                for cell in ((61, 47), (4, 4), (7, 5), (1, 1)):
                    for pool_batch in (True, False):
                        options = (NUM_CLASSES, *cell, pool_batch, 255)
                        expected, found = patch_moments(*cpu, *options), patch_moments(*gpu, *options)
                        again = patch_moments(*gpu, *options)
                        for name, left, right, repeat in zip(expected._fields, expected, found, again, strict=True):
                            torch.testing.assert_close(right.cpu(), left, rtol=1e-10, atol=1e-9, msg=name)
                            assert torch.equal(right, repeat), f"{name}: not the same bits twice"
                        checks += 1
    rows, labels = torch.randn(100_000, 12), torch.randint(0, NUM_CLASSES, (100_000,))  # several chunks
    for left, right in zip(
        Moments.from_pixels(rows, labels, num_classes=NUM_CLASSES).state().values(),
        Moments.from_pixels(rows.cuda(), labels.cuda(), num_classes=NUM_CLASSES).state().values(),
        strict=True,
    ):
        torch.testing.assert_close(right.cpu(), left, rtol=1e-10, atol=1e-7)
    return checks + 1


def check_scores() -> int:
    """Every metric on the GPU against the CPU, over all pixels, over a stream and over samples."""
    stream = []
    for batch in (2, 3):
        features, labels = images(batch, 8, 40, 50)
        features = features.nan_to_num()
        stream.append((features, labels, 3 * features))
    every = ("leep", "logme", "hscore", "regularized_hscore", "nce")
    checks = 0
    for options, target in (
        ({"metrics": every}, lambda: stream),
        ({"metrics": every, "stream_pixels": 500}, lambda: iter(stream)),
        (
            {"metrics": (*every, "otce"), "num_pixels": 300, "num_repeats": 3, "num_source_classes": NUM_CLASSES},
            lambda: stream,
        ),
        ({"metrics": every, "num_pixels": 300, "sampling": "per_class"}, lambda: stream),
        ({"metrics": every, "num_pixels": 300, "sampling": "boundary"}, lambda: stream),
    ):
        cpu, gpu = (
            Scorer(num_classes=NUM_CLASSES, device=device, **options)(target(), stream) for device in ("cpu", "cuda")
        )
        for name in cpu:
            torch.testing.assert_close(gpu[name].score, cpu[name].score, rtol=1e-8, atol=1e-9, msg=f"{name} {options}")
            checks += 1
    return checks


def check_no_synchronisation() -> None:
    """Updates of every statistic never wait for the GPU."""
    features, labels = (tensor.cuda() for tensor in images(2, 8, 40, 50))
    features = features.nan_to_num()
    joint_mass = JointMass.from_pixels(features, labels, num_classes=NUM_CLASSES)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for statistic, options in (
            (Moments, {"num_classes": NUM_CLASSES}),
            (JointMass, {"num_classes": NUM_CLASSES}),
            (LogLikelihood, {"joint_mass": joint_mass}),
            (PixelSample, {"num_classes": NUM_CLASSES, "size": 100}),
        ):
            first = statistic.from_pixels(features, labels, **options)
            first.add(features, labels, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def times() -> str:
    """The op and the scores, GPU against CPU."""
    rows = []
    for channels in (12, 20, 64):
        features, labels = images(20, channels, 180, 240)
        gpu = features.cuda(), labels.cuda()
        size = features.numel() * features.element_size() + labels.numel() * labels.element_size()
        cases = {
            "one patch": ((180, 240), True),
            "patches of 4 x 4, pooled": ((4, 4), True),
            "patches of 4 x 4, an image each": ((4, 4), False),
        }
        for case, (cell, pool_batch) in cases.items():
            options = (NUM_CLASSES, *cell, pool_batch, 255)
            found = medians(
                {
                    "read": lambda gpu=gpu: (gpu[0].sum(), gpu[1].sum()),
                    "gpu": lambda gpu=gpu, options=options: patch_moments(*gpu, *options),
                    "cpu": lambda features=features, labels=labels, options=options: patch_moments(
                        features, labels, *options
                    ),
                }
            )
            rows.append(
                (
                    f"patch_moments, {case}",
                    str(channels),
                    f"{1e3 * found['gpu']:.2f}",
                    f"{size / found['gpu'] / 1e9:.0f}",
                    f"{found['gpu'] / found['read']:.1f}",
                    f"{found['cpu'] / found['gpu']:.1f}",
                )
            )
    header = ("what", "channels", "GPU, ms", "GPU, GB/s of input", "times one read", "times faster than the CPU")
    return table(header, rows)


def main() -> None:
    """Checks, then prints and writes the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file to write the report to")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/device.py needs a GPU, and this PyTorch sees none")
    if not torch_trf.has_extension("cuda"):
        raise SystemExit("the CUDA kernels are not built: install where nvcc is found")
    kernels, scores = check_kernel(), check_scores()
    check_no_synchronisation()
    report = "\n".join(
        [
            f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda},"
            f" torch_trf {torch_trf.__version__}; medians.",
            f"{kernels} kernel checks and {scores} score checks against the CPU passed; no update synchronises.",
            "",
            times(),
        ]
    )
    print(report)
    if arguments.output:
        arguments.output.write_text(report + "\n")


if __name__ == "__main__":
    main()
