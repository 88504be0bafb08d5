"""Median times of calls, measured in an interleaved order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from sparsejax._where import PyTree

_ROUND = 5e-3  # Seconds of repeated calls in one round of a function.

Measure = Callable[[Sequence[Callable[..., PyTree]], tuple[PyTree, ...]], Sequence[float]]
"""``measure(functions, inputs)``: the seconds that ``f(*inputs)`` takes, for each function."""


def median_seconds(rounds: int) -> Measure:
    """Return a `Measure` that takes the median over rounds in which all functions take turns."""

    def measure(
        functions: Sequence[Callable[..., PyTree]], inputs: tuple[PyTree, ...]
    ) -> list[float]:
        def seconds(function: Callable[..., PyTree], calls: int) -> float:
            start = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(function(*inputs))
            return (time.perf_counter() - start) / calls

        for function in functions:
            seconds(function, 1)  # compiles
        calls = [max(1, round(_ROUND / max(seconds(f, 3), 1e-9))) for f in functions]
        taken = [
            [seconds(f, n) for f, n in zip(functions, calls, strict=True)] for _ in range(rounds)
        ]
        return [float(np.median(times)) for times in zip(*taken, strict=True)]

    return measure
