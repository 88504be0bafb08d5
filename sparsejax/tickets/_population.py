"""Many searches in one program: a population over starts, penalties and seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax._states import fresh
from sparsejax._where import PyTree
from sparsejax.tickets._search import (
    MakeMethod,
    SearchState,
    found_ticket,
    init_search,
    next_search,
)
from sparsejax.tickets._ticket import Ticket

# The members take their steps together: one counter, so that what happens at one step of a round
# (keeping the weights to rewind to) costs nothing at the others.
_AXES: Any = SearchState(None, 0, 0, 0, 0, 0, None, 0, 0, 0)
_SHARED = ("step", "round")


def init_population(
    method: MakeMethod,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    keys: jax.Array,
    hyper: PyTree = None,
    statistics: PyTree = None,
) -> SearchState:
    """The states of several searches as one, each leaf (but the counters) with an axis of members.

    Members depend on nothing but their own start, key and hyperparameters (and the batch, which
    all of them see). `shard_population` puts them on several devices.

    Args:
      method: as for `init_search`.
      params: initial weights, stacked: each leaf [members, ...]; of equal members for one seed.
      optimizer: as for `init_search`, the same for all.
      keys: PRNG keys, [members] (of the old kind, without a type: [members, 2]).
      hyper: hyperparameters, each leaf [members, ...]; None for a method without.
      statistics: running statistics, each leaf [members, ...]; None for a network without.

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

    def start(params, key, hyper, statistics):
        return init_search(method, params, optimizer, key, hyper, statistics)

    return jax.vmap(start, out_axes=_AXES)(params, keys, hyper, statistics)


def shard_population(state: SearchState, mesh: Mesh) -> SearchState:
    """A population with its members dealt out over the devices of a mesh, before training.

    ::

        mesh = jax.make_mesh((8,), ("members",))
        state = shard_population(init_population(...), mesh)
        state = fit(step, state, data, scan=population_scan(mesh), batch_axes=(), ...)

    Args:
      state: of `init_population`.
      mesh: of one axis, whose length divides the number of members; of any kind: the compiler
        partitions the work.

    Returns:
      A state that shares no buffer with ``state``.

    Raises:
      ValueError: the mesh has not one axis, or it does not divide the members.
    """
    members, devices = jax.tree.leaves(state.mask)[0].shape[0], _automatic(mesh)
    cut, whole = PartitionSpec(_axis_of(mesh)), PartitionSpec()
    if members % devices.size:
        raise ValueError(f"mesh must divide {members} members; it has {devices.size} devices")
    specs = (whole if leaf.ndim == 0 else cut for leaf in jax.tree.leaves(state))
    shardings = [NamedSharding(devices, spec) for spec in specs]
    # A copy first: `device_put` leaves what is in its place already where it is.
    return jax.device_put(fresh(state), jax.tree.unflatten(jax.tree.structure(state), shardings))


def _automatic(mesh: Mesh) -> Mesh:
    """The same devices with axes that the compiler partitions by itself."""
    return Mesh(mesh.devices, mesh.axis_names)


def _axis_of(mesh: Mesh) -> str:
    if len(mesh.axis_names) != 1:
        raise ValueError(f"mesh must have one axis, of members; it has {mesh.axis_names}")
    return mesh.axis_names[0]


Step = Callable[[SearchState, Any], tuple[SearchState, dict[str, jax.Array]]]


def population_step(step: Step) -> Step:
    """A `search_step` for a population: every member takes it, on the same batch, by ``vmap``.

    For a loop of your own; in ``sparsejax.training.fit`` rather pass the step as it is and
    `population_scan`, which chooses how many members are computed together.

    Returns:
      ``(state, batch) -> (state, metrics)``; each metric is given as the mean over the members and,
      as ``name/0``, ``name/1``, ..., of each.
    """
    together = jax.vmap(step, in_axes=(_AXES, None), out_axes=(_AXES, 0))

    def take(state: SearchState, batch):
        state, metrics = together(state, batch)
        return state, _shown(metrics)

    return take


