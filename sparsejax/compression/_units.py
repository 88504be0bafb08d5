"""The C step that ends in few whole units: columns, rows or channels."""

from __future__ import annotations

from chex import Numeric

from sparsejax._where import PyTree, everything
from sparsejax.compression._base import Compression, with_count
from sparsejax.projections import project_units


def units(
    budget: Numeric, *, axis: int = -1, cost: PyTree = None, specs: PyTree = None
) -> Compression:
    r"""Units that cost at most ``budget`` together, the greatest in squared norm per cost.

    .. math:: \min_\theta \tfrac{\mu}{2}\|w-\theta\|_2^2 \;\text{s.t.}\;
              \sum_u c_u\,[\,\theta_u\ne 0\,]\le b

    With equal costs the C step is exact, with unequal ones within the bound that
    `sparsejax.projections.project_units` gives.

    Args:
      budget: integer scalar b from 0 to what all units cost; may be traced (then it is clipped to
        that range).
      axis: the dimension along which a leaf's units lie: outputs, or with -2 inputs.
      cost: what a unit of each leaf costs: ``None`` for 1, ``"parameters"``, or a pytree of
        integers >= 1 that is a prefix of the weights.
      specs: inside ``jax.shard_map`` or ``jax.pmap``, as in `l0_ball`.

    Raises:
      TypeError, ValueError: ``budget`` is no integer >= 0; in ``init``: it is more than all units
        cost, ``axis``, ``cost`` or ``specs`` does not fit the weights, or they hold NaN.
    """

    def nearest(weights, budget):
        return project_units(weights, budget, everything, axis=axis, cost=cost, specs=specs)

    return with_count("budget", budget, nearest)
