"""The kernels of a tree that a calibration has seen, as matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sparsejax._dtypes import at_least_float32
from sparsejax._names import named_leaves
from sparsejax._tree_layers import is_floating
from sparsejax._where import Where, refuse_tied, resolve_where
from sparsejax.oneshot._calibration import Calibration, KernelLayout


class Kernel(NamedTuple):
    """A kernel and the inputs that it had."""

    name: str
    layout: KernelLayout
    leaf: Array
    """The kernel, of its own shape and dtype."""
    gram: Float[Array, "batch inputs inputs"]
    """The sums of the products of its inputs."""
    rows: Float[Array, " batch"]
    device: jax.Device
    """Where its matrices are made."""

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the arithmetic."""
        dtype: jnp.dtype = at_least_float32(self.gram, self.leaf)
        return dtype

    @property
    def signature(self) -> tuple[int, int, str]:
        """Return the key that matrices share if one program can prune them."""
        return self.layout.outputs, self.layout.inputs, self.dtype.name

    def matrices(self, leaf: Any = None) -> Float[Array, "batch outputs inputs"]:
        """Return the matrices of the kernel, or of another array of its shape."""
        array = jax.device_put(self.leaf if leaf is None else leaf, self.device)
        matrices: jax.Array = self.layout.matrices(array).astype(self.dtype)
        return matrices

    def moments(self) -> Float[Array, "batch inputs inputs"]:
        """Return the mean of the products of its inputs, for each matrix."""
        gram, rows = jax.device_put((self.gram, self.rows), self.device)
        mean: jax.Array = gram.astype(self.dtype) / rows.astype(self.dtype)[:, None, None]
        return mean


class Kernels(NamedTuple):
    """The kernels of a tree, and the tree."""

    kernels: list[Kernel]
    places: list[int]
    """For each kernel, its number among the leaves of the tree."""
    leaves: list[Any]
    treedef: Any
    devices: list[jax.Device]
    """The devices that hold the kernels."""

    def put_back(self, matrices: Mapping[str, Float[Array, "batch outputs inputs"]]) -> PyTree:
        """Return the tree with other matrices in the places of the kernels."""
        leaves = list(self.leaves)
        for kernel, place in zip(self.kernels, self.places, strict=True):
            new = kernel.layout.kernel(matrices[kernel.name]).astype(kernel.leaf.dtype)
            is_numpy = not isinstance(leaves[place], jax.Array)
            leaves[place] = (
                np.asarray(new).astype(leaves[place].dtype)
                if is_numpy
                else jax.device_put(new, kernel.leaf.sharding)
            )
        return self.treedef.unflatten(leaves)


def kernels_of(params: PyTree, calibration: Calibration, where: Where) -> Kernels:
    """Return the kernels that ``where`` chooses; by default all that the calibration has seen.

    Raises:
      TypeError: ``params`` or ``calibration`` are traced, or a chosen leaf is not floating point.
      ValueError: the calibration has not seen a chosen leaf, or saw one of another shape; a leaf
        or a Gram matrix holds NaN or infinity; or a leaf is not addressable or occurs twice.
    """
    if not isinstance(calibration, Calibration):
        raise TypeError(
            f"calibration must be what calibrate returns; got a {type(calibration).__name__}"
        )
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(calibration)):
        raise TypeError("calibration must hold concrete arrays, outside of jit; it is traced")
    named = named_leaves(params)
    structure: Any = jax.tree.structure(params)
    if where is None:
        _check_seen(calibration, {name for name, _ in named})
        mask = structure.unflatten(name in calibration.inputs for name, _ in named)
    else:
        mask = resolve_where(params, where)
    refuse_tied(params, mask)
    places = [place for place, is_chosen in enumerate(jax.tree.leaves(mask)) if is_chosen]
    found = []
    for place in places:
        name, leaf = named[place]
        found.append(_kernel(name, leaf, calibration))
    devices = sorted({d for k in found for d in k.leaf.devices()}, key=lambda device: device.id)
    return Kernels(
        [kernel._replace(device=devices[0]) for kernel in found],
        places,
        [leaf for _, leaf in named],
        structure,
        devices,
    )


def _kernel(name: str, leaf: Any, calibration: Calibration) -> Kernel:
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(f"params must be concrete arrays, outside of jit; {name} is traced")
    if name not in calibration.inputs:
        reason = calibration.skipped.get(name)
        because = f", since {reason}" if reason else ""
        raise ValueError(
            f"where must choose kernels that the calibration has seen; it has not seen "
            f"{name}{because}. Leave it out by where="
        )
    if not is_floating(leaf):
        raise TypeError(f"params must have floating-point kernels; {name} has dtype {leaf.dtype}")
    layout, inputs = calibration.layouts[name], calibration.inputs[name]
    if np.shape(leaf) != layout.shape:
        raise ValueError(
            f"calibration must be of these params; {name} has shape {np.shape(leaf)} and had "
            f"{layout.shape} in the calibration"
        )
    array = jnp.asarray(leaf)
    if not array.is_fully_addressable:
        raise ValueError(f"params must be addressable by this process; {name} is not")
    for what, value in (("params", array), ("calibration", inputs.gram)):
        if not bool(jnp.isfinite(value).all()):
            raise ValueError(f"{what} must be finite; there is NaN or infinity at {name}")
    return Kernel(name, layout, array, inputs.gram, inputs.rows, jax.devices()[0])


def _check_seen(calibration: Calibration, names: set[str]) -> None:
    missing = [name for name in calibration.inputs if name not in names]
    if missing or not calibration.inputs:
        raise ValueError(
            "calibration must be of these params; "
            + (f"they have no leaf {missing[0]}" if missing else "it has no kernels")
        )
