"""AC/DC: alternating compressed and decompressed phases."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from sparsejax import _checks
from sparsejax.transforms._distributions import Distribution
from sparsejax.transforms._patterns import Masks
from sparsejax.transforms._sparse_method import SparseMethod, Weights, all_kept
from sparsejax.transforms._targets import make_target


def ac_dc(
    sparsity: Float[Any, ""],
    end: int,
    compressed_steps: int,
    decompressed_steps: int,
    warmup: int = 0,
    distribution: Distribution | None = None,
    pattern: str | None = None,
) -> SparseMethod:
    r"""Alternate sparse and dense phases of training, and end with a sparse one.

    .. math:: m_t = \begin{cases}
              \mathrm{top}_\kappa(|w|) & \text{at the start of a compressed phase}\\
              1 & \text{at the start of a decompressed phase} \end{cases}

    Training is dense for ``warmup`` updates. Then compressed phases, in which a mask of the largest
    weights is held, alternate with decompressed ones, in which all weights are trained, those
    outside of the last mask from zero and with new moments. From update ``end`` on the network
    stays compressed.

    Args:
      sparsity: the fraction of weights that a mask removes, a scalar in ``[0, 1)``; may be traced.
      end: the number of the update at which the last compressed phase begins, unless it is in one
        already: an integer >= ``warmup``.
      compressed_steps: the number of updates of a compressed phase, an integer >= 1.
      decompressed_steps: the number of updates of a decompressed phase, an integer >= 1.
      warmup: the number of dense updates at the start.
      distribution: the budget of each layer; None for `all_together`, or for
        `uniform` with the pattern n:m.
      pattern: what is kept or pruned together, as in `magnitude_pruning`.

    Returns:
      A `SparseMethod` for `sparsify`.

    Raises:
      TypeError: ``sparsity`` is not a number, one of the numbers of updates not an integer, or
        ``distribution`` is of another type.
      ValueError: ``sparsity`` is not in ``[0, 1)``, a number of updates is out of range, the
        schedule ends before it begins, or ``pattern`` and the others do not fit one another; in
        ``init``: the budget cannot be met.

    References:
      Peste et al., AC/DC: alternating compressed/decompressed training of deep neural networks,
      NeurIPS 2021.

    Example:
      >>> import optax
      >>> from sparsejax.transforms import ac_dc, sparsify
      >>> method = ac_dc(0.9, 8_000, compressed_steps=500, decompressed_steps=500, warmup=1_000)
      >>> optimizer = sparsify(optax.sgd(0.1, momentum=0.9), method)
    """
    target = make_target(sparsity, distribution, pattern)
    warmup = _checks.python_integer("warmup", warmup, 0)
    compressed = _checks.python_integer("compressed_steps", compressed_steps, 1)
    decompressed = _checks.python_integer("decompressed_steps", decompressed_steps, 1)
    if _checks.python_integer("end", end, 0) < warmup:
        raise ValueError(f"end must be an integer >= warmup; got warmup {warmup} and end {end}")

    def is_compressed(step: Int32[Array, ""]) -> Bool[Array, ""]:
        in_cycle = jnp.maximum(step - warmup, 0) % (compressed + decompressed)
        return (step >= end) | ((step >= warmup) & (in_cycle < compressed))

    def is_due(step: Int32[Array, ""]) -> Bool[Array, ""]:
        before = (step > 0) & is_compressed(step - 1)
        return is_compressed(step) != before

    def first_mask(weights: Weights) -> Masks:
        target.budget(weights)  # raises where it cannot be met
        return all_kept(weights)

    def next_mask(weights: Weights, masks: Masks) -> Masks:
        del masks
        largest = target.magnitude_masks(weights)
        sparse = is_compressed(weights.step)
        return [m | ~sparse for m in largest]

    return SparseMethod(first_mask, next_mask, is_due)
