"""Constraints on the expected density of a gated model."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from chex import Numeric
from jax.typing import ArrayLike

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32
from sparsejax._pairs import pairs
from sparsejax._tied_gates import TiedTo, broadcast_gates
from sparsejax._where import PyTree


class Group(NamedTuple):
    r"""Gates, what each of them stands for, and what stands beside them ungated.

    .. math:: \mathbb{E}\|\theta\|_0 = \sum_j p_j s_j + a, \qquad |\theta| = \sum_j s_j + a

    With multiply-accumulates in place of parameters, a density becomes a share of the model's MACs;
    any other cost that adds up over gates does as well.
    """

    probability: ArrayLike
    """p: the probability that a gate is active, any shape, in [0, 1]; empty for no gates."""
    size: Numeric = 1
    """s: parameters behind each gate; a number, or an array that broadcasts to ``probability``."""
    always: Numeric = 0
    """a: parameters of this part of the model that no gate can remove, such as ungated biases."""


class _Count(NamedTuple):
    active: jax.Array
    total: Any
    """Numbers on the host where they are known, so that targets can be checked."""
    always: Any


def parameter_groups(params: PyTree, probability: PyTree) -> PyTree:
    r"""The parameters behind each gate, counted from the shapes.

    A gate multiplies the parameters that it broadcasts to, so in a leaf of n parameters m gates
    have :math:`s = n/m` each; what has no gates is always active.

    Args:
      params: a pytree of arrays, or of anything with their shapes.
      probability: a pytree like ``params`` of the probabilities that gates are active, each of a
        shape that broadcasts to its leaf, ``optax.MaskedNode()`` for a leaf without gates: as
        ``active_probability`` of ``sparsejax.gates`` gives it.

    Returns:
      A pytree like ``params`` of `Group`, for `density_violation` and `expected_density`.

    Raises:
      ValueError: the trees differ in structure, or a shape does not broadcast to its leaf's.
    """
    hint = "optax.MaskedNode() for a leaf without gates"
    found = pairs("probability", probability, params, hint=hint)
    if any(isinstance(p, TiedTo) for _, _, p in found):  # leaves that share the gates of others
        found = pairs("probability", broadcast_gates(params, probability), params)
    groups = [_group_of(jnp.shape(leaf), p, path) for path, leaf, p in found]
    return jax.tree.unflatten(jax.tree.structure(params), groups)


def expected_density(activity: PyTree) -> jax.Array:
    r"""The share of the parameters that the gates are expected to leave.

    .. math:: \mathbb{E}\|\theta\|_0 \,/\, |\theta|

    Args:
      activity: a pytree whose leaves are `Group`, or arrays of the probabilities that gates are
        active (gates of one parameter each, and nothing beside them).

    Returns:
      A scalar, float32 or wider, summed in that precision; 0 where sizes are traced and all 0.

    Raises:
      ValueError: there are no parameters at all, or a group cannot be counted: a (known)
        probability outside [0, 1], a negative size, a size that does not broadcast.
    """
    return _density(_count(activity, ""))


def density_violation(activity: PyTree, target: PyTree) -> PyTree:
    r"""By how much the expected density exceeds a target.

    .. math:: g = \mathbb{E}\|\theta\|_0 \,/\, |\theta| - \epsilon

    One violation for each leaf of ``target``, over the part of the model below that leaf. So a
    number constrains the model as a whole, and a tree of numbers each layer by itself, or each
    block of layers. The same number for each layer::

        jax.tree.map(lambda _: 0.3, activity, is_leaf=lambda node: isinstance(node, Group))

    Args:
      activity: as in `expected_density`; see `parameter_groups`.
      target: the density epsilon in ``(0, 1]``: a number, may be traced, or a pytree of numbers
        that is a prefix of ``activity``, with a `Group` as a leaf.

    Returns:
      A pytree with the structure of ``target`` of scalars, float32 or wider; differentiable in the
      probabilities.

    Raises:
      ValueError: ``target`` is outside (0, 1], or below the share that is always active (nothing
        could satisfy it; the message has the smallest feasible target), or no prefix of
        ``activity``; or ``activity`` cannot be counted (see `expected_density`).
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(target)
    treedef: Any = jax.tree.structure(target)
    try:
        parts = treedef.flatten_up_to(activity)
    except ValueError as error:
        raise ValueError(
            "target must be a number, or a pytree of numbers that is a prefix of activity; its "
            f"structure is {treedef}, that of activity is "
            f"{jax.tree.structure(activity, is_leaf=_is_group)}"
        ) from error
    return treedef.unflatten(
        [
            _violation(part, epsilon, jax.tree_util.keystr(path))
            for (path, epsilon), part in zip(flat, parts, strict=True)
        ]
    )


