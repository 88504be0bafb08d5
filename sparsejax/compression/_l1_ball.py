"""The C step with a budget for the l1 norm of the weights."""

from __future__ import annotations

from jaxtyping import ArrayLike, Real

from sparsejax._where import everything
from sparsejax.compression._base import Compression, with_scalar
from sparsejax.projections import project_l1_ball


def l1_ball(radius: Real[ArrayLike, ""]) -> Compression:
    r"""C step with an l1 norm of at most ``radius`` over all leaves together.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t.}\; \|\theta\|_1\le r

    Args:
      radius: scalar ``r >= 0``, in units of the weights; may be traced.

    Returns:
      A `Compression`; its state is empty.

    Raises:
      TypeError: ``radius`` is not a number; in ``init``: a leaf is not floating point.
      ValueError: ``radius`` is negative, NaN or not a scalar; in ``init``: the weights hold NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import l1_ball
      >>> weights = jnp.array([3.0, 1.0, 2.0])
      >>> c_step = l1_ball(radius=3.0)
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta
      Array([2., 0., 1.], dtype=float32)
    """
    return with_scalar("radius", radius, lambda w, mu, r: project_l1_ball(w, r, everything))
