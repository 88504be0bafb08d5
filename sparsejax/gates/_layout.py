"""Layout of the gates of a tree of parameters: their shapes, and the leaves that share them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from sparsejax._dtypes import at_least_float32
from sparsejax._names import name_of
from sparsejax._roles import Fit, Roles
from sparsejax._tied_gates import TiedTo
from sparsejax._tree_layers import Leaf, layer_leaves
from sparsejax._where import Where, resolve_where, warn_once
from sparsejax.gates._grouping import Grouping, per_input, per_output, per_weight
from sparsejax.gates._stacked_axes import StackedAxes, given_stacked_axes, infer_stacked_axes

Tied = Mapping[str, str | None]
"""Path of a leaf -> path of the leaf whose gates it shares, parts joined by ``/``, as in
``{"norm1/scale": "conv1/kernel", "norm1/bias": "conv1/kernel"}``; None for a leaf that shares no
gates."""


class Gated(NamedTuple):
    """The gates of one leaf.

    Attributes:
      stacked: number of leading axes that are stacked layers.
      axes: all axes along which gates differ, including stacked ones.
      shape: shape of the gates, with length 1 along all other axes.
    """

    stacked: int
    axes: frozenset[int]
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of gates in a single layer."""
        return math.prod(self.shape[self.stacked :])

    def covered_by(self, fit: Fit) -> bool:
        """Whether the bias of this fit has all axes along which the gates of a layer differ."""
        return {axis for axis in self.axes if axis >= self.stacked} <= set(fit.axes)

    def along(self, fit: Fit) -> tuple[int, ...]:
        """Shape of the gates at the bias of this fit."""
        return tuple(1 if axis is None else self.shape[axis] for axis in fit.axes)


def gate_layout(
    params: PyTree[Array],
    grouping: Grouping,
    where: Where,
    stacked_axes: StackedAxes,
    tied: Tied | None,
) -> PyTree:
    """A tree with the shape and dtype of the gates of each leaf, a `TiedTo`, or a ``MaskedNode``.

    Raises:
      TypeError: ``grouping`` is no function, or ``params`` is a key.
      ValueError: the grouping does not fit a leaf; ``where`` chooses nothing; it is ambiguous which
        leaves share the gates; or ``tied`` or ``stacked_axes`` does not fit the tree.
    """
    if not callable(grouping):
        raise TypeError(
            "grouping must be per_weight, per_input, per_output or a function of a kernel's shape; "
            f"got {grouping!r}"
        )
    if isinstance(params, jax.Array) and jnp.issubdtype(params.dtype, jax.dtypes.prng_key):
        raise TypeError("params must be a pytree of arrays; got a key: call init(key, params)")
    roles = Roles(layer_leaves(params))
    is_gated = jax.tree.leaves(resolve_where(params, where, roles))
    given = given_stacked_axes(params, stacked_axes)
    gated: dict[int, Gated] = {}
    for number, leaf in enumerate(roles.leaves):
        if is_gated[number]:
            count = given[number]
            if count is None:  # if no gate is shared it does not matter which axes are stacked
                count = 0 if grouping is per_weight else infer_stacked_axes(roles, number)
            gated[number] = _gated(leaf, grouping, count)
    shared = _given_ties(roles, gated, tied or {})
    for number in gated:
        if grouping is not per_weight:  # with one gate per weight no gate is shared
            _check_layout(roles, number, gated[number].stacked, grouping, shared)
            _tie_biases(roles, gated, number, shared)
    nodes: list[Any] = []
    for number, leaf in enumerate(jax.tree.leaves(params)):
        if number in gated:
            nodes.append(jax.ShapeDtypeStruct(gated[number].shape, at_least_float32(leaf)))
        else:
            nodes.append(shared.get(number) or optax.MaskedNode())
    return jax.tree.unflatten(jax.tree.structure(params), nodes)


