"""The C step with a budget for the l1 norm."""

from __future__ import annotations

from chex import Numeric

from sparsejax import _checks
from sparsejax._where import everything
from sparsejax.compression.base import Compression, ScalarState, check_weights
from sparsejax.projections import project_l1_ball


def l1_ball(radius: Numeric) -> Compression:
    r"""Weights whose l1 norm is at most ``radius``, over all leaves together.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t.}\; \|\theta\|_1\le r

    Args:
      radius: scalar ``r >= 0``; may be traced.

    Raises:
      ValueError: ``radius`` is negative, NaN or not a scalar; in ``init``: the weights hold NaN.
    """
    radius = _checks.scalar_at_least_zero("radius", radius)

    def init(weights):
        check_weights(weights)
        return ScalarState(radius)

    def project(weights, mu, state):
        del mu
        return project_l1_ball(weights, state.value, everything), state

    return Compression(init, project)
