"""The C step with a budget for the cost of whole units: columns, rows or channels."""

from __future__ import annotations

from typing import Literal

from jax.sharding import PartitionSpec
from jaxtyping import Array, ArrayLike, Integer, PyTree

from sparsejax._where import everything
from sparsejax.compression._base import Compression, with_count
from sparsejax.projections import project_units


def units(
    budget: Integer[ArrayLike, ""],
    *,
    axis: int = -1,
    cost: Literal["parameters"] | PyTree[int] | None = None,
    specs: PyTree[PartitionSpec] | None = None,
) -> Compression:
    r"""C step with non-zero units that cost at most ``budget`` over all leaves together.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t.}\;
              \sum_u c_u\,[\,\theta_u\ne 0\,]\le b

    The units with the largest squared norms per cost are kept. The C step is exact if all costs are
    equal; `sparsejax.projections.project_units` bounds its error if they differ.

    Args:
      budget: integer scalar b from 0 to the total cost of all units, in units of ``cost``; may be
        traced, and a traced value is clipped to that range.
      axis: the dimension of a leaf along which its units lie: -1 for outputs, -2 for inputs.
      cost: the cost c of a unit of each leaf: None for 1, ``"parameters"`` for the number of its
        entries, or a pytree of integers >= 1 that is a prefix of the weights.
      specs: the sharding of the leaves inside ``jax.shard_map`` or ``jax.pmap``, as in `l0_ball`.

    Returns:
      A `Compression`; its state is empty.

    Raises:
      TypeError: ``budget`` is not a number; in ``init``: a leaf is not floating point or a cost is
        not an integer.
      ValueError: ``budget`` is not an integer >= 0; in ``init``: it exceeds the total cost,
        ``axis``, ``cost`` or ``specs`` does not fit the weights, or the weights hold NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.compression import units
      >>> weights = jnp.array([[1.0, 3.0], [2.0, 3.0]])
      >>> c_step = units(budget=1)
      >>> theta, _ = c_step.project(weights, 1.0, c_step.init(weights))
      >>> theta
      Array([[0., 3.],
             [0., 3.]], dtype=float32)
    """

    def nearest(weights: PyTree[Array], budget: Integer[ArrayLike, ""]) -> PyTree[Array]:
        return project_units(weights, budget, everything, axis=axis, cost=cost, specs=specs)

    return with_count("budget", budget, nearest)
