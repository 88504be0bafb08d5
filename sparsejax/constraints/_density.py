"""Constraints on the expected density of a gated model."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._misfit import misfit
from sparsejax._pairs import pairs
from sparsejax._tied_gates import TiedTo, broadcast_gates
from sparsejax._where import is_masked


class GateGroup(NamedTuple):
    r"""Gates with the cost of what each of them controls, and the cost that no gate controls.

    .. math:: \mathbb{E}\|\theta\|_0 = \sum_j p_j c_j + a, \qquad |\theta| = \sum_j c_j + a

    The cost is a number of parameters for a density in parameters, and a number of
    multiply-accumulates for a share of the model's MACs; any cost that is additive over gates will
    do.

    Attributes:
      active_probability: p: float array of any shape, the probability that each gate is active, in
        [0, 1]; an empty array if there are no gates.
      cost_per_gate: c: the number of parameters behind each gate, a scalar or an array that
        broadcasts to ``active_probability``.
      ungated_cost: a: scalar, the number of parameters of this part of the model that no gate can
        remove, such as ungated biases.
    """

    active_probability: Float[ArrayLike, "*shape"]
    cost_per_gate: Real[ArrayLike, "*#shape"] = 1
    ungated_cost: Real[ArrayLike, ""] = 0


class _Count(NamedTuple):
    """Costs; ``total`` and ``ungated`` are NumPy scalars if known, so that targets are checked."""

    active: Float[Array, ""]
    total: Any
    ungated: Any


def gate_groups(
    params: PyTree[Array], active_probability: PyTree[Float[Array, "..."]]
) -> PyTree[GateGroup]:
    r"""Count the parameters behind each gate from the shapes.

    A gate multiplies the parameters that it broadcasts to: in a leaf of n parameters with m gates
    each gate controls :math:`c = n/m` of them. A leaf without gates is always active.

    Args:
      params: pytree of arrays, or of ``jax.ShapeDtypeStruct``; only shapes are read.
      active_probability: pytree like ``params``: the float arrays that
        ``Gates.active_probability`` returns, each of a shape that broadcasts to its leaf, and
        ``optax.MaskedNode()`` at each leaf without gates.

    Returns:
      A pytree like ``params`` with a `GateGroup` at each leaf, for `density_violation` and
      `expected_density`.

    Raises:
      ValueError: the trees differ in structure, or a shape does not broadcast to that of its leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.constraints import gate_groups
      >>> params = {"kernel": jnp.ones((4, 3))}
      >>> groups = gate_groups(params, {"kernel": jnp.full((1, 3), 0.5)})
      >>> groups["kernel"].cost_per_gate
      4
    """
    hint = "optax.MaskedNode() for a leaf without gates"
    found = pairs("active_probability", active_probability, params, hint=hint)
    if any(isinstance(p, TiedTo) for _, _, p in found):  # leaves that share the gates of others
        found = pairs("active_probability", broadcast_gates(params, active_probability), params)
    groups = [_group_of(jnp.shape(leaf), p, path) for path, leaf, p in found]
    return jax.tree.unflatten(jax.tree.structure(params), groups)


def expected_density(
    active_probability: PyTree[GateGroup | Float[Array, "..."]],
) -> Float[Array, ""]:
    r"""Expected fraction of the parameters that the gates leave active.

    .. math:: \mathbb{E}\|\theta\|_0 \,/\, |\theta|

    Args:
      active_probability: pytree whose leaves are `GateGroup` (see `gate_groups`) or float arrays of
        the probabilities that gates are active (one parameter for each gate, none ungated).

    Returns:
      A scalar in [0, 1] of float32 or wider, summed in that precision; 0 if costs are traced and
      turn out to be all 0.

    Raises:
      ValueError: there are no parameters at all; a known probability is outside [0, 1]; or a cost
        is negative, not finite, or does not broadcast to its probabilities.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.constraints import GateGroup, expected_density
      >>> group = GateGroup(jnp.array([0.5, 1.0]), cost_per_gate=4, ungated_cost=2)
      >>> print(expected_density({"dense": group}))
      0.8
    """
    return _density(_count(active_probability, ""))


def density_violation(
    active_probability: PyTree[GateGroup | Float[Array, "..."]],
    target: PyTree[Float[ArrayLike, ""]],
) -> PyTree[Float[Array, ""]]:
    r"""Amount by which the expected density exceeds a target.

    .. math:: g = \mathbb{E}\|\theta\|_0 \,/\, |\theta| - \epsilon

    There is one violation for each leaf of ``target``, over the part of the model below that leaf:
    a number constrains the model as a whole, a tree of numbers constrains each layer, or each block
    of layers, by itself. For the same target in each layer of a dict of layers::

        target = {layer: 0.3 for layer in groups}

    Args:
      active_probability: pytree as in `expected_density`; see `gate_groups`.
      target: the density epsilon in (0, 1]: a scalar, which may be traced, or a pytree of scalars
        that is a prefix of ``active_probability``, in which a `GateGroup` counts as a leaf.

    Returns:
      A pytree with the structure of ``target`` of scalars, float32 or wider; differentiable in the
      probabilities.

    Raises:
      ValueError: ``target`` is outside (0, 1], is smaller than the fraction that is always active
        (the message states the smallest feasible target), or is no prefix of
        ``active_probability``; or the costs are invalid (see `expected_density`).

    References:
      Gallego-Posada et al., Controlled sparsity via constrained optimization or: how I learned to
      stop tuning penalties and love constraints, NeurIPS 2022.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.constraints import density_violation
      >>> print(density_violation({"dense": jnp.array([0.5, 1.0])}, target=0.25))
      0.5
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(target)
    treedef: Any = jax.tree.structure(target)
    try:
        parts = treedef.flatten_up_to(active_probability)
    except ValueError as error:
        raise ValueError(
            "target must be a number, or a pytree of numbers that is a prefix of "
            "active_probability; "
            f"{misfit(target, active_probability, 'active_probability', _is_group)}"
        ) from error
    return treedef.unflatten(
        [
            _violation(part, epsilon, jax.tree_util.keystr(path))
            for (path, epsilon), part in zip(flat, parts, strict=True)
        ]
    )


