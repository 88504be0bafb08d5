"""The sharding of a training state over a mesh of devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def fsdp_specs(
    params: PyTree, mesh: Mesh, axes: str | Sequence[str] | None = None, smallest: int = 2**14
) -> PyTree:
    """Choose specs that shard every large leaf along one dimension (FSDP).

    Each leaf is sharded along its longest dimension that the number of devices divides. Leaves
    without such a dimension, and those with fewer than ``smallest`` entries, are replicated.

    Args:
      params: a pytree of arrays, or of anything with a shape.
      mesh: the devices.
      axes: the mesh axes over which to shard; default all of them.
      smallest: the number of entries from which on a leaf is sharded.

    Returns:
      A pytree of ``PartitionSpec`` with the structure of ``params``.

    Raises:
      ValueError: ``axes`` are not axes of ``mesh``.
    """
    names = _axes_of(mesh, axes)
    devices = math.prod(mesh.shape[name] for name in names)

    def spec(leaf: Any) -> PartitionSpec:
        shape = jnp.shape(leaf)
        fitting = [axis for axis, length in enumerate(shape) if length % devices == 0]
        if math.prod(shape) < smallest or not fitting:
            return PartitionSpec()
        longest = max(fitting, key=lambda axis: shape[axis])
        return PartitionSpec(*(None,) * longest, names)

    return jax.tree.map(spec, params)


def specs_like(tree: PyTree, params: PyTree, specs: PyTree) -> PyTree:
    """The specs of an optimizer state: those of the parameters for leaves that belong to them.

    Momentum, theta, multipliers and the like are trees with the structure of the parameters
    somewhere inside the state: a leaf whose path ends with that of a parameter of the same shape is
    sharded like it. Any other leaf (a count, say) is replicated.

    Args:
      tree: an optimizer state, or its shapes.
      params: the parameters, or their shapes.
      specs: a pytree of ``PartitionSpec`` with the structure of ``params``, or a prefix of it.
    """
    spread = jax.tree.leaves(jax.tree.broadcast(specs, params))
    known: dict[tuple[Any, ...], tuple[tuple[int, ...], PartitionSpec]] = {}
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    for (path, leaf), spec in zip(paths, spread, strict=True):
        known[tuple(map(str, path))] = (jnp.shape(leaf), spec)

    def spec_of(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        steps = tuple(map(str, path))
        for start in range(len(steps) + 1):
            shape, spec = known.get(steps[start:], (None, None))
            if spec is not None and shape == jnp.shape(leaf):
                return spec
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec_of, tree)


def place(tree: PyTree, mesh: Mesh, specs: PyTree) -> PyTree:
    """Put ``tree`` on the devices of ``mesh``, sharded as ``specs`` (a prefix of it) say.

    Every process must hold the same values; each device receives its own part of them.

    Raises:
      ValueError: a dimension is not divisible by the number of devices over which it is sharded.
    """
    mesh = automatic(mesh)

    def put(path: tuple[Any, ...], leaf: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        try:
            sharding.shard_shape(jnp.shape(leaf))
        except ValueError as error:
            raise ValueError(
                f"specs shards {jax.tree_util.keystr(path)} of shape {jnp.shape(leaf)} as {spec} "
                f"on a mesh of {dict(mesh.shape)}; the number of devices must divide each "
                "dimension that is sharded over them"
            ) from error
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            bits = put(path, jax.random.key_data(leaf), PartitionSpec())
            return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree_util.tree_map_with_path(put, tree, jax.tree.broadcast(specs, tree))


def automatic(mesh: Mesh) -> Mesh:
    """The same devices with axes that the compiler partitions by itself.

    ``jax.make_mesh`` makes axes of the explicit kind, under which a model must give the sharding of
    every product of sharded matrices.
    """
    return Mesh(mesh.devices, mesh.axis_names)


def mesh_of(state: PyTree) -> Mesh | None:
    """The mesh that the leaves of a state are placed on, or None without one."""
    for leaf in jax.tree.leaves(state):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return sharding.mesh
    return None


def batch_sharding(
    mesh: Mesh | None, axes: str | Sequence[str] | None, batch_size: int
) -> NamedSharding | None:
    """The sharding of a batch: its examples over ``axes`` of the mesh, default all of them.

    It is None where there is no mesh.

    Raises:
      ValueError: ``axes`` are not axes of ``mesh``, or do not divide ``batch_size``.
    """
    if mesh is None:
        return None
    names = _axes_of(mesh, axes)
    devices = math.prod(mesh.shape[name] for name in names)
    if batch_size % devices:
        raise ValueError(
            f"batch_size must be a multiple of {devices}, the devices that share a batch (those of "
            f"mesh axes {', '.join(names)}); got {batch_size}"
        )
    return NamedSharding(mesh, PartitionSpec(names))


def _axes_of(mesh: Mesh, axes: str | Sequence[str] | None) -> tuple[str, ...]:
    if axes is None:
        return tuple(mesh.axis_names)
    names = (axes,) if isinstance(axes, str) else tuple(axes)
    if not set(names) <= set(mesh.axis_names):
        raise ValueError(f"axes must be among the mesh's {tuple(mesh.axis_names)}; got {names}")
    return names
