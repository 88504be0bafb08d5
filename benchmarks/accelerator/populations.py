"""Searches of a population in one program, side by side, beside the same searches in sequence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.accelerator.clock import medians
from sparsejax import tickets
from sparsejax.models import LeNet300, ResNet20

_ROUND = 36_000
_BATCH = 128


def measure(trial: bool) -> list[dict[str, Any]]:
    """Return a row for each network and number of members."""
    rows = [_row("lenet300", members, trial) for members in ((2,) if trial else (8, 64))]
    return rows + [_row("resnet20", members, trial) for members in ((2,) if trial else (4, 8))]


def _row(name: str, members: int, trial: bool) -> dict[str, Any]:
    step, start, batches = _search(name, members, trial)
    steps = len(batches["label"])
    population = start(members)
    single = start(1)
    loop = tickets.population_scan(vmap_size=members)
    alone = tickets.population_scan(vmap_size=1)

    def take(state: Any, arrays: Any, row: Any) -> Any:
        return step(state, jax.tree.map(lambda array: array[row], arrays))

    rows = jnp.arange(steps)
    run = jax.jit(lambda state, arrays: loop(take, state, arrays, rows))
    run_alone = jax.jit(lambda state, arrays: alone(take, state, arrays, rows))
    seconds = medians(
        {"together": lambda: run(population, batches), "one": lambda: run_alone(single, batches)},
        1 if trial else 5,
    )
    return {
        "name": f"population, {name}, {members} members",
        "milliseconds_a_step": {key: 1e3 * value / steps for key, value in seconds.items()},
        "times_faster_than_in_sequence": members * seconds["one"] / seconds["together"],
    }


def _search(name: str, members: int, trial: bool) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Return the step of a search, a function that starts populations, and random batches."""
    images = name == "resnet20"
    dtype = jnp.bfloat16 if images else jnp.float32
    shape, steps = ((32, 32, 3), 20) if images else ((28, 28), 100)
    batch, steps = (8, 1) if trial else (_BATCH, steps)
    width = 0.25 if trial else 1.0
    model = (
        ResNet20(width=width, dtype=dtype, rngs=nnx.Rngs(0))
        if images
        else LeNet300(rngs=nnx.Rngs(0))
    )
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)

    def method(initial: Any) -> tickets.Method:
        return tickets.continuous_sparsification(_ROUND, initial)

    def entropy(params: Any, statistics: Any, batch: Any) -> tuple[jax.Array, Any]:
        network = nnx.merge(graph, params, statistics, copy=True)
        logits = network(batch["image"]).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), nnx.state(network, nnx.BatchStat)

    def plain(params: Any, batch: Any, key: jax.Array) -> Any:
        del key
        return entropy(params, statistics, batch)[0], {}

    def with_statistics(params: Any, statistics: Any, batch: Any, key: jax.Array) -> Any:
        del key
        loss, statistics = entropy(params, statistics, batch)
        return loss, ({}, statistics)

    def start(count: int) -> Any:
        def stack(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: jnp.stack([leaf] * count), tree)

        keys = jax.random.split(jax.random.key(0), count)
        initial = jnp.asarray(np.linspace(-0.3, 0.3, members)[:count], jnp.float32)
        kept = stack(statistics) if images else None
        return tickets.init_population(method, stack(params), optimizer, keys, initial, kept)

    rng = np.random.default_rng(0)
    batches = {
        "image": jnp.asarray(rng.normal(size=(steps, batch, *shape)), dtype),
        "label": jnp.asarray(rng.integers(0, 10, (steps, batch)), jnp.int32),
    }
    return (
        tickets.search_step(method, with_statistics if images else plain, optimizer),
        start,
        batches,
    )
