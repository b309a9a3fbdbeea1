"""What the commands share."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed

NOT_ASKED = {  # options of Scorer that commands ask in another way, or not at all
    "metrics",
    "softmax",
    "num_classes",
    "num_source_classes",
    "stream_pixels",
    "device",
    "all_ranks",
    "progress",
}


def check_output(path: Path) -> None:
    """Raises where a file cannot be written."""
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"--output {path} cannot be written: it must be a file in a folder that exists")


def chosen_device(name: str) -> torch.device:
    """The device of this name, which under torchrun is one for each process."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this PyTorch sees no GPU")
    if device.type == "cuda" and device.index is None and distributed.is_torchelastic_launched():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))  # a GPU each
        torch.cuda.set_device(device)
    return device


def aligned(rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """Rows of cells as a table for the terminal; the columns `left` hold words."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
