"""Sums over the entries of all leaves and devices, and histograms of them.

Counts are integer terms: int32 for each leaf, which has fewer than 2^31 entries. Where the leaves
together have more, counts are added up in floating point, each rounded once (float64 under x64).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.projections._count import Counts, add_up, split_as_on_devices, sum_together
from sparsejax.projections._shards import Layout, whole_size

_INT32 = 2**31 - 1  # tests lower it
_WHOLE = 2**14  # entries up to this number are summed in one reduction
_PIECE = 2**10  # of a longer dimension so many entries are summed first
_LEAST_PIECE = 16  # unless it has no divisor from this to that, so that few sums are stored


def sums(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    terms: Callable[[jax.Array], Sequence[jax.Array]],
) -> list[jax.Array]:
    """Sum each of several functions of the entries, over all leaves and devices, in one pass.

    Args:
      leaves: what this device sees of the leaves.
      layouts: how each of them is cut.
      terms: elementwise; returns arrays of the shape of its argument, one for each sum.

    Returns:
      A scalar for each term, in the term's dtype, or in floating point (see above).
    """
    return _together([_leaf_sums(leaf, terms) for leaf in leaves], leaves, layouts)


def _leaf_sums(
    leaf: jax.Array, terms: Callable[[jax.Array], Sequence[jax.Array]]
) -> list[jax.Array]:
    # One reduction of several operands, of each piece by itself: see `count_reaching`.
    pieces, inside = split_as_on_devices(leaf)
    pieces, inside = _split_long(pieces, inside)
    return [part.sum(dtype=part.dtype) for part in sum_together(terms(pieces), inside)]


def _split_long(array: jax.Array, inside: tuple[int, ...]) -> tuple[jax.Array, tuple[int, ...]]:
    """Split the last dimension of a large array, so that few entries are summed in sequence.

    XLA:CPU adds up a reduction of several operands entry by entry, and a float32 that has grown to
    2^24 times the entries does not grow any more. It sums what is left in pieces by itself.

    Returns:
      The reshaped array, and the dimensions to sum over first.
    """
    if math.prod(array.shape[axis] for axis in inside) <= _WHOLE:
        return array, inside
    *outer, length = array.shape
    piece = max(n for n in range(1, min(length, _PIECE) + 1) if length % n == 0)
    piece = length if piece < _LEAST_PIECE else piece
    return array.reshape(*outer, length // piece, piece), (array.ndim,)


def _together(
    parts: Sequence[Counts], leaves: Sequence[jax.Array], layouts: Sequence[Layout]
) -> list[jax.Array]:
    if whole_size(leaves, layouts) <= _INT32:
        return add_up(parts, layouts)
    wide = jnp.result_type(float)
    return add_up(
        [[p.astype(wide) if p.dtype == jnp.int32 else p for p in own] for own in parts], layouts
    )


def histogram(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    bins: int,
    entries: Callable[[jax.Array], tuple[jax.Array, Sequence[jax.Array]]],
) -> list[jax.Array]:
    """Sum several functions of the entries in each bin, over all leaves and devices.

    Args:
      leaves: what this device sees of the leaves.
      layouts: how each of them is cut.
      bins: how many bins there are.
      entries: elementwise; returns the number of each entry's bin (an integer; an entry in no
        bin has a number from ``bins`` on) and the arrays to sum.

    Returns:
      An array [bins] for each function, of dtypes as in `sums`.
    """

    def of_leaf(leaf: jax.Array) -> list[jax.Array]:
        bin_of, terms = entries(leaf.reshape(-1))
        return [
            lax.full_like(term, 0, shape=(bins,))
            .at[bin_of]
            .add(term, mode="drop", wrap_negative_indices=False)
            for term in terms
        ]

    return _together([of_leaf(leaf) for leaf in leaves], leaves, layouts)