def _gated(leaf: Leaf, grouping: Grouping, stacked: int) -> Gated:
    own = leaf.shape[stacked:]
    if stacked > leaf.ndim:
        raise ValueError(
            f"stacked_axes must not exceed the dimensions of {leaf.label} of shape {leaf.shape}; "
            f"got {stacked}"
        )
    try:
        axes = tuple(grouping(own))
    except ValueError as error:
        raise ValueError(f"grouping cannot gate {leaf.label}: {error}") from error
    if not all(isinstance(axis, int) and -len(own) <= axis < len(own) for axis in axes):
        raise ValueError(
            f"grouping must return axes of a layer of {leaf.label}, of shape {own}; got {axes}"
        )
    differ = frozenset((*range(stacked), *(stacked + axis % len(own) for axis in axes)))
    shape = tuple(n if axis in differ else 1 for axis, n in enumerate(leaf.shape))
    return Gated(stacked, differ, shape)


def _given_ties(roles: Roles, gated: Mapping[int, Gated], tied: Tied) -> dict[int, TiedTo | None]:
    """The ties that the argument ``tied`` gives, by the number of the leaf without gates."""
    by_name = {name_of(leaf.path): number for number, leaf in enumerate(roles.leaves)}
    shared: dict[int, TiedTo | None] = {}
    for name, gated_name in tied.items():
        number, owner = by_name.get(name), by_name.get(gated_name or "")
        problem = None
        if number is None:
            problem = f"{name!r} does not exist"
        elif number in gated:
            problem = f"{name!r} has gates of its own"
        elif gated_name is not None and owner not in gated:
            problem = f"{gated_name!r} has no gates"
        if number is None or problem is not None:
            raise ValueError(
                "tied must map the paths of leaves without gates to those of gated leaves or to "
                f"None; it has {name!r}: {gated_name!r}, but {problem}"
            )
        if gated_name is None or owner is None:
            shared[number] = None
            continue
        shape = _tied_shape(roles, number, owner, gated[owner])
        if shape is None:
            raise ValueError(
                f"tied has {name!r} of shape {roles.leaves[number].shape}, which does not have one "
                f"entry for each gate of {gated_name!r}, of shape {gated[owner].shape}"
            )
        shared[number] = TiedTo(roles.leaves[owner].key, shape)
    return shared


def _tied_shape(roles: Roles, number: int, owner: int, gates: Gated) -> tuple[int, ...] | None:
    """The shape in which gates broadcast to a leaf that is tied to them; None if they do not."""
    shape = roles.leaves[number].shape
    without_ones = tuple(gates.shape[axis] for axis in sorted(gates.axes))
    trailing_ones = (*without_ones, *(1,) * (len(shape) - len(without_ones)))
    if shape in (trailing_ones, gates.shape):
        return shape
    for fit in roles.fits(owner, number):
        if fit.stacked == gates.stacked and gates.covered_by(fit):
            return gates.along(fit)
    return None


