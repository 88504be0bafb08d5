"""Projection onto the l0 ball, which keeps the kappa largest magnitudes of a whole pytree."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, ArrayLike, Float, Integer, PyTree, Real

from sparsejax import _checks
from sparsejax._where import Where, choose
from sparsejax._words import check_sizes, count_words
from sparsejax.projections import _selection
from sparsejax.projections._keys import key_format
from sparsejax.projections._selection import Form, select
from sparsejax.projections._shards import (
    Layout,
    layouts_of,
    on_each_shard,
    whole_size,
    whole_sizes,
)


@overload
def project_l0_ball(
    tree: PyTree[Array],
    kappa: Integer[ArrayLike, ""],
    where: Where = ...,
    *,
    specs: PyTree[PartitionSpec] | None = ...,
    warm_start: Real[ArrayLike, ""] | None = ...,
    with_threshold: Literal[False] = ...,
) -> PyTree[Array]: ...


@overload
def project_l0_ball(
    tree: PyTree[Array],
    kappa: Integer[ArrayLike, ""],
    where: Where = ...,
    *,
    specs: PyTree[PartitionSpec] | None = ...,
    warm_start: Real[ArrayLike, ""] | None = ...,
    with_threshold: Literal[True],
) -> tuple[PyTree[Array], Float[Array, ""]]: ...


def project_l0_ball(
    tree: PyTree[Array],
    kappa: Integer[ArrayLike, ""],
    where: Where = None,
    *,
    specs: PyTree[PartitionSpec] | None = None,
    warm_start: Real[ArrayLike, ""] | None = None,
    with_threshold: bool = False,
) -> PyTree[Array] | tuple[PyTree[Array], Float[Array, ""]]:
    r"""Project onto the trees with at most ``kappa`` non-zeros over all chosen leaves.

    .. math:: \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad \|\theta\|_0\le\kappa

    The ``kappa`` largest magnitudes are kept bit for bit and all other entries become +0. The
    result is exact in every floating-point dtype: magnitudes are compared by bit pattern, so
    subnormals are distinguished even where the hardware flushes them, -0 ties with +0, and
    infinities rank above every finite value. Leaves of different dtypes are ranked together by
    value. Ties keep the earlier entry, in ``jax.tree`` order and then in row-major order.

    The cost is a few counting passes over the weights and one pass that writes the result. Nothing
    is sorted, concatenated or sent to the host, and the temporary memory is about one per cent of
    the weights. The function works under ``jit``, ``vmap`` (with a kappa for each tree) and
    ``grad`` (the gradient flows to the kept entries, and not to ``kappa``).

    Leaves may be sharded over a mesh in any way. The result is bit-identical to the unsharded one,
    ties included, and is sharded like ``tree``; devices exchange a few counts and no weights. Under
    ``jit`` no further argument is needed. Inside ``jax.shard_map`` and ``jax.pmap``, where a
    program sees only its local shard, ``specs`` describes the sharding; without ``specs`` each
    device projects its shard by itself.

    Args:
      tree: pytree of arrays, of any shape; the chosen leaves are floating point. Outside ``jit``,
        an array that occurs at several places (the same object) counts once and stays tied.
      kappa: integer scalar, the maximum number of non-zero entries. A concrete value must be in
        ``[0, n]``, where ``n`` is the number of chosen entries (of the global arrays if ``specs``
        is given); a traced value is clipped to that range. A traced count beyond 2**31 - 1 is
        given as a pair, an array [2] of uint32: its high and its low 32 bits.
      where: the leaves that are projected together, see `sparsejax.chosen`; all others are returned
        unchanged.
      specs: inside ``shard_map`` or ``pmap``, a pytree of ``jax.sharding.PartitionSpec`` that is a
        prefix of ``tree``, as for ``in_specs``. Under ``pmap`` over axis ``"i"``, a leaf that is
        split along its first dimension has ``PartitionSpec("i")`` and a replicated leaf has
        ``PartitionSpec()``.
      warm_start: scalar >= 0, a magnitude close to the expected threshold, such as the threshold of
        an earlier call; may be traced. It can save passes and never changes the result.
      with_threshold: whether to return the threshold, too.

    Returns:
      A tree with the structure, shapes and dtypes of ``tree``. If a chosen entry is NaN, no nearest
      tree exists: a concrete tree is an error, and under ``jit``, where nothing can raise, every
      chosen entry of the result is NaN. With ``with_threshold``, a pair of that tree and a float
      scalar t: all kept magnitudes are >= t and all dropped magnitudes are <= t.

    Raises:
      TypeError: ``kappa`` is not a number, or a chosen leaf is not floating point.
      ValueError: ``kappa`` is out of range or a float, ``warm_start`` is negative or NaN, a
        concrete leaf holds NaN, ``where`` chooses nothing, ``specs`` does not fit the tree or the
        mesh, or a chosen leaf has 2**31 entries or more.

    References:
      Carreira-Perpinan and Idelbayev, "Learning-compression" algorithms for neural net pruning,
      CVPR 2018.
    """
    chosen = choose(tree, where)
    layouts = layouts_of(tree, chosen, specs)
    check_sizes(chosen.paths, whole_sizes(chosen.leaves, layouts))
    total = whole_size(chosen.leaves, layouts)
    kappa = count_words("kappa", kappa, total)
    if warm_start is not None:
        warm_start = _checks.scalar_at_least_zero("warm_start", warm_start)
    if not total:
        return (tree, jnp.zeros(())) if with_threshold else tree
    projected, (threshold, any_nan) = _keep_largest(
        chosen.leaves, tuple(layouts), kappa, warm_start, _selection.FORMS
    )
    if not isinstance(any_nan, jax.core.Tracer) and any_nan:
        _checks.no_nan("tree", chosen.paths, chosen.leaves)
    result = chosen.put_back(projected)
    return (result, threshold) if with_threshold else result


@functools.partial(jax.jit, static_argnames=("layouts", "forms"))
def _keep_largest(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    kappa: jax.Array,
    warm_start: jax.Array | None,
    forms: tuple[Form, Form],
) -> tuple[list[jax.Array], tuple[jax.Array, jax.Array]]:
    """Return the kept entries, the threshold, and whether any entry is NaN."""

    def keep_on_shard(
        leaves: Sequence[jax.Array],
        layouts: Sequence[Layout],
        kappa: jax.Array,
        *warm_start: jax.Array,
    ) -> tuple[list[jax.Array], tuple[jax.Array, jax.Array]]:
        selection = select(leaves, layouts, kappa, warm_start[0] if warm_start else None, forms)
        kept = selection.keep(leaves, layouts)
        return kept, (selection.magnitude(key_format(leaves)), selection.any_nan)

    return on_each_shard(
        keep_on_shard, leaves, layouts, kappa, *([] if warm_start is None else [warm_start])
    )
