"""Checks of arguments: concrete values are checked, and traced values pass."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from sparsejax._dtypes import at_least_float32

_INT32 = 2**31 - 1


def known(value: Any) -> np.ndarray | None:
    """Return ``value`` as a numpy array, or None if it is traced or not addressable here."""
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array) and not (
        value.is_fully_addressable or value.is_fully_replicated
    ):
        return None
    return np.asarray(value)


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of a shape broadcasts to another shape."""
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def python_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return ``value`` as a Python integer in ``[least, most]``, for what must not be traced.

    Raises:
      TypeError: ``value`` is not an integer, or is a bool.
      ValueError: ``value`` is out of range.
    """
    allowed = f"an integer >= {least}" if most is None else f"an integer from {least} to {most}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be {allowed}; got {value!r}")
    number = operator.index(value)
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name} must be {allowed}; got {value}")
    return number


def scalar_count(name: str, value: Any, most: int | None = None) -> Int32[Array, ""]:
    """Return ``value`` as an int32 scalar in ``[0, most]``.

    A concrete value out of range is an error; a traced value is clipped, since it cannot raise.
    What does not fit in an int32 becomes the largest one.

    Raises:
      TypeError: the value is not a number, or it is traced and not an integer.
      ValueError: the value is not a scalar, negative, larger than ``most``, or a float. A float is
        refused even if it is whole, since 1.0 may be meant as a fraction.
    """
    allowed = "an integer >= 0" if most is None else f"an integer from 0 to {most}"
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be {allowed}; got shape {jnp.shape(value)}")
    number = known(value)
    if number is None:
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(f"{name} must be {allowed}; got a traced {value.dtype}")
        value = value.astype(jnp.int32) if value.dtype.itemsize < 4 else value
        return jnp.clip(value, 0, min(_INT32 if most is None else most, _INT32)).astype(jnp.int32)
    if number.dtype.kind == "f":
        raise ValueError(
            f"{name} must be {allowed}; got {value}. It is a count: for a fraction of n weights "
            "pass int(fraction * n)"
        )
    if number.dtype.kind not in "iu":
        raise TypeError(f"{name} must be {allowed}; got {value!r} ({type(value).__name__})")
    if not (number >= 0 and (most is None or number <= most)):
        raise ValueError(f"{name} must be {allowed}; got {value}")
    return jnp.asarray(min(int(number), _INT32), jnp.int32)


def scalar(name: str, value: Any, allowed: str, fits: Callable[[float], bool]) -> Float[Array, ""]:
    """Return ``value`` as a scalar of float32 or wider.

    Raises:
      TypeError: the value is not a number.
      ValueError: the value is not a scalar, or it is concrete and does not fit.
    """
    if not isinstance(value, (int, float, np.ndarray, np.generic, jax.Array)):
        raise TypeError(f"{name} must be {allowed}; got {value!r} ({type(value).__name__})")
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be {allowed}; got shape {jnp.shape(value)}")
    number = known(value)
    if number is not None and not fits(float(number)):
        raise ValueError(f"{name} must be {allowed}; got {value}")
    # The dtype of the array decides: under x64 a Python number by itself would give float32.
    return jnp.asarray(value, at_least_float32(jnp.asarray(value).dtype))


def schedule(
    name: str, value: optax.ScalarOrSchedule, allowed: str, fits: Callable[[float], bool]
) -> Callable[[jax.Array], Float[Array, ""]]:
    """Return ``value`` as a function of the step, and check a constant or a schedule's first value.

    Raises:
      TypeError: the value is not a number.
      ValueError: the value is not a scalar, or it is concrete and does not fit.
    """
    if callable(value):
        scalar(f"{name}(0)", value(0), allowed, fits)
        return lambda count: jnp.asarray(value(count))
    constant = scalar(name, value, allowed, fits)
    return lambda count: constant


def scalar_at_least_zero(name: str, value: Any) -> Float[Array, ""]:
    """Return ``value`` as a floating-point scalar >= 0; a traced value is not checked.

    Raises:
      TypeError: the value is not a number.
      ValueError: the value is not a scalar, negative, or NaN.
    """
    return scalar(name, value, "a number >= 0", lambda x: x >= 0)


def no_nan(name: str, paths: list[str], leaves: list[jax.Array]) -> None:
    """Check that no concrete leaf holds NaN.

    Raises:
      ValueError: a leaf holds NaN; the message names its path.
    """
    _hold_none(name, "NaN", jnp.isnan, paths, leaves)


def finite(name: str, paths: list[str], leaves: list[jax.Array]) -> None:
    """Check that no concrete leaf holds NaN or infinity.

    Raises:
      ValueError: a leaf holds one; the message names its path.
    """
    _hold_none(name, "NaN or infinity", lambda leaf: ~jnp.isfinite(leaf), paths, leaves)


def _hold_none(
    name: str,
    what: str,
    find: Callable[[jax.Array], jax.Array],
    paths: list[str],
    leaves: list[jax.Array],
) -> None:
    for path, leaf in zip(paths, leaves, strict=True):
        if isinstance(leaf, jax.core.Tracer) or not leaf.is_fully_addressable:
            continue
        with jax.ensure_compile_time_eval():  # the leaf is concrete, even inside a trace
            found = find(leaf)
            any_found = bool(found.any())
        if any_found:
            count = np.count_nonzero(np.asarray(found))  # a sum on the device is int32
            raise ValueError(
                f"{name} must not hold {what}; it has {what} in {count} of the {leaf.size} entries "
                f"of {path or 'its leaf'}"
            )


def compression(name: str, value: Any) -> None:
    """Raise TypeError if ``value`` is no C step; one that was not called is said to be so."""
    if hasattr(value, "init") and hasattr(value, "project"):
        return
    raise TypeError(f"{name} must be a Compression; got {value!r}{call_it(value)}")


def call_it(value: Any, of: str = "sparsejax.") -> str:
    """Return the end of a message about an argument that may be a function, not called.

    Args:
      value: the argument.
      of: the beginning of the names of the modules whose functions may be meant.
    """
    meant = callable(value) and (getattr(value, "__module__", None) or "").startswith(of)
    return f"; call it: {value.__name__}(...)" if meant and hasattr(value, "__name__") else ""
