"""How many leading axes of a gated leaf are stacked layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from sparsejax._roles import Roles
from sparsejax._where import PyTree, warn_once

Stacked: TypeAlias = int | Callable[[tuple[Any, ...], Any], int] | PyTree | None
"""The number of leading axes that are stacked layers: for all gated leaves, as a callable
``(path, leaf) -> int`` or as a pytree (or a prefix of one); None to find it."""


def told_stacks(params: PyTree, stacked: Stacked) -> list[int | None]:
    """What ``stacked`` says of each leaf, in ``jax.tree`` order.

    Raises:
      ValueError: it is no prefix of the tree.
      TypeError: it holds something that is no integer.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    if stacked is None:
        return [None] * len(flat)
    if callable(stacked):
        counts = [stacked(path, leaf) for path, leaf in flat]
    else:
        try:
            counts = jax.tree.leaves(jax.tree.broadcast(stacked, params))
        except ValueError as error:
            raise ValueError(
                "stacked must be an integer, a callable (path, leaf) -> int, or a pytree of "
                f"integers that is a prefix of params; its structure is "
                f"{jax.tree.structure(stacked)}, that of params is {jax.tree.structure(params)}"
            ) from error
    for count in counts:
        if not isinstance(count, int) or count < 0:
            raise TypeError(
                f"stacked must be a number of leading axes, an integer >= 0; got {count!r} "
                f"({type(count).__name__})"
            )
    return [int(count) for count in counts]


def found_stacks(roles: Roles, kernel: int) -> int:
    """The number of stacked axes that the leaves around a kernel prove.

    Its bias proves it, if it has the same leading axes; otherwise the biases and scales of the
    nearest node above do, if all leaves below that node have these leading axes. Where nothing is
    proved no axis is stacked.

    Raises:
      ValueError: its bias fits in several ways, and nothing else decides.

    Warns:
      UserWarning: some leaves around it are of stacked layers with as many layers as its first axis
        is long, and others are not; it counts as not stacked.
    """
    leaf, scope = roles.leaves[kernel], roles.scope(kernel)
    biases = roles.biases[kernel]
    proved = {fit.stacked for bias in biases for fit in roles.fits(kernel, bias)}
    if len(proved) == 1:
        return proved.pop()
    if proved:
        if scope.lengths is not None and len(scope.lengths) in proved:
            return len(scope.lengths)
        label, bias = leaf.label, roles.leaves[biases[0]]
        raise ValueError(
            f"{label} of shape {leaf.shape} with its bias {bias.label} of shape {bias.shape} may "
            f"have {' or '.join(map(str, sorted(proved)))} leading axes of stacked layers; pass "
            "stacked, the number of leading axes that are stacked layers"
        )
    if scope.lengths is not None:
        return len(scope.lengths)
    for lengths in sorted(scope.others):
        if leaf.shape[: len(lengths)] == lengths and leaf.ndim - len(lengths) >= 2:
            warn_once(
                f"{leaf.label} of shape {leaf.shape} counts as a single layer, though some leaves "
                f"around it are of layers stacked as {lengths}; pass stacked, the number of "
                "leading axes that are stacked layers, to settle it"
            )
    return 0
