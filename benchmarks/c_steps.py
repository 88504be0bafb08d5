"""C steps compared with NumPy, scikit-learn and a singular value decomposition.

``python -m benchmarks.c_steps`` times each C step of learning-compression on normal weights beside
what a user would write instead, interleaved in one process, and gives the times as multiples of a
copy, ``jit(lambda x: 2 * x)``, of the same weights. A cold C step is the first one of a training; a
warm one starts from the state of the C step before, as all later ones do. Peers that are not
installed and functions that would take too long are named and left out.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.timing import interleaved, write
from sparsejax.compression import (
    Compression,
    additive,
    binary,
    l0_ball,
    low_rank,
    quantize,
    rank_selection,
    ternary,
)

Peers = Mapping[str, Callable[[], Any]]
_COPY = "a copy"
_MU = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    """Speed of the C steps."""

    shapes: tuple[tuple[int, int], ...] = ((484, 550), (3_000, 5_000))
    """Shapes of the kernel: as many weights as LeNet300, and 15 million."""
    repeats: int = 5
    """Timed calls of each function; the median counts."""
    max_seconds: float = 60.0
    """Functions whose call takes longer (extrapolated from a smaller size) are left out."""
    output: Path | None = None
    """JSON file; default: none."""


def main(config: Config) -> None:
    """Measure, print, and write the JSON file if one is given."""
    rows: list[dict[str, Any]] = []
    for shape in config.shapes:
        weights = jax.random.normal(jax.random.key(0), shape)
        copy = jax.jit(lambda w: 2 * w)
        base = statistics.median(_time({_COPY: lambda: copy(weights)}, config.repeats)[_COPY])  # noqa: B023
        print(f"\n{weights.size:,} weights: a copy takes {1e3 * base:.2f} ms")
        for name, functions in _cases(weights):
            row = _measure(name, functions, weights.size, base, config, rows)
            rows.append(row)
            _print(row)
    settings = dataclasses.asdict(config)
    del settings["output"]
    write(config.output, "c_steps", {"config": settings, "rows": rows})


def _measure(
    name: str,
    functions: Peers,
    size: int,
    copy: float,
    config: Config,
    before: list[dict[str, Any]],
) -> dict[str, Any]:
    earlier: dict[str, Any] = next((row for row in before if row["c_step"] == name), {})
    left_out, timed = {}, {}
    for peer, function in functions.items():
        known = earlier.get("median", {}).get(peer)
        expected = known * (size / earlier["size"]) ** _GROWTH.get(name, 1.0) if known else 0.0
        if expected > config.max_seconds or peer in earlier.get("left_out", {}):
            left_out[peer] = f"about {expected:.0f} s" if known else "left out at a smaller size"
        else:
            timed[peer] = function
    seconds = _time(timed, config.repeats)
    median = {peer: statistics.median(values) for peer, values in seconds.items()}
    copies = {peer: value / copy for peer, value in median.items()}
    return {
        "c_step": name, "size": size, "copy": copy, "seconds": seconds, "median": median,
        "copies": copies, "left_out": left_out,
    }  # fmt: skip


_GROWTH = {"low_rank(10)": 1.5, "rank_selection(1e-6)": 1.5}  # of a matrix's decomposition


def _time(functions: Peers, repeats: int) -> dict[str, list[float]]:
    """Interleaved; what takes more than two seconds is timed once."""
    waiting = {
        name: lambda call=call: jax.block_until_ready(call()) for name, call in functions.items()
    }
    return interleaved(waiting, repeats, slow=2)


def _cases(weights: jax.Array) -> list[tuple[str, Peers]]:
    host = np.asarray(weights)
    svd = jax.jit(lambda w: jnp.linalg.svd(w, full_matrices=False))
    powers = np.sort(np.concatenate([-(2.0 ** -np.arange(8)), [0], 2.0 ** -np.arange(8)]))
    powers = powers.astype(np.float32)
    kappa = weights.size // 100
    codes = lambda: powers[np.searchsorted((powers[1:] + powers[:-1]) / 2, host)]  # noqa: E731
    return [
        *((f"quantize({k})", _quantisers(weights, host, k)) for k in (2, 16)),
        ("quantize(powers of two)", _ours(quantize(powers), weights) | {"NumPy": codes}),
        ("binary(scaled=True)", _ours(binary(scaled=True), weights)
         | {"NumPy": lambda: np.where(host < 0, -1, 1) * np.abs(host).mean()}),
        ("ternary(scaled=True)", _ours(ternary(scaled=True), weights)
         | {"NumPy": lambda: _ternary_by_sorting(host)}),
        ("low_rank(10)", _ours(low_rank(10), weights) | {"jnp.linalg.svd": lambda: svd(weights)}),
        ("rank_selection(1e-6)", _ours(rank_selection(1e-6), weights)
         | {"jnp.linalg.svd": lambda: svd(weights)}),
        (f"additive([l0_ball({kappa}), quantize(2)])",
         _ours(additive([l0_ball(kappa), quantize(2, exact=False)]), weights, warm=True)),
    ]  # fmt: skip


def _ours(step: Compression, weights: jax.Array, warm: bool = False) -> dict[str, Any]:
    project = jax.jit(step.project)
    start = jax.block_until_ready(step.init(weights))
    if not warm:
        return {"sparsejax": lambda: project(weights, _MU, start)[0]}
    _, state = project(weights, _MU, start)
    moved = _moved(weights)
    return {
        "sparsejax, cold": lambda: project(weights, _MU, jax.jit(step.init)(weights))[0],
        "sparsejax, warm": lambda: project(moved, _MU, state)[0],
    }


def _quantisers(weights: jax.Array, host: np.ndarray, k: int) -> Peers:
    exact = jax.jit(quantize(k).project)
    nothing = quantize(k).init(weights)
    lloyd = {
        f"{name}, Lloyd": f for name, f in _ours(quantize(k, exact=False), weights, True).items()
    }
    found: dict[str, Any] = {"sparsejax, exact": lambda: exact(weights, _MU, nothing)[0], **lloyd}
    found["NumPy, Lloyd"] = lambda: _lloyd(host, k)
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        print("scikit-learn is not installed, so it is not compared")
        return found
    column = host.reshape(-1, 1)
    found["scikit-learn"] = lambda: KMeans(k, n_init=1, random_state=0).fit(column).labels_
    start = np.quantile(host, (np.arange(k) + 0.5) / k).reshape(-1, 1)
    centers = KMeans(k, n_init=1, init=start).fit(column).cluster_centers_
    moved = np.asarray(_moved(weights)).reshape(-1, 1)
    found["scikit-learn, warm"] = lambda: KMeans(k, n_init=1, init=centers).fit(moved).labels_
    return found


def _moved(weights: jax.Array) -> jax.Array:
    """The weights after an L step that moved each by about a hundredth of its deviation."""
    return weights + 0.01 * jax.random.normal(jax.random.key(1), weights.shape)


def _lloyd(values: np.ndarray, k: int, tries: int = 100) -> np.ndarray:
    """Lloyd's iteration from quantiles, with sums of the sorted values."""
    flat = np.sort(values, axis=None)
    sums = np.concatenate([[0.0], np.cumsum(flat, dtype=np.float64)])
    centers = np.quantile(flat, (np.arange(k) + 0.5) / k)
    for _ in range(tries):
        ends = np.searchsorted(flat, (centers[1:] + centers[:-1]) / 2, side="right")
        bounds = np.concatenate([[0], ends, [flat.size]])
        moved = np.diff(sums[bounds]) / np.maximum(np.diff(bounds), 1)
        if np.array_equal(moved, centers):
            break
        centers = moved
    nearest = np.searchsorted((centers[1:] + centers[:-1]) / 2, values)
    return np.asarray(centers[nearest])


def _ternary_by_sorting(values: np.ndarray) -> np.ndarray:
    """The closed form of the best scaled ternary values, with a sort."""
    falling = np.sort(np.abs(values), axis=None)[::-1]
    sums = np.cumsum(falling, dtype=np.float64)
    best = int(np.argmax(sums / np.sqrt(np.arange(1, sums.size + 1))))
    return np.where(np.abs(values) >= falling[best], np.sign(values) * sums[best] / (best + 1), 0)


def _print(row: Mapping[str, Any]) -> None:
    print(f"  {row['c_step']}")
    for peer, value in row["median"].items():
        extremes = (
            f"{1e3 * min(row['seconds'][peer]):>11.2f}{1e3 * max(row['seconds'][peer]):>11.2f}"
        )
        print(f"    {peer:<24}{1e3 * value:>11.2f} ms{extremes}{row['copies'][peer]:>10.1f} copies")
    for peer, why in row["left_out"].items():
        print(f"    {peer:<24}  left out: {why}")


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.c_steps"))
