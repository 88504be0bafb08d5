"""Checks of multipliers and violations; known values are checked, traced values are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from sparsejax import _checks
from sparsejax._misfit import misfit


def check_multipliers(multipliers: PyTree[Array], equality: bool) -> None:
    """Check that multipliers are floating point, finite, and >= 0 unless ``equality``.

    Raises:
      TypeError: a multiplier is not floating point.
      ValueError: a multiplier is not finite, or is negative and belongs to an inequality.
    """
    if equality:
        check_floats("multipliers", multipliers, "finite", np.isfinite)
    else:
        allowed = "finite and >= 0 (those of inequality constraints)"
        check_floats("multipliers", multipliers, allowed, lambda x: np.isfinite(x) & (x >= 0))


def check_floats(
    name: str, tree: PyTree[Array], allowed: str, fits: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Check that the leaves of a tree are floating point, and that known entries fit.

    Raises:
      TypeError: a leaf is not floating point.
      ValueError: an entry does not fit.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        where = jax.tree_util.keystr(path) or "its leaf"
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{name} must be floating point; {where} has dtype {jnp.result_type(leaf)}"
            )
        number = _checks.known(leaf)
        if number is not None and (bad := ~fits(number)).any():
            raise ValueError(f"{name} must be {allowed}; {where} holds {number[bad].flat[0]}")


def check_like_multipliers(violation: PyTree[Array], multipliers: PyTree[Array]) -> None:
    """Raise ValueError if violations and multipliers differ in structure or in a shape."""
    check_like(violation, multipliers, "multiplier", "which descent_ascent and init are given")


def check_like(violation: PyTree[Array], other: PyTree[Array], one: str, which: str = "") -> None:
    """Raise ValueError if violations and another tree, with ``one`` for each, do not fit."""
    structures: tuple[Any, Any] = jax.tree.structure(violation), jax.tree.structure(other)
    if structures[0] != structures[1]:
        raise ValueError(
            f"violation must have the structure of the {one}s{which and ', ' + which}; "
            f"{misfit(violation, other, f'the {one}s')}"
        )
    flat, _ = jax.tree_util.tree_flatten_with_path(violation)
    for (path, leaf), its in zip(flat, jax.tree.leaves(other), strict=True):
        if jnp.shape(leaf) != jnp.shape(its):
            raise ValueError(
                f"violation must have the shapes of the {one}s; "
                f"{jax.tree_util.keystr(path) or 'its leaf'} has shape {jnp.shape(leaf)}, its "
                f"{one} {jnp.shape(its)}"
            )


def check_differentiable(violation: PyTree[Array]) -> None:
    """Raise TypeError if a violation is an array of integers or booleans."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(violation)[0]:
        dtype = getattr(leaf, "dtype", None)
        if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                "violation must be floating point, since integers and booleans have no gradient; "
                f"{jax.tree_util.keystr(path) or 'its leaf'} has dtype {dtype}. with_surrogate "
                "gives it the gradient of another function"
            )


def check_finite(violation: PyTree[Array]) -> None:
    """Raise ValueError naming the first leaf with a known value that is not finite."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(violation)[0]:
        number = _checks.known(leaf)
        if number is not None and not np.isfinite(number).all():
            raise ValueError(
                f"violation must be finite; {jax.tree_util.keystr(path) or 'its leaf'} holds "
                f"{number[~np.isfinite(number)].flat[0]}"
            )


def gains(
    name: str, value: Any, allowed: str, fits: Callable[[float], bool]
) -> Callable[[Array, PyTree[Array]], PyTree[Array]]:
    """Return a gain, one for all constraints or one for each, as a function of step and tree.

    Args:
      name: the name of the gain in error messages.
      value: a scalar, a schedule, or a pytree of these and of arrays that is a prefix of the
        multipliers.
      allowed: what a gain may be, for error messages.
      fits: whether a known gain is allowed.

    Returns:
      ``(step, multipliers) -> gains``, a tree like the multipliers whose leaves broadcast to
      theirs.

    Raises:
      TypeError: a gain is not a number.
      ValueError: a known gain does not fit.
    """

    def one(path: Any, gain: Any) -> Callable[[Array], Array]:
        label = name + jax.tree_util.keystr(path)
        if callable(gain) or np.ndim(gain) == 0:
            return _checks.schedule(label, gain, allowed, fits)
        number = _checks.known(gain)
        if number is not None and not all(fits(float(x)) for x in number.flat):
            raise ValueError(f"{label} must hold {allowed}; got {gain}")
        array = jnp.asarray(gain)
        return lambda step: array

    found = jax.tree_util.tree_map_with_path(one, value, is_leaf=lambda node: node is None)

    def at(step: Array, multipliers: PyTree[Array]) -> PyTree[Array]:
        try:
            spread = jax.tree.broadcast(found, multipliers)
        except ValueError as error:
            raise ValueError(
                f"{name} must be a scalar, a schedule or a prefix of the multipliers; "
                f"{misfit(value, multipliers, 'the multipliers')}"
            ) from error

        def of_leaf(path: Any, gain: Callable[[Array], Array], multiplier: Array) -> Array:
            found = gain(step)
            if not _checks.broadcasts(found.shape, jnp.shape(multiplier)):
                raise ValueError(
                    f"{name}{jax.tree_util.keystr(path)} must broadcast to the shape of its "
                    f"multiplier, {jnp.shape(multiplier)}; got shape {found.shape}"
                )
            return found

        return jax.tree_util.tree_map_with_path(of_leaf, spread, multipliers)

    return at
