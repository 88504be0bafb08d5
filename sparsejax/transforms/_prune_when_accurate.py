"""Pruning that goes on while the validation accuracy holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from chex import Numeric
from jax import lax

from sparsejax import _checks
from sparsejax._masks import apply_mask
from sparsejax._where import PyTree, Where, mask_out, refuse_tied
from sparsejax.projections import top_k_mask


class PruningState(NamedTuple):
    """State of `prune_when_accurate`."""

    mask: PyTree
    """Like the parameters: booleans, True for the weights that survive, ``optax.MaskedNode()`` for
    leaves that are not pruned; for `hold_zeros`."""
    remaining: jax.Array
    """int32: how many weights survive."""
    prunings: jax.Array
    """int32: how many times weights were pruned."""
    evaluations_since_pruning: jax.Array
    """int32: assessments since then that pruned nothing, 0 right after a pruning: it grows on a
    plateau."""


class Pruner(NamedTuple):
    """What `prune_when_accurate` returns: a pair of pure functions."""

    init: Callable[[PyTree], PruningState]
    """``params -> state``: everything survives."""
    update: Callable[[PruningState, PyTree, Numeric], tuple[PyTree, PruningState]]
    """``(state, params, accuracy) -> (params, state)``: one assessment."""


def prune_when_accurate(
    fraction: Numeric, lower_bound: Numeric, where: Where = None, min_weights: Numeric = 0
) -> Pruner:
    r"""Prune the smallest weights whenever the network is accurate enough.

    At an assessment whose accuracy is above the bound, of the n weights that survive

    .. math:: \lceil \text{fraction} \cdot n \rceil

    are set to zero: those of the smallest magnitude over all chosen leaves together, exactly that
    many (of equal ones the later go first), or as many as leave ``min_weights``. Otherwise nothing
    changes. Weights that were pruned stay out of the ranking, and are zero in the result whatever
    they have become since; between assessments `hold_zeros` keeps them so::

        params, pruning = pruner.update(pruning, params, accuracy)
        opt_state = set_mask(opt_state, pruning.mask)

    Args:
      fraction: of the surviving weights, in ``(0, 1)``, may be traced. Its product with their
        number is rounded to float32 before it is rounded up.
      lower_bound: the accuracy to stay above, in ``[0, 1]``, may be traced.
      where: which leaves are pruned, ranked together; pass ``lambda path, leaf: True`` to have
        biases among them, as the published code has. Give the transformations that are to work on
        the same leaves the same ``where``.
      min_weights: the number of weights at which pruning ends, an integer >= 0, may be traced.

    Returns:
      A `Pruner`. ``update`` works under ``jit`` (the ranking is skipped where nothing is pruned),
      ``vmap`` and on sharded parameters; ``accuracy`` is a fraction in ``[0, 1]``, and under
      ``jit``, where nothing can raise, NaN prunes nothing.

    Raises:
      TypeError: a chosen leaf is not floating point.
      ValueError: ``fraction``, ``lower_bound``, ``min_weights`` or a known ``accuracy`` is NaN or
        out of its range (a per cent value is refused, not guessed); ``where`` chooses nothing; in
        ``init``: one array stands at two places of the parameters.

    References:
      Bonetta and Cancelliere, ESANN 2022 (section 2).
    """
    fraction = _checks.scalar("fraction", fraction, "in (0, 1)", lambda x: 0 < x < 1)
    lower_bound = _fraction_of_one("lower_bound", lower_bound)
    min_weights = _checks.scalar_count("min_weights", min_weights)

    def init(params):
        refuse_tied(params, where)
        mask = jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), mask_out(params, where))
        size = sum(leaf.size for leaf in jax.tree.leaves(mask))
        zero = lambda: jnp.asarray(0, jnp.int32)  # noqa: E731  each its own array, for donation
        return PruningState(mask, jnp.asarray(size, jnp.int32), zero(), zero())

    def update(state, params, accuracy):
        accuracy = _fraction_of_one("accuracy", accuracy)
        accurate = accuracy > lower_bound.astype(accuracy.dtype)
        prunes = accurate & (state.remaining > min_weights)
        count = jnp.ceil(fraction * state.remaining.astype(fraction.dtype)).astype(jnp.int32)
        fewer = jnp.clip(state.remaining - count, jnp.minimum(min_weights, state.remaining))

        def prune(mask):
            return top_k_mask(params, fewer, mask, where)

        mask = lax.cond(prunes, prune, lambda mask: mask, state.mask)
        new = PruningState(
            mask,
            jnp.where(prunes, fewer, state.remaining),
            state.prunings + prunes.astype(jnp.int32),
            jnp.where(prunes, 0, state.evaluations_since_pruning + 1),
        )
        return apply_mask(params, mask), new

    return Pruner(init, update)


def _fraction_of_one(name: str, value: Numeric) -> jax.Array:
    return _checks.scalar(
        name, value, "a fraction in [0, 1], not in per cent", lambda x: 0 <= x <= 1
    )
