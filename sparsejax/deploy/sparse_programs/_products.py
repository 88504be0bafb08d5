"""Ways to multiply by a matrix with zeros, each the fastest somewhere.

All take ``x`` [in, ...], weights [in, out] (NumPy) and a bias [out] or None, and give [out, ...]:
what is in a row of ``x`` is contiguous, so sums over few rows run along whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.sparse import BCOO

from sparsejax._dtypes import at_least_float32

Product = Callable[[jax.Array, np.ndarray, np.ndarray | None], jax.Array]


def units_first(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """The dense product, with the weights on its left."""
    return _plus(lax.dot(np.ascontiguousarray(weights.T), x), bias)


def live(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """The dense product of the rows and columns that are not zero."""
    rows, columns = weights.any(axis=1), weights.any(axis=0)
    product = lax.dot(
        np.ascontiguousarray(weights[np.ix_(rows, columns)].T), _rows(x, np.flatnonzero(rows))
    )
    # Of a unit that reads nothing: a row of zeros behind the last one.
    there = np.where(columns, np.cumsum(columns) - 1, columns.sum())
    if not columns.all():
        nothing = jnp.zeros((1, product.shape[1]), product.dtype)
        product = _rows(jnp.concatenate([product, nothing]), there)
    return _plus(product, bias)


def segment_sum(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """A product for each weight, summed by output unit."""
    units, inputs = np.nonzero(weights.T)
    products = _rows(x, inputs) * weights[inputs, units][:, None]
    product = jax.ops.segment_sum(
        products, units.astype(np.int32), weights.shape[1], indices_are_sorted=True
    )
    return _plus(product, bias)


def padded(groups: int, unroll: int) -> Product:
    """The n-th weight of every output unit at once, n after n.

    A loop with so few operations in its body that XLA for CPUs may take the whole for cheap and run
    it in the caller's thread; unrolled, sums are read and written less often. Units are grouped by
    their number of weights, so that less is padded, and groups may run side by side.
    """

    def product(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
        counts = (weights != 0).sum(axis=0)
        order = np.argsort(-counts, kind="stable")
        places = _places(weights)
        sums = []
        for units in np.array_split(order, min(groups, len(order))):
            inputs = places[: counts[units].max(), units]
            start = None if bias is None else bias[units]
            sums.append(_in_turns(x, inputs, weights[inputs, units], start, unroll))
        return _rows(jnp.concatenate(sums), np.argsort(order))

    return product


def padded_halves(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """As `padded` in half the turns: what a unit has beyond half of the most has its own row."""
    counts = (weights != 0).sum(axis=0)
    turns = -(-counts.max() // 2)
    rest = np.flatnonzero(counts > turns)
    places = _places(weights)
    inputs, units = places[: 2 * turns], np.arange(len(counts))
    values = weights[inputs, units]
    if len(inputs) < 2 * turns:  # as many rows as there are inputs, an odd number
        inputs, values = (np.pad(array, ((0, 1), (0, 0))) for array in (inputs, values))
    first = [np.hstack([array[:turns], array[turns:, rest]]) for array in (inputs, values)]
    start = np.zeros(len(counts) + len(rest), weights.dtype)
    if bias is not None:
        start[: len(counts)] = bias
    sums = _in_turns(x, first[0], first[1], start, 1)
    # Of the others the second row is one of zeros.
    second = np.full(len(counts), len(start))
    second[rest] = len(counts) + np.arange(len(rest))
    nothing = jnp.zeros((1, sums.shape[1]), sums.dtype)
    return sums[: len(counts)] + _rows(jnp.concatenate([sums, nothing]), second)


def _places(weights: np.ndarray) -> np.ndarray:
    """In each column the places of its weights first, in order."""
    return np.argsort(weights == 0, axis=0, kind="stable").astype(np.int32)


def _in_turns(
    x: jax.Array, inputs: np.ndarray, values: np.ndarray, start: np.ndarray | None, unroll: int
) -> jax.Array:
    """Sums [rows, ...] over turns of ``values * x[inputs]``, both [turns, rows]."""
    dtype = at_least_float32(x)

    def step(total: jax.Array, weight: tuple[Any, Any]) -> tuple[jax.Array, None]:
        place, value = weight
        return total + _rows(x, place).astype(dtype) * value[:, None], None

    numbers = np.zeros(values.shape[1], dtype) if start is None else start.astype(dtype)
    first = jnp.broadcast_to(numbers[:, None], (len(numbers), x.shape[1]))
    return lax.scan(step, first, (inputs, values.astype(dtype)), unroll=unroll)[0]


def bcoo(x: jax.Array, weights: np.ndarray, bias: np.ndarray | None) -> jax.Array:
    """By ``jax.experimental.sparse``."""
    units, inputs = np.nonzero(weights.T)
    places = np.stack([units, inputs], axis=1).astype(np.int32)
    values = jnp.asarray(weights[inputs, units]), jnp.asarray(places)
    left = BCOO(values, shape=weights.T.shape, indices_sorted=True, unique_indices=True)
    return _plus(left @ x, bias)


def _plus(product: jax.Array, bias: np.ndarray | None) -> jax.Array:
    return product if bias is None else product + bias[:, None]


def _rows(x: jax.Array, places: Any) -> jax.Array:
    if isinstance(places, np.ndarray):
        if len(places) == len(x) and (places == np.arange(len(x))).all():
            return x
        places = places.astype(np.int32)
    return x.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)


PRODUCTS: Mapping[str, Product] = {
    "units first": units_first,
    "live": live,
    "segment sum": segment_sum,
    "padded": padded(1, 1),
    "padded halves": padded_halves,
    "padded groups": padded(4, 4),
    "bcoo": bcoo,
}
_SMALL = 10_000


def usable(weights: np.ndarray) -> list[str]:
    """The products worth trying for weights [in, out]."""
    if not weights.any():
        return ["units first"]
    dead = not (weights.any(axis=0).all() and weights.any(axis=1).all())
    sparse = np.count_nonzero(weights) <= weights.size / 2 or weights.size <= _SMALL
    fit = {"units first": True, "live": dead}
    return [name for name in PRODUCTS if fit.get(name, sparse)]
