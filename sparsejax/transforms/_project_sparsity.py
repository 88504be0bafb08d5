"""Projection to a sparsity, with the budgets and patterns of the pruning methods."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float, PyTree

from sparsejax._masks import masked_leaf
from sparsejax._where import Where, choose
from sparsejax.transforms._distributions import Distribution
from sparsejax.transforms._sparse_method import weights_of
from sparsejax.transforms._targets import make_target


def project_sparsity(
    params: PyTree[Array],
    sparsity: Float[Any, ""],
    distribution: Distribution | None = None,
    pattern: str | None = None,
    where: Where = None,
) -> PyTree[Array]:
    r"""Return the parameters with their smallest weights set to zero, to a sparsity.

    .. math:: \theta = m \odot w, \qquad m = \mathrm{top}_\kappa(|w|)

    Args:
      params: pytree of arrays, sharded or not.
      sparsity: the fraction of weights to remove, a scalar in ``[0, 1)``; may be traced, as from a
        schedule: ``0.9 * polynomial(0, 1_000).progress(step)``.
      distribution: the budget of each layer; None for `all_together`, or for
        `uniform` with the pattern n:m.
      pattern: what is kept or pruned together, as in `magnitude_pruning`.
      where: the leaves that are projected; all others are returned unchanged.

    Returns:
      A tree with the structure, shapes and dtypes of ``params``. The gradient flows to the kept
      entries only; see `straight_through`.

    Raises:
      TypeError: ``sparsity`` is not a number, ``distribution`` is of another type, or a chosen leaf
        is not floating point.
      ValueError: ``sparsity`` is not in ``[0, 1)``, ``pattern`` is not known, the budget cannot be
        met, or ``where`` chooses nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.transforms import project_sparsity
      >>> print(project_sparsity({"kernel": jnp.array([[3.0, -1.0], [2.0, 4.0]])}, 0.5)["kernel"])
      [[3. 0.]
       [0. 4.]]
    """
    target = make_target(sparsity, distribution, pattern)
    chosen = choose(params, where)
    masks = target.magnitude_masks(weights_of(params, chosen))
    return chosen.put_back(list(map(masked_leaf, chosen.leaves, masks)))
