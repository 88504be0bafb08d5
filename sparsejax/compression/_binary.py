"""The C step that leaves two values of opposite sign."""

from __future__ import annotations

from sparsejax.compression._base import Compression
from sparsejax.compression._scaled_values import scaled_values
from sparsejax.projections import project_binary


def binary(*, scaled: bool = False, per_leaf: bool = False) -> Compression:
    r"""Weights that are -a or a.

    .. math:: \theta_i = a \operatorname{sign}(w_i), \qquad a = 1 \text{ or, if scaled, }
              a = \tfrac1n \sum_i |w_i|

    Args:
      scaled: choose the best a, or keep it at 1.
      per_leaf: choose an a for each leaf, in place of one for all leaves together.

    Returns:
      A `Compression`. Zero counts as positive.

    Raises:
      ValueError: in ``init``: the weights hold NaN.

    References:
      As of `sparsejax.projections.project_binary`.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import binary
      >>> weights = jnp.array([1.0, -2.0, 3.0])
      >>> c_step = binary(scaled=True)
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta
      Array([ 2., -2.,  2.], dtype=float32)
    """
    return scaled_values(project_binary, scaled, per_leaf)
