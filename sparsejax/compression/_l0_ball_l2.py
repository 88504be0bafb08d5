"""The C step with an exact budget of kappa non-zeros and an l2 penalty."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from chex import Numeric

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32, promoted
from sparsejax._where import PyTree
from sparsejax.compression._base import Compression
from sparsejax.compression._l0_ball import keep, no_threshold


class L0BallL2State(NamedTuple):
    """State of `l0_ball_l2`."""

    threshold: jax.Array
    """As in `L0BallState`."""
    c_step: jax.Array
    """int32: C steps taken, direct compression included; where the decay's schedule stands."""


def l0_ball_l2(
    kappa: Numeric, decay: Numeric | optax.Schedule, *, specs: PyTree = None
) -> Compression:
    r"""At most ``kappa`` non-zero weights, each shrunk by an l2 penalty.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 + \lambda\|\theta\|_2^2
              \;\text{s.t.}\; \|\theta\|_0\le\kappa
              \quad\Rightarrow\quad \theta = \tfrac{\mu}{\mu+2\lambda}\operatorname{top}_\kappa(w)

    This is version 1 of the l0+l2 formulation (the penalty on theta). Version 2 (the penalty on w)
    is `l0_ball` with ``optax.add_decayed_weights(2 * decay)`` in the chain.

    Args:
      kappa: integer scalar in ``[0, n]``, as in `l0_ball`.
      decay: scalar ``lambda >= 0``, may be traced; or a schedule that gives it for C step 0 (direct
        compression), 1, 2, ...
      specs: as in `l0_ball`.

    Raises:
      ValueError: as in `l0_ball`, or ``decay`` (of a schedule: its first value) is negative, NaN
        or not a scalar.

    References:
      Idelbayev and Carreira-Perpinan, Exploring the effect of l0/l2 regularization in neural
      network pruning using the LC toolkit, ICASSP 2022.
    """
    _checks.scalar_count("kappa", kappa)
    decay_at = _checks.schedule("decay", decay, "a number >= 0", lambda x: x >= 0)

    def init(weights):
        return L0BallL2State(no_threshold(kappa, weights, specs), jnp.asarray(0, jnp.int32))

    def project(weights, mu, state):
        kept, threshold = keep(weights, kappa, state.threshold, specs)
        mu = jnp.asarray(mu, at_least_float32(mu))
        scale = mu / (mu + 2 * decay_at(state.c_step).astype(mu.dtype))
        theta = jax.tree.map(lambda w: _scaled(w, scale), kept)
        return theta, L0BallL2State(threshold, state.c_step + 1)

    return Compression(init, project)


def _scaled(w: jax.Array, scale: jax.Array) -> jax.Array:
    dtype = promoted(w, scale)
    return (scale.astype(dtype) * w.astype(dtype)).astype(w.dtype)
