"""Number of leading axes of a gated leaf that are stacked layers, given or inferred."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, PyTree

from sparsejax._misfit import misfit
from sparsejax._roles import Roles
from sparsejax._where import is_function, warn_once

StackedAxes = int | Callable[[tuple[Any, ...], Any], int] | Any | None
"""The number of leading axes that are stacked layers: one number for all gated leaves, a callable
``(path, leaf) -> int``, a pytree of numbers (or a prefix of one), or None to infer it."""


def given_stacked_axes(params: PyTree[Array], stacked_axes: StackedAxes) -> list[int | None]:
    """The number that ``stacked_axes`` gives for each leaf, in ``jax.tree`` order.

    Raises:
      ValueError: ``stacked_axes`` is a pytree that is no prefix of ``params``.
      TypeError: a number is not an integer >= 0.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    if stacked_axes is None:
        return [None] * len(flat)
    if is_function(stacked_axes):
        counts = [stacked_axes(path, leaf) for path, leaf in flat]
    else:
        try:
            counts = jax.tree.leaves(jax.tree.broadcast(stacked_axes, params))
        except ValueError as error:
            raise ValueError(
                "stacked_axes must be an integer, a callable (path, leaf) -> int, or a pytree of "
                f"integers that is a prefix of params; {misfit(stacked_axes, params, 'params')}"
            ) from error
    for count in counts:
        if not isinstance(count, int) or count < 0:
            raise TypeError(
                f"stacked_axes must be a number of leading axes, an integer >= 0; got {count!r} "
                f"({type(count).__name__})"
            )
    return [int(count) for count in counts]


def infer_stacked_axes(roles: Roles, kernel: int) -> int:
    """Infer the number of stacked axes of a kernel from the leaves around it.

    The bias of the kernel decides if it has the same leading axes. Otherwise the biases and scales
    below the nearest node above the kernel decide, if all leaves below that node have these leading
    axes. Without such evidence no axis is stacked.

    Raises:
      ValueError: the bias fits the kernel in several ways, and no other leaf decides.

    Warns:
      UserWarning: some of the leaves around the kernel, but not all, are stacked layers, as many as
        its first axis is long; the kernel counts as a single layer.
    """
    leaf, scope = roles.leaves[kernel], roles.scope(kernel)
    biases = roles.biases[kernel]
    possible = {fit.stacked for bias in biases for fit in roles.fits(kernel, bias)}
    if len(possible) == 1:
        return possible.pop()
    if possible:
        if scope.lengths is not None and len(scope.lengths) in possible:
            return len(scope.lengths)
        label, bias = leaf.label, roles.leaves[biases[0]]
        raise ValueError(
            f"{label} of shape {leaf.shape} with its bias {bias.label} of shape {bias.shape} may "
            f"have {' or '.join(map(str, sorted(possible)))} leading axes of stacked layers; pass "
            "stacked_axes, the number of leading axes that are stacked layers"
        )
    if scope.lengths is not None:
        return len(scope.lengths)
    for lengths in sorted(scope.others):
        if leaf.shape[: len(lengths)] == lengths and leaf.ndim - len(lengths) >= 2:
            warn_once(
                f"{leaf.label} of shape {leaf.shape} counts as a single layer, though some leaves "
                f"around it are layers stacked along axes of lengths {lengths}; pass stacked_axes, "
                "the number of leading axes that are stacked layers, to settle it"
            )
    return 0
