"""RigL: dynamic sparse training that grows weights by their gradients."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, PRNGKeyArray

from sparsejax.transforms import _scores
from sparsejax.transforms._distributions import Distribution
from sparsejax.transforms._drop_and_grow import drop_and_grow
from sparsejax.transforms._sparse_method import SparseMethod


def rigl(
    sparsity: Float[Any, ""],
    end: int,
    every: int = 100,
    drop_fraction: float = 0.3,
    begin: int | None = None,
    distribution: Distribution | None = None,
    key: int | PRNGKeyArray = 0,
) -> SparseMethod:
    r"""Train with a fixed budget: drop the smallest weights, grow those with large gradients.

    .. math:: k_t = \mathrm{round}(\kappa (1 - f_t)), \qquad
              f_t = \tfrac{f}{2}\Bigl(1 + \cos\frac{\pi t}{t_1}\Bigr)

    At each renewal a layer keeps its :math:`k_t` largest weights, and among all others those with
    the largest absolute gradients join them until there are :math:`\kappa` again. Weights that are
    dropped and grown at once simply stay. All counts are exact. With `all_together` this holds for
    all layers at once, and both scores are divided as it says.

    The gradient that grows weights is dense, and JAX computes that at every step anyway. The paper
    leaves out the gradient step at a renewal; here the weights in both masks move then, too.

    Args:
      sparsity: the fraction of weights that are zero at any time, a number in ``[0, 1)``.
      end: t1, the number of the last update that may renew the mask; about three quarters of all
        in the paper. There the drop fraction is 0.
      every: the number of updates from one mask to the next, an integer >= 1.
      drop_fraction: f, a number in ``(0, 1)``.
      begin: the number of the first update that renews the mask; None for ``every``.
      distribution: the budget of each layer; None for `erdos_renyi`.
      key: a key of ``jax.random`` or a seed, for the mask at the start.

    Returns:
      A `SparseMethod` for `sparsify`. Start from ``masked_params(state, params)``.

    Raises:
      TypeError: ``sparsity`` or ``drop_fraction`` is not a known number, ``begin``, ``end`` or
        ``every`` not an integer, ``distribution`` is of another type, or ``key`` is no key.
      ValueError: ``sparsity`` is not in ``[0, 1)``, ``drop_fraction`` not in ``(0, 1)``, ``begin``
        or ``every`` out of range, or ``end < begin``; in ``init``: the budget cannot be met.

    References:
      Evci et al., Rigging the lottery: making all tickets winners, ICML 2020.

    Example:
      >>> import optax
      >>> from sparsejax.transforms import rigl, sparsify
      >>> optimizer = sparsify(optax.adam(1e-3), rigl(0.9, end=15_000))
    """
    grow = _scores.gradient
    return drop_and_grow(sparsity, begin, end, every, drop_fraction, distribution, grow, key)
