"""Pruning during training, as long as the validation accuracy exceeds a bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int32, Integer, PyTree, UInt32

from sparsejax import _checks
from sparsejax._masks import apply_mask
from sparsejax._where import Where, mask_out, refuse_tied
from sparsejax._words import as_count, count_words, less, table, without_fraction, words_of
from sparsejax.projections import top_k_mask


class PruningState(NamedTuple):
    """State of `prune_when_accurate`."""

    mask: PyTree[Bool[Array, "..."]]
    """A mask for `hold_zeros` with the structure of the parameters: boolean arrays, True for the
    surviving weights, and ``optax.MaskedNode()`` for leaves that are not pruned."""
    remaining: Int32[Array, ""] | UInt32[Array, "2"]
    """The number of surviving weights: a scalar; where more than 2**31 - 1 weights are chosen, the
    high and the low 32 bits of the number."""
    prunings: Int32[Array, ""]
    """The number of evaluations that pruned weights."""
    evaluations_since_pruning: Int32[Array, ""]
    """The number of evaluations since the last one that pruned weights."""


class Pruner(NamedTuple):
    """A pair of pure functions that prune parameters, as `prune_when_accurate` returns it."""

    init: Callable[[PyTree[Array]], PruningState]
    """``params -> state``: the initial state, in which all weights survive."""
    update: Callable[
        [PruningState, PyTree[Array], Float[ArrayLike, ""]], tuple[PyTree[Array], PruningState]
    ]
    """``(state, params, accuracy) -> (params, state)``: one evaluation."""


def prune_when_accurate(
    fraction: Float[ArrayLike, ""],
    lower_bound: Float[ArrayLike, ""],
    where: Where = None,
    min_weights: Integer[ArrayLike, ""] = 0,
) -> Pruner:
    r"""Prune the smallest weights at each evaluation whose accuracy exceeds a bound.

    If n weights survive, an evaluation with an accuracy above the bound sets

    .. math:: \lceil \text{fraction} \cdot n \rceil

    of them to zero, or fewer such that ``min_weights`` remain: exactly those with the smallest
    magnitudes over all chosen leaves together. Ties prune the later entry. Any other evaluation
    leaves the mask as it is. Pruned weights do not take part in the ranking, and ``update`` sets
    them to zero if they have changed since; between evaluations `hold_zeros` holds them at zero,
    with the mask that `set_mask` puts into the optimizer state.

    Args:
      fraction: scalar in ``(0, 1)``, the fraction of the surviving weights to prune; may be traced.
        Its product with their number is rounded to float32 before it is rounded up.
      lower_bound: scalar in ``[0, 1]``, the bound on the accuracy; may be traced.
      where: the leaves that are pruned and ranked together. Pass ``lambda path, leaf: True`` to
        include biases, as the published code does. Pass the same ``where`` to transformations that
        should act on the same leaves.
      min_weights: integer scalar >= 0, the number of weights at which pruning ends; may be traced
        (beyond 2**31 - 1 as a pair, see `sparsejax.projections.project_l0_ball`).

    Returns:
      A `Pruner`. ``update`` takes an accuracy in ``[0, 1]``. It works under ``jit``, where the
      ranking is skipped if nothing is pruned and an accuracy of NaN prunes nothing, under ``vmap``
      and on sharded parameters.

    Raises:
      TypeError: an argument is not a number; in ``init``: a chosen leaf is not floating point; in
        ``update``: ``state`` is no `PruningState`.
      ValueError: ``fraction``, ``lower_bound`` or ``min_weights`` is NaN or out of its range; in
        ``init``: ``where`` chooses nothing, or an array occurs at several places of the parameters;
        in ``update``: a concrete accuracy is NaN or not in ``[0, 1]``, such as one in per cent, or
        a chosen leaf has 2**31 entries or more.

    References:
      Bonetta and Cancelliere, Lightening CNN architectures by regularization driven weights'
      pruning, ESANN 2022 (section 2).

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax import prune_when_accurate
      >>> params = {"kernel": jnp.array([[4.0, 1.0, 3.0, 2.0]])}
      >>> pruner = prune_when_accurate(fraction=0.5, lower_bound=0.9)
      >>> params, state = pruner.update(pruner.init(params), params, accuracy=0.95)
      >>> params["kernel"]
      Array([[4., 0., 3., 0.]], dtype=float32)
    """
    fraction = _checks.scalar("fraction", fraction, "in (0, 1)", lambda x: 0 < x < 1)
    lower_bound = _fraction_of_one("lower_bound", lower_bound)
    least = count_words("min_weights", min_weights)

    def init(params: PyTree[Array]) -> PruningState:
        refuse_tied(params, where)
        mask = jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), mask_out(params, where))
        remaining = jnp.asarray(table([[_size(mask)]])[0, 0])
        # Each count is an array of its own, so that the state may be donated.
        return PruningState(mask, remaining, *(jnp.asarray(0, jnp.int32) for _ in range(2)))

    def update(
        state: PruningState, params: PyTree[Array], accuracy: Float[ArrayLike, ""]
    ) -> tuple[PyTree[Array], PruningState]:
        if not isinstance(state, PruningState):
            raise TypeError(
                "state must be the PruningState that init or update returned, as the first "
                f"argument: update(state, params, accuracy); got {type(state).__name__}"
            )
        accuracy = _fraction_of_one("accuracy", accuracy)
        accurate = accuracy > lower_bound.astype(accuracy.dtype)
        remaining = words_of(state.remaining)
        prunes = accurate & less(least, remaining)
        fewer = as_count(without_fraction(remaining, fraction, least), _size(state.mask))

        def prune(mask: PyTree[Bool[Array, "..."]]) -> PyTree[Bool[Array, "..."]]:
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


def _size(mask: PyTree[Bool[Array, "..."]]) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(mask))


def _fraction_of_one(name: str, value: Float[ArrayLike, ""]) -> Float[Array, ""]:
    return _checks.scalar(
        name, value, "a fraction in [0, 1], not in per cent", lambda x: 0 <= x <= 1
    )
