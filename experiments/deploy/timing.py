"""Seconds of a call, interleaved over all forms."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

_TURN = 1e-2  # seconds of repeated calls that are timed at once, after as many that are not


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; other load on the machine affects all of them alike.

    Each call runs for a while before its turn is timed: until threads that others have left
    spinning are asleep, and its data are in the caches.
    """
    for call in calls.values():
        call()  # compiles
    counts = {
        name: max(1, round(_TURN / max(_seconds(call, 3), 1e-9))) for name, call in calls.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            _seconds(call, counts[name])
            taken[name].append(_seconds(call, counts[name]))
    return {name: float(np.median(times)) for name, times in taken.items()}


def _seconds(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
