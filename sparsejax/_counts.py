"""Exact numbers of weights to keep."""

from __future__ import annotations

import numbers
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int32

from sparsejax import _checks
from sparsejax._dtypes import at_least_float32

MOST_TRACED = 2**31 - 1
"""The largest number of weights whose kept ones are counted for a traced sparsity."""
_MILLION = 10**6


def kept_weights(
    size: int, sparsity: Float[ArrayLike, ""] | Fraction | Decimal
) -> int | Int32[Array, ""]:
    r"""Return how many of ``size`` weights a sparsity keeps, in exact integer arithmetic.

    .. math:: \kappa = \max(1, \mathrm{round}(n (1 - s)))

    Halves are rounded to even. A known sparsity is read as the decimal number that it prints as, so
    that 0.98 is 98/100 in float32, too. A traced sparsity is rounded to a millionth, and the count
    is exact for that. So both give the same count if the sparsity has at most six decimals.

    Args:
      size: the number n of weights, an integer >= 0; at most 2**31 - 1 for a traced sparsity.
      sparsity: the fraction s of weights to remove, a scalar in ``[0, 1)``; may be traced. With 0
        all weights are kept.

    Returns:
      A Python integer, or an int32 scalar if ``sparsity`` is traced. At least 1 if ``size`` is.

    Raises:
      TypeError: ``size`` is not an integer, or ``sparsity`` is not a number.
      ValueError: ``size`` is out of range, or ``sparsity`` is not in ``[0, 1)``.

    Example:
      >>> from sparsejax.transforms import kept_weights
      >>> kept_weights(138_357_544, 0.98)
      2767151
    """
    known = exact_sparsity("sparsity", sparsity)
    most = None if isinstance(known, Fraction) else MOST_TRACED
    size = _checks.python_integer("size", size, 0, most)
    if isinstance(known, Fraction):
        return kept(size, known, Fraction(1))
    return kept_traced(size, known)


def exact_sparsity(name: str, value: Any) -> Fraction | Float[Array, ""]:
    """Return a known sparsity as the fraction that its decimals spell, and a traced one as it is.

    Raises:
      TypeError: the value is not a number.
      ValueError: the value is not a scalar, or it is known and not in [0, 1).
    """
    allowed = f"{name} must be a number in [0, 1)"
    if isinstance(value, (Fraction, Decimal)):
        exact = _fraction(value)
    else:
        if isinstance(value, bool) or not (
            isinstance(value, (numbers.Real, np.ndarray, jax.Array))
            and jnp.issubdtype(jnp.result_type(value), jnp.number)
        ):
            raise TypeError(f"{allowed}; got {value!r} ({type(value).__name__})")
        if np.ndim(value) != 0:  # type: ignore[arg-type]
            raise ValueError(f"{allowed}; got shape {np.shape(value)}")  # type: ignore[arg-type]
        number = _checks.known(value)
        if number is None:
            return jnp.asarray(value)
        if number.dtype.name not in ("float16", "float32", "float64"):
            number = number.astype(np.float64)
        exact = _fraction(str(number[()]))
    if exact is None or not 0 <= exact < 1:
        raise ValueError(f"{allowed}; got {value}")
    return exact


def kept(size: int, sparsity: Fraction, progress: Fraction) -> int:
    """Return ``max(1, round(size (1 - sparsity progress)))``, with halves rounded to even."""
    over, under = kept_ratio(size, sparsity, progress)
    whole, rest = divmod(over, under)
    return max(min(1, size), whole + (2 * rest + (whole & 1) > under))


def kept_ratio(size: int, sparsity: Fraction, progress: Fraction) -> tuple[int, int]:
    """Return ``size (1 - sparsity progress)`` as a pair of integers, not in lowest terms."""
    under = sparsity.denominator * progress.denominator
    return size * (under - sparsity.numerator * progress.numerator), under


def kept_traced(size: int, sparsity: Float[Array, ""]) -> Int32[Array, ""]:
    """Return the same count for a traced sparsity, which is rounded to a millionth.

    With size = 10^6 a + 10^3 b + c and p millionths to keep, size p / 10^6 is
    a p + (10^3 (b p mod 10^3) + c p) / 10^6 + floor(b p / 10^3), and no term exceeds 2^31.
    """
    wide = sparsity.astype(at_least_float32(sparsity))
    removed = jnp.clip(jnp.round(wide * _MILLION), 0, _MILLION).astype(jnp.int32)
    p = _MILLION - removed
    a, b, c = size // _MILLION, size // 1000 % 1000, size % 1000
    middle = b * p
    rest = middle % 1000 * 1000 + c * p
    whole = a * p + middle // 1000 + rest // _MILLION
    rest = rest % _MILLION
    up = 2 * rest + (whole & 1) > _MILLION
    return jnp.maximum(min(1, size), whole + up.astype(jnp.int32)).astype(jnp.int32)


def _fraction(value: str | Fraction | Decimal) -> Fraction | None:
    try:
        return Fraction(value)
    except (ValueError, OverflowError):  # NaN and infinities
        return None
