"""Seconds of LEEP, LogME and H-score over 830,000 pixels in memory, beside the slow references and one plain read.

    python benchmarks/metrics.py
"""

import sys
from pathlib import Path

import torch
from timing import medians, table

import torch_trf

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests import references

IMAGES, HEIGHT, WIDTH, NUM_CLASSES = 20, 166, 250, 11


def main() -> None:
    """Prints one table."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for channels in (12, 20):
        labels = torch.randint(0, NUM_CLASSES, (IMAGES, HEIGHT, WIDTH), generator=generator)
        means = 2 * torch.randn(NUM_CLASSES, channels, generator=generator)
        noise = torch.randn(IMAGES, channels, HEIGHT, WIDTH, generator=generator)
        images = (means[labels].movedim(-1, 1) + noise).contiguous()
        pixels = images.movedim(1, -1).reshape(-1, channels)
        one = pixels.double().numpy(), labels.flatten().numpy()
        times = medians(
            {"read": images.sum}
            | {
                f"{name}, {layout}": lambda name=name, data=data: getattr(torch_trf, name)(*data, num_classes=NUM_CLASSES)
                for name in ("leep", "logme", "hscore")
                for layout, data in (("images", (images, labels)), ("rows", (pixels, labels.flatten())))
            }
        )
        slow = medians({name: lambda name=name: getattr(references, name)(*one) for name in ("leep", "logme", "hscore")}, 1)
        for name in ("leep", "logme", "hscore"):
            for layout in ("images", "rows"):
                seconds = times[f"{name}, {layout}"]
                rows.append(
                    (
                        name,
                        str(channels),
                        layout,
                        f"{seconds:.3f}",
                        f"{slow[name]:.2f}",
                        f"{slow[name] / seconds:.1f}",
                        f"{seconds / times['read']:.1f}",
                    )
                )
    print(f"{IMAGES * HEIGHT * WIDTH:,} pixels, {NUM_CLASSES} classes, float32, {torch.get_num_threads()} threads, medians")
    print(table(("metric", "channels", "layout", "seconds", "reference, seconds", "times faster", "times one read"), rows))


if __name__ == "__main__":
    main()
