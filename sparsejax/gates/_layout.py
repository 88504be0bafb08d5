"""Which gates a tree of parameters gets: their shapes, and which leaves share them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax

from sparsejax._dtypes import at_least_float32
from sparsejax._names import name_of
from sparsejax._roles import Fit, Roles
from sparsejax._tied_gates import TiedTo
from sparsejax._tree_layers import layer_leaves
from sparsejax._where import PyTree, Where, resolve_where, warn_once
from sparsejax.gates._grouping import Grouping, per_input, per_output, per_weight
from sparsejax.gates._stacks import Stacked, found_stacks, told_stacks

Tied = Mapping[str, str | None]
"""Which leaves share the gates of another: its path by theirs, parts joined by ``/``, as in
``{"norm1/scale": "conv1/kernel", "norm1/bias": "conv1/kernel"}``; None for a leaf that follows no
gates."""


class Gated(NamedTuple):
    """The gates of one leaf."""

    stacked: int
    axes: frozenset[int]
    """All axes along which gates differ, stacked ones included."""
    shape: tuple[int, ...]
    """That of the gates: 1 along the other axes."""

    @property
    def width(self) -> int:
        """How many gates a layer has."""
        return math.prod(self.shape[self.stacked :])

    def covered_by(self, fit: Fit) -> bool:
        """Whether all gated axes of a layer are axes of a bias that stands beside it so."""
        return {axis for axis in self.axes if axis >= self.stacked} <= set(fit.axes)

    def along(self, fit: Fit) -> tuple[int, ...]:
        """The shape of the gates at that bias."""
        return tuple(1 if axis is None else self.shape[axis] for axis in fit.axes)


def gate_layout(
    params: PyTree, grouping: Grouping, where: Where, stacked: Stacked, tied: Tied | None
) -> PyTree:
    """The shape and dtype of the gates of each leaf, a `TiedTo`, or a ``MaskedNode``.

    Raises:
      ValueError: the grouping does not fit a leaf, ``where`` chooses nothing, it cannot be told
        which leaves follow the gates, or ``tied`` or ``stacked`` do not fit the tree.
    """
    gated_leaves = jax.tree.leaves(resolve_where(params, where))
    leaves = layer_leaves(params)
    roles, told = Roles(leaves), told_stacks(params, stacked)
    gated: dict[int, Gated] = {}
    for number, is_gated in enumerate(gated_leaves):
        if is_gated:
            count = told[number]
            if count is None:  # without groups it does not matter which axes are stacked
                count = 0 if grouping is per_weight else found_stacks(roles, number)
            gated[number] = _gated(leaves[number], grouping, count)
    followers = _told_followers(roles, gated, tied or {})
    for number in gated:
        if grouping is not per_weight:  # else nothing shares a gate, so nothing follows
            _check_layout(roles, number, gated[number].stacked, grouping, followers)
            _find_followers(roles, gated, number, followers)
    nodes: list[Any] = []
    for number, leaf in enumerate(jax.tree.leaves(params)):
        if number in gated:
            nodes.append(jax.ShapeDtypeStruct(gated[number].shape, at_least_float32(leaf)))
        else:
            nodes.append(followers.get(number) or optax.MaskedNode())
    return jax.tree.unflatten(jax.tree.structure(params), nodes)


def _gated(leaf: Any, grouping: Grouping, stacked: int) -> Gated:
    own = leaf.shape[stacked:]
    if stacked > leaf.ndim:
        raise ValueError(
            f"stacked says that {stacked} leading axes of {leaf.label} are stacked layers; its "
            f"shape is {leaf.shape}"
        )
    try:
        axes = tuple(grouping(own))
    except ValueError as error:
        raise ValueError(f"grouping cannot gate {leaf.label}: {error}") from error
    if not all(isinstance(axis, int) and -len(own) <= axis < len(own) for axis in axes):
        raise ValueError(
            f"grouping must give axes of a layer of {leaf.label}, which has shape {own}; got {axes}"
        )
    differ = frozenset((*range(stacked), *(stacked + axis % len(own) for axis in axes)))
    shape = tuple(n if axis in differ else 1 for axis, n in enumerate(leaf.shape))
    return Gated(stacked, differ, shape)


def _told_followers(
    roles: Roles, gated: Mapping[int, Gated], tied: Tied
) -> dict[int, TiedTo | None]:
    """What ``tied`` says, by the number of the leaf that follows."""
    by_name = {name_of(leaf.path): number for number, leaf in enumerate(roles.leaves)}
    followers: dict[int, TiedTo | None] = {}
    for name, leader_name in tied.items():
        number, leader = by_name.get(name), by_name.get(leader_name or "")
        if number is None or (leader_name is not None and leader not in gated) or number in gated:
            what = "is gated itself" if number in gated else "is not there or has no gates"
            raise ValueError(f"tied has {name!r}: {leader_name!r}, of which one {what}")
        if leader_name is None or leader is None:
            followers[number] = None
            continue
        shape = _told_shape(roles, number, leader, gated[leader])
        if shape is None:
            raise ValueError(
                f"tied has {name!r} of shape {roles.leaves[number].shape}, which has not one entry "
                f"for each of the gates of {leader_name!r}, of shape {gated[leader].shape}"
            )
        followers[number] = TiedTo(roles.leaves[leader].key, shape)
    return followers


def _told_shape(roles: Roles, number: int, leader: int, gates: Gated) -> tuple[int, ...] | None:
    """The shape in which gates broadcast to a leaf that was said to follow them."""
    shape = roles.leaves[number].shape
    without_ones = tuple(gates.shape[axis] for axis in sorted(gates.axes))
    behind = (*without_ones, *(1,) * (len(shape) - len(without_ones)))
    if shape in (behind, gates.shape):
        return shape
    for fit in roles.fits(leader, number):
        if fit.stacked == gates.stacked and gates.covered_by(fit):
            return gates.along(fit)
    return None


def _find_followers(
    roles: Roles,
    gated: Mapping[int, Gated],
    number: int,
    followers: dict[int, TiedTo | None],
) -> None:
    """Add the biases that follow the gates of a leaf to ``followers``."""
    gates, leaf = gated[number], roles.leaves[number]
    for other in roles.beside(number):
        if other in gated or other in followers:
            continue
        beside, is_bias = roles.leaves[other], number in roles.kernels.get(other, [])
        if other in roles.lone_biases and gates.width in roles.leaves[other].shape:
            raise ValueError(
                f"{beside.label} of shape {beside.shape} is the bias of no leaf beside it, though "
                f"{leaf.label} of shape {leaf.shape} has gates that it could share; "
                + _say(other, number, roles)
            )
        if not is_bias and roles.role(other).kind != "vector":
            continue
        fits = [fit for fit in roles.fits(number, other) if fit.stacked == gates.stacked]
        follows = {gates.covered_by(fit) for fit in fits}
        pair = f"{beside.label} of shape {beside.shape} beside {leaf.label} of shape {leaf.shape}"
        if is_bias and not fits and gates.axes != frozenset(range(leaf.ndim)):
            raise ValueError(
                f"{pair} is no bias of it if {gates.stacked} leading axes are stacked layers; "
                + _say(other, number, roles)
            )
        if True not in follows:
            continue
        if False in follows:
            raise ValueError(
                f"{pair} may be a bias along its first axis or along its last one, so it is open "
                "whether it follows the gates; " + _say(other, number, roles)
            )
        if not is_bias:
            raise ValueError(
                f"{pair} has an entry for each gate and is not known to be its bias, so it is open "
                "whether it follows the gates; " + _say(other, number, roles)
            )
        if len(roles.kernels[other]) > 1:
            owners = " or ".join(roles.leaves[n].label for n in roles.kernels[other])
            raise ValueError(
                f"{beside.label} may be the bias of {owners}; " + _say(other, number, roles)
            )
        followers[other] = TiedTo(leaf.key, gates.along(fits[0]))


def _check_layout(
    roles: Roles,
    number: int,
    stacked: int,
    grouping: Grouping,
    followers: Mapping[int, TiedTo | None],
) -> None:
    """Whether a kernel can have its inputs and outputs where `per_input` and `per_output` say."""
    if grouping is not per_output and grouping is not per_input:
        return
    leaf, name = roles.leaves[number], grouping.__name__
    first = 0 if grouping is per_output else 1
    remedy = f"pass grouping=lambda shape: ({first},) for a layout [out, in, ...]"
    biases = [n for n in roles.biases[number] if n not in followers]
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
            f"well be [out, in, ...], as in PyTorch and Equinox; {remedy}, or say whether its bias "
            f"follows the gates: tied={{{bias!r}: {'/'.join(leaf.key)!r}}}, or None in its place"
        )
    embedding = any(word.startswith("emb") for word in leaf.layer_words)
    if not roles.biases[number] and "weight" in leaf.words and not embedding:
        warn_once(
            f"{name} gates kernels [..., in, out], and takes {leaf.label} of shape {leaf.shape} "
            f"for one; {remedy}, as in PyTorch and Equinox, or "
            f"grouping=lambda shape: ({-1 - first},) to silence this"
        )


def _say(other: int, number: int, roles: Roles) -> str:
    name, leader = (name_of(roles.leaves[n].path) for n in (other, number))
    return (
        f"say tied={{{name!r}: {leader!r}}} if it follows the gates, or {{{name!r}: None}} if not"
    )
