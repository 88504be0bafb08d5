"""Times of calls that an accelerator runs asynchronously."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax

from benchmarks.timing import interleaved

_AIM = 0.05  # seconds of a timed run of calls


def medians(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median seconds of a call of each function, with all functions interleaved.

    A timed run makes as many calls as take a twentieth of a second, and waits for the last one, so
    that the time which the host needs to start a program does not count unless it is the longer.
    """
    jax.block_until_ready([function() for function in functions.values()])  # compiles
    once = interleaved({name: _run(function, 1) for name, function in functions.items()}, 1)
    calls = {name: max(1, min(200, int(_AIM / seconds[0]))) for name, seconds in once.items()}
    seconds = interleaved(
        {name: _run(function, calls[name]) for name, function in functions.items()}, repeats
    )
    return {name: statistics.median(found) / calls[name] for name, found in seconds.items()}


def _run(function: Callable[[], Any], calls: int) -> Callable[[], None]:
    def run() -> None:
        results = None
        for _ in range(calls):
            results = function()
        jax.block_until_ready(results)

    return run
