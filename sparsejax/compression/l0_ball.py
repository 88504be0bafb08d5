"""C steps with an exact budget of kappa non-zeros."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from chex import Numeric

from sparsejax import _checks
from sparsejax._where import everything
from sparsejax.compression.base import Compression, ScalarState, check_weights
from sparsejax.projections import project_l0_ball


class L0BallL2State(NamedTuple):
    """Hyperparameters of `l0_ball_l2` and where it stands."""

    kappa: jax.Array
    decay: jax.Array
    """float32: of the next C step."""
    c_step: jax.Array
    """int32: C steps taken, direct compression included."""


def l0_ball(kappa: Numeric) -> Compression:
    r"""At most ``kappa`` non-zero weights.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t.}\; \|\theta\|_0\le\kappa
              \quad\Rightarrow\quad \theta = \operatorname{top}_\kappa(w)

    Args:
      kappa: integer scalar in ``[0, n]``, the number of weights kept over all leaves together; may
        be traced (then it is clipped to that range).

    Raises:
      ValueError: ``kappa`` is negative or fractional; in ``init``: larger than the number of
        weights, or the weights hold NaN.

    References:
      Carreira-Perpinan and Idelbayev, CVPR 2018.
    """
    _checks.scalar_count("kappa", kappa)

    def init(weights):
        return ScalarState(_checks.scalar_count("kappa", kappa, check_weights(weights)))

    def project(weights, mu, state):
        del mu  # the nearest point of a set does not depend on the weight of the distance
        return project_l0_ball(weights, state.value, everything), state

    return Compression(init, project)


def l0_ball_l2(kappa: Numeric, decay: Numeric | optax.Schedule) -> Compression:
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

    Raises:
      ValueError: as in `l0_ball`, or ``decay`` (of a schedule: its first value) is negative, NaN
        or not a scalar.

    References:
      Idelbayev and Carreira-Perpinan, Exploring the effect of l0/l2 regularization in neural
      network pruning using the LC toolkit, ICASSP 2022.
    """
    _checks.scalar_count("kappa", kappa)
    first = _checks.scalar_at_least_zero("decay", decay(0) if callable(decay) else decay)

    def init(weights):
        count = _checks.scalar_count("kappa", kappa, check_weights(weights))
        return L0BallL2State(count, first, jnp.asarray(0, jnp.int32))

    def project(weights, mu, state):
        kept = project_l0_ball(weights, state.kappa, everything)
        scale = mu / (mu + 2 * state.decay)
        theta = jax.tree.map(lambda w: (scale * w).astype(jnp.result_type(w)), kept)
        c_step = state.c_step + 1
        following = decay(c_step) if callable(decay) else state.decay
        return theta, L0BallL2State(state.kappa, jnp.asarray(following, first.dtype), c_step)

    return Compression(init, project)