def population_scan(
    mesh: Mesh | None = None, vmap_size: int | None = None, unroll: bool = False
) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
    """How ``sparsejax.training.fit`` takes a block of steps with a population.

    The members are independent, so a block may be taken by members before steps: each takes all of
    its steps while what it needs stays in a processor's cache (the weights, gates and momenta of
    eight LeNet300 would not). An accelerator is filled by computing all of them together::

        step = search_step(method, loss, optimizer)
        state = fit(step, state, data, scan=population_scan(), batch_size=128, steps=1000)

    Args:
      mesh: of one axis, over which the members are dealt out (see `shard_population`): each device
        takes the steps of its own, and nothing is exchanged.
      vmap_size: how many members of a device are computed together, by ``vmap``; must divide their
        number. Default 1 on a CPU, elsewhere all. Results agree within rounding.
      unroll: whether to write out steps and members instead of looping over them: for a few of
        them with XLA's own convolutions, which are many times slower inside a loop on a CPU.

    Returns:
      What `fit` takes as ``scan``, beside a step of a single search; metrics are those of
      `population_step`, with a leading axis of steps.

    Raises:
      ValueError: ``vmap_size`` is not an integer >= 1, or the mesh has not one axis; when it is
        called: ``vmap_size`` does not divide a device's members.
    """
    if vmap_size is not None and (not isinstance(vmap_size, int) or vmap_size < 1):
        raise ValueError(f"vmap_size must be an integer >= 1; got {vmap_size!r}")
    cut, whole = PartitionSpec(mesh and _axis_of(mesh)), PartitionSpec()
    mesh = mesh and _automatic(mesh)

    def scan(take, state: SearchState, arrays, rows):
        shared = {name: getattr(state, name) for name in _SHARED}
        own = {n: tree for n, tree in state._asdict().items() if n not in shared}

        def device(own, shared, arrays, rows):
            """All steps of the members of a device."""
            members = jax.tree.leaves(own)[0].shape[0]
            count = vmap_size or (1 if jax.default_backend() == "cpu" else members)
            if members % count:
                raise ValueError(f"vmap_size must divide {members} members; got {count}")

            def run(own):
                start = SearchState(**own, **shared)
                follow = lambda s, row: take(s, arrays, row)  # noqa: E731
                state, metrics = (_unrolled if unroll else lax.scan)(follow, start, rows)
                return state._asdict(), metrics

            if unroll or members == 1:  # vmap over a single one would make grouped convolutions
                return _written_out(run, own, members, count)
            if count == members:
                return jax.vmap(run)(own)
            return lax.map(run, own, batch_size=count if count > 1 else None)

        if mesh is not None:
            places = (cut, whole, whole, whole)
            device = jax.shard_map(
                device, mesh=mesh, in_specs=places, out_specs=cut, check_vma=False
            )
        ended, metrics = device(own, shared, arrays, rows)
        ended |= {name: ended[name][0] for name in _SHARED}
        by_step = jax.tree.map(lambda values: jnp.moveaxis(values, 0, 1), metrics)
        return SearchState(**ended), jax.vmap(_shown)(by_step)

    return scan


def _unrolled(follow: Callable[..., Any], state: Any, rows: Any) -> tuple[Any, Any]:
    """`lax.scan` without a loop.

    Its own ``unroll`` leaves a loop of one turn where there is one step, and in a loop XLA for CPUs
    does not turn the weight gradients of its convolutions into fast ones (sixty times slower).
    """
    metrics = []
    for number in range(jax.tree.leaves(rows)[0].shape[0]):
        state, found = follow(state, jax.tree.map(lambda array, n=number: array[n], rows))
        metrics.append(found)
    return state, jax.tree.map(lambda *values: jnp.stack(values), *metrics)


def _written_out(run: Callable[[Any], Any], own: Any, members: int, count: int) -> Any:
    """Every member's result, ``count`` at a time, without a loop in the program."""
    if count == 1:
        parts = [run(jax.tree.map(lambda x, n=n: x[n], own)) for n in range(members)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    several = jax.vmap(run)
    starts = range(0, members, count)
    parts = [several(jax.tree.map(lambda x, n=n: x[n : n + count], own)) for n in starts]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _shown(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Of values [members]: their mean, and each."""
    shown = {}
    for name, values in metrics.items():
        shown[name] = values.mean()
        shown |= {f"{name}/{number}": value for number, value in enumerate(values)}
    return shown


def population_tickets(method: MakeMethod, state: SearchState) -> Ticket:
    """`found_ticket` of every member: a ticket whose leaves have an axis of members."""
    return jax.vmap(lambda one: found_ticket(method, one), in_axes=(_AXES,))(state)


def next_population(
    method: MakeMethod,
    state: SearchState,
    optimizer: optax.GradientTransformation,
    renew_optimizer: bool = True,
) -> SearchState:
    """`next_search` of every member; to be called under ``jit`` where they lie on a mesh."""
    turn = jax.vmap(
        lambda one: next_search(method, one, optimizer, renew_optimizer),
        in_axes=(_AXES,),
        out_axes=_AXES,
    )
    return turn(state)


def member(state: SearchState, number: int) -> SearchState:
    """One search of a population, counted from 0, as the state of a search by itself."""
    axes = _AXES._asdict()
    one = {
        name: tree if axes[name] is None else jax.tree.map(lambda leaf: leaf[number], tree)
        for name, tree in state._asdict().items()
    }
    return fresh(SearchState(**one))
