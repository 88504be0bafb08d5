"""Eight ticket searches in one program or in sequence: ``python -m benchmarks.tickets``.

Continuous sparsification with LeNet300 on MNIST, batch size 128, for a population of eight starts
s_0. One program trains all members, sharded over the devices (on a CPU, over its cores). In
sequence each search has its own state and the whole machine, and the step is compiled once. For
comparison: ``vmap`` of the step, and as a lower bound the matrix products of the same steps alone.
Each method runs in a process of its own, since only the first splits the CPU into devices; their
segments are interleaved. Run it on an idle machine.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.timing import write
from experiments.data import load
from sparsejax import tickets
from sparsejax.models import LENET300_LAYERS, LeNet300
from sparsejax.training import ArrayData, Batches, fit

_BATCH, _STEPS, _ROUND = 128, 100, 36_000
_STARTS = np.linspace(-0.3, 0.3, 8).astype(np.float32)
_TOGETHER, _SEQUENCE, _LOWER_BOUND = "one program", "in sequence", "matrix products alone"
_VMAP = "one program, vmap of the step"


@dataclasses.dataclass(frozen=True)
class Config:
    """Speed of eight ticket searches in one program relative to one after another."""

    repeats: int = 7
    """Timed segments of 100 steps of each."""
    output: Path | None = None
    """JSON file to write; default: none."""
    data_dir: Path | None = None
    """Folder of the data sets."""


def main(config: Config) -> None:
    """Measure, print, and write the JSON file if one is given."""
    if config.repeats < 1:
        raise SystemExit(f"--repeats must be at least 1; got {config.repeats}")
    # The processes share an accelerator's memory, of which each would preallocate three quarters.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    spawn = multiprocessing.get_context("spawn")
    pipes = {name: spawn.Pipe() for name in _METHODS}
    workers = [
        spawn.Process(target=_work, args=(name, config.data_dir, theirs), daemon=True)
        for name, (_, theirs) in pipes.items()
    ]
    for worker in workers:
        worker.start()
    seconds: dict[str, list[float]] = {name: [] for name in _METHODS}
    devices: dict[str, int] = {}
    for number in range(config.repeats + 1):
        for name, (ours, _) in pipes.items():
            ours.send("continue")
            took, devices[name] = ours.recv()
            if number:  # the first compiles and warms up
                seconds[name].append(took)
    for worker, (ours, _) in zip(workers, pipes.values(), strict=True):
        ours.send("stop")
        worker.join()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{f'{_STEPS} steps of {len(_STARTS)} searches':<36}{'median s':>10}{'min':>8}{'max':>8}")
    for name, value in median.items():
        print(f"{name:<36}{value:>10.3f}{min(seconds[name]):>8.3f}{max(seconds[name]):>8.3f}")
    speedup = median[_SEQUENCE] / median[_TOGETHER]
    floor = median[_TOGETHER] / median[_LOWER_BOUND]
    print(f"one program is {speedup:.2f} times as fast, and takes {floor:.2f} times the products")
    row = {
        "name": f"parallel_speedup_{len(_STARTS)}",
        "model": "lenet300",
        "speedup": speedup,
        "speedup_of_vmap": median[_SEQUENCE] / median[_VMAP],
        "times_the_matrix_products": floor,
        "devices": devices,
        "seconds": seconds,
        "steps": _STEPS,
        "batch_size": _BATCH,
    }
    write(config.output, "tickets", {"rows": [row]})


def _work(name: str, data_dir: Path | None, pipe: Connection) -> None:
    """Process of a method: trains for one segment at each request."""
    if name == _TOGETHER:
        jax.config.update("jax_num_cpu_devices", min(len(_STARTS), os.cpu_count() or 1))
    images, labels = load("mnist", data_dir, validation_size=0).train
    segment = _METHODS[name]({"image": images, "label": labels})
    while pipe.recv() == "continue":
        start = time.perf_counter()
        segment()
        pipe.send((time.perf_counter() - start, len(_mesh().devices)))


def _together(data: ArrayData) -> Callable[[], None]:
    """All searches in one program, sharded over the devices."""
    step, population, _ = _searches()
    mesh = _mesh()
    state = tickets.shard_population(population, mesh)
    data = jax.device_put(data, NamedSharding(mesh, PartitionSpec()))
    return _segment(data, step, [state], loop=tickets.population_scan(mesh), batch_axes=())


def _sequence(data: ArrayData) -> Callable[[], None]:
    """One search after another."""
    step, _, states = _searches()
    return _segment(jax.device_put(data), step, states)


def _vmapped(data: ArrayData) -> Callable[[], None]:
    """All searches in one program, by ``vmap`` of the step."""
    step, population, _ = _searches()
    return _segment(jax.device_put(data), tickets.population_step(step), [population])


def _segment(data: ArrayData, step: Any, states: list[Any], **how: Any) -> Callable[[], None]:
    """A function that trains each of ``states`` for one more segment at each call."""

    def advance(state: Any) -> Any:
        steps = int(state.step) + _STEPS
        state = fit(step, state, Batches(data, _BATCH), steps=steps, **how)
        return jax.block_until_ready(state)

    def segment() -> None:
        states[:] = [advance(state) for state in states]

    return segment


def _searches() -> tuple[Any, Any, list[Any]]:
    """The step of a search, the population, and its members as separate searches."""
    graph, params, rest = nnx.split(LeNet300(rngs=nnx.Rngs(0)), nnx.Param, ...)
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
    keys = jax.random.split(jax.random.key(0), len(_STARTS))

    def method(initial: Any) -> tickets.Method:
        return tickets.continuous_sparsification(_ROUND, initial)

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        logits = nnx.merge(graph, params, rest)(batch["image"].astype(jnp.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    step = tickets.search_step(method, loss, optimizer)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(_STARTS)), params)
    population = tickets.init_population(method, stacked, optimizer, keys, jnp.asarray(_STARTS))
    sequence = [
        tickets.init_search(method, params, optimizer, key, jnp.asarray(start))
        for key, start in zip(keys, _STARTS, strict=True)
    ]
    return step, population, sequence


def _mesh() -> jax.sharding.Mesh:
    """A mesh of the largest number of devices that divides the number of searches."""
    count = max(n for n in range(1, len(jax.devices()) + 1) if len(_STARTS) % n == 0)
    axes, devices = (AxisType.Auto,), jax.devices()[:count]
    return jax.make_mesh((count,), ("members",), axis_types=axes, devices=devices)


def _lower_bound(data: ArrayData) -> Callable[[], None]:
    """The matrix products of the same steps: forward pass, gradients of weights and of inputs."""
    del data
    _, params, _ = nnx.split(LeNet300(rngs=nnx.Rngs(0)), nnx.Param, ...)
    members = len(_STARTS)
    kernels = [jnp.stack([params[layer]["kernel"][...]] * members) for layer in LENET300_LAYERS]
    inputs = [jnp.ones((members, _BATCH, kernel.shape[1])) for kernel in kernels]

    def step(kernels: Any, _: None) -> tuple[Any, None]:
        new = []
        for place, (x, kernel) in enumerate(zip(inputs, kernels, strict=True)):
            out = jnp.einsum("mbi,mio->mbo", x, kernel)
            gradient = jnp.einsum("mbi,mbo->mio", x, out)
            if place:  # the images need none
                gradient += jnp.einsum("mbo,mio->mbi", out, kernel).mean() / 1e9
            new.append(gradient / 1e9)
        return new, None

    run = jax.jit(lambda kernels: lax.scan(step, kernels, None, length=_STEPS)[0])
    return lambda: jax.block_until_ready(run(kernels)) and None


_METHODS: Mapping[str, Callable[[ArrayData], Callable[[], None]]] = {
    _TOGETHER: _together,
    _SEQUENCE: _sequence,
    _VMAP: _vmapped,
    _LOWER_BOUND: _lower_bound,
}


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.tickets"))
