"""Seconds of a call, of all forms by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

_ROUND = 1e-2  # seconds of repeated calls that are timed at once, after as many that are not


def by_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; what else the machine does hits all of them alike.

    Each runs for a while before its turn is timed: until threads that others have left spinning are
    asleep, and what it works on is in the caches.
    """
    for call in calls.values():
        call()  # compiles
    repeats = {
        name: max(1, round(_ROUND / max(_seconds(call, 3), 1e-9))) for name, call in calls.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            _seconds(call, repeats[name])
            taken[name].append(_seconds(call, repeats[name]))
    return {name: float(np.median(times)) for name, times in taken.items()}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