def _group_of(shape: tuple[int, ...], p: Any, path: str) -> Group:
    if isinstance(p, optax.MaskedNode):
        return Group(np.zeros(0, np.float32), always=math.prod(shape))
    if not _broadcasts(jnp.shape(p), shape):
        raise ValueError(
            f"probability{path} must broadcast to the shape {shape} of its parameters; got shape "
            f"{jnp.shape(p)}"
        )
    return Group(p, size=math.prod(shape) // max(1, jnp.size(p)))


def _violation(part: PyTree, target: Numeric, path: str) -> jax.Array:
    name = f"target{path}"
    _checks.scalar(name, target, "a density in (0, 1]", lambda x: 0 < x <= 1)
    count = _count(part, path)
    smallest = _checks.known(count.always / count.total)
    number = _checks.known(target)
    if smallest is not None and number is not None and float(number) < smallest:
        # Rounded up, so that the target named here is one that is accepted.
        feasible = math.ceil(float(smallest) * 1e6) / 1e6
        raise ValueError(
            f"{name} must be at least {feasible:g}, the smallest feasible density: "
            f"{float(count.always):.0f} of {float(count.total):.0f} parameters are not gated; "
            f"got {target}"
        )
    density = _density(count)
    return density - jnp.asarray(target, density.dtype)


def _density(count: _Count) -> jax.Array:
    """The share that is active; 0 where a traced total turns out to be 0."""
    total = jnp.asarray(count.total, count.active.dtype)
    return count.active / jnp.where(total > 0, total, jnp.ones_like(total))


def _count(activity: PyTree, path: str) -> _Count:
    """What is expected to be active, what there is, and what is always active."""
    flat, _ = jax.tree_util.tree_flatten_with_path(activity, is_leaf=_is_group)
    counts = [_count_group(leaf, path + jax.tree_util.keystr(below)) for below, leaf in flat]
    dtype = at_least_float32(*(count.active.dtype for count in counts))
    active = sum((count.active.astype(dtype) for count in counts), start=jnp.zeros((), dtype))
    total = sum(count.total for count in counts)
    if _checks.known(total) == 0:
        raise ValueError(f"activity{path} must hold at least one parameter; it holds none")
    return _Count(active, total, sum(count.always for count in counts))


def _count_group(group: Group | jax.Array, path: str) -> _Count:
    group = group if isinstance(group, Group) else Group(group)
    name = f"activity{path}"
    p = jnp.asarray(group.probability)
    p = p.astype(at_least_float32(p))
    known_p = _checks.known(p)
    if known_p is not None and not ((known_p >= 0) & (known_p <= 1)).all():
        bad = known_p[~((known_p >= 0) & (known_p <= 1))].flat[0]
        raise ValueError(f"{name} must hold probabilities in [0, 1]; it holds {bad}")
    size, always = _amount(f"{name}.size", group.size), _amount(f"{name}.always", group.always)
    if not _broadcasts(size.shape, p.shape):
        raise ValueError(
            f"{name}.size must broadcast to the shape {p.shape} of the probabilities; got shape "
            f"{size.shape}"
        )
    if always.shape != ():
        raise ValueError(f"{name}.always must be a number; got shape {always.shape}")
    spread = np.broadcast_to if isinstance(size, np.ndarray) else jnp.broadcast_to
    total = spread(size, p.shape).sum() + always
    active = (p * jnp.asarray(size, p.dtype)).sum() + jnp.asarray(always, p.dtype)
    return _Count(active, total, always)


def _amount(name: str, value: Numeric) -> np.ndarray | jax.Array:
    """An amount of parameters: in float64 on the host if it is known, else traced."""
    number = _checks.known(value)
    if number is None:
        return jnp.asarray(value, at_least_float32(value))
    number = number.astype(np.float64)
    if not (np.isfinite(number) & (number >= 0)).all():
        raise ValueError(f"{name} must be finite and >= 0; got {value}")
    return number


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def _is_group(node: object) -> bool:
    return isinstance(node, Group)
