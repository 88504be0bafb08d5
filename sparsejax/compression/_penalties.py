"""C steps with an l0 or l1 penalty on the weights instead of a budget."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from sparsejax._dtypes import promoted
from sparsejax._where import everything
from sparsejax.compression._base import Compression, with_scalar
from sparsejax.projections import hard_threshold, soft_threshold


def l0_penalty(alpha: Real[ArrayLike, ""]) -> Compression:
    r"""C step with a penalty of ``alpha`` for each non-zero weight.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 + \alpha\|\theta\|_0
              \quad\Rightarrow\quad \theta_i = w_i\,[\,|w_i|>\sqrt{2\alpha/\mu}\,]

    Args:
      alpha: scalar ``>= 0``, in units of the loss per weight; may be traced.

    Returns:
      A `Compression`; its state is empty.

    Raises:
      TypeError: ``alpha`` is not a number; in ``init``: a leaf is not floating point.
      ValueError: ``alpha`` is negative, NaN or not a scalar; in ``init``: the weights hold NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import l0_penalty
      >>> weights = jnp.array([3.0, 1.0, 2.0])
      >>> c_step = l0_penalty(alpha=2.0)
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta
      Array([3., 0., 0.], dtype=float32)
    """
    return with_scalar(
        "alpha", alpha, lambda w, mu, a: hard_threshold(w, jnp.sqrt(2 * _ratio(a, mu)), everything)
    )


def l1_penalty(alpha: Real[ArrayLike, ""]) -> Compression:
    r"""C step with a penalty of ``alpha`` times the l1 norm of the weights.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 + \alpha\|\theta\|_1
              \quad\Rightarrow\quad \theta_i = \operatorname{sign}(w_i)\max(|w_i|-\alpha/\mu, 0)

    Args:
      alpha: scalar ``>= 0``, in units of the loss per unit of weight; may be traced.

    Returns:
      A `Compression`; its state is empty.

    Raises:
      TypeError: ``alpha`` is not a number; in ``init``: a leaf is not floating point.
      ValueError: ``alpha`` is negative, NaN or not a scalar; in ``init``: the weights hold NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import l1_penalty
      >>> weights = jnp.array([3.0, 1.0, 2.0])
      >>> c_step = l1_penalty(alpha=1.0)
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta
      Array([2., 0., 1.], dtype=float32)
    """
    return with_scalar(
        "alpha", alpha, lambda w, mu, a: soft_threshold(w, _ratio(a, mu), everything)
    )


def _ratio(alpha: Float[Array, ""], mu: Float[ArrayLike, ""]) -> Float[Array, ""]:
    dtype = promoted(alpha, mu)
    return jnp.asarray(alpha, dtype) / jnp.asarray(mu, dtype)
