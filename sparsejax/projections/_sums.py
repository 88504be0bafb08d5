"""Sums over the entries of all leaves and devices, and histograms of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax import lax

from sparsejax.projections._count import add_up, split_as_on_devices, sum_together
from sparsejax.projections._shards import Layout


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
      A scalar for each term, in the term's dtype.
    """
    return add_up([_leaf_sums(leaf, terms) for leaf in leaves], layouts)


def _leaf_sums(
    leaf: jax.Array, terms: Callable[[jax.Array], Sequence[jax.Array]]
) -> list[jax.Array]:
    # One reduction of several operands, of each piece by itself: see `count_reaching`.
    pieces, inside = split_as_on_devices(leaf)
    return [part.sum(dtype=part.dtype) for part in sum_together(terms(pieces), inside)]


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
      An array [bins] for each function.
    """

    def of_leaf(leaf: jax.Array) -> list[jax.Array]:
        bin_of, terms = entries(leaf.reshape(-1))
        return [
            lax.full_like(term, 0, shape=(bins,))
            .at[bin_of]
            .add(term, mode="drop", wrap_negative_indices=False)
            for term in terms
        ]

    return add_up([of_leaf(leaf) for leaf in leaves], layouts)
