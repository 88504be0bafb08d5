"""Interleaved timing, the batches of PyTorch users, and the JSON file: shared by all benchmarks."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.common.report import origin
from sparsejax.training import write_json

TORCH_IS_MISSING = "PyTorch is not installed, so it is not compared"


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    slow: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time functions in alternation, so that changes in the load of the machine affect all of them.

    Args:
      functions: functions of no arguments by name; each must wait for its result.
      repeats: number of timed calls of each; an untimed call before them compiles and warms up.
      slow: seconds of a call above which a function is not called again.
      clock: what counts as seconds; ``time.process_time`` leaves out those of other processes.

    Returns:
      Seconds of each call by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            if max(seconds[name], default=0.0) > slow:
                continue
            start = clock()
            function()
            if repeat:
                seconds[name].append(clock() - start)
    return seconds


def print_ratios(title: str, seconds: Mapping[str, list[float]], width: int) -> dict[str, float]:
    """Print a table of times and of their ratios to ``sparsejax``; return the median times."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{title:<{width}}{'median s':>10}{'min':>8}{'max':>8}{'ratio':>8}")
    for name, value in median.items():
        extremes = f"{min(seconds[name]):>8.3f}{max(seconds[name]):>8.3f}"
        print(f"{name:<{width}}{value:>10.3f}{extremes}{value / median['sparsejax']:>7.2f}x")
    return median


def torch_slices(images: Any, labels: Any, batch_size: int) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of an epoch as slices of shuffled tensors, without a last partial one."""
    import torch

    order = torch.randperm(len(labels))
    for start in range(0, len(labels) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield images[chosen], labels[chosen]


def write(output: Path | None, benchmark: str, results: Mapping[str, Any]) -> None:
    """Write results with the versions and the machine as JSON, if a file is given."""
    if output:
        write_json(output, {"benchmark": benchmark, **origin(), **results})
        print(f"wrote {output}")
