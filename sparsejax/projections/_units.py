"""Projection onto trees with few non-zero units (columns, rows or channels) of all leaves."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, ArrayLike, Integer, PyTree

from sparsejax._misfit import misfit
from sparsejax._where import Chosen, Where, choose
from sparsejax.projections._groups import keep_groups
from sparsejax.projections._shards import Layout, layouts_of

Cost: TypeAlias = Literal["parameters"] | PyTree[int] | None


def project_units(
    tree: PyTree[Array],
    budget: Integer[ArrayLike, ""],
    where: Where = None,
    *,
    axis: int = -1,
    cost: Cost = None,
    specs: PyTree[PartitionSpec] | None = None,
) -> PyTree[Array]:
    r"""Keep the units with the largest squared norms per cost within a budget.

    .. math:: \theta \approx \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad
              \sum_u c_u\,[\,\theta_u \ne 0\,] \le b

    A unit u is the slice of a chosen leaf at one index of ``axis``. For a kernel [..., in, out]
    that is an output column or channel by default, and an input row with ``axis=-2``. The units of
    all chosen leaves are ordered by :math:`\|w_u\|_2^2 / c_u`, largest first, and ties by
    ``jax.tree`` order. The longest prefix of that order that costs at most b is kept bit for bit
    and all other entries become +0.

    - If all costs are equal (by default b counts units), the result is a nearest tree.
    - If costs differ, the nearest tree solves a knapsack problem, and the result is a greedy
      approximation. It is nearest among all trees that cost at most as much as it does. Its squared
      distance exceeds that of the nearest tree within b by at most :math:`\|w_v\|_2^2\,r/c_v`,
      where v is the first unit left out and :math:`r < c_v` is the unspent part of the budget.

    Squared norms are summed in integer arithmetic and at least 48 bits of them are compared (72
    bits if a leaf is float64; N entries below 2^-18 of their unit's largest entry may lose N 2^-59
    of the sum). That is far more precise than a float32 sum and independent of the order of the
    entries. Norms that agree in these bits tie. So the result is bit-identical on one device and on
    several, which exchange norms and counts only.

    A cost belongs to a unit by itself. The inputs of the next layer that a removed unit saves are
    not counted, so the network that remains may be smaller than the budget.

    Args:
      tree: pytree of arrays, sharded or not; the chosen leaves are floating point.
      budget: integer scalar b, in units of ``cost``. A concrete value must be between 0 and the
        total cost of all units; a traced value is clipped to that range.
      where: the leaves that are projected together; all others are returned unchanged.
      axis: the dimension of every chosen leaf along which its units lie.
      cost: the cost c of a unit of each leaf: None for 1, ``"parameters"`` for the number of its
        entries, or a pytree of integers >= 1 that is a prefix of ``tree``. (An output channel of a
        convolution needs as many multiply-accumulates as its entries times the output positions.)
        Costs of leaves that are not chosen are ignored. The total cost of all units must be less
        than 2**31.
      specs: the sharding of the leaves inside ``shard_map`` or ``pmap``, as in `project_l0_ball`.

    Returns:
      A tree with the structure, shapes and dtypes of ``tree``. The gradient flows to the kept
      entries only. Units with an infinite entry rank first and tie with one another. If a chosen
      entry is NaN, a concrete tree is an error, and under ``jit`` every chosen entry of the result
      is NaN.

    Raises:
      TypeError: ``budget`` or a cost is not an integer, or a chosen leaf is not floating point.
      ValueError: ``budget`` or ``cost`` is out of range, ``cost`` is not a prefix of the tree, a
        chosen leaf does not have the dimension ``axis`` or has more than 2**19 entries along
        another one, a concrete leaf holds NaN, ``where`` chooses nothing, or ``specs`` does not fit
        the tree.

    References:
      Dantzig, Discrete-variable extremum problems, Operations Research 5 (1957), gives the bound.
    """
    chosen = choose(tree, where)
    for path, leaf in zip(chosen.paths, chosen.leaves, strict=True):
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(
                f"axis must be a dimension of every chosen leaf; got axis {axis} for "
                f"{path or 'the leaf'} of shape {leaf.shape}"
            )
    layouts = layouts_of(tree, chosen, specs)
    units = Units(axis)
    costs = _costs(tree, chosen, layouts, units, cost)
    return keep_groups("budget", budget, chosen, layouts, units, costs)


class Units(NamedTuple):
    """The `Grouping` of entries in slices along one dimension."""

    axis: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        return (whole[self.axis],)

    def split(self, leaf: jax.Array, layout: Layout) -> tuple[jax.Array, tuple[int, ...]]:
        del layout
        return leaf, self._inner(leaf)

    def layout(self, layout: Layout) -> tuple[Layout, frozenset[str]]:
        along = Layout((layout.axes[self.axis],))
        return along, layout.names - along.names

    def broadcast(self, groups: jax.Array, leaf: jax.Array) -> jax.Array:
        return jnp.expand_dims(groups, self._inner(leaf))

    def _inner(self, leaf: jax.Array) -> tuple[int, ...]:
        return tuple(axis for axis in range(leaf.ndim) if axis != self.axis % leaf.ndim)


def _costs(
    tree: PyTree[Array], chosen: Chosen, layouts: list[Layout], units: Units, cost: Cost
) -> list[int]:
    """Return the cost of a unit of each chosen leaf."""
    if cost is None:
        return [1] * len(chosen.leaves)
    if isinstance(cost, str):
        if cost != "parameters":
            raise ValueError(f'cost must be None, "parameters" or a pytree; got {cost!r}')
        sizes = []
        for leaf, layout in zip(chosen.leaves, layouts, strict=True):
            (count,) = units.shape(layout.shape(leaf))
            sizes.append(max(layout.size(leaf) // max(count, 1), 1))
        return sizes
    try:
        spread = jax.tree.leaves(jax.tree.broadcast(cost, tree))
    except ValueError as error:
        raise ValueError(
            "cost must be a pytree of integers that is a prefix of the tree; "
            f"{misfit(cost, tree, 'the tree')}"
        ) from error
    ours = chosen.of(spread)
    return [_integer(path, value) for path, value in zip(chosen.paths, ours, strict=True)]


def _integer(path: str, value: Any) -> int:
    if isinstance(value, jax.core.Tracer) or np.asarray(value).dtype.kind not in "iu":
        raise TypeError(
            f"cost must hold concrete integers >= 1; it has {value!r} for {path or 'the leaf'}"
        )
    if np.shape(value) != () or value < 1:
        raise ValueError(f"cost must hold integers >= 1; it has {value!r} for {path or 'the leaf'}")
    return int(value)
