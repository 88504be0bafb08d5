"""Many searches in one program: a family over starts, penalties and seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparsejax._where import PyTree
from sparsejax.tickets.search import (
    MakeMethod,
    SearchState,
    found_ticket,
    init_search,
    next_search,
)
from sparsejax.tickets.ticket import Ticket

# The members take their steps together: one counter, so that what happens at one step of a round
# (keeping the weights to rewind to) costs nothing at the others.
_AXES: Any = SearchState(None, 0, 0, 0, 0, 0, None, 0)  # type: ignore[arg-type]


def init_family(
    method: MakeMethod,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    keys: jax.Array,
    hyper: PyTree = None,
) -> SearchState:
    """The states of several searches as one, each leaf (but the counters) with an axis of members.

    Members depend on nothing but their own start, key and hyperparameters (and the batch, which
    all of them see). To deal them out over devices put the state on a mesh before training::

        mesh = jax.make_mesh((8,), ("members",), axis_types=(jax.sharding.AxisType.Auto,))
        cut, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("members",), ()))
        state = jax.tree.map(lambda x: jax.device_put(x, cut if x.ndim else whole), state)
        state = fit(family_step(step), state, data, batch_axes=(), ...)

    Args:
      method: as for `init_search`.
      params: initial weights, stacked: each leaf [members, ...]; of equal members for one seed.
      optimizer: as for `init_search`, the same for all.
      keys: typed PRNG keys, [members].
      hyper: hyperparameters, each leaf [members, ...]; None for a method without.

    Raises:
      ValueError: the leaves do not have as many members as there are keys.
    """
    members = len(keys)
    for name, tree in (("params", params), ("hyper", hyper)):
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if jnp.ndim(leaf) < 1 or jnp.shape(leaf)[0] != members:
                raise ValueError(
                    f"{name} must have a leading axis of {members} members, as keys have; "
                    f"{jax.tree_util.keystr(path) or 'its leaf'} has shape {jnp.shape(leaf)}"
                )

    def start(params, key, hyper):
        return init_search(method, params, optimizer, key, hyper)

    return jax.vmap(start, out_axes=_AXES)(params, keys, hyper)


def family_step(
    step: Callable[[SearchState, Any], tuple[SearchState, dict[str, jax.Array]]],
) -> Callable[[SearchState, Any], tuple[SearchState, dict[str, jax.Array]]]:
    """A `search_step` for a family: every member takes it, on the same batch.

    Returns:
      ``(state, batch) -> (state, metrics)``; each metric is given as the mean over the members and,
      as ``name/0``, ``name/1``, ..., of each.
    """
    together = jax.vmap(step, in_axes=(_AXES, None), out_axes=(_AXES, 0))

    def take(state: SearchState, batch):
        state, metrics = together(state, batch)
        shown = {}
        for name, values in metrics.items():
            shown[name] = values.mean()
            shown |= {f"{name}/{number}": value for number, value in enumerate(values)}
        return state, shown

    return take


def family_tickets(method: MakeMethod, state: SearchState) -> Ticket:
    """`found_ticket` of every member: a ticket whose leaves have an axis of members."""
    return jax.vmap(lambda one: found_ticket(method, one), in_axes=(_AXES,))(state)


def next_family(
    method: MakeMethod, state: SearchState, optimizer: optax.GradientTransformation
) -> SearchState:
    """`next_search` of every member; to be called under ``jit`` where they lie on a mesh."""
    turn = jax.vmap(
        lambda one: next_search(method, one, optimizer), in_axes=(_AXES,), out_axes=_AXES
    )
    return turn(state)


def member(state: SearchState, number: int) -> SearchState:
    """One search of a family, counted from 0, as the state of a search by itself."""
    axes = _AXES._asdict()
    return SearchState(
        **{
            name: tree if axes[name] is None else jax.tree.map(lambda leaf: leaf[number], tree)
            for name, tree in state._asdict().items()
        }
    )
