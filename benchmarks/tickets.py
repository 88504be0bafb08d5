"""Eight searches in one program against eight in sequence: ``python -m benchmarks.tickets``.

Continuous sparsification on LeNet300 and MNIST, batch 128, members that differ in where their gates
start. One program trains all eight (``vmap``); in sequence each has its own state and the step is
compiled once. Beside them the floor: the matrix products of the same steps and nothing else. Best
run while nothing else is.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax import lax

from experiments.common.results import machine, versions
from experiments.data import load
from sparsejax import tickets
from sparsejax.models import LENET300_LAYERS, LeNet300
from sparsejax.training import fit, write_json

_BATCH, _STEPS, _ROUND = 128, 100, 36_000
_STARTS = np.linspace(-0.3, 0.3, 8).astype(np.float32)
_TOGETHER, _SEQUENCE, _FLOOR = "one program", "in sequence", "matrix products alone"


@dataclasses.dataclass(frozen=True)
class Config:
    """Speed of eight ticket searches at once against one after another."""

    repeats: int = 7
    """Pieces of 100 steps of each, in turn."""
    output: Path | None = None
    """A JSON file for the figures; default none."""
    data_dir: Path | None = None
    """Folder of the datasets."""


def main(config: Config) -> None:
    """Measure, print, and perhaps write."""
    if config.repeats < 1:
        raise SystemExit(f"--repeats must be at least 1; got {config.repeats}")
    images, labels = load("mnist", config.data_dir, validation_size=0).train
    data = jax.device_put({"image": images, "label": labels})
    contestants = {**_searches(data), _FLOOR: _floor()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(config.repeats + 1):
        for name, piece in contestants.items():
            start = time.perf_counter()
            piece()
            if number:  # the first compiles and warms up
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{f'{_STEPS} steps of {len(_STARTS)} searches':<36}{'median s':>10}{'min':>8}{'max':>8}")
    for name, value in median.items():
        print(f"{name:<36}{value:>10.3f}{min(seconds[name]):>8.3f}{max(seconds[name]):>8.3f}")
    speedup = median[_SEQUENCE] / median[_TOGETHER]
    floor = median[_TOGETHER] / median[_FLOOR]
    print(f"one program is {speedup:.2f} times as fast, and takes {floor:.2f} times the products")
    if config.output:
        row = {
            "name": f"parallel_speedup_{len(_STARTS)}",
            "model": "lenet300",
            "speedup": speedup,
            "times_the_matrix_products": floor,
            "seconds": seconds,
            "steps": _STEPS,
            "batch_size": _BATCH,
        }
        about: dict[str, Any] = {"versions": versions(), "machine": machine()}
        write_json(config.output, {"benchmark": "tickets", **about, "rows": [row]})
        print(f"wrote {config.output}")


def _searches(data) -> dict[str, Callable[[], None]]:
    """Both ways train on by some steps at each call."""
    graph, params, rest = nnx.split(LeNet300(rngs=nnx.Rngs(0)), nnx.Param, ...)
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
    keys = jax.random.split(jax.random.key(0), len(_STARTS))

    def method(initial):
        return tickets.continuous_sparsification(_ROUND, initial)

    def loss(params, batch, key):
        del key
        logits = nnx.merge(graph, params, rest)(batch["image"].astype(jnp.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    alone = tickets.search_step(method, loss, optimizer)
    family = tickets.family_step(alone)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(_STARTS)), params)
    together = tickets.init_family(method, stacked, optimizer, keys, jnp.asarray(_STARTS))
    sequence = [
        tickets.init_search(method, params, optimizer, key, jnp.asarray(start))
        for key, start in zip(keys, _STARTS, strict=True)
    ]

    def onwards(step, state):
        steps = int(state.step) + _STEPS
        state = fit(step, state, data, batch_size=_BATCH, steps=steps, report_every=_ROUND)
        return jax.block_until_ready(state)

    def all_together() -> None:
        nonlocal together
        together = onwards(family, together)

    def one_by_one() -> None:
        sequence[:] = [onwards(alone, state) for state in sequence]

    return {_TOGETHER: all_together, _SEQUENCE: one_by_one}


def _floor() -> Callable[[], None]:
    """The products of as many steps: forwards, and for the gradients of weights and inputs."""
    _, params, _ = nnx.split(LeNet300(rngs=nnx.Rngs(0)), nnx.Param, ...)
    members = len(_STARTS)
    kernels = [jnp.stack([params[layer]["kernel"][...]] * members) for layer in LENET300_LAYERS]
    inputs = [jnp.ones((members, _BATCH, kernel.shape[1])) for kernel in kernels]

    def step(kernels, _):
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


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.tickets"))
