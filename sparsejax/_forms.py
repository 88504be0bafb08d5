"""The forms of compressed arrays: pytree nodes that stand in a tree in place of an array."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jaxtyping import Array, Float, PyTree, UInt

from sparsejax._matrices import Matrices


class _Form:
    """The attributes that every form shares with arrays."""

    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """The number of dimensions of the array."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries of the array."""
        return math.prod(self.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class QuantizedArray(_Form):
    """An array whose entries are values of a codebook; two plain arrays say all of it.

    Several arrays share a codebook if theirs are equal: `sparsejax.inspection.storage_bits` counts
    it once, and `sparsejax.deploy.save_sparse` writes it once.
    """

    codebook: Float[Array, " k"]
    """The values, in rising order if `compressed_forms` made it."""
    codes: UInt[Array, "..."]
    """The index of the value of each entry, in the shape of the array: uint8 for up to 256 values,
    uint16 beyond."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of the array."""
        return tuple(self.codes.shape)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the array."""
        return jnp.dtype(self.codebook.dtype)

    def dense(self) -> Float[Array, "..."]:
        """Return the array itself, to the bit."""
        array: jax.Array
        if not self.size:
            array = _namespace(self).zeros(self.shape, self.dtype)
            return array
        if _namespace(self) is np:
            array = self.codebook[self.codes]
            return array
        cut = jax.typeof(self.codes).sharding
        explicit = AxisType.Explicit in cut.mesh.axis_types
        index = jnp.asarray(self.codes).astype(jnp.int32)
        array = jnp.asarray(self.codebook).at[index].get(out_sharding=cut if explicit else None)
        return array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LowRankArray(_Form):
    r"""A kernel that is the product of two factors.

    .. math:: \Theta = A B, \qquad A = U \sqrt{S}, \quad B = \sqrt{S}\, V^T

    The factors are what is kept; the kernel from which they were computed agrees with their product
    up to rounding.
    """

    left: Float[Array, "*stacked m r"]
    """The factor A."""
    right: Float[Array, "*stacked r n"]
    """The factor B."""
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    """The shape of the kernel, [in, out] or [h, w, in, out] after the stacked dimensions."""
    scheme: str = dataclasses.field(default="channel", metadata={"static": True})
    """How the kernel of a convolution is read as a matrix, as in
    `sparsejax.projections.project_low_rank`."""
    stacked: int = dataclasses.field(default=0, metadata={"static": True})
    """The number of leading dimensions that are stacked layers."""

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the kernel."""
        return jnp.dtype(self.left.dtype)

    @property
    def rank(self) -> int:
        """The number of columns of A."""
        return int(self.left.shape[-1])

    def dense(self) -> Float[Array, "..."]:
        """Return the kernel, the product of the factors."""
        wide = wide_dtype(self.dtype)
        left, right = self.left.astype(wide), self.right.astype(wide)
        if _namespace(self) is np:
            product: Any = np.matmul(left, right)
        else:
            product = jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
        kernel = Matrices(self.scheme, self.stacked).back(product, self.shape)
        array: jax.Array = kernel.astype(self.dtype)
        return array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RoundedArray(_Form):
    """An array whose entries are exact in a dtype of fewer bits."""

    values: Float[Array, "..."]
    """The entries in that dtype."""
    dtype: Any = dataclasses.field(metadata={"static": True})
    """The dtype of the array."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of the array."""
        return tuple(self.values.shape)

    def dense(self) -> Float[Array, "..."]:
        """Return the array itself, to the bit."""
        return self.values.astype(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ScaledArray(_Form):
    r"""An array in groups of neighbouring entries, each of which has a scale.

    .. math:: \theta_i = s_{g(i)} v_i
    """

    values: Any
    """The values v, in the shape of the array: a form, or a plain array."""
    scales: Float[Array, "..."]
    """The scale of each group: of the array's shape, with the number of groups along ``axis``."""
    axis: int = dataclasses.field(metadata={"static": True})
    """The axis along which the entries of a group follow one another."""
    group_size: int = dataclasses.field(metadata={"static": True})
    """The number of entries of a group; the last group may have fewer."""
    dtype: Any = dataclasses.field(metadata={"static": True})
    """The dtype of the array."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of the array."""
        return tuple(self.values.shape)

    def dense(self) -> Float[Array, "..."]:
        """Return the array itself, to the bit: products in float32 or wider, then rounded."""
        wide = wide_dtype(self.dtype)
        values = self.values.dense() if is_form(self.values) else self.values
        length = self.shape[self.axis]
        scales = spread(self.scales.astype(wide), self.group_size, self.axis, length)
        array: jax.Array = (values.astype(wide) * scales).astype(self.dtype)
        return array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SumArray(_Form):
    """A sum of arrays, each in a form of its own."""

    parts: tuple[Any, ...]
    """The parts, one or more: forms, or plain arrays."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of the sum."""
        return tuple(self.parts[0].shape)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the sum."""
        dtype: jnp.dtype = jnp.dtype(self.parts[0].dtype)
        return dtype

    def dense(self) -> Float[Array, "..."]:
        """Return the sum, added in the order of the parts in float32 or wider."""
        wide = wide_dtype(self.dtype)
        total: Any = np.zeros((), wide)  # the C step adds from 0, which turns -0 into 0
        for part in self.parts:
            total = total + (part.dense() if is_form(part) else part).astype(wide)
        array: jax.Array = total.astype(self.dtype)
        return array


def spread(scales: Any, group_size: int, axis: int, length: int) -> Any:
    """Return the scale of each entry along an axis of a length, given those of its groups."""
    cut = [slice(None)] * scales.ndim
    cut[axis] = slice(length)
    return scales.repeat(group_size, axis)[tuple(cut)]


Form: TypeAlias = QuantizedArray | LowRankArray | RoundedArray | ScaledArray | SumArray


def is_form(node: Any) -> bool:
    """Whether a node is a compressed array in a form of its own."""
    return isinstance(node, _Form)


def has_forms(tree: PyTree) -> bool:
    """Whether a tree holds forms."""
    return any(map(is_form, jax.tree.leaves(tree, is_leaf=is_form)))


def decode(tree: PyTree) -> PyTree[Array]:
    """Return a tree with plain arrays in place of the forms of compressed arrays.

    It is a pure function: under ``jit`` a network computes with forms as its parameters. Arrays of
    NumPy are decoded by NumPy.

    Args:
      tree: pytree of arrays and forms, as `sparsejax.compressed_forms` returns it.

    Returns:
      The same tree with an array for each form; a form that stands at two places (the same Python
      object) becomes one array. Quantised, rounded, scaled and sparse arrays, and sums of them, are
      what was encoded to the bit; the product of two factors is up to rounding.
    """
    decoded: dict[int, Array] = {}

    def plain(node: Any) -> Any:
        if not is_form(node):
            return node
        if id(node) not in decoded:
            decoded[id(node)] = node.dense()
        return decoded[id(node)]

    return jax.tree.map(plain, tree, is_leaf=is_form)


def without_forms(tree: PyTree) -> PyTree:
    """Return a tree with the shape and dtype of its array in place of each form."""

    def plain(node: Any) -> Any:
        return jax.ShapeDtypeStruct(node.shape, node.dtype) if is_form(node) else node

    return jax.tree.map(plain, tree, is_leaf=is_form)


def wide_dtype(dtype: Any) -> np.dtype:
    """Return float32 for a dtype of fewer bits, or else the dtype, in any setting of JAX."""
    return np.dtype(dtype if jnp.dtype(dtype).itemsize > 4 else np.float32)


def _namespace(form: Form) -> Any:
    """NumPy if all arrays of a form are of NumPy, which knows float64 in any setting of JAX."""
    all_numpy = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(form))
    return np if all_numpy else jnp
