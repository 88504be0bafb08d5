"""Projection onto few whole units: columns, rows or channels, ranked over all leaves."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from chex import Numeric

from sparsejax._where import Chosen, PyTree, Where, choose
from sparsejax.projections._groups import keep_groups
from sparsejax.projections._shards import Layout, layouts_of


def project_units(
    tree: PyTree,
    budget: Numeric,
    where: Where = None,
    *,
    axis: int = -1,
    cost: PyTree = None,
    specs: PyTree = None,
) -> PyTree:
    r"""The tree with the units that are greatest in squared norm per cost, within a budget.

    .. math:: \theta \approx \arg\min_\theta \tfrac12\|w-\theta\|_2^2 \quad \text{s.t.}\quad
              \sum_u c_u\,[\,\theta_u \ne 0\,] \le b

    A unit u is a slice of a chosen leaf at one index of ``axis``: of a kernel [..., in, out] an
    output column or channel, the default, or with ``axis=-2`` an input row. Units of all chosen
    leaves are put in one order, by :math:`\|w_u\|_2^2 / c_u` falling, of equal ones the earlier in
    ``jax.tree`` order first, and the longest prefix that costs at most b is kept bit for bit; the
    rest become +0.

    - With equal costs (the default: b counts units) that is a nearest tree.
    - With unequal ones the nearest tree is the solution of a knapsack problem, which this is not in
      general. It is a nearest one among the trees that cost no more than it does; and its squared
      distance exceeds that of the nearest tree within b by at most :math:`\|w_v\|_2^2\,r/c_v`, v
      being the first unit left out and :math:`r < c_v` what is left of the budget.

    Squared norms are added in integers and compared to 48 bits at least (72 where a leaf is
    float64; N entries below 2^-18 of their unit's largest may cost N 2^-59 of it): far finer than a
    float32 sum, and whatever the order of the entries. What agrees that far is a tie. So the result
    is the same to the last bit on one device and on many, which exchange norms and counts alone.

    Costs are of each unit by itself. That without it the next layer too has fewer inputs is not
    counted: what is left after that is smaller than the budget.

    Args:
      tree: pytree of arrays, sharded or not; the chosen leaves are floating point.
      budget: integer scalar b. A known value must be between 0 and the cost of all units, a traced
        one is clipped to that range.
      where: which leaves are projected together; the others are returned as they are.
      axis: the dimension of every chosen leaf along which its units lie.
      cost: c, what a unit of each leaf costs: ``None`` for 1, ``"parameters"`` for the number of
        its entries, or a pytree of integers >= 1 that is a prefix of ``tree`` (of a convolution's
        output channels, MACs are entries times output positions). Those of leaves that are not
        chosen do not matter. All units together cost less than 2**31.
      specs: inside ``shard_map`` or ``pmap``, as for `project_l0_ball`.

    Returns:
      A tree like ``tree``. The gradient flows to the kept entries. Units with an infinite entry go
      first and tie. If a chosen entry is NaN: outside ``jit`` an error, under ``jit`` every chosen
      entry is NaN.

    Raises:
      TypeError: ``budget`` or a cost is not an integer, or a chosen leaf is not floating point.
      ValueError: ``budget`` or ``cost`` is out of range, ``cost`` is no prefix of the tree, a
        chosen leaf has no such ``axis`` or more than 2**19 entries along another one, a known leaf
        holds NaN, ``where`` chooses nothing, or ``specs`` does not fit.

    References:
      Dantzig, Discrete-variable extremum problems, Operations Research 5 (1957), for the bound.
    """
    chosen = choose(tree, where)
    for path, leaf in zip(chosen.paths, chosen.leaves, strict=True):
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(
                f"axis must be a dimension of every chosen leaf; {path or 'the leaf'} has shape "
                f"{leaf.shape}, axis is {axis}"
            )
    layouts = layouts_of(tree, chosen, specs)
    units = Units(axis)
    costs = _costs(tree, chosen, layouts, units, cost)
    return keep_groups("budget", budget, chosen, layouts, units, costs)


class Units(NamedTuple):
    """A `Grouping`: the slices along one dimension."""

    axis: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        return (whole[self.axis],)

    def split(self, leaf: jax.Array, layout: Layout) -> tuple[jax.Array, tuple[int, ...]]:
        del layout
        return leaf, self._inner(leaf)

    def layout(self, layout: Layout) -> tuple[Layout, frozenset[str]]:
        along = Layout((layout.axes[self.axis],))
        return along, layout.names - along.names

    def spread(self, groups: jax.Array, leaf: jax.Array) -> jax.Array:
        return jnp.expand_dims(groups, self._inner(leaf))

    def _inner(self, leaf: jax.Array) -> tuple[int, ...]:
        return tuple(axis for axis in range(leaf.ndim) if axis != self.axis % leaf.ndim)


def _costs(
    tree: PyTree, chosen: Chosen, layouts: list[Layout], units: Units, cost: PyTree
) -> list[int]:
    """What a unit of each chosen leaf costs."""
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
            f"cost must be a pytree of integers that is a prefix of the tree; its structure is "
            f"{jax.tree.structure(cost)}, the tree's is {jax.tree.structure(tree)}"
        ) from error
    ours = chosen.of(spread)
    return [_integer(path, value) for path, value in zip(chosen.paths, ours, strict=True)]


def _integer(path: str, value: Any) -> int:
    if isinstance(value, jax.core.Tracer) or np.asarray(value).dtype.kind not in "iu":
        raise TypeError(f"cost must hold known integers >= 1; at {path or 'the leaf'} is {value!r}")
    if np.shape(value) != () or value < 1:
        raise ValueError(f"cost must hold integers >= 1; at {path or 'the leaf'} is {value!r}")
    return int(value)
