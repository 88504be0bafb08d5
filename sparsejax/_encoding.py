"""The forms of arrays whose values say which form fits, on the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from sparsejax import _checks
from sparsejax._codebooks import MOST_VALUES
from sparsejax._forms import (
    Form,
    LowRankArray,
    QuantizedArray,
    RoundedArray,
    ScaledArray,
    SumArray,
    spread,
    wide_dtype,
)
from sparsejax._matrices import Matrices, factors


def concrete(leaf: Any) -> np.ndarray:
    """Return a leaf as an array of NumPy.

    Raises:
      TypeError: the leaf is traced.
      ValueError: parts of it lie on devices of other processes.
    """
    array = _checks.known(leaf)
    if array is not None:
        return array
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError("forms are found on the host, outside jit; a leaf of the weights is traced")
    raise ValueError(
        "forms are found on the host; a leaf of the weights lies on devices of other processes"
    )


def quantized(theta: PyTree[Array], per_leaf: bool = False) -> PyTree:
    """Return a tree of `QuantizedArray`, with one codebook for all leaves or one for each.

    The codebook holds the different values that occur, by their bits. Leaves of different dtypes
    have codebooks of their own, since a codebook has one dtype. A leaf with more than 2**16 values
    is returned as it is.
    """
    leaves, structure = jax.tree.flatten(theta)
    groups: dict[Any, list[int]] = {}
    for place, leaf in enumerate(leaves):
        groups.setdefault(place if per_leaf else leaf.dtype, []).append(place)
    found = list(leaves)
    for places in groups.values():
        for place, form in zip(places, _shared([leaves[i] for i in places]), strict=True):
            found[place] = form
    return jax.tree.unflatten(structure, found)


def _shared(leaves: list[Any]) -> list[Any]:
    """Return leaves of one dtype in the values of one codebook."""
    hosts = [concrete(leaf) for leaf in leaves]
    word = np.dtype(f"u{hosts[0].itemsize}")
    found = [np.unique(host.view(word), return_inverse=True) for host in hosts]
    words = np.unique(np.concatenate([own for own, _ in found]))
    if words.size > MOST_VALUES:
        return leaves
    values = words.view(hosts[0].dtype)
    order = np.argsort(values.astype(np.float64), kind="stable")
    place = np.empty(order.size, np.uint8 if words.size <= 2**8 else np.uint16)
    place[order] = np.arange(order.size, dtype=place.dtype)
    on_device = any(isinstance(leaf, jax.Array) for leaf in leaves)
    codebook: Any = jnp.asarray(values[order]) if on_device else values[order]
    forms: dict[int, QuantizedArray] = {}  # a leaf at several places of the tree stays one
    for leaf, host, (own, inverse) in zip(leaves, hosts, found, strict=True):
        codes = place[np.searchsorted(words, own)][inverse].reshape(host.shape)
        forms[id(leaf)] = QuantizedArray(codebook, _beside(leaf, codes))
    return [forms[id(leaf)] for leaf in leaves]


def rounded(theta: PyTree[Array], dtype: Any) -> PyTree:
    """Return a tree of `RoundedArray`; a leaf that ``dtype`` does not hold exactly is returned."""

    def of(leaf: Any) -> Any:
        host = concrete(leaf)
        with np.errstate(over="ignore"):
            small = host.astype(dtype)
        if host.itemsize <= small.itemsize or not _same(small.astype(host.dtype), host):
            return leaf
        return RoundedArray(_beside(leaf, small), host.dtype)

    return jax.tree.map(of, theta)


def scaled(leaf: Any, codebook: Any, scales: Any, axis: int, group_size: int, dtype: Any) -> Any:
    """Return a leaf as values of a codebook times scales of groups; itself if it is none.

    Args:
      leaf: the leaf.
      codebook: the values. Zero is added to them where the leaf holds zeros.
      scales: the scale of each group, as in `ScaledArray`.
      axis: the axis of the groups.
      group_size: the number of entries of a group.
      dtype: the dtype in which the scales are exact.
    """
    host, book = concrete(leaf), np.sort(concrete(codebook))
    factors: Any = concrete(scales)
    if not host.all():
        book = np.union1d(book, np.zeros(1, book.dtype))
    own = spread(factors, group_size, axis, host.shape[axis])
    relative = host.astype(book.dtype) / np.where(own > 0, own, 1)
    codes = np.searchsorted((book[1:] + book[:-1]) / 2, relative)
    codes = codes.astype(np.uint8 if book.size <= 2**8 else np.uint16)
    on_device = isinstance(leaf, jax.Array)
    small = factors.astype(dtype)
    values: Any = jnp.asarray(book) if on_device else book
    factors = jnp.asarray(small) if on_device else small
    quantised = QuantizedArray(values, _beside(leaf, codes))
    form = ScaledArray(quantised, factors, axis, group_size, host.dtype)
    return form if agrees(form, leaf) else leaf


def low_rank(leaf: Any, rank: Any, matrices: Matrices) -> Any:
    """Return the factors of a kernel, or the kernel where that takes fewer numbers.

    A kernel that is not of this rank up to rounding, such as one with weights held at zero, is
    returned as it is.

    Args:
      leaf: the kernel.
      rank: its rank, an integer; or one for each of the stacked layers, whose factors get the width
        of the largest.
      matrices: how the kernel is read as a matrix.
    """
    host = concrete(leaf)
    rows, columns = matrices.shape(leaf)
    ranks = np.asarray(rank)
    most = int(ranks.max(initial=0))
    if not leaf.size or most * (rows + columns) > rows * columns:
        return leaf
    left, right = factors(jnp.asarray(leaf), most, matrices, jnp.asarray(ranks, jnp.int32))
    # Rows and columns of zeros, such as those of pruned units, stay zero to the bit.
    used = matrices.of(jnp.asarray(host)) != 0
    left = jnp.where(used.any(-1, keepdims=True), left, 0)
    right = jnp.where(used.any(-2, keepdims=True), right, 0)
    form = LowRankArray(left, right, tuple(leaf.shape), matrices.scheme, matrices.stacked)
    return form if agrees(form, leaf) else leaf


def agrees(form: Form, leaf: Any) -> bool:
    """Whether a form is that of a leaf: to the bit, or up to rounding if factors are part of it.

    What is zero in the leaf must always be zero in the form.
    """
    decoded = form.dense()
    if not any(isinstance(part, LowRankArray) for part in _parts(form)):
        return _same(np.asarray(decoded), concrete(leaf))
    wide = wide_dtype(leaf.dtype)
    allowed = max(2 * float(jnp.finfo(leaf.dtype).eps), 64 * float(jnp.finfo(wide).eps))
    here, there = (np.asarray(x).astype(np.float64).ravel() for x in (decoded, leaf))
    close = np.linalg.norm(here - there) <= allowed * np.linalg.norm(there)
    return bool(close and not here[there == 0].any())


def _parts(form: Any) -> Iterator[Any]:
    if isinstance(form, SumArray):
        for part in form.parts:
            yield from _parts(part)
    elif isinstance(form, ScaledArray):
        yield from _parts(form.values)
    else:
        yield form


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.tobytes() == other.tobytes()


def _beside(leaf: Any, array: np.ndarray) -> Any:
    """Put an array where the leaf of the same shape is."""
    return jax.device_put(array, leaf.sharding) if isinstance(leaf, jax.Array) else array
