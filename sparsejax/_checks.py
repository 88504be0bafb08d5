"""Checks of arguments where they enter: values that are known are checked, traced ones pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax._dtypes import at_least_float32


def known(value: Any) -> np.ndarray | None:
    """``value`` as a numpy array; ``None`` while it is traced or on another process's devices."""
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array) and not (
        value.is_fully_addressable or value.is_fully_replicated
    ):
        return None
    return np.asarray(value)


def scalar_count(name: str, value: Any, most: int | None = None) -> jax.Array:
    """``value`` as an int32 scalar in ``[0, most]``.

    A known value out of range is an error; a traced one is clipped, since it cannot raise.

    Raises:
      TypeError: not a number, or a traced value that is not an integer.
      ValueError: not a scalar, negative, larger than ``most``, or a float, even a whole one: who
        writes 1.0 may mean a fraction.
    """
    allowed = "an integer >= 0" if most is None else f"an integer from 0 to {most}"
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be {allowed}; got shape {jnp.shape(value)}")
    number = known(value)
    if number is None:
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(f"{name} must be {allowed}; got a traced {value.dtype}")
        return jnp.clip(value, 0, most).astype(jnp.int32)
    if number.dtype.kind == "f":
        raise ValueError(
            f"{name} must be {allowed}; got {value}; it is a count: for a fraction of n weights "
            "pass int(fraction * n)"
        )
    if number.dtype.kind not in "iu":
        raise TypeError(f"{name} must be {allowed}; got {value!r} ({type(value).__name__})")
    if not (number >= 0 and (most is None or number <= most)):
        raise ValueError(f"{name} must be {allowed}; got {value}")
    return jnp.asarray(int(number), jnp.int32)


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
    number = known(value)
    if number is not None and not fits(float(number)):
        raise ValueError(f"{name} must be {allowed}; got {value}")
    # By its dtype, since a Python number alone would count as no wider than float32 under x64.
    return jnp.asarray(value, at_least_float32(jnp.asarray(value).dtype))


def schedule(
    name: str, value: optax.ScalarOrSchedule, allowed: str, fits: Callable[[float], bool]
) -> Callable[[jax.Array], jax.Array]:
    """``value`` as a function of the step; of a schedule the first value is checked."""
    if callable(value):
        scalar(f"{name}(0)", value(0), allowed, fits)
        return lambda count: jnp.asarray(value(count))
    constant = scalar(name, value, allowed, fits)
    return lambda count: constant


def scalar_at_least_zero(name: str, value: Any) -> jax.Array:
    """``value`` as a floating-point scalar that is not negative (a traced one is not checked).

    Raises:
      TypeError: not a number.
      ValueError: not a scalar, negative, or NaN.
    """
    return scalar(name, value, "a number >= 0", lambda x: x >= 0)


def no_nan(name: str, paths: list[str], leaves: list[jax.Array]) -> None:
    """Raise ValueError naming the first leaf that is known and holds NaN."""
    for path, leaf in zip(paths, leaves, strict=True):
        if isinstance(leaf, jax.core.Tracer) or not leaf.is_fully_addressable:
            continue
        with jax.ensure_compile_time_eval():  # known here, even while something else is traced
            count = int(jnp.isnan(leaf).sum())
        if count:
            raise ValueError(
                f"{name} holds NaN in {count} of the {leaf.size} entries of {path or 'its leaf'}; "
                "a projection is defined for numbers only"
            )