def _tie_biases(
    roles: Roles,
    gated: Mapping[int, Gated],
    number: int,
    shared: dict[int, TiedTo | None],
) -> None:
    """Add the biases that share the gates of a leaf to ``shared``."""
    gates, leaf = gated[number], roles.leaves[number]
    for other in roles.beside(number):
        if other in gated or other in shared:
            continue
        beside, is_bias = roles.leaves[other], number in roles.kernels.get(other, [])
        if other in roles.lone_biases and gates.width in roles.leaves[other].shape:
            raise ValueError(
                f"{beside.label} of shape {beside.shape} is the bias of no leaf beside it, though "
                f"{leaf.label} of shape {leaf.shape} has gates that it could share; "
                + _remedy(other, number, roles)
            )
        if not is_bias and roles.role(other).kind != "vector":
            continue
        fits = [fit for fit in roles.fits(number, other) if fit.stacked == gates.stacked]
        shares = {gates.covered_by(fit) for fit in fits}
        pair = f"{beside.label} of shape {beside.shape} beside {leaf.label} of shape {leaf.shape}"
        if is_bias and not fits and gates.axes != frozenset(range(leaf.ndim)):
            raise ValueError(
                f"{pair} is no bias of it if {gates.stacked} leading axes are stacked layers; "
                + _remedy(other, number, roles)
            )
        if True not in shares:
            continue
        if False in shares:
            raise ValueError(
                f"{pair} may be a bias along its first axis or along its last one, so it is "
                "ambiguous whether it shares the gates; " + _remedy(other, number, roles)
            )
        if not is_bias:
            raise ValueError(
                f"{pair} has an entry for each gate and is not known to be its bias, so it is "
                "ambiguous whether it shares the gates; " + _remedy(other, number, roles)
            )
        if len(roles.kernels[other]) > 1:
            owners = " or ".join(roles.leaves[n].label for n in roles.kernels[other])
            raise ValueError(
                f"{beside.label} may be the bias of {owners}; " + _remedy(other, number, roles)
            )
        shared[other] = TiedTo(leaf.key, gates.along(fits[0]))


def _check_layout(
    roles: Roles,
    number: int,
    stacked: int,
    grouping: Grouping,
    shared: Mapping[int, TiedTo | None],
) -> None:
    """Raise ValueError if a kernel is not [..., in, out] as `per_input` and `per_output` assume."""
    if grouping is not per_output and grouping is not per_input:
        return
    leaf, name = roles.leaves[number], grouping.__name__
    first = 0 if grouping is per_output else 1
    remedy = f"pass grouping=lambda shape: ({first},) for a layout [out, in, ...]"
    biases = [n for n in roles.biases[number] if n not in shared]
    for other in biases:
        for fit in roles.fits(number, other):
            if fit.stacked != stacked:
                continue
            outputs = [axis for axis in fit.axes[fit.stacked :] if axis is not None]
            if len(outputs) > 1:
                groups = "(-2, -1) for a gate per output, or (-3,) for one per input"
                raise ValueError(
                    f"{name} gates kernels [..., in, out] with one axis of outputs, but the bias "
                    f"{roles.leaves[other].label} of shape {roles.leaves[other].shape} shows that "
                    f"{leaf.label} of shape {leaf.shape} has {len(outputs)}; pass "
                    f"grouping=lambda shape: {groups} of a kernel [in, heads, features]"
                )
    layouts = {fit.layout for bias in biases for fit in roles.fits(number, bias)}
    if layouts == {"outputs first"}:
        raise ValueError(
            f"{name} gates kernels [..., in, out], but the bias {roles.leaves[biases[0]].label} "
            f"has the length of the first axis of {leaf.label}, of shape {leaf.shape}; {remedy}"
        )
    if len(layouts) == 2:
        bias = "/".join(roles.leaves[biases[0]].key)
        raise ValueError(
            f"{name} gates kernels [..., in, out], but {leaf.label} of shape {leaf.shape} may as "
            f"well be [out, in, ...], as in PyTorch and Equinox; {remedy}, or pass "
            f"tied={{{bias!r}: {'/'.join(leaf.key)!r}}} if its bias shares the gates, and None in "
            "place of the path if not"
        )
    embedding = any(word.startswith("emb") for word in leaf.layer_words)
    if not roles.biases[number] and "weight" in leaf.words and not embedding:
        warn_once(
            f"{name} gates kernels [..., in, out] and treats {leaf.label} of shape {leaf.shape} as "
            f"one; {remedy}, as in PyTorch and Equinox, or "
            f"grouping=lambda shape: ({-1 - first},) to silence this"
        )


def _remedy(other: int, number: int, roles: Roles) -> str:
    name, owner = (name_of(roles.leaves[n].path) for n in (other, number))
    return f"pass tied={{{name!r}: {owner!r}}} if it shares the gates, or {{{name!r}: None}} if not"
