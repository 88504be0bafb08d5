"""C steps with a price on each non-zero weight instead of a budget."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax._dtypes import promoted
from sparsejax._where import everything
from sparsejax.compression._base import Compression, with_scalar
from sparsejax.projections import hard_threshold, soft_threshold


def l0_penalty(alpha: Numeric) -> Compression:
    r"""A price of ``alpha`` for each non-zero weight.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 + \alpha\|\theta\|_0
              \quad\Rightarrow\quad \theta_i = w_i\,[\,|w_i|>\sqrt{2\alpha/\mu}\,]

    Args:
      alpha: scalar ``>= 0``, in units of the loss per weight; may be traced.

    Raises:
      ValueError: ``alpha`` is negative, NaN or not a scalar; in ``init``: the weights hold NaN.
    """
    return with_scalar(
        "alpha", alpha, lambda w, mu, a: hard_threshold(w, jnp.sqrt(2 * _ratio(a, mu)), everything)
    )


def l1_penalty(alpha: Numeric) -> Compression:
    r"""A price of ``alpha`` for each unit of a weight's magnitude.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 + \alpha\|\theta\|_1
              \quad\Rightarrow\quad \theta_i = \operatorname{sign}(w_i)\max(|w_i|-\alpha/\mu, 0)

    Args:
      alpha: scalar ``>= 0``, in units of the loss per unit of weight; may be traced.

    Raises:
      ValueError: ``alpha`` is negative, NaN or not a scalar; in ``init``: the weights hold NaN.
    """
    return with_scalar(
        "alpha", alpha, lambda w, mu, a: soft_threshold(w, _ratio(a, mu), everything)
    )


def _ratio(alpha: jax.Array, mu: jax.Array) -> jax.Array:
    dtype = promoted(alpha, mu)
    return jnp.asarray(alpha, dtype) / jnp.asarray(mu, dtype)
