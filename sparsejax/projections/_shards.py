"""Layouts of sharded leaves, which relate the local shard of a device to the global array."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, PyTree

from sparsejax._misfit import misfit
from sparsejax._where import Chosen, Where, choose

Result = TypeVar("Result")


class Layout(NamedTuple):
    """The mesh axes that shard each dimension of a leaf.

    All are empty where the code sees the global array: on one device, and under ``jit``, where the
    compiler partitions the program.
    """

    axes: tuple[tuple[str, ...], ...]
    """For each dimension the names of the mesh axes that shard it, outermost first."""

    @property
    def names(self) -> frozenset[str]:
        """The mesh axes that shard the leaf."""
        return frozenset(name for axes in self.axes for name in axes)

    def shape(self, leaf: jax.Array) -> tuple[int, ...]:
        """Return the shape of the global array of which ``leaf`` is the local shard."""
        return tuple(
            size * lax.axis_size(axes) if axes else size
            for size, axes in zip(leaf.shape, self.axes, strict=True)
        )

    def size(self, leaf: jax.Array) -> int:
        """Return the number of entries of the global array."""
        return math.prod(self.shape(leaf))

    def positions_from_end(
        self, leaf: jax.Array, following: int = 0, zero: int | jax.Array = 0
    ) -> jax.Array:
        """Count the entries after each entry, in row-major order of the global array (int32).

        Args:
          leaf: the local shard.
          following: the number of entries in later leaves, which is added.
          zero: 0. A traced zero that is known inside a loop only keeps XLA from computing
            positions before the loop and storing them.
        """
        shape, before = self.shape(leaf), jnp.asarray(zero, jnp.int32)
        for axis, length in enumerate(shape):
            index = lax.broadcasted_iota(jnp.int32, leaf.shape, axis)
            if self.axes[axis]:
                index += lax.axis_index(self.axes[axis]) * leaf.shape[axis]
            before = before * length + index
        return following + math.prod(shape) - 1 - before


def whole_size(leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> int:
    """Return the total number of entries of the global arrays."""
    return sum(whole_sizes(leaves, layouts))


def whole_sizes(leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> list[int]:
    """Return the number of entries of each of the global arrays."""
    return [layout.size(leaf) for leaf, layout in zip(leaves, layouts, strict=True)]


def num_entries(
    tree: PyTree[Array], where: Where = None, *, specs: PyTree[PartitionSpec] | None = None
) -> int:
    """Count the entries of the chosen leaves.

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape.
      where: the leaves whose entries are counted, see `sparsejax.chosen`.
      specs: the sharding of the leaves inside ``shard_map`` or ``pmap``, as in `project_l0_ball`;
        then the entries of the global arrays are counted.

    Returns:
      The number of entries, a Python integer. An array that occurs at several places of the tree
      counts once.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: ``where`` chooses nothing, ``specs`` is not a prefix of the tree, or it names a
        mesh axis that is not bound.
    """
    chosen = choose(tree, where)
    return whole_size(chosen.leaves, layouts_of(tree, chosen, specs))


def layouts_of(
    tree: PyTree[Array], chosen: Chosen, specs: PyTree[PartitionSpec] | None
) -> list[Layout]:
    """Return the layouts of a tree's chosen leaves according to ``specs``.

    Raises:
      ValueError: ``specs`` is not a prefix of the tree, holds something other than PartitionSpecs,
        has more dimensions than a leaf, or names a mesh axis that is not bound.
    """
    if specs is None:
        return [Layout(((),) * leaf.ndim) for leaf in chosen.leaves]
    try:
        spread = jax.tree.leaves(jax.tree.broadcast(specs, tree))
    except ValueError as error:
        raise ValueError(
            "specs must be a pytree of jax.sharding.PartitionSpec that is a prefix of the tree; "
            f"{misfit(specs, tree, 'the tree')}"
        ) from error
    return [
        _layout(spec, leaf) for spec, leaf in zip(chosen.of(spread), chosen.leaves, strict=True)
    ]


def _layout(spec: Any, leaf: jax.Array) -> Layout:
    if not isinstance(spec, PartitionSpec):
        raise ValueError(f"specs must hold jax.sharding.PartitionSpec; got {spec!r}")
    if len(spec) > leaf.ndim:
        raise ValueError(
            f"specs must have at most as many dimensions as the leaf; got {spec} for a leaf of "
            f"{leaf.ndim} dimensions"
        )
    axes = tuple(_names(part) for part in spec) + ((),) * (leaf.ndim - len(spec))
    for name in (name for part in axes for name in part):
        try:
            lax.axis_size(name)
        except NameError as error:
            raise ValueError(
                f"specs must name mesh axes that are bound; {name!r} in {spec} is not. Pass specs "
                "only inside jax.shard_map and jax.pmap; jit does not need them"
            ) from error
    return Layout(axes)


def _names(part: Any) -> tuple[str, ...]:
    if part is None:
        return ()
    return (part,) if isinstance(part, str) else tuple(part)


def on_each_shard(
    function: Callable[..., tuple[list[jax.Array], Result]],
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    *scalars: Any,
) -> tuple[list[jax.Array], Result]:
    """Call ``function(leaves, layouts, *scalars) -> (leaves, scalars)`` on local shards if needed.

    The types of leaves on a mesh with explicit axes carry their sharding, and there ``function``
    runs inside a ``shard_map``. Elsewhere it is called directly.
    """
    shardings = [jax.typeof(leaf).sharding for leaf in leaves]
    explicit = [s for s in shardings if AxisType.Explicit in s.mesh.axis_types]
    if not explicit or any(layout.names for layout in layouts):
        return function(leaves, layouts, *scalars)
    mesh = explicit[0].mesh
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    names = {name for name, kind in kinds if kind == AxisType.Explicit}
    specs = [PartitionSpec(*sharding.spec) for sharding in shardings]

    def local(leaves: list[jax.Array], *scalars: Any) -> tuple[list[jax.Array], Result]:
        inner = [_layout(spec, leaf) for spec, leaf in zip(specs, leaves, strict=True)]
        return function(leaves, inner, *scalars)

    mapped: Callable[..., tuple[list[jax.Array], Result]] = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs, *(PartitionSpec() for _ in scalars)),
        out_specs=(specs, PartitionSpec()),
        axis_names=names,
    )
    return mapped(list(leaves), *scalars)


def automatic_shards(leaf: jax.Array) -> int:
    """Return the maximum number of shards into which the compiler may have divided ``leaf``."""
    mesh = jax.typeof(leaf).sharding.mesh
    if mesh.empty:
        return jax.device_count()
    kinds = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return math.prod(size for size, kind in kinds if kind != AxisType.Manual)
