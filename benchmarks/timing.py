"""What the benchmarks share: medians of alternating runs, and a table to paste."""

import statistics
import time
from collections.abc import Callable, Hashable

import torch


def medians(functions: dict[Hashable, Callable[[], object]], rounds: int = 7) -> dict[Hashable, float]:
    """Median seconds of each function, measured in turn so that a drift of the machine meets all alike."""
    seconds: dict[Hashable, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()  # warm up
    for _ in range(rounds):
        for name, function in functions.items():
            _synchronize()
            start = time.perf_counter()
            function()
            _synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
