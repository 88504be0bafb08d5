"""Bytes that each method exchanges between devices in an update, counted in simulation.

``python -m benchmarks.collectives`` shards the weights of a few layers over 2, 4 and 8 simulated
devices, runs one update of each method, and counts the collectives that ran in it: their number
from a profile of the run, their bytes from the compiled program. Those of the gradients are not
among them, since the gradients are given. Times mean nothing here and are not taken.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import sparsejax
from benchmarks.timing import write
from experiments.common.runner import command_line
from sparsejax import compression, projections, transforms

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(rf"%?([\w.\-]+) = (.*?) ({'|'.join(_KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"\b(?:[a-z]+(\d+)|pred)\w*\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Config:
    """Bytes that each method exchanges between devices in an update."""

    devices: tuple[int, ...] = (2, 4, 8)
    """Numbers of simulated devices."""
    layers: int = 4
    """Kernels, each sharded over its rows."""
    rows: int = 2048
    """Rows of a kernel."""
    columns: int = 512
    """Columns of a kernel."""
    kept: float = 0.02
    """The share of the weights that stay."""
    output: Path | None = None
    """JSON file to write; default: none."""


def methods(config: Config) -> dict[str, optax.GradientTransformation]:
    """Optimizers by name; the update of the first ones is a projection alone."""
    size = config.layers * config.rows * config.columns
    kappa = round(config.kept * size)
    units = config.layers * config.columns // 2
    learning = sparsejax.learning_compression
    magnitude = transforms.magnitude_pruning(1 - config.kept, transforms.polynomial(0, 10))
    rigl = transforms.rigl(1 - config.kept, end=10, every=1)
    return {
        "project_l0_ball": _alone(projections.project_l0_ball, kappa),
        "project_l1_ball": _alone(projections.project_l1_ball, 0.01 * size),
        "project_units": _alone(projections.project_units, units),
        "project_n_m, 2:4": _alone(projections.project_n_m, 2, 4),
        "project_k_means, 2 values": _alone(projections.project_k_means, 2, exact=False),
        "project_ternary, scaled": _alone(projections.project_ternary, scaled=True),
        "sgd": optax.sgd(0.1),
        "learning_compression, no C step": learning(compression.l0_ball(kappa), 1.0, 10),
        "learning_compression, C step": learning(compression.l0_ball(kappa), 1.0, 1),
        "gated_weight_decay": sparsejax.gated_weight_decay(1e-4),
        "sparsify, magnitude": transforms.sparsify(optax.sgd(0.1), magnitude),
        "sparsify, RigL": transforms.sparsify(optax.sgd(0.1), rigl),
    }


def _alone(project: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A projection of the weights as an update without a state."""
    return optax.stateless(lambda updates, params: project(params, *arguments, **options))


def main(config: Config, command: str) -> None:
    """Count, print, and write the JSON file if one is given."""
    del command
    found: dict[str, dict[str, Any]] = {}
    for number in config.devices:
        mesh = jax.make_mesh((number,), ("data",), axis_types=(AxisType.Auto,))
        weights, gradients = (_sharded(config, mesh, seed) for seed in (0, 1))
        for name, optimizer in methods(config).items():
            found.setdefault(name, {})[str(number)] = measured(optimizer, weights, gradients)
    print(f"{'':36}" + "".join(f"{number:>8} devices: number, bytes" for number in config.devices))
    for name, row in found.items():
        counts = "".join(f"{row[n]['number']:>20}{row[n]['bytes']:>12}" for n in row)
        print(f"{name:<36}{counts}")
    size = config.layers * config.rows * config.columns
    settings = dataclasses.asdict(config) | {"output": None, "weights": size}
    write(config.output, "collectives", {"config": settings, "methods": found})


def _sharded(config: Config, mesh: jax.sharding.Mesh, seed: int) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(seed), config.layers)
    sharding = NamedSharding(mesh, PartitionSpec("data", None))
    draw = jax.jit(jax.random.normal, static_argnums=1, out_shardings=sharding)
    return {
        f"layer_{index}": {"kernel": draw(key, (config.rows, config.columns))}
        for index, key in enumerate(keys)
    }


def measured(
    optimizer: optax.GradientTransformation, weights: Any, gradients: Any
) -> dict[str, Any]:
    """The collectives of the second update, by kind, and the largest single one, per device."""
    update = jax.jit(optax.with_extra_args_support(optimizer).update)
    state = update(gradients, jax.jit(optimizer.init)(weights), weights)[1]
    moved = jax.jit(lambda w, g: jax.tree.map(lambda w, g: w - 0.1 * g, w, g))(weights, gradients)
    arguments = gradients, state, moved
    compiled = update.lower(*arguments).compile()
    operations = collectives(compiled.as_text() or "")
    jax.block_until_ready(compiled(*arguments))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(*arguments))
        ran = executions(Path(folder), operations)
    number = len(jax.tree.leaves(weights)[0].sharding.device_set)
    times = {name: ran[name] // number for name in operations}
    kinds: Counter[str] = Counter()
    for name, (kind, _) in operations.items():
        kinds[kind] += times[name]
    return {
        "number": sum(times.values()),
        "bytes": sum(size * times[name] for name, (_, size) in operations.items()),
        "largest": max((size for name, (_, size) in operations.items() if times[name]), default=0),
        "kinds": dict(kinds),
    }


def collectives(program: str) -> dict[str, tuple[str, int]]:
    """The kind and the bytes of the result of each collective of a compiled program, by name."""
    found = {}
    for name, shapes, kind in _OPERATION.findall(program):
        arrays = _ARRAY.findall(shapes)
        sizes = (math.prod(map(int, filter(None, shape.split(",")))) for _, shape in arrays)
        widths = (int(bits or 8) // 8 for bits, _ in arrays)  # pred has no number, and is a byte
        found[name] = (kind, sum(map(math.prod, zip(sizes, widths, strict=True))))
    return found


def executions(folder: Path, names: Mapping[str, Any]) -> Counter[str]:
    """The starts of each operation of these names in a profile, on all devices together."""
    counts: Counter[str] = Counter()
    for file in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                counts.update(event.name for event in line.events if event.name in names)
    return counts


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    command_line(Config, "benchmarks.collectives", main)
