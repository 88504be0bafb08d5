"""The C step with an exact budget for the number of non-zero weights and an l2 penalty."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, ArrayLike, Float, Int32, Integer, PyTree

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32, promoted
from sparsejax._words import count_words
from sparsejax.compression._base import Compression
from sparsejax.compression._l0_ball import initial_threshold, keep


class L0BallL2State(NamedTuple):
    """State of `l0_ball_l2`."""

    threshold: Float[Array, ""]
    """The threshold of the last C step, at which the next search begins; 0 before the first."""
    c_step: Int32[Array, ""]
    """The number of C steps taken, direct compression included; the argument of the schedule."""


def l0_ball_l2(
    kappa: Integer[ArrayLike, ""],
    decay: optax.ScalarOrSchedule,
    *,
    specs: PyTree[PartitionSpec] | None = None,
) -> Compression:
    r"""C step with at most ``kappa`` non-zero weights, which an l2 penalty shrinks.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 + \lambda\|\theta\|_2^2
              \;\text{s.t.}\; \|\theta\|_0\le\kappa
              \quad\Rightarrow\quad \theta = \tfrac{\mu}{\mu+2\lambda}\operatorname{top}_\kappa(w)

    This is version 1 of the l0+l2 formulation, with the penalty on theta. Version 2, with the
    penalty on w, is `l0_ball` with ``optax.add_decayed_weights(2 * decay)`` in the chain.

    Args:
      kappa: integer scalar in ``[0, n]``, where ``n`` is the number of weights in all leaves; may
        be traced, and a traced value is clipped to that range; a pair as in `l0_ball`.
      decay: scalar ``lambda >= 0``, in units of the loss per squared unit of weight; may be traced.
        Or a schedule of it over C steps, in which C step 0 is the direct compression.
      specs: the sharding of the leaves inside ``jax.shard_map`` or ``jax.pmap``, as in `l0_ball`.

    Returns:
      A `Compression` with state `L0BallL2State`.

    Raises:
      TypeError: ``kappa`` or ``decay`` is not a number; in ``init``: a leaf is not floating point.
      ValueError: ``kappa`` is negative or a float, or ``decay`` (the first value of a schedule) is
        negative, NaN or not a scalar; in ``init``: ``kappa`` exceeds the number of weights, or the
        weights hold NaN.

    References:
      Idelbayev and Carreira-Perpinan, Exploring the effect of l0/l2 regularization in neural
      network pruning using the LC toolkit, ICASSP 2022.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import l0_ball_l2
      >>> weights = jnp.array([3.0, 1.0, 2.0])
      >>> c_step = l0_ball_l2(kappa=2, decay=0.5)
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta
      Array([1.5, 0. , 1. ], dtype=float32)
    """
    count_words("kappa", kappa)
    decay_at = _checks.schedule("decay", decay, "a number >= 0", lambda x: x >= 0)

    def init(weights: PyTree[Array]) -> L0BallL2State:
        return L0BallL2State(initial_threshold(kappa, weights, specs), jnp.asarray(0, jnp.int32))

    def project(
        weights: PyTree[Array], mu: Float[ArrayLike, ""], state: L0BallL2State
    ) -> tuple[PyTree[Array], L0BallL2State]:
        kept, threshold = keep(weights, kappa, state.threshold, specs)
        mu = jnp.asarray(mu, at_least_float32(mu))
        scale = mu / (mu + 2 * decay_at(state.c_step).astype(mu.dtype))
        theta = jax.tree.map(lambda w: _scaled(w, scale), kept)
        return theta, L0BallL2State(threshold, state.c_step + 1)

    return Compression(init, project)


def _scaled(w: jax.Array, scale: jax.Array) -> jax.Array:
    dtype = promoted(w, scale)
    return (scale.astype(dtype) * w.astype(dtype)).astype(w.dtype)
