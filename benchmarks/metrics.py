"""Seconds of LEEP, LogME and H-score over 830,000 pixels in memory, beside the slow references and one plain read.

The references of the tests loop over pixels; they are timed on every hundredth pixel, and the time is multiplied.

python benchmarks/metrics.py
"""

import sys
from functools import partial
from pathlib import Path

import torch
from timing import medians, table

import torch_trf

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests import references

IMAGES, HEIGHT, WIDTH, NUM_CLASSES = 20, 166, 250, 11
SHARE = 100  # one pixel in so many goes to the references
METRICS = ("leep", "logme", "hscore")
HEADER = ("metric", "channels", "layout", "seconds", "reference, seconds", "times faster", "times one read")


def rows(channels: int) -> list[tuple[str, ...]]:
    """The rows of the table for features of so many channels, as images and as rows of pixels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, NUM_CLASSES, (IMAGES, HEIGHT, WIDTH), generator=generator)
    means = 2 * torch.randn(NUM_CLASSES, channels, generator=generator)
    noise = torch.randn(IMAGES, channels, HEIGHT, WIDTH, generator=generator)
    images = (means[labels].movedim(-1, 1) + noise).contiguous()
    pixels = images.movedim(1, -1).reshape(-1, channels), labels.flatten()
    layouts = {"images": (images, labels), "rows": pixels}

    functions = {
        (name, layout): partial(getattr(torch_trf, name), *data, num_classes=NUM_CLASSES)
        for name in METRICS
        for layout, data in layouts.items()
    }
    arrays = pixels[0][::SHARE].double().numpy(), pixels[1][::SHARE].numpy()
    references_of = {name: partial(getattr(references, name), *arrays) for name in METRICS}
    seconds = medians(functions | {"read": images.sum})
    slow = medians(references_of, rounds=1)
    return [
        (
            name,
            str(channels),
            layout,
            f"{seconds[name, layout]:.3f}",
            f"{SHARE * slow[name]:.0f}",
            f"{SHARE * slow[name] / seconds[name, layout]:.0f}",
            f"{seconds[name, layout] / seconds['read']:.1f}",
        )
        for name, layout in functions
    ]


def main() -> None:
    """Prints one table."""
    pixels, threads = IMAGES * HEIGHT * WIDTH, torch.get_num_threads()
    print(f"{pixels:,} pixels, {NUM_CLASSES} classes, float32, {threads} threads, medians\n")
    print(table(HEADER, rows(12) + rows(20)))


if __name__ == "__main__":
    main()
