"""Exact top-kappa projection compared with alternatives: ``python -m benchmarks.projection``.

All functions take weights and kappa and return the projected weights. They are interleaved in one
process, those of PyTorch after the others, since its threads keep spinning after a call. Times are
also given as multiples of a copy, ``jit(lambda x: 2 * x)``, of the same weights. Functions that
would take minutes are left out and listed, as is PyTorch if it is not installed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.memory import free_memory, peak, reset_peak
from benchmarks.projection_alternatives import COPIES_NEEDED, with_jax, with_numpy, with_torch
from benchmarks.projection_figure import plot
from benchmarks.timing import interleaved, write
from sparsejax.projections import project_l0_ball

Projections = Mapping[str, Callable[[int], Any]]
COPY, COLD, WARM = "a copy", "sparsejax, cold", "sparsejax, warm"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_MAX_HUGE = 200_000_000  # weights; larger sizes would take longer and show the same
_EVERYTHING = lambda path, leaf: True  # noqa: E731


@dataclasses.dataclass(frozen=True)
class Config:
    """Speed and memory of the projection onto the l0 ball."""

    sizes: tuple[int, ...] = (266_200, 431_080, 15_000_000, 138_357_544, 1_000_000_000)
    """Numbers of float32 weights: LeNet300, LeNet5, a medium network, VGG-16, a large network."""
    densities: tuple[float, ...] = (0.001, 0.02, 0.5)
    """Fractions of the weights that are kept."""
    repeats: int = 7
    """Timed calls of each function; the median counts."""
    max_seconds: float = 30.0
    """Functions whose call takes longer (extrapolated from a smaller size) are left out."""
    device_counts: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of simulated devices over which the medium size is sharded, in another process."""
    output: Path | None = None
    """Folder for projection.json and projection.png; default: none."""
    part: Literal["all", "devices", "huge_pages"] = "all"
    """Measure only this part and print it as JSON, for the separate processes."""


