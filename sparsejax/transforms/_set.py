"""SET: dynamic sparse training that grows random weights."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, PRNGKeyArray

from sparsejax.transforms._distributions import Distribution
from sparsejax.transforms._drop_and_grow import drop_and_grow
from sparsejax.transforms._sparse_method import SparseMethod


def set(
    sparsity: Float[Any, ""],
    end: int,
    every: int = 100,
    drop_fraction: float = 0.3,
    begin: int | None = None,
    distribution: Distribution | None = None,
    key: int | PRNGKeyArray = 0,
) -> SparseMethod:
    r"""Train with a fixed budget: drop the smallest weights, grow random ones.

    .. math:: k_t = \mathrm{round}(\kappa (1 - f_t)), \qquad
              f_t = \tfrac{f}{2}\Bigl(1 + \cos\frac{\pi t}{t_1}\Bigr)

    At each renewal a layer keeps its :math:`k_t` largest weights, and random ones of all others
    join them until there are :math:`\kappa` again (sparse evolutionary training). With
    `all_together` this holds for all layers at once. The name shadows Python's ``set`` if it is
    imported by itself: call it as ``transforms.set``.

    Args:
      sparsity: the fraction of weights that are zero at any time, a number in ``[0, 1)``.
      end: t1, the number of the last update that may renew the mask. There the drop fraction is 0.
      every: the number of updates from one mask to the next, an integer >= 1.
      drop_fraction: f, a number in ``(0, 1)``; the paper's is constant.
      begin: the number of the first update that renews the mask; None for ``every``.
      distribution: the budget of each layer; None for `erdos_renyi`.
      key: a key of ``jax.random`` or a seed. The state keeps it, and update t uses its own key.

    Returns:
      A `SparseMethod` for `sparsify`. Start from ``masked_params(state, params)``.

    Raises:
      TypeError: ``sparsity`` or ``drop_fraction`` is not a known number, ``begin``, ``end`` or
        ``every`` not an integer, ``distribution`` is of another type, or ``key`` is no key.
      ValueError: ``sparsity`` is not in ``[0, 1)``, ``drop_fraction`` not in ``(0, 1)``, ``begin``
        or ``every`` out of range, or ``end < begin``; in ``init``: the budget cannot be met.

    References:
      Mocanu et al., Scalable training of artificial neural networks with adaptive sparse
      connectivity inspired by network science, Nature Communications 9, 2018.

    Example:
      >>> import optax
      >>> from sparsejax import transforms
      >>> optimizer = transforms.sparsify(optax.adam(1e-3), transforms.set(0.9, end=15_000))
    """
    by_chance = None
    return drop_and_grow(sparsity, begin, end, every, drop_fraction, distribution, by_chance, key)