def _group_of(shape: tuple[int, ...], p: Any, path: str) -> GateGroup:
    if is_masked(p):
        return GateGroup(np.zeros(0, np.float32), ungated_cost=math.prod(shape))
    if not _checks.broadcasts(jnp.shape(p), shape):
        raise ValueError(
            f"active_probability{path} must broadcast to the shape {shape} of its parameters; "
            f"got shape {jnp.shape(p)}"
        )
    return GateGroup(p, cost_per_gate=math.prod(shape) // max(1, jnp.size(p)))


def _violation(part: PyTree, target: Float[ArrayLike, ""], path: str) -> Float[Array, ""]:
    name = f"target{path}"
    _checks.scalar(name, target, "a density in (0, 1]", lambda x: 0 < x <= 1)
    count = _count(part, path)
    costs = [_checks.known(cost) for cost in (count.ungated, count.total)]
    smallest = None if costs[0] is None or costs[1] is None else costs[0] / costs[1]
    number = _checks.known(target)
    # A target that was rounded to its dtype is compared with what is as exact.
    if smallest is not None and number is not None and number < smallest.astype(number.dtype):
        # Rounded up, so that the target named here is one that is accepted.
        feasible = math.ceil(float(smallest) * 1e6) / 1e6
        raise ValueError(
            f"{name} must be at least {feasible:g}, the smallest feasible density: "
            f"{float(count.ungated):.0f} of {float(count.total):.0f} parameters are not gated; "
            f"got {target}"
        )
    density = _density(count)
    return density - jnp.asarray(target, density.dtype)


def _density(count: _Count) -> Float[Array, ""]:
    """The active fraction; 0 where a traced total turns out to be 0."""
    total = jnp.asarray(count.total, count.active.dtype)
    return count.active / jnp.where(total > 0, total, jnp.ones_like(total))


def _count(active_probability: PyTree, path: str) -> _Count:
    """Expected active cost, total cost and ungated cost of all leaves together."""
    flat, _ = jax.tree_util.tree_flatten_with_path(active_probability, is_leaf=_is_group)
    counts = [_count_group(leaf, path + jax.tree_util.keystr(below)) for below, leaf in flat]
    dtype = at_least_float32(*(count.active.dtype for count in counts))
    active = sum((count.active.astype(dtype) for count in counts), start=jnp.zeros((), dtype))
    total = _sum(dtype, [count.total for count in counts])
    if _checks.known(total) == 0:
        raise ValueError(
            f"active_probability{path} must hold at least one parameter; it holds none"
        )
    return _Count(active, total, _sum(dtype, [count.ungated for count in counts]))


def _sum(dtype: jnp.dtype, costs: list[Any]) -> Any:
    """The sum of costs: exact if all of them are known, else of a dtype."""
    if any(isinstance(cost, jax.Array) for cost in costs):
        return sum((jnp.asarray(cost, dtype) for cost in costs), start=jnp.zeros((), dtype))
    return sum(costs)


def _count_group(group: GateGroup | Float[Array, "..."], path: str) -> _Count:
    group = group if isinstance(group, GateGroup) else GateGroup(group)
    name = f"active_probability{path}"
    p = jnp.asarray(group.active_probability)
    p = p.astype(at_least_float32(p))
    known_p = _checks.known(p)
    if known_p is not None and not ((known_p >= 0) & (known_p <= 1)).all():
        bad = known_p[~((known_p >= 0) & (known_p <= 1))].flat[0]
        raise ValueError(f"{name} must hold probabilities in [0, 1]; it holds {bad}")
    cost = _cost(f"{name}.cost_per_gate", group.cost_per_gate)
    ungated = _cost(f"{name}.ungated_cost", group.ungated_cost)
    if not _checks.broadcasts(cost.shape, p.shape):
        raise ValueError(
            f"{name}.cost_per_gate must broadcast to the shape {p.shape} of the probabilities; "
            f"got shape {cost.shape}"
        )
    if ungated.shape != ():
        raise ValueError(f"{name}.ungated_cost must be a number; got shape {ungated.shape}")
    broadcast_to = np.broadcast_to if isinstance(cost, np.ndarray) else jnp.broadcast_to
    total = _sum(p.dtype, [broadcast_to(cost, p.shape).sum(), ungated])
    active = (p * jnp.asarray(cost, p.dtype)).sum() + jnp.asarray(ungated, p.dtype)
    return _Count(active, total, ungated)


def _cost(name: str, value: Real[ArrayLike, "..."]) -> np.ndarray | Array:
    """A cost as a float64 NumPy array if its value is known, else as a traced array."""
    number = _checks.known(value)
    if number is None:
        return jnp.asarray(value, at_least_float32(value))
    number = number.astype(np.float64)
    if not (np.isfinite(number) & (number >= 0)).all():
        raise ValueError(f"{name} must be finite and >= 0; got {value}")
    return number


def _is_group(node: object) -> bool:
    return isinstance(node, GateGroup)
