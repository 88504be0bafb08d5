"""Products with a sparse matrix of known weights, each the fastest for some network.

Every product takes ``x`` [in, n], weights [in, out] (NumPy) and a bias [out] or None, and returns
[out, n]. The batch is the last dimension, so a row of ``x`` is contiguous and a sum over few rows
runs along whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax._dtypes import at_least_float32

Product = Callable[[jax.Array, np.ndarray, np.ndarray | None], jax.Array]


def transposed(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """Return the dense product with the transposed weights on the left."""
    return _plus(lax.dot(np.ascontiguousarray(weights.T), x), bias)


def compacted(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """Return the dense product of the rows and columns of the weights that are not all zero.

    `shrink` has removed most of the others, but not those of a residual stream, which is kept where
    any of its branches is live.
    """
    rows, columns = weights.any(axis=1), weights.any(axis=0)
    product = lax.dot(
        np.ascontiguousarray(weights[np.ix_(rows, columns)].T), _rows(x, np.flatnonzero(rows))
    )
    if not columns.all():
        # A unit that reads nothing gets the row of zeros behind the last one.
        row = np.where(columns, np.cumsum(columns) - 1, columns.sum())
        zeros = jnp.zeros((1, product.shape[1]), product.dtype)
        product = _rows(jnp.concatenate([product, zeros]), row)
    return _plus(product, bias)


def coo(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """Multiply in coordinate format: a gathered row for each weight, summed by output unit."""
    units, inputs = np.nonzero(weights.T)
    products = _rows(x, inputs) * weights[inputs, units][:, None]
    product = jax.ops.segment_sum(
        products, units.astype(np.int32), weights.shape[1], indices_are_sorted=True
    )
    return _plus(product, bias)


def ell(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """Multiply in ELLPACK format: the n-th weight of every output unit at once, n after n.

    Units with fewer weights than others are padded with zeros. The loop has so few operations in
    its body that XLA for CPUs may estimate the program as cheap and run it in the caller's thread.
    """
    return _sliced(x, weights, bias, slices=1, unroll=1)


def sell(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """Multiply in sliced ELLPACK format (SELL): units sorted by their number of weights, in slices.

    Each of the four slices has the length of its longest unit, so less is padded than by `ell`, and
    slices may run in parallel. Unrolling the loops reads and writes the sums less often.

    References:
      Kreutzer, Hager, Wellein, Fehske, Bishop, "A Unified Sparse Matrix Data Format for Efficient
      General Sparse Matrix-Vector Multiplication on Modern Processors with Wide SIMD Units", SIAM
      Journal on Scientific Computing 36(5), 2014.
    """
    return _sliced(x, weights, bias, slices=4, unroll=4)


def ell_split(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """Multiply as `ell` in half the iterations: units with many weights are split into two rows."""
    counts = (weights != 0).sum(axis=0)
    length = -(-counts.max() // 2)
    long = np.flatnonzero(counts > length)
    inputs, units = _nonzeros_first(weights)[: 2 * length], np.arange(len(counts))
    values = weights[inputs, units]
    if len(inputs) < 2 * length:  # an odd number of inputs, all of which some unit reads
        inputs, values = (np.pad(array, ((0, 1), (0, 0))) for array in (inputs, values))
    rows = [np.hstack([array[:length], array[length:, long]]) for array in (inputs, values)]
    start = np.zeros(len(counts) + len(long), weights.dtype)
    if bias is not None:
        start[: len(counts)] = bias
    sums = _accumulate(x, rows[0], rows[1], start, unroll=1)
    # A unit that is not split gets a row of zeros as its second one.
    second = np.full(len(counts), len(start))
    second[long] = len(counts) + np.arange(len(long))
    zeros = jnp.zeros((1, sums.shape[1]), sums.dtype)
    return sums[: len(counts)] + _rows(jnp.concatenate([sums, zeros]), second)


PRODUCTS: Mapping[str, Product] = {
    "transposed": transposed,
    "compacted": compacted,
    "coo": coo,
    "ell": ell,
    "ell_split": ell_split,
    "sell": sell,
}
_SMALL = 10_000


def usable(weights: np.ndarray) -> list[str]:
    """Return the products worth trying for weights [in, out]."""
    if not weights.any():
        return ["transposed"]
    sparse = np.count_nonzero(weights) <= weights.size / 2 or weights.size <= _SMALL
    dead = not (weights.any(axis=0).all() and weights.any(axis=1).all())
    worth = {"transposed": True, "compacted": dead}
    return [kind for kind in PRODUCTS if worth.get(kind, sparse)]


def _sliced(
    x: jax.Array, weights: np.ndarray, bias: np.ndarray | None, slices: int, unroll: int
) -> jax.Array:
    counts = (weights != 0).sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    first = _nonzeros_first(weights)
    sums = []
    for units in np.array_split(order, min(slices, len(order))):
        inputs = first[: counts[units].max(), units]
        start = None if bias is None else bias[units]
        sums.append(_accumulate(x, inputs, weights[inputs, units], start, unroll))
    return _rows(jnp.concatenate(sums), np.argsort(order))


def _nonzeros_first(weights: np.ndarray) -> np.ndarray:
    """Return for each column the indices of its non-zeros, in order, then those of its zeros."""
    return np.argsort(weights == 0, axis=0, kind="stable").astype(np.int32)


def _accumulate(
    x: jax.Array, inputs: np.ndarray, values: np.ndarray, start: np.ndarray | None, unroll: int
) -> jax.Array:
    """Return the sums [rows, n] of ``values * x[inputs]``, both [length, rows], over the length."""
    dtype = at_least_float32(x)

    def step(total: jax.Array, weight: tuple[Any, Any]) -> tuple[jax.Array, None]:
        index, value = weight
        return total + _rows(x, index).astype(dtype) * value[:, None], None

    numbers = np.zeros(values.shape[1], dtype) if start is None else start.astype(dtype)
    first = jnp.broadcast_to(numbers[:, None], (len(numbers), x.shape[1]))
    return lax.scan(step, first, (inputs, values.astype(dtype)), unroll=unroll)[0]


def _plus(product: jax.Array, bias: np.ndarray | None) -> jax.Array:
    return product if bias is None else product + bias[:, None]


def _rows(x: jax.Array, indices: Any) -> jax.Array:
    if isinstance(indices, np.ndarray):
        if len(indices) == len(x) and (indices == np.arange(len(x))).all():
            return x
        indices = indices.astype(np.int32)
    return x.at[indices].get(mode="promise_in_bounds", wrap_negative_indices=False)
