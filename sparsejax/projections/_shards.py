"""Where the pieces of a sharded leaf lie, so that code on each device can speak of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from sparsejax._where import Chosen, PyTree, Where, choose


class Layout(NamedTuple):
    """The mesh axes that cut each dimension of a leaf, outermost first.

    All empty where the code sees the whole leaf: on one device, or under ``jit``, which cuts up the
    program itself.
    """

    axes: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> frozenset[str]:
        """Every mesh axis that cuts the leaf."""
        return frozenset(name for axes in self.axes for name in axes)

    def shape(self, leaf: jax.Array) -> tuple[int, ...]:
        """The shape of the whole leaf of which ``leaf`` is this device's piece."""
        return tuple(
            size * lax.axis_size(axes) if axes else size
            for size, axes in zip(leaf.shape, self.axes, strict=True)
        )

    def size(self, leaf: jax.Array) -> int:
        """The number of entries of the whole leaf."""
        return math.prod(self.shape(leaf))

    def positions_from_end(self, leaf: jax.Array, following: int | jax.Array) -> jax.Array:
        """For each entry how many follow it, with ``following`` more behind its leaf (int32).

        Entries are in row-major order of the whole leaf.
        """
        shape = self.shape(leaf)
        position = jnp.asarray(following, jnp.int32) + (math.prod(shape) - 1)
        stride = 1
        for axis in reversed(range(leaf.ndim)):
            if self.axes[axis]:
                position -= lax.axis_index(self.axes[axis]) * (leaf.shape[axis] * stride)
            position = position - lax.broadcasted_iota(jnp.int32, leaf.shape, axis) * stride
            stride *= shape[axis]
        return position


def whole_size(leaves: Sequence[jax.Array], layouts: Sequence[Layout]) -> int:
    """How many entries the whole leaves have together."""
    return sum(layout.size(leaf) for leaf, layout in zip(leaves, layouts, strict=True))


def num_entries(tree: PyTree, where: Where = None, *, specs: PyTree = None) -> int:
    """Count the entries of the chosen leaves.

    Args:
      tree: pytree of arrays.
      where: chooses leaves, see `sparsejax`.
      specs: pytree (prefix) of ``jax.sharding.PartitionSpec`` where ``tree`` holds shards inside
        ``shard_map`` or ``pmap``; the entries of the whole arrays are counted.

    Returns:
      The number of entries, a Python integer.

    Raises:
      ValueError: ``specs`` is no prefix of the tree, or names an unbound mesh axis.
    """
    chosen = choose(tree, where)
    return whole_size(chosen.leaves, layouts_of(tree, chosen, specs))


def layouts_of(tree: PyTree, chosen: Chosen, specs: PyTree) -> list[Layout]:
    """The layouts of a tree's chosen leaves, from the ``specs`` given inside shard_map or pmap.

    Raises:
      ValueError: ``specs`` is no prefix of the tree, holds something else than PartitionSpecs,
        names a dimension that a leaf lacks, or names a mesh axis that is not bound here.
    """
    if specs is None:
        return [Layout(((),) * leaf.ndim) for leaf in chosen.leaves]
    try:
        spread = jax.tree.leaves(jax.tree.broadcast(specs, tree))
    except ValueError as error:
        raise ValueError(
            "specs must be a pytree of jax.sharding.PartitionSpec that is a prefix of the tree; "
            f"its structure is {jax.tree.structure(specs)}, "
            f"the tree's is {jax.tree.structure(tree)}"
        ) from error
    return [
        _layout(spec, leaf) for spec, leaf in zip(chosen.of(spread), chosen.leaves, strict=True)
    ]


def _layout(spec: Any, leaf: jax.Array) -> Layout:
    if not isinstance(spec, PartitionSpec):
        raise ValueError(f"specs must hold jax.sharding.PartitionSpec; it holds {spec!r}")
    if len(spec) > leaf.ndim:
        raise ValueError(f"specs holds {spec} for a leaf of {leaf.ndim} dimensions")
    axes = tuple(_names(part) for part in spec) + ((),) * (leaf.ndim - len(spec))
    for name in (name for part in axes for name in part):
        try:
            lax.axis_size(name)
        except NameError as error:
            raise ValueError(
                f"specs holds {spec}, but no mesh axis {name!r} is bound here; specs are for calls "
                "inside jax.shard_map and jax.pmap, and not needed under jit"
            ) from error
    return Layout(axes)


def _names(part: Any) -> tuple[str, ...]:
    if part is None:
        return ()
    return (part,) if isinstance(part, str) else tuple(part)


def on_each_shard(
    function: Callable[..., tuple[list[jax.Array], PyTree]],
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    *scalars: Any,
) -> tuple[list[jax.Array], PyTree]:
    """``function(leaves, layouts, *scalars) -> (leaves, scalars)``, on each device where need be.

    Leaves of a mesh with explicit axes carry their sharding in their type; then the function runs
    in a ``shard_map`` on this device's pieces. Elsewhere it runs as it is.
    """
    shardings = [jax.typeof(leaf).sharding for leaf in leaves]
    explicit = [s for s in shardings if AxisType.Explicit in s.mesh.axis_types]
    if not explicit or any(layout.names for layout in layouts):
        return function(leaves, layouts, *scalars)
    mesh = explicit[0].mesh
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    names = {name for name, kind in kinds if kind == AxisType.Explicit}
    specs = [PartitionSpec(*sharding.spec) for sharding in shardings]

    def local(leaves, *scalars):
        inner = [_layout(spec, leaf) for spec, leaf in zip(specs, leaves, strict=True)]
        return function(leaves, inner, *scalars)

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs, *(PartitionSpec() for _ in scalars)),
        out_specs=(specs, PartitionSpec()),
        axis_names=names,
    )
    return mapped(list(leaves), *scalars)


def automatic_shards(leaf: jax.Array) -> int:
    """In how many pieces the compiler may have cut ``leaf`` without telling us, at most."""
    mesh = jax.typeof(leaf).sharding.mesh
    if mesh.empty:
        return jax.device_count()
    kinds = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return math.prod(size for size, kind in kinds if kind != AxisType.Manual)
