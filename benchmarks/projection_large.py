"""Projection of more than 2^31 weights: ``python -m benchmarks.projection_large``.

The weights are bfloat16 and their memory is donated, so that the result takes its place. The number
of kept weights and the peak of the resident memory are checked, not only the time measured.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.memory import free_memory, peak, reset_peak
from benchmarks.timing import write
from sparsejax.projections import project_l0_ball

_EVERYTHING = lambda path, leaf: True  # noqa: E731


@dataclasses.dataclass(frozen=True)
class Config:
    """Time and memory of a projection whose counts do not fit in 32 bits."""

    leaves: int = 20
    """The number of leaves."""
    rows: int = 11_000
    """The number of rows of a leaf."""
    columns: int = 10_000
    """The number of columns of a leaf."""
    densities: tuple[float, ...] = (0.02, 0.98)
    """Fractions of the weights that are kept; 0.98 is more than 2^31 of them."""
    output: Path | None = None
    """JSON file to write; default: none."""


def main(config: Config) -> None:
    """Measure, check, print, and write the JSON file if one is given."""
    size = config.leaves * config.rows * config.columns
    if size * 2.5 > free_memory():
        raise SystemExit(f"{size:,} weights need {size * 2.5 / 2**30:.0f} GiB of free memory")
    rows = [_measure(config, size, density) for density in config.densities]
    if config.output:
        write(config.output, "projection_large", {"size": size, "rows": rows})


def _measure(config: Config, size: int, density: float) -> dict[str, Any]:
    kappa = int(density * size)
    tree = [_weights(number, config) for number in range(config.leaves)]
    project = jax.jit(partial(project_l0_ball, kappa=kappa, where=_EVERYTHING), donate_argnums=0)
    compiled = project.lower(tree).compile()
    before = reset_peak()
    start, busy = time.perf_counter(), time.process_time()
    kept = jax.block_until_ready(compiled(tree))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - busy
    extra = None if before is None else (peak() - before) / (2 * size)
    count = sum(int(np.count_nonzero(np.asarray(leaf).view(np.uint16))) for leaf in kept)
    if count != kappa:
        raise RuntimeError(f"{count:,} weights are kept, not {kappa:,}")
    print(
        f"{size:,} bfloat16 weights, {kappa:,} kept: {seconds:.2f} s ({cpu_seconds:.2f} s of CPU), "
        f"extra memory {extra if extra is None else f'{extra:.2%}'}"
    )
    planned: Any = compiled.memory_analysis()
    return {
        "kappa": kappa,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "extra_memory": extra,
        "extra_memory_planned": planned.temp_size_in_bytes / (2 * size),
    }


def _weights(seed: int, config: Config) -> jax.Array:
    """Return weights without zeros, of random signs, exponents and mantissas."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2**16, (config.rows, config.columns), np.uint16, endpoint=False)
    # Exponents from 96 to 127, so that no entry is zero, infinite or NaN.
    bits = (bits & 0x8FFF) | 0x3000
    weights: jax.Array = jax.device_put(bits.view(jnp.bfloat16))
    return weights


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.projection_large"))
