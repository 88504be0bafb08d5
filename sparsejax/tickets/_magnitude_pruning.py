"""Magnitude pruning, iterative or in one shot, and random pruning."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int32, PRNGKeyArray, PyTree, Real

from sparsejax import _checks
from sparsejax._masks import apply_mask
from sparsejax._where import Where, is_masked
from sparsejax._words import as_count, without_fraction, words_of
from sparsejax.projections import top_k_mask
from sparsejax.tickets._mask import num_nonzero, ones_mask
from sparsejax.tickets._method import Method, Trained


def magnitude_pruning(
    fraction: Real[ArrayLike, ""], rewind: bool = True, where: Where = None
) -> Method:
    r"""Iterative magnitude pruning: each round prunes the smallest of the surviving weights.

    .. math:: n \leftarrow n - \lceil \text{fraction} \cdot n \rceil

    The n survivors are ranked by magnitude over all chosen leaves together, and the count is exact.
    With ``rewind=False`` the next round continues with the trained weights. One-shot pruning to a
    density d is a single round with ``fraction = 1 - d``.

    Args:
      fraction: fraction of the survivors that a round prunes, a scalar in ``(0, 1)``, may be
        traced; its product with n is rounded to float32 (float64 under x64) before it is rounded
        up.
      rewind: whether each round starts from the weights at the rewind step, or from the trained
        weights.
      where: leaves that are pruned; default: kernels and embeddings (see `sparsejax.chosen`).

    Returns:
      A `Method`.

    Raises:
      TypeError: ``fraction`` is not a number.
      ValueError: ``fraction`` is outside (0, 1); in ``init``: ``where`` chooses no leaf.

    References:
      Frankle and Carbin, The lottery ticket hypothesis, ICLR 2019; Frankle et al., Linear mode
      connectivity and the lottery ticket hypothesis, ICML 2020 (rewinding).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from sparsejax.tickets import magnitude_pruning
      >>> method = magnitude_pruning(fraction=0.5)
      >>> params = {"kernel": jnp.array([[0.1, -2.0], [0.3, 0.2]])}
      >>> trained, mask = method.init(params, jax.random.key(0))
      >>> print(method.mask(trained, mask, jax.random.key(1))["kernel"])
      [[False  True]
       [ True False]]
    """

    def ranked(trained: Trained, key: PRNGKeyArray) -> PyTree[Array]:
        del key
        return trained["weights"]

    return _pruning(fraction, ranked, rewind, where)


def random_pruning(
    fraction: Real[ArrayLike, ""], rewind: bool = True, where: Where = None
) -> Method:
    r"""Random pruning, the control of `magnitude_pruning`: each round prunes random survivors.

    .. math:: n \leftarrow n - \lceil \text{fraction} \cdot n \rceil

    Args:
      fraction: fraction of the survivors that a round prunes, a scalar in ``(0, 1)``, may be
        traced.
      rewind: whether each round starts from the weights at the rewind step, or from the trained
        weights.
      where: leaves that are pruned; default: kernels and embeddings (see `sparsejax.chosen`).

    Returns:
      A `Method`.

    Raises:
      TypeError: ``fraction`` is not a number.
      ValueError: ``fraction`` is outside (0, 1); in ``init``: ``where`` chooses no leaf.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from sparsejax.tickets import num_nonzero, random_pruning
      >>> method = random_pruning(fraction=0.75)
      >>> trained, mask = method.init({"kernel": jnp.ones((4, 3))}, jax.random.key(0))
      >>> print(num_nonzero(method.mask(trained, mask, jax.random.key(1))))
      3
    """

    def ranked(trained: Trained, key: PRNGKeyArray) -> PyTree[Array]:
        weights = trained["weights"]
        keys = jax.random.split(key, len(jax.tree.leaves(weights)))
        keys = jax.tree.unflatten(jax.tree.structure(weights), list(keys))
        return jax.tree.map(lambda k, leaf: jax.random.uniform(k, leaf.shape), keys, weights)

    return _pruning(fraction, ranked, rewind, where)


def _pruning(
    fraction: Real[ArrayLike, ""],
    ranked: Callable[[Trained, PRNGKeyArray], PyTree[Array]],
    rewind: bool,
    where: Where,
) -> Method:
    share = _checks.scalar("fraction", fraction, "in (0, 1)", lambda x: 0 < x < 1)

    def init(
        params: PyTree[Array], key: PRNGKeyArray
    ) -> tuple[Trained, PyTree[Bool[Array, "..."]]]:
        del key
        return {"weights": params}, ones_mask(params, where)

    def effective(
        trained: Trained,
        mask: PyTree[Bool[Array, "..."]],
        step: Int32[Array, ""],
        key: PRNGKeyArray,
    ) -> PyTree[Array]:
        del step, key
        return apply_mask(trained["weights"], mask)

    def penalty(trained: Trained, step: Int32[Array, ""]) -> Float[Array, ""]:
        del trained, step
        return jnp.zeros(())

    def mask(
        trained: Trained, mask: PyTree[Bool[Array, "..."]], key: PRNGKeyArray
    ) -> PyTree[Bool[Array, "..."]]:
        words = words_of(num_nonzero(mask))
        left = without_fraction(words, share, jnp.zeros_like(words))
        kappa = as_count(left, sum(m.size for m in jax.tree.leaves(mask)))
        searched = jax.tree.map(lambda m: not is_masked(m), mask, is_leaf=is_masked)
        return top_k_mask(ranked(trained, key), kappa, mask, searched)

    def next_start(
        trained: Trained, rewind_params: Trained, mask: PyTree[Bool[Array, "..."]]
    ) -> Trained:
        del mask
        return rewind_params if rewind else trained

    return Method(init, effective, penalty, mask, next_start, lambda trained: trained["weights"])
