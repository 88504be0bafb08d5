"""The C step that leaves zero and two values of opposite sign."""

from __future__ import annotations

from sparsejax.compression._base import Compression
from sparsejax.compression._scaled_values import scaled_values
from sparsejax.projections import project_ternary


def ternary(*, scaled: bool = False, per_leaf: bool = False) -> Compression:
    r"""Weights that are -a, 0 or a.

    .. math:: \min_{a, \theta} \sum_i (w_i - \theta_i)^2 \;\text{s.t.}\; \theta_i \in \{-a, 0, a\}

    Args:
      scaled: choose the best a together with the zeros, or keep it at 1.
      per_leaf: choose an a for each leaf, in place of one for all leaves together.

    Returns:
      A `Compression`.

    Raises:
      ValueError: in ``init``: the weights hold NaN.

    References:
      As of `sparsejax.projections.project_ternary`.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import ternary
      >>> weights = jnp.array([4.0, -2.0, 0.5])
      >>> c_step = ternary(scaled=True)
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta
      Array([ 3., -3.,  0.], dtype=float32)
    """
    return scaled_values(project_ternary, scaled, per_leaf)
