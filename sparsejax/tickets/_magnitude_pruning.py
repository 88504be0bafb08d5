"""Magnitude pruning: iterative with or without rewinding, in one shot, and at random."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._masks import apply_mask
from sparsejax._where import PyTree, Where, is_masked
from sparsejax.projections import top_k_mask
from sparsejax.tickets._mask import num_nonzero, ones_mask
from sparsejax.tickets._method import Method


def magnitude_pruning(fraction: Numeric, rewind: bool = True, where: Where = None) -> Method:
    r"""Prune a share of the survivors after each round, the smallest magnitudes first.

    Of n survivors  :math:`\lceil \text{fraction} \cdot n \rceil`  leave, ranked together over all
    chosen leaves, exactly. Iterative magnitude pruning is this over many rounds; "continued" is the
    same with ``rewind=False``; one-shot pruning to a density d is ``fraction = 1 - d`` in a single
    round.

    Args:
      fraction: in ``(0, 1)``, may be traced; its product with the number of survivors is rounded to
        float32 (under x64 to float64) before it is rounded up.
      rewind: whether each round starts from the early weights, or goes on with the trained ones.
      where: which leaves are pruned; default kernels and embeddings.

    Raises:
      ValueError: ``fraction`` is out of its range; in ``init``: ``where`` chooses nothing.

    References:
      Frankle and Carbin, The lottery ticket hypothesis, ICLR 2019; Frankle et al., Linear mode
      connectivity and the lottery ticket hypothesis, ICML 2020 (rewinding).
    """

    def ranked(trained, key):
        del key
        return trained["weights"]

    return _pruning(fraction, ranked, rewind, where)


def random_pruning(fraction: Numeric, rewind: bool = True, where: Where = None) -> Method:
    """The control: the same numbers as in `magnitude_pruning`, but chosen by lot.

    Args:
      fraction: in ``(0, 1)``, of the survivors that leave after each round, may be traced.
      rewind: as there.
      where: as there.

    Raises:
      ValueError: as there.
    """

    def ranked(trained, key):
        weights = trained["weights"]
        keys = jax.random.split(key, len(jax.tree.leaves(weights)))
        keys = jax.tree.unflatten(jax.tree.structure(weights), list(keys))
        return jax.tree.map(lambda k, leaf: jax.random.uniform(k, leaf.shape), keys, weights)

    return _pruning(fraction, ranked, rewind, where)


def _pruning(
    fraction: Numeric, ranked: Callable[..., PyTree], rewind: bool, where: Where
) -> Method:
    share = _checks.scalar("fraction", fraction, "in (0, 1)", lambda x: 0 < x < 1)

    def init(params, key):
        del key
        return {"weights": params}, ones_mask(params, where)

    def effective(trained, mask, step, key):
        del step, key
        return apply_mask(trained["weights"], mask)

    def penalty(trained, step):
        del trained, step
        return jnp.zeros(())

    def mask(trained, mask, key):
        survivors = num_nonzero(mask)
        leaving = jnp.ceil(share * survivors.astype(share.dtype)).astype(jnp.int32)
        searched = jax.tree.map(lambda m: not is_masked(m), mask, is_leaf=is_masked)
        return top_k_mask(ranked(trained, key), survivors - leaving, mask, searched)

    def following(trained, rewind_params, mask):
        del mask
        return rewind_params if rewind else trained

    return Method(init, effective, penalty, mask, following, lambda trained: trained["weights"])
