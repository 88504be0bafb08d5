"""Projection onto the l0 ball: keep the kappa largest magnitudes of a whole pytree."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import PyTree, Where, choose
from sparsejax.projections._selection import select
from sparsejax.projections._shards import Layout, layouts_of, on_each_shard, whole_size

_MOST_ENTRIES = 2**31 - 1  # counts are int32


def project_l0_ball(
    tree: PyTree,
    kappa: Numeric,
    where: Where = None,
    *,
    specs: PyTree = None,
    warm_start: Numeric | None = None,
    with_threshold: bool = False,
) -> PyTree:
    r"""The nearest tree with at most ``kappa`` non-zeros over all chosen leaves together.

    .. math:: \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad \|\theta\|_0\le\kappa

    The ``kappa`` largest magnitudes are kept bit for bit and the rest become +0. The result is
    exact in every floating-point dtype: magnitudes are compared by bit pattern, so subnormals are
    told apart even where the hardware flushes them, -0 ranks with +0, and infinities rank above
    every finite value. Leaves of different dtypes are ranked together by value. Of equal
    magnitudes the earlier one in ``jax.tree`` order (then row-major order) is kept.

    The cost is a few counting passes over the weights and one pass that writes the result: nothing
    is sorted, concatenated or sent to the host, and memory beyond the result is about one per cent
    of the weights. Works under ``jit``, ``vmap`` (a kappa for each tree) and ``grad`` (the gradient
    flows to the kept entries and is zero elsewhere; none flows to ``kappa``).

    Leaves may be sharded over a mesh in any way: the result is the same to the last bit, ties
    included, and is sharded like them; devices exchange a few counts and no weights. Under ``jit``
    nothing need be said. Inside ``jax.shard_map`` and ``jax.pmap``, where a program sees its own
    piece only, ``specs`` says what it is a piece of; without it each device projects what it has.

    Args:
      tree: pytree of arrays; the chosen leaves are floating point, of any shape. An array that
        stands at two places (the same object, outside ``jit``) counts once and stays tied.
      kappa: integer scalar, how many entries may stay. A known value must be in ``[0, n]``, ``n``
        being the number of chosen entries (of the whole leaves, where ``specs`` is given); a traced
        one is clipped to that range.
      where: which leaves are projected together (see the package's documentation of ``where``);
        the others are returned as they are.
      specs: inside ``shard_map`` or ``pmap``: a pytree of ``jax.sharding.PartitionSpec`` that is a
        prefix of ``tree``, as given to ``in_specs``. Under ``pmap`` over axis ``"i"`` a leaf that
        was split along its first dimension has ``PartitionSpec("i")``, a replicated one
        ``PartitionSpec()``.
      warm_start: a magnitude near which the threshold is expected, such as that of an earlier call;
        may be traced. It saves some passes where it is right and never changes the result.
      with_threshold: also return the threshold.

    Returns:
      A tree like ``tree``. If a chosen entry is NaN there is no nearest tree: outside ``jit`` that
      is an error; under ``jit``, where nothing can raise, every chosen entry of the result is NaN.
      With ``with_threshold`` a pair of that tree and a float scalar: every magnitude that was kept
      is at least the threshold, every one that was dropped at most.

    Raises:
      TypeError: ``kappa`` is not a number, or a chosen leaf is not floating point.
      ValueError: ``kappa`` is out of range or a float, ``warm_start`` is negative or NaN, a known
        leaf holds NaN, ``where`` chooses nothing, ``specs`` does not fit the tree or the mesh, or
        the chosen leaves have 2**31 entries or more.

    References:
      Carreira-Perpinan and Idelbayev, "Learning-compression" algorithms for neural net pruning,
      CVPR 2018.
    """
    chosen = choose(tree, where)
    layouts = layouts_of(tree, chosen, specs)
    total = whole_size(chosen.leaves, layouts)
    if total > _MOST_ENTRIES:
        raise ValueError(f"tree has {total} chosen entries; at most {_MOST_ENTRIES} are allowed")
    kappa = _checks.scalar_count("kappa", kappa, total)
    if warm_start is not None:
        warm_start = _checks.scalar_at_least_zero("warm_start", warm_start)
    if not total:
        return (tree, jnp.zeros(())) if with_threshold else tree
    projected, (threshold, any_nan) = _keep_largest(
        chosen.leaves, tuple(layouts), kappa, warm_start
    )
    if not isinstance(any_nan, jax.core.Tracer) and any_nan:
        _checks.no_nan("tree", chosen.paths, chosen.leaves)
    result = chosen.put_back(projected)
    return (result, threshold) if with_threshold else result


@functools.partial(jax.jit, static_argnames="layouts")
def _keep_largest(
    leaves: Sequence[jax.Array],
    layouts: Sequence[Layout],
    kappa: jax.Array,
    warm_start: jax.Array | None,
) -> tuple[list[jax.Array], tuple[jax.Array, jax.Array]]:
    """The kept entries, the threshold and whether any entry is NaN."""

    def keep(leaves, layouts, kappa, *warm_start):
        selection = select(leaves, layouts, kappa, *warm_start)
        masks = selection.masks(leaves, layouts)
        kept = [
            jnp.where(selection.any_nan, jnp.nan, jnp.where(mask, leaf, 0)).astype(leaf.dtype)
            for leaf, mask in zip(leaves, masks, strict=True)
        ]
        return kept, (selection.magnitude, selection.any_nan)

    return on_each_shard(
        keep, leaves, layouts, kappa, *([] if warm_start is None else [warm_start])
    )
