"""Arrays on meshes with explicit axes, where every operation must say how its result is cut."""

from __future__ import annotations

import jax
from jax.sharding import AxisType, PartitionSpec


def gathered(leaf: jax.Array) -> jax.Array:
    """Return the whole leaf on every device, where a mesh with explicit axes cuts it."""
    return _cut(leaf, leaf, PartitionSpec())


def cut_like(array: jax.Array, leaf: jax.Array) -> jax.Array:
    """Return ``array``, cut as ``leaf`` is, where that is on a mesh with explicit axes."""
    return _cut(array, leaf, jax.typeof(leaf).sharding.spec)


def _cut(array: jax.Array, leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
    if AxisType.Explicit not in jax.typeof(leaf).sharding.mesh.axis_types:
        return array
    result: jax.Array = jax.sharding.reshard(array, spec)
    return result
