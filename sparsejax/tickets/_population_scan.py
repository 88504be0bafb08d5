"""The loop that trains a population: members before steps on a CPU, together elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from sparsejax._step import Metrics
from sparsejax._train_state import TrainState
from sparsejax.tickets._population import automatic, axis_of, joined, with_means


def population_scan(
    mesh: Mesh | None = None, vmap_size: int | None = None, unroll: bool = False
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Build the ``loop`` with which ``sparsejax.training.fit`` trains a population.

    The members are independent, so the steps of a call may be taken member by member: each takes
    all of its steps while what it needs stays in a processor's cache (the weights, gates and
    momenta of eight LeNet300 would not). An accelerator computes all members together instead::

        step = search_step(method, loss, optimizer)
        state = fit(step, state, Batches(data, 128), loop=population_scan(), steps=1000)

    Args:
      mesh: a mesh of one axis, over which the members are distributed (see `shard_population`):
        each device takes the steps of its own members, and nothing is exchanged.
      vmap_size: how many members of a device are computed together, by ``vmap``; it must divide
        their number. Default 1 on a CPU, elsewhere all. Results agree within rounding.
      unroll: whether to write out steps and members instead of looping over them: for a few of
        them with XLA's own convolutions, which are many times slower inside a loop on a CPU.

    Returns:
      What `fit` takes as ``loop``, beside the step of a single search; metrics are those of
      `population_step`, with a leading axis of steps.

    Raises:
      ValueError: ``vmap_size`` is not an integer >= 1, or the mesh has not one axis; when the loop
        runs: ``vmap_size`` does not divide a device's members.
    """
    if vmap_size is not None and (not isinstance(vmap_size, int) or vmap_size < 1):
        raise ValueError(f"vmap_size must be an integer >= 1; got {vmap_size!r}")
    sharded, replicated = PartitionSpec(mesh and axis_of(mesh)), PartitionSpec()
    mesh = mesh and automatic(mesh)

    def loop(take: Any, state: TrainState, arrays: Any, rows: Any) -> tuple[TrainState, Metrics]:
        def on_device(own: TrainState, counters: Any, arrays: Any, rows: Any) -> Any:
            """All steps of the members of a device; every leaf has an axis of members."""
            members = jax.tree.leaves(own)[0].shape[0]
            count = vmap_size or (1 if jax.default_backend() == "cpu" else members)
            if members % count:
                raise ValueError(f"vmap_size must divide {members} members; got {count}")

            def run(own: TrainState) -> Any:
                follow = lambda state, row: take(state, arrays, row)  # noqa: E731
                return (_unrolled if unroll else _looped)(follow, joined(own, *counters), rows)

            if unroll or members == 1:  # vmap over a single one would make grouped convolutions
                return _written_out(run, own, members, count)
            if count == members:
                return jax.vmap(run)(own)
            return lax.map(run, own, batch_size=count if count > 1 else None)

        if mesh is not None:
            places = (sharded, replicated, replicated, replicated)
            on_device = jax.shard_map(
                on_device, mesh=mesh, in_specs=places, out_specs=sharded, check_vma=False
            )
        counters = (state.step, state.search.round)
        ended, metrics = on_device(joined(state, None, None), counters, arrays, rows)
        by_step = jax.tree.map(lambda values: jnp.moveaxis(values, 0, 1), metrics)
        ended = joined(ended, ended.step[0], ended.search.round[0])
        return ended, jax.vmap(with_means)(by_step)

    return loop


def _looped(follow: Callable[..., Any], state: Any, rows: Any) -> tuple[Any, Any]:
    """The result of `lax.scan`, in a loop even where there is one step.

    XLA removes a loop of one turn and fuses the step with what is around it, which changes its
    rounding: members resumed one step from a report would not be those of the run that was killed.
    """
    if jax.tree.leaves(rows)[0].shape[0] != 1:
        return lax.scan(follow, state, rows)
    found = jax.eval_shape(follow, state, jax.tree.map(lambda array: array[0], rows))[1]
    metrics = jax.tree.map(lambda value: jnp.zeros((1, *value.shape), value.dtype), found)
    hidden = lax.optimization_barrier(jnp.int32(1))  # a number of turns that XLA does not see

    def turn(number: jax.Array, carried: tuple[Any, Any]) -> tuple[Any, Any]:
        state, metrics = carried
        state, found = follow(state, jax.tree.map(lambda array: array[number], rows))
        return state, jax.tree.map(lambda all_, one: all_.at[number].set(one), metrics, found)

    ended: tuple[Any, Any] = lax.fori_loop(0, hidden, turn, (state, metrics))
    return ended


def _unrolled(follow: Callable[..., Any], state: Any, rows: Any) -> tuple[Any, Any]:
    """The result of `lax.scan`, without a loop in the program.

    Its own ``unroll`` leaves a loop of one turn where there is one step, and in a loop XLA for CPUs
    does not turn the weight gradients of its convolutions into fast ones (sixty times slower).
    """
    metrics = []
    for number in range(jax.tree.leaves(rows)[0].shape[0]):
        state, found = follow(state, jax.tree.map(lambda array, n=number: array[n], rows))
        metrics.append(found)
    return state, jax.tree.map(lambda *values: jnp.stack(values), *metrics)


def _written_out(run: Callable[[Any], Any], own: Any, members: int, count: int) -> Any:
    """The results of all members, ``count`` at a time, without a loop in the program."""
    if count == 1:
        parts = [run(jax.tree.map(lambda x, n=n: x[n], own)) for n in range(members)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    several = jax.vmap(run)
    starts = range(0, members, count)
    parts = [several(jax.tree.map(lambda x, n=n: x[n : n + count], own)) for n in starts]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