def main(config: Config) -> None:
    """Measure, print, and write the JSON file if one is given."""
    if config.part != "all":
        print(json.dumps(_sharded(config) if config.part == "devices" else _huge_pages(config)))
        return
    rows: list[dict[str, Any]] = []
    for size in config.sizes:
        if size * 4 * 3.5 > free_memory():
            needed = size * 4 * 3.5 / 2**30
            print(f"\n{size:,} weights are left out, since they need {needed:.0f} GiB free")
            continue
        weights = jax.random.normal(jax.random.key(0), (size,))
        for density in config.densities:
            rows.append(_measure(weights, density, config, rows))
            _print_row(rows[-1])
        del weights
    measured = [size for size in config.sizes if any(row["size"] == size for row in rows)]
    devices = _on_devices(config, measured[len(measured) // 2])
    _print_devices(devices)
    huge_pages = _with_huge_pages(config, measured)
    _print_huge_pages(huge_pages)
    if config.output:
        settings = dataclasses.asdict(config) | {"output": str(config.output)}
        results = {"config": settings, "rows": rows, "devices": devices, "huge_pages": huge_pages}
        write(config.output / "projection.json", "projection", results)
        plot(rows, devices, config.output / "projection.png")
        print(f"wrote {config.output / 'projection.png'}")


def _measure(
    weights: jax.Array, density: float, config: Config, before: list[dict[str, Any]]
) -> dict[str, Any]:
    """Time all functions at one size and one density."""
    size, kappa = weights.size, int(density * weights.size)
    left_out: dict[str, str] = {}
    seconds: dict[str, list[float]] = {}
    for group in (
        _ours(weights, kappa) | with_jax(weights) | with_numpy(weights),
        with_torch(weights),
    ):
        functions = dict(group)
        for name in group:
            earlier = [row for row in before if row["share"] == density]
            expected = _expected(name, size, earlier[-1]) if earlier else 0.0
            needed = 4 * size * COPIES_NEEDED.get(name, 2)
            if expected > config.max_seconds:
                per_call = f"about {expected:.0f} s per call"
                slow = expected < float("inf")
                left_out[name] = per_call if slow else "too slow at a smaller size already"
            elif needed > free_memory():
                left_out[name] = f"needs {needed / 2**30:.0f} GiB"
            if name in left_out:
                del functions[name]
        seconds |= _interleaved(functions, kappa, config)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "size": size,
        "share": density,
        "kappa": kappa,
        "seconds": seconds,
        "median": median,
        "copies": {name: value / median[COPY] for name, value in median.items()},
        "left_out": left_out,
        "extra_memory": _extra_memory(weights, kappa),
    }


def _interleaved(functions: Projections, kappa: int, config: Config) -> dict[str, list[float]]:
    waiting = {
        name: lambda call=call: jax.block_until_ready(call(kappa))
        for name, call in functions.items()
    }
    return interleaved(waiting, config.repeats, config.max_seconds / config.repeats)


def _ours(weights: jax.Array, kappa: int) -> dict[str, Callable[[int], Any]]:
    double = jax.jit(lambda w: 2 * w)
    total = jax.jit(jnp.sum)
    cold = jax.jit(lambda w, k: project_l0_ball(w, k, _EVERYTHING))
    warm = jax.jit(
        lambda w, k, warm_start: project_l0_ball(w, k, _EVERYTHING, warm_start=warm_start)
    )
    _, threshold = project_l0_ball(weights, kappa, _EVERYTHING, with_threshold=True)
    # The threshold after an L step that moved it by a thousandth.
    warm_start = 1.001 * threshold
    return {
        "one read": lambda kappa: total(weights),
        COPY: lambda kappa: double(weights),
        COLD: lambda kappa: cold(weights, kappa),
        WARM: lambda kappa: warm(weights, kappa, warm_start),
    }


_MAPPED = 2**26  # bytes; larger buffers are returned to the system, so that peaks are visible


def _expected(name: str, size: int, earlier: Mapping[str, Any]) -> float:
    """Estimated seconds per call, proportional to size; infinite if left out at a smaller size."""
    if name in earlier["left_out"]:
        return float("inf")
    return float(earlier["median"].get(name, 0.0) * size / earlier["size"])


def _extra_memory(weights: jax.Array, kappa: int) -> dict[str, float | None]:
    """Temporary memory of a projection, as a fraction of that of the weights."""
    project = jax.jit(lambda w, k: project_l0_ball(w, k, _EVERYTHING)).lower(weights, kappa)
    compiled = project.compile()
    planned: Any = compiled.memory_analysis()
    found: dict[str, float | None] = {
        "planned": planned.temp_size_in_bytes / weights.nbytes,
        "measured": None,
    }
    before = None if weights.nbytes < _MAPPED else reset_peak()
    if before is not None:
        jax.block_until_ready(compiled(weights, jnp.asarray(kappa)))
        found["measured"] = (peak() - before - weights.nbytes) / weights.nbytes
    return found


def _in_another_process(
    part: str, size: int, config: Config, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Measure a part in a process that starts with ``environment``."""
    counts = [str(count) for count in config.device_counts]
    command = [sys.executable, "-m", "benchmarks.projection", "--part", part]
    options = ["--sizes", str(size), "--repeats", str(config.repeats), "--device-counts", *counts]
    done = subprocess.run(
        [*command, *options], env=os.environ | environment, stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _on_devices(config: Config, size: int) -> dict[str, Any]:
    """Times on simulated devices, whose number must be set before JAX starts."""
    flag = f"--xla_force_host_platform_device_count={max(config.device_counts)}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    return _in_another_process("devices", size, config, {"XLA_FLAGS": flags})


def _with_huge_pages(config: Config, sizes: Sequence[int]) -> dict[str, Any]:
    """Times of the projection and of its fastest alternative, with huge pages for both.

    Most of the time of a copy is spent on page faults. NumPy requests huge pages, which the system
    grants or not; XLA does not request them. With this setting the C library does so for both.
    """
    large = [size for size in sizes if size <= _MAX_HUGE]
    return _in_another_process("huge_pages", large[-1], config, {"GLIBC_TUNABLES": _HUGE_PAGES})


def _huge_pages(config: Config) -> dict[str, Any]:
    (size,) = config.sizes
    weights = jax.random.normal(jax.random.key(0), (size,))
    kappa = size // 50
    ours = {name: run for name, run in _ours(weights, kappa).items() if name in (COPY, COLD)}
    seconds = _interleaved(ours | with_numpy(weights), kappa, config)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    settings = {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "")}
    return {
        "size": size,
        "kappa": kappa,
        "settings": settings,
        "median": median,
        "seconds": seconds,
    }


def _sharded(config: Config) -> dict[str, Any]:
    """Seconds of a copy and of a projection of an array that is sharded over 1, 2, ... devices."""
    (size,) = config.sizes
    kappa, found = size // 50, {}
    copy = jax.jit(lambda w: 2 * w)
    cold = jax.jit(lambda w, k: project_l0_ball(w, k, _EVERYTHING))
    for count in config.device_counts:
        mesh = Mesh(np.array(jax.devices()[:count]), ("weights",))
        sharding = NamedSharding(mesh, PartitionSpec("weights"))
        usable = size // (128 * count) * 128 * count
        weights = jax.device_put(jax.random.normal(jax.random.key(0), (usable,)), sharding)
        functions: Projections = {
            COPY: functools.partial(lambda w, kappa: copy(w), weights),
            COLD: functools.partial(cold, weights),
        }
        seconds = _interleaved(functions, kappa, config)
        found[str(count)] = {name: statistics.median(values) for name, values in seconds.items()}
    return {"size": size, "kappa": kappa, "seconds": found}


def _print_row(row: Mapping[str, Any]) -> None:
    print(f"\n{row['size']:,} weights, {row['share']:.1%} kept")
    print(f"  {'':<20}{'median ms':>11}{'min':>10}{'max':>10}{'copies':>9}")
    for name, values in row["seconds"].items():
        extremes = f"{1e3 * min(values):>10.2f}{1e3 * max(values):>10.2f}"
        ratio = f"{row['copies'][name]:>9.2f}"
        print(f"  {name:<20}{1e3 * row['median'][name]:>11.2f}{extremes}{ratio}")
    for name, why in row["left_out"].items():
        print(f"  {name:<20}  left out: {why}")
    memory = row["extra_memory"]
    measured = (
        "not measured" if memory["measured"] is None else f"{memory['measured']:.2%} measured"
    )
    print(f"  memory beyond the result: {memory['planned']:.3%} planned, {measured}")


def _print_devices(devices: Mapping[str, Any]) -> None:
    print(f"\n{devices['size']:,} weights, 2.0% kept, sharded over simulated devices (same cores)")
    for count, seconds in devices["seconds"].items():
        copy, ours = 1e3 * seconds[COPY], 1e3 * seconds[COLD]
        print(f"  {count:>2} devices: copy {copy:.2f} ms, sparsejax {ours:.2f} ms")


def _print_huge_pages(found: Mapping[str, Any]) -> None:
    print(f"\n{found['size']:,} weights, 2.0% kept, huge pages ({_HUGE_PAGES})")
    for name, seconds in found["median"].items():
        print(f"  {name:<20}{1e3 * seconds:>11.2f} ms")


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.projection"))
