"""Many searches in one program: a population over starts, penalties and seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from sparsejax._states import fresh
from sparsejax._step import Metrics
from sparsejax._train_state import TrainState
from sparsejax.tickets._search import (
    MakeMethod,
    SearchState,
    found_ticket,
    init_search,
    next_search,
    search_of,
)
from sparsejax.tickets._ticket import Ticket

# The members take their steps together: they share the counters of steps and rounds, so that what
# happens at one step of a round (keeping the weights to rewind to) costs nothing at the others.
_SEARCH_AXES: Any = {
    "mask": 0,
    "rewind_params": 0,
    "rewind_statistics": 0,
    "round": None,
    "hyper": 0,
}
_STATE_AXES: Any = {"step": None, "params": 0, "opt_state": 0, "key": 0, "statistics": 0}
_AXES = TrainState(**_STATE_AXES, search=SearchState(**_SEARCH_AXES))

Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def init_population(
    method: MakeMethod,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    keys: jax.Array,
    hyper: PyTree = None,
    statistics: PyTree = None,
) -> TrainState:
    """Build the states of several searches as one, before the first round.

    Every leaf but the counters of steps and rounds gains a leading axis of members. A member
    depends on nothing but its own start, key and hyperparameters, and on the batch, which all of
    them see. `shard_population` distributes them over several devices.

    Args:
      method: as for `init_search`.
      params: the initial weights, stacked: each leaf [members, ...]. Repeat them where members
        share a seed.
      optimizer: as for `init_search`, the same for all.
      keys: PRNG keys, typed [members] or raw [members, 2].
      hyper: hyperparameters, each leaf [members, ...]; None for a method without.
      statistics: running statistics, each leaf [members, ...]; None for a network without.

    Returns:
      A ``TrainState`` with a `SearchState` in it.

    Raises:
      ValueError: the leaves do not have as many members as there are keys.
    """
    members = len(keys)
    for name, tree in (("params", params), ("hyper", hyper), ("statistics", statistics)):
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if jnp.ndim(leaf) < 1 or jnp.shape(leaf)[0] != members:
                raise ValueError(
                    f"{name} must have a leading axis of {members} members, as keys have; "
                    f"{jax.tree_util.keystr(path) or 'its leaf'} has shape {jnp.shape(leaf)}"
                )

    def start(params: PyTree, key: jax.Array, hyper: PyTree, statistics: PyTree) -> TrainState:
        return init_search(method, params, optimizer, key, hyper, statistics)

    return jax.vmap(start, out_axes=_AXES)(params, keys, hyper, statistics)


def shard_population(state: TrainState, mesh: Mesh) -> TrainState:
    """Distribute the members of a population over the devices of a mesh, before training.

    ::

        mesh = jax.make_mesh((8,), ("members",))
        state = shard_population(init_population(...), mesh)
        state = fit(step, state, batches, loop=population_scan(mesh), batch_axes=(), ...)

    Args:
      state: a population, such as that of `init_population`.
      mesh: a mesh of one axis, whose length divides the number of members; of any kind: the
        compiler partitions the work.

    Returns:
      A state that shares no buffer with ``state``.

    Raises:
      ValueError: the mesh has not one axis, or its length does not divide the number of members.
    """
    members, devices = jax.tree.leaves(state.search.mask)[0].shape[0], automatic(mesh)
    sharded, replicated = PartitionSpec(axis_of(mesh)), PartitionSpec()
    if members % devices.size:
        raise ValueError(f"mesh must divide {members} members; it has {devices.size} devices")
    specs = (replicated if leaf.ndim == 0 else sharded for leaf in jax.tree.leaves(state))
    shardings = [NamedSharding(devices, spec) for spec in specs]
    # A copy first: `device_put` does not copy what is in its place already.
    there: TrainState = jax.device_put(
        fresh(state), jax.tree.unflatten(jax.tree.structure(state), shardings)
    )
    return there


def automatic(mesh: Mesh) -> Mesh:
    """The same devices with axes that the compiler partitions by itself."""
    return Mesh(mesh.devices, mesh.axis_names)


def axis_of(mesh: Mesh) -> str:
    if len(mesh.axis_names) != 1:
        raise ValueError(f"mesh must have one axis, of members; it has {mesh.axis_names}")
    return str(mesh.axis_names[0])


def population_step(step: Step) -> Step:
    """Map a `search_step` over the members of a population, all on the same batch, by ``vmap``.

    This is for a loop of your own. For ``sparsejax.training.fit`` rather pass the step as it is and
    `population_scan`, which chooses how many members are computed together.

    Args:
      step: ``(state, batch) -> (state, metrics)`` of one search.

    Returns:
      ``(state, batch) -> (state, metrics)`` of the population. Each metric becomes the mean over
      the members and, as ``name/0``, ``name/1``, ..., the value of each.
    """
    together = jax.vmap(step, in_axes=(_AXES, None), out_axes=(_AXES, 0))

    def take(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        state, metrics = together(state, batch)
        return state, with_means(metrics)

    return take


def joined(state: TrainState, step: Any, round_: Any) -> TrainState:
    """``state`` with other counters of steps and rounds, or without them (None)."""
    return state._replace(step=step, search=state.search._replace(round=round_))


def with_means(metrics: Metrics) -> Metrics:
    """The mean of values [members], and each of them."""
    shown = {}
    for name, values in metrics.items():
        shown[name] = values.mean()
        shown |= {f"{name}/{number}": value for number, value in enumerate(values)}
    return shown


def population_tickets(method: MakeMethod, state: TrainState) -> Ticket:
    """Read the tickets of all members at the end of a round. Pure.

    Args:
      method: as for `init_population`.
      state: a population at the end of a round.

    Returns:
      A ticket (see `found_ticket`) each leaf of which has a leading axis of members.
    """
    search_of(state)  # raises if there is none
    return jax.vmap(lambda one: found_ticket(method, one), in_axes=(_AXES,))(state)


def next_population(
    method: MakeMethod,
    state: TrainState,
    optimizer: optax.GradientTransformation,
    renew_optimizer: bool = True,
) -> TrainState:
    """Build the state from which the next round of all members starts (see `next_search`). Pure.

    Call it under ``jit`` where the members lie on a mesh.

    Args:
      method: as for `init_population`.
      state: a population at the end of a round.
      optimizer: as for `init_population`.
      renew_optimizer: whether the optimizer starts anew.

    Returns:
      The population before the first step of the next round.
    """

    def turn(one: TrainState) -> TrainState:
        return next_search(method, one, optimizer, renew_optimizer)

    search_of(state)  # raises if there is none
    return jax.vmap(turn, in_axes=(_AXES,), out_axes=_AXES)(state)


def member(state: TrainState, number: int) -> TrainState:
    """Extract one search of a population.

    Args:
      state: a population.
      number: the number of the member, counted from 0.

    Returns:
      The state of a search by itself, which shares no buffer with ``state``.
    """
    # The counters are the only leaves without an axis of members.
    own = joined(state, None, None)
    one = jax.tree.map(lambda leaf: leaf[number], own)
    return fresh(joined(one, state.step, state.search.round))
