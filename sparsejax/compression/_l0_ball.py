"""The C step with an exact budget of kappa non-zeros."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from chex import Numeric

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._where import PyTree, everything
from sparsejax.compression._base import Compression, check_weights
from sparsejax.projections import num_entries, project_l0_ball


class L0BallState(NamedTuple):
    """State of `l0_ball`."""

    threshold: jax.Array
    """Of the last C step, where the search of the next one begins; 0 before the first."""


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
        return L0BallState(no_threshold(kappa, weights, specs))

    def project(weights, mu, state):
        del mu  # the nearest point of a set does not depend on the weight of the distance
        kept, threshold = keep(weights, kappa, state.threshold, specs)
        return kept, L0BallState(threshold)

    return Compression(init, project)


def no_threshold(kappa: Numeric, weights: PyTree, specs: PyTree) -> jax.Array:
    """A threshold of 0, where kappa fits the weights."""
    check_weights(weights)
    total = num_entries(weights, everything, specs=specs)
    _checks.scalar_count("kappa", kappa, total)
    return jnp.zeros((), at_least_float32(*jax.tree.leaves(weights)))


def keep(
    weights: PyTree, kappa: Numeric, threshold: jax.Array, specs: PyTree
) -> tuple[PyTree, jax.Array]:
    return project_l0_ball(
        weights, kappa, everything, specs=specs, warm_start=threshold, with_threshold=True
    )
