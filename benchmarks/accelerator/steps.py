"""A step under each kind of method beside the plain step, and one layer pruned by one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.accelerator.clock import medians
from experiments.constrained_l0.networks import GatedNetwork
from sparsejax import compression, gated_weight_decay, learning_compression, oneshot
from sparsejax.constraints import constrained_step, density_violation, descent_ascent, dual_ascent
from sparsejax.models import LeNet5
from sparsejax.training import init_state, make_step
from sparsejax.transforms import magnitude_pruning, rigl, sparsify

_BATCH, _STEPS = 128, 50
_DROPPED = (0.5, 0.5)  # initial shares of closed gates, of the first layer and of the others
_WIDTH, _INNER, _ROWS = 2048, 8192, 16_384  # a layer of a transformer of a billion weights


def measure_steps(trial: bool) -> list[dict[str, Any]]:
    """Return one row: milliseconds of a step of LeNet5 under each method."""
    batch, steps = (8, 2) if trial else (_BATCH, _STEPS)
    graph, params, rest = nnx.split(LeNet5(rngs=nnx.Rngs(0)), nnx.Param, ...)
    rng = np.random.default_rng(0)
    batches = {
        "image": jnp.asarray(rng.integers(0, 256, (steps, batch, 28, 28, 1)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 10, (steps, batch)), jnp.int32),
    }

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        images = batch["image"].astype(jnp.float32) / 255
        logits = nnx.merge(graph, params, rest)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    adam = optax.adam(1e-3)
    l0_ball = compression.l0_ball(kappa=8_000)
    optimizers = {
        "plain": adam,
        "gated weight decay": optax.chain(gated_weight_decay(1e-3), adam),
        "learning-compression": optax.chain(learning_compression(l0_ball, 1e-3, steps), adam),
        "magnitude pruning": sparsify(adam, magnitude_pruning(0.9)),
        "RigL": sparsify(adam, rigl(0.9, end=10 * steps, every=steps)),
    }
    runs = {
        name: _scanned(make_step(loss, chain), params, chain, batches)
        for name, chain in optimizers.items()
    }
    runs["constrained L0"] = _constrained(batches)
    seconds = medians(runs, 1 if trial else 5)
    return [
        {
            "name": "step of LeNet5",
            "milliseconds": {name: 1e3 * value / steps for name, value in seconds.items()},
            "times_the_plain_step": {n: value / seconds["plain"] for n, value in seconds.items()},
        }
    ]


def _constrained(batches: Any) -> Callable[[], Any]:
    """Descent and ascent on the weights and hard-concrete gates of LeNet5."""
    network = GatedNetwork("lenet5", _DROPPED, seed=0)

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = network.logits(network.sampled(params, key), batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}

    def constraint(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        del batch, key
        violation: jax.Array = density_violation(network.activity(params), 0.1)
        return violation

    optimizer = descent_ascent(optax.adam(7e-4), dual_ascent(1e-3))
    return _scanned(
        constrained_step(loss, constraint, optimizer), network.initial, optimizer, batches
    )


def _scanned(step: Any, params: Any, optimizer: Any, batches: Any) -> Callable[[], Any]:
    state = init_state(params, optimizer, jax.random.key(0))
    run = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches)[0])
    return lambda: run(state, batches)


def measure_oneshot(trial: bool) -> list[dict[str, Any]]:
    """Return one row: seconds to calibrate and prune one feed-forward layer, after compiling."""
    width, inner, rows = (32, 64, 256) if trial else (_WIDTH, _INNER, _ROWS)
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "gate": {"kernel": jax.random.normal(keys[0], (width, inner)) / width**0.5},
        "up": {"kernel": jax.random.normal(keys[1], (width, inner)) / width**0.5},
        "down": {"kernel": jax.random.normal(keys[2], (inner, width)) / inner**0.5},
    }
    inputs = jax.random.normal(keys[3], (rows, width))

    def layer(params: Any, x: jax.Array) -> jax.Array:
        hidden = jax.nn.silu(x @ params["gate"]["kernel"]) * (x @ params["up"]["kernel"])
        result: jax.Array = hidden @ params["down"]["kernel"]
        return result

    def timed(function: Callable[[], Any]) -> tuple[Any, float]:
        jax.block_until_ready(jax.tree.leaves(function()))  # compiles
        start = time.perf_counter()
        found = function()
        jax.block_until_ready(jax.tree.leaves(found))
        return found, time.perf_counter() - start

    calibration, seconds = timed(lambda: oneshot.calibrate(layer, params, [inputs]))
    row = {"name": "one feed-forward layer pruned", "rows": rows, "width": width, "inner": inner}
    found: dict[str, float] = {"calibrate": seconds}
    for method in ("wanda", "sparsegpt", "admm"):
        _, found[method] = timed(
            lambda method=method: oneshot.prune(params, calibration, 0.5, method)
        )
    return [row | {"seconds": found}]
