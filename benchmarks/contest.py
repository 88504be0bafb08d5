"""What benchmarks share: contestants by turns, PyTorch's batches, the file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.common.results import origin
from sparsejax.training import write_json

TORCH_IS_MISSING = "torch is not installed: no ratio against it"


def by_turns(contestants: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds of each turn of each, without a first turn that compiles and warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(turns + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def torch_slices(images: Any, labels: Any, batch: int) -> Iterator[tuple[Any, Any]]:
    """An epoch as PyTorch's fast users feed it: slices of shuffled tensors, the rest dropped."""
    import torch

    order = torch.randperm(len(labels))
    for start in range(0, len(labels) - batch + 1, batch):
        chosen = order[start : start + batch]
        yield images[chosen], labels[chosen]


def write(output: Path | None, benchmark: str, figures: Mapping[str, Any]) -> None:
    """The figures and what they were measured on as JSON, if a file is named."""
    if output:
        write_json(output, {"benchmark": benchmark, **origin(), **figures})
        print(f"wrote {output}")
