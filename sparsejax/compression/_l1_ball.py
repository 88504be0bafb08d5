"""The C step with a budget for the l1 norm."""

from __future__ import annotations

from chex import Numeric

from sparsejax._where import everything
from sparsejax.compression._base import Compression, with_scalar
from sparsejax.projections import project_l1_ball


def l1_ball(radius: Numeric) -> Compression:
    r"""Weights whose l1 norm is at most ``radius``, over all leaves together.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t.}\; \|\theta\|_1\le r

    Args:
      radius: scalar ``r >= 0``; may be traced.

    Raises:
      ValueError: ``radius`` is negative, NaN or not a scalar; in ``init``: the weights hold NaN.
    """
    return with_scalar("radius", radius, lambda w, mu, r: project_l1_ball(w, r, everything))
