"""The best codebook of k values: one-dimensional k-means over whole pytrees."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax import _checks
from sparsejax._codebooks import check_k
from sparsejax._dtypes import at_least_float32
from sparsejax._explicit_axes import gathered
from sparsejax._where import PyTree, Where, choose
from sparsejax._words import check_sizes
from sparsejax.projections._codebook import index_of, midpoints, nearest
from sparsejax.projections._k_means_exact import exact_codebook
from sparsejax.projections._k_means_start import starting_codebook
from sparsejax.projections._shards import Layout, layouts_of, on_each_shard, whole_sizes
from sparsejax.projections._sums import histogram, sums

_Carry = tuple[jax.Array, jax.Array, jax.Array]
_MOST_ITERATIONS = 100
_SMALL_MOVE = 1e-3  # of the mean gap; what it leaves of the error is of second order
_MOST_EXACT = 2**30  # entries whose positions, padded to a power of two, are int32
_FEW = 8  # clusters up to this number are summed in one reduction of several operands


def project_k_means(
    tree: PyTree,
    k: int,
    where: Where = None,
    *,
    exact: bool = True,
    warm_start: jax.Array | None = None,
    zeros: bool = True,
    with_codebook: bool = False,
    specs: PyTree = None,
) -> PyTree:
    r"""Replace the entries of the chosen leaves by ``k`` values, chosen to change them least.

    .. math:: \min_{c \in \mathbb{R}^k,\, a} \sum_i (w_i - c_{a_i})^2

    The codebook c is shared by all chosen leaves. ``exact=True`` finds the global optimum by
    dynamic programming over the sorted entries: it sorts all of them in one array, so memory is a
    few copies of the entries (and k copies for k > 2), and sharded leaves are gathered.
    ``exact=False`` runs Lloyd's iteration to a local optimum: each iteration is one pass that adds
    up the entries of each cluster, without a sort or a gather. It starts from ``warm_start``, or
    from the optimum for a histogram of the entries, and ends once no value moves by more than a
    thousandth of the mean gap between values, or after 100 iterations.

    A cluster that is empty keeps its value. Where the entries have at most k distinct values the
    exact result is the entries themselves. An entry midway between two values takes the lower one.

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape.
      k: how many values, a Python integer in ``[1, 2**16]``.
      where: which leaves are quantised together, see `sparsejax`; the others are returned as they
        are.
      exact: find the global optimum, or a local one in a few passes.
      warm_start: array [k], the codebook to start from, such as that of an earlier call; only for
        ``exact=False``.
      zeros: quantise entries that are zero too. With ``False`` they stay zero and have no say in
        the codebook (for pruned weights).
      with_codebook: also return the codebook.
      specs: inside ``shard_map`` or ``pmap``, for ``exact=False``: what the leaves are pieces of,
        as in `project_l0_ball`.

    Returns:
      A tree like ``tree``; with ``with_codebook`` a pair of it and the rising codebook [k], float32
      or wider. If a chosen entry is NaN or infinite under ``jit``, every chosen entry of the result
      is NaN.

    Raises:
      TypeError: ``k`` is not an integer, or a chosen leaf is not floating point.
      ValueError: ``k`` is out of range, ``warm_start`` has another shape or stands beside
        ``exact=True``, as does ``specs``; ``where`` chooses nothing, a leaf of 2**31 entries or
        more or, for ``exact=True``, more than 2**30 entries; or a concrete leaf holds NaN or
        infinity.

    References:
      Wang and Song, Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic
      programming, The R Journal 2011. Carreira-Perpinan and Idelbayev, Model compression as
      constrained optimization, with application to neural nets. Part II: quantization, 2017.
    """
    k = check_k(k)
    if exact and (warm_start is not None or specs is not None):
        name = "warm_start" if warm_start is not None else "specs"
        raise ValueError(f"{name} is for exact=False; the exact search needs none")
    if warm_start is not None and jnp.shape(warm_start) != (k,):
        raise ValueError(f"warm_start must have shape ({k},); got {jnp.shape(warm_start)}")
    chosen = choose(tree, where)
    _checks.finite("tree", chosen.paths, chosen.leaves)
    layouts = layouts_of(tree, chosen, specs)
    check_sizes(chosen.paths, whole_sizes(chosen.leaves, layouts))
    if exact and chosen.size > _MOST_EXACT:
        raise ValueError(
            f"tree must have at most {_MOST_EXACT} chosen entries for exact=True, which sorts them "
            f"in one array; it has {chosen.size}. Pass exact=False"
        )
    if warm_start is not None:
        warm_start = jnp.asarray(warm_start, at_least_float32(*chosen.leaves))
    quantised, codebook = _solve(chosen.leaves, tuple(layouts), warm_start, k, exact, zeros)
    result = chosen.put_back(quantised)
    return (result, codebook) if with_codebook else result


@functools.partial(jax.jit, static_argnames=("layouts", "k", "exact", "zeros"))
def _solve(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    start: jax.Array | None,
    k: int,
    exact: bool,
    zeros: bool,
) -> tuple[list[jax.Array], jax.Array]:
    """The quantised leaves and the codebook."""
    if exact:
        # Lloyd's iteration from the optimum adds up again what running sums have rounded.
        start = exact_codebook([gathered(leaf) for leaf in leaves], k, zeros)

    def quantise(
        leaves: Sequence[jax.Array], layouts: Sequence[Layout], *start: jax.Array
    ) -> tuple[list[jax.Array], jax.Array]:
        first = jnp.sort(start[0]) if start else starting_codebook(leaves, layouts, k, zeros)
        found = lloyd(leaves, layouts, first, zeros, 0 if exact else _SMALL_MOVE)
        return [_quantised(leaf, found, zeros) for leaf in leaves], found

    return on_each_shard(quantise, leaves, layouts, *([] if start is None else [start]))


def lloyd(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    start: jax.Array,
    zeros: bool,
    small_move: float,
) -> jax.Array:
    """Lloyd's iteration from a rising codebook to where values hardly move any more.

    A move is small up to ``small_move`` times the mean gap of the codebook, and up to rounding.
    """
    rounding = 4 * jnp.finfo(start.dtype).eps

    def step(carry: _Carry) -> _Carry:
        codebook, _, number = carry
        k = codebook.size
        counts, offsets = _clusters(leaves, layouts, codebook, zeros)
        moves = jnp.where(counts > 0, offsets / jnp.maximum(counts, 1).astype(start.dtype), 0)
        moved = jnp.sort(codebook + moves)
        small = small_move * (codebook[-1] - codebook[0]) / k
        going_on = (jnp.abs(moves) > jnp.maximum(rounding * jnp.abs(codebook), small)).any()
        return moved, going_on, number + 1

    def unfinished(carry: _Carry) -> jax.Array:
        _, going_on, number = carry
        return going_on & (number < _MOST_ITERATIONS)

    codebook, _, _ = lax.while_loop(unfinished, step, (start, jnp.asarray(True), jnp.asarray(0)))
    # A NaN stands in no cluster, so its presence is asked for by itself; infinity has no mean.
    (lost,) = sums(leaves, layouts, lambda leaf: [(~jnp.isfinite(leaf)).astype(jnp.int32)])
    return jnp.where(lost > 0, jnp.nan, codebook)


def _clusters(
    leaves: Sequence[jax.Array], layouts: Sequence[Layout], codebook: jax.Array, zeros: bool
) -> tuple[jax.Array, jax.Array]:
    """Return the size of each cluster, and the signed sum of its distances to the value."""
    k, dtype = codebook.size, codebook.dtype
    bounds = midpoints(codebook)

    def few(leaf: jax.Array) -> list[jax.Array]:
        wide = leaf.astype(dtype)
        counted = jnp.ones_like(leaf, dtype=bool) if zeros else leaf != 0
        terms = []
        for number in range(k):
            inside = counted
            if number:
                inside = inside & (wide > bounds[number - 1])
            if number < k - 1:
                inside = inside & (wide <= bounds[number])
            terms += [inside.astype(jnp.int32), jnp.where(inside, wide - codebook[number], 0)]
        return terms

    def many(leaf: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        wide = leaf.astype(dtype)
        index = index_of(wide, codebook)
        offset = wide - codebook[index]
        counted = ~jnp.isnan(wide) if zeros else ~jnp.isnan(wide) & (leaf != 0)
        return jnp.where(counted, index, k), [jnp.ones_like(leaf, dtype=jnp.int32), offset]

    if k > _FEW:
        counts, offsets = histogram(leaves, layouts, k, many)
        return counts, offsets
    found = sums(leaves, layouts, few)
    return jnp.stack(found[::2]), jnp.stack(found[1::2])


def _quantised(leaf: jax.Array, codebook: jax.Array, zeros: bool) -> jax.Array:
    found = nearest(leaf, codebook)
    return found if zeros else jnp.where(leaf == 0, leaf, found)
