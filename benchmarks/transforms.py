"""Cost of training with masks, beside JaxPruner: ``python -m benchmarks.transforms``.

Steps of LeNet300 (batch 128) and of ResNet-20 (a small batch), by Adam alone, with gradual
magnitude pruning and with RigL, which renew their masks every 100 updates; and the updates of the
optimizers alone, on updates that renew masks and on others. All are interleaved in one process.
JaxPruner is compared if ``--jaxpruner`` names a checkout of github.com/google-research/jaxpruner,
which no package index has in a current version and which needs ``ml-collections``; its updaters and
ours then see the same kernels. Run it on an idle core (``taskset -c 1``), or with ``--cpu-time``.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from benchmarks.timing import interleaved, write
from experiments.compare.methods.jaxpruner import use
from sparsejax.models import LeNet300, ResNet20
from sparsejax.transforms import magnitude_pruning, polynomial, rigl, sparsify

_EVERY, _END, _SPARSITY, _DROP = 100, 100_000, 0.9, 0.3
_UPDATES = 10
"""Updates in a call that measures them alone."""
_DUE, _NOT_DUE = 50 * _EVERY, 50 * _EVERY + 1
"""Updates in the middle of the schedules."""


Loss = Callable[[Any, Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Config:
    """Cost of a step with masks, relative to the optimizer alone and to JaxPruner."""

    repeats: int = 9
    """Timed calls of each; the median counts."""
    resnet_batch: int = 16
    """Batch size of ResNet-20."""
    jaxpruner: Path | None = None
    """Folder with a checkout of JaxPruner; default: it is not compared."""
    cpu_time: bool = False
    """Count the CPU seconds of this process instead of those of a clock on the wall."""
    output: Path | None = None
    """JSON file to write; default: none."""


def main(config: Config) -> None:
    """Measure, print, and write the JSON file if one is given."""
    jaxpruner = _jaxpruner(config.jaxpruner)
    clock = time.process_time if config.cpu_time else time.perf_counter
    results: dict[str, Any] = {
        "context": {"clock": clock.__name__, "cores": len(os.sched_getaffinity(0)),
                    "load_average": os.getloadavg()},
    }  # fmt: skip
    networks: tuple[tuple[str, Any, tuple[int, ...], int], ...] = (
        ("LeNet300", LeNet300(rngs=nnx.Rngs(0)), (128, 784), _EVERY),
        ("ResNet-20", ResNet20(rngs=nnx.Rngs(0)), (config.resnet_batch, 32, 32, 3), 4),
    )
    for name, model, shape, steps in networks:
        model.eval()  # batch normalisation would change its statistics
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        rng = np.random.default_rng(0)
        batch = jnp.asarray(rng.normal(size=shape), jnp.float32), jnp.arange(shape[0]) % 10

        def loss(params: Any, batch: Any, graph: Any = graph, rest: Any = rest) -> jax.Array:
            logits = nnx.merge(graph, params, rest)(batch[0])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
            return jnp.mean(losses)

        # JaxPruner's RigL takes no leaf without a mask on current JAX: for the comparison with it
        # both get the kernels alone.
        leaves = jax.tree.leaves(nnx.to_pure_dict(params))
        kernels = [leaf for leaf in leaves if leaf.ndim > 1]
        plain = {f"layer_{n}": {"kernel": leaf} for n, leaf in enumerate(kernels)}
        timed = functools.partial(interleaved, repeats=config.repeats, clock=clock)
        results[name] = measured(name, loss, params, plain, batch, steps, jaxpruner, timed)
        write(config.output, "transforms", results)  # the other network takes long to compile


def measured(
    name: str,
    loss: Loss,
    params: Any,
    plain: Any,
    batch: Any,
    steps: int,
    jaxpruner: Mapping[str, Any],
    timed: Callable[..., dict[str, list[float]]],
) -> dict[str, Any]:
    """Measure whole steps and updates alone, and print both."""
    adam, renewals = optax.adam(1e-3), polynomial(0, _END, _EVERY)
    optimizers = {
        "optimizer alone": adam,
        "magnitude": sparsify(adam, magnitude_pruning(_SPARSITY, renewals)),
        "magnitude, packed": sparsify(
            adam, magnitude_pruning(_SPARSITY, renewals), mask_dtype="packed"
        ),
        "rigl": sparsify(adam, rigl(_SPARSITY, _END, _EVERY, _DROP)),
    }
    updates: dict[str, Callable[[], object]] = {}
    whole: dict[str, Callable[[], object]] = {}
    for method, optimizer in optimizers.items():
        whole[method] = _steps(optimizer, loss, params, batch, steps)
        updates |= _updates(method, optimizer, params)
        if jaxpruner:
            updates |= _updates(f"{method}, kernels", optimizer, plain)
    for method, updater in jaxpruner.items():
        updates |= _updates(f"JaxPruner {method}", updater.wrap_optax(adam), plain,
                            updater.post_gradient_update)  # fmt: skip
    step_seconds = {method: [s / steps for s in times] for method, times in timed(whole).items()}
    update_seconds = {
        method: [s / _UPDATES for s in times] for method, times in timed(updates).items()
    }
    update = {k: statistics.median(v) for k, v in update_seconds.items()}
    step = statistics.median(step_seconds["optimizer alone"])
    alone = {True: update["optimizer alone"], False: update.get("optimizer alone, kernels", 0.0)}
    print(f"{name}: a step takes {1e3 * step:.2f} ms, its update {1e3 * alone[True]:.3f} ms")
    print(f"{'added by':<28}{'each update':>14}{'a renewal':>14}{'amortised':>14}{'of a step':>10}")
    summary = {}
    for method in [m for m in update if f"{m}, renewing" in update]:
        each = update[method] - alone[method in optimizers]
        renewal = update[f"{method}, renewing"] - update[method]
        amortised = each + renewal / _EVERY
        summary[method] = {
            "added_to_each_update": each, "added_by_a_renewal": renewal,
            "amortised": amortised, "share_of_a_step": amortised / step,
        }  # fmt: skip
        print(f"{method:<28}{1e3 * each:>11.3f} ms{1e3 * renewal:>11.3f} ms"
              f"{1e3 * amortised:>11.3f} ms{amortised / step:>9.1%}")  # fmt: skip
    ratios = {
        method: statistics.median(times) / step
        for method, times in step_seconds.items() if method != "optimizer alone"
    }  # fmt: skip
    for method, ratio in ratios.items():
        print(f"whole steps, {method}: {ratio:.3f}x")
    cheaper = {
        method: summary[f"JaxPruner {method}"]["amortised"]
        / summary[f"{method}, kernels"]["amortised"]
        for method in jaxpruner
    }
    for method, ratio in cheaper.items():
        print(f"JaxPruner's {method} adds {ratio:.1f} times as much")
    return {
        "step_seconds": step_seconds, "update_seconds": update_seconds, "added": summary,
        "whole_step_ratio": ratios, "jaxpruner_adds_times_ours": cheaper,
    }  # fmt: skip


def _steps(
    optimizer: optax.GradientTransformation, loss: Loss, params: Any, batch: Any, steps: int
) -> Callable[[], object]:
    """A function that takes some steps, the first of which renews masks if there are as many."""

    @functools.partial(jax.jit, donate_argnums=0)
    def scanned(carry: Any) -> Any:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, carry, None, length=steps)[0]

    params = jax.tree.map(jnp.copy, params)
    carry = params, optimizer.init(params)
    if steps < _EVERY:
        carry = params, _at(carry[1], _NOT_DUE)

    def run() -> None:
        nonlocal carry
        carry = jax.block_until_ready(scanned(carry))

    return run


def _updates(
    method: str,
    optimizer: optax.GradientTransformation,
    params: Any,
    after: Callable[[Any, Any], Any] = lambda params, state: params,
) -> dict[str, Callable[[], object]]:
    """Functions that make some updates alone: ordinary ones, and ones that renew masks."""

    @jax.jit
    def scanned(carry: Any, step: jax.Array | int) -> Any:
        def one(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            grads = jax.tree.map(lambda w: 0.9 * w, params)
            updates, state = optimizer.update(grads, _at(state, step), params)
            return (after(optax.apply_updates(params, updates), state), state), None

        return jax.lax.scan(one, carry, None, length=_UPDATES)[0]

    carry = jax.tree.map(jnp.copy, (params, optimizer.init(params)))

    def run(step: int) -> object:
        return jax.block_until_ready(scanned(carry, step))

    functions: dict[str, Callable[[], object]] = {method: lambda: run(_NOT_DUE)}
    if hasattr(carry[1], "mask") or hasattr(carry[1], "masks"):
        functions[f"{method}, renewing"] = lambda: run(_DUE)
    return functions


def _at(state: Any, step: jax.Array | int) -> Any:
    """The state before a given update."""
    step = jnp.asarray(step, jnp.int32)
    if hasattr(state, "mask"):
        return state._replace(step=step)
    return state._replace(count=step) if hasattr(state, "masks") else state


def _jaxpruner(folder: Path | None) -> dict[str, Any]:
    """JaxPruner's updaters with the same settings, if there is a checkout."""
    if folder is None:
        print("--jaxpruner names no checkout of JaxPruner, so it is not compared")
        return {}
    try:
        use(folder)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    import jaxpruner  # type: ignore[import-not-found,unused-ignore]
    from jaxpruner import sparsity_distributions  # type: ignore[import-not-found,unused-ignore]

    schedule = jaxpruner.PolynomialSchedule(
        update_freq=_EVERY, update_start_step=0, update_end_step=_END
    )

    def kernels(key: Any, param: jax.Array) -> bool:
        return param.ndim > 1

    def distribution(kind: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(kind, sparsity=_SPARSITY, filter_fn=kernels)

    return {
        "magnitude": jaxpruner.MagnitudePruning(
            sparsity_distribution_fn=distribution(sparsity_distributions.uniform),
            scheduler=schedule,
        ),
        "rigl": jaxpruner.RigL(
            sparsity_distribution_fn=distribution(sparsity_distributions.erk),
            scheduler=schedule,
            drop_fraction_fn=optax.cosine_decay_schedule(_DROP, _END),
        ),
    }


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.transforms"))
