"""Checks that several files of this room share; what is known is checked, what is traced passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax import _checks
from sparsejax._where import PyTree


def scalar(name: str, value: Any, allowed: str, fits: Callable[[float], bool]) -> jax.Array:
    """``value`` as a scalar of float32 or wider.

    Raises:
      TypeError: not a number.
      ValueError: not a scalar, or a known number that does not fit.
    """
    if not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
        raise TypeError(f"{name} must be {allowed}; got {value!r} ({type(value).__name__})")
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be {allowed}; got shape {jnp.shape(value)}")
    number = _checks.known(value)
    if number is not None and not fits(float(number)):
        raise ValueError(f"{name} must be {allowed}; got {value}")
    return jnp.asarray(value, jnp.promote_types(jnp.result_type(value), jnp.float32))


def schedule(
    name: str, value: optax.ScalarOrSchedule, allowed: str, fits: Callable[[float], bool]
) -> Callable[[jax.Array], jax.Array]:
    """``value`` as a function of the step; of a schedule the first value is checked."""
    if callable(value):
        scalar(f"{name}(0)", value(0), allowed, fits)
        return lambda count: jnp.asarray(value(count))
    constant = scalar(name, value, allowed, fits)
    return lambda count: constant


def check_multipliers(multipliers: PyTree, equality: bool) -> None:
    """Raise where multipliers are not floating point, not finite or of the wrong sign."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(multipliers)[0]:
        where = jax.tree_util.keystr(path) or "its leaf"
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"multipliers must be floating point; {where} is of dtype {jnp.result_type(leaf)}"
            )
        number = _checks.known(leaf)
        if number is None:
            continue
        bad = ~np.isfinite(number) if equality else ~(np.isfinite(number) & (number >= 0))
        if bad.any():
            allowed = "finite" if equality else "finite and >= 0 (those of inequality constraints)"
            raise ValueError(f"multipliers must be {allowed}; {where} holds {number[bad].flat[0]}")


def check_like_multipliers(violation: PyTree, multipliers: PyTree) -> None:
    """Raise ValueError where violations and multipliers differ in structure or in a shape."""
    structures: tuple[Any, Any] = jax.tree.structure(violation), jax.tree.structure(multipliers)
    if structures[0] != structures[1]:
        raise ValueError(
            "violation must have the structure of the multipliers; its structure is "
            f"{structures[0]}, theirs is {structures[1]}"
        )
    flat, _ = jax.tree_util.tree_flatten_with_path(violation)
    for (path, leaf), multiplier in zip(flat, jax.tree.leaves(multipliers), strict=True):
        if jnp.shape(leaf) != jnp.shape(multiplier):
            raise ValueError(
                f"violation must have the shapes of the multipliers; "
                f"{jax.tree_util.keystr(path) or 'its leaf'} has shape {jnp.shape(leaf)}, its "
                f"multiplier {jnp.shape(multiplier)}"
            )


def check_finite(violation: PyTree) -> None:
    """Raise ValueError naming the first leaf that is known and not finite."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(violation)[0]:
        number = _checks.known(leaf)
        if number is not None and not np.isfinite(number).all():
            raise ValueError(
                f"violation must be finite; {jax.tree_util.keystr(path) or 'its leaf'} holds "
                f"{number[~np.isfinite(number)].flat[0]}"
            )
