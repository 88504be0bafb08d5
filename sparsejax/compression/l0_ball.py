"""C steps with an exact budget of kappa non-zeros."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from chex import Numeric

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32, promoted
from sparsejax._where import PyTree, everything
from sparsejax.compression.base import Compression, check_weights
from sparsejax.projections import project_l0_ball
from sparsejax.projections._shards import layouts_of, whole_size


class L0BallState(NamedTuple):
    """State of `l0_ball`."""

    threshold: jax.Array
    """Of the last C step, where the search of the next one begins; 0 before the first."""


class L0BallL2State(NamedTuple):
    """State of `l0_ball_l2`."""

    threshold: jax.Array
    """As in `L0BallState`."""
    c_step: jax.Array
    """int32: C steps taken, direct compression included; where the decay's schedule stands."""


def l0_ball(kappa: Numeric, *, specs: PyTree = None) -> Compression:
    r"""At most ``kappa`` non-zero weights.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t.}\; \|\theta\|_0\le\kappa
              \quad\Rightarrow\quad \theta = \operatorname{top}_\kappa(w)

    Args:
      kappa: integer scalar in ``[0, n]``, the number of weights kept over all leaves together; may
        be traced (then it is clipped to that range).
      specs: inside ``jax.shard_map`` or ``jax.pmap``: what the weights are pieces of, as in
        `sparsejax.projections.project_l0_ball`.

    Raises:
      ValueError: ``kappa`` is negative or a float; in ``init``: larger than the number of
        weights, or the weights hold NaN.

    References:
      Carreira-Perpinan and Idelbayev, CVPR 2018.
    """
    _checks.scalar_count("kappa", kappa)

    def init(weights):
        return L0BallState(_no_threshold(kappa, weights, specs))

    def project(weights, mu, state):
        del mu  # the nearest point of a set does not depend on the weight of the distance
        kept, threshold = _keep(weights, kappa, state.threshold, specs)
        return kept, L0BallState(threshold)

    return Compression(init, project)


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
        return L0BallL2State(_no_threshold(kappa, weights, specs), jnp.asarray(0, jnp.int32))

    def project(weights, mu, state):
        kept, threshold = _keep(weights, kappa, state.threshold, specs)
        mu = jnp.asarray(mu, at_least_float32(mu))
        scale = mu / (mu + 2 * decay_at(state.c_step).astype(mu.dtype))
        theta = jax.tree.map(lambda w: _scaled(w, scale), kept)
        return theta, L0BallL2State(threshold, state.c_step + 1)

    return Compression(init, project)


def _scaled(w: jax.Array, scale: jax.Array) -> jax.Array:
    dtype = promoted(w, scale)
    return (scale.astype(dtype) * w.astype(dtype)).astype(w.dtype)


def _no_threshold(kappa: Numeric, weights: PyTree, specs: PyTree) -> jax.Array:
    """A threshold of 0, where kappa fits the weights."""
    chosen = check_weights(weights)
    total = whole_size(chosen.leaves, layouts_of(weights, chosen, specs))
    _checks.scalar_count("kappa", kappa, total)
    return jnp.zeros((), at_least_float32(*jax.tree.leaves(weights)))


def _keep(
    weights: PyTree, kappa: Numeric, threshold: jax.Array, specs: PyTree
) -> tuple[PyTree, jax.Array]:
    return project_l0_ball(
        weights, kappa, everything, specs=specs, warm_start=threshold, with_threshold=True
    )
