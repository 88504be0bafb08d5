"""Counts beyond 2^31 in pairs of int32 words, since 64-bit integers are usually switched off."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax import _checks

_BITS = 16  # of the low word, so that the low words of 2**15 leaves can be summed
_MASK = (1 << _BITS) - 1
_INT32 = 2**31 - 1
_ONE_WORD = _INT32  # larger counts are in two words; tests lower it
_LARGEST = 2**31 << _BITS


def count_words(name: str, value: Any, most: int) -> jax.Array:
    """Return a count in ``[0, most]`` as an int32 scalar or, if ``most`` needs it, as two words.

    Args:
      name: the name of the argument in error messages.
      value: an integer scalar, or an array [2] of uint32: the high and the low 32 bits.
      most: the largest allowed value, below 2**47.

    Returns:
      An int32 scalar if ``most`` is at most 2**31 - 1. Otherwise int32 words [2], the number above
      the lowest 16 bits and these bits.

    Raises:
      TypeError: the value is not an integer.
      ValueError: the value is not a scalar or a pair, it is out of range, or ``most`` is.
    """
    if most >= _LARGEST:
        raise ValueError(f"{name} can be at most {_LARGEST - 1}; the tree allows {most}")
    if jnp.shape(value) == (2,) and jnp.result_type(value) == jnp.uint32:
        return _from_pair(name, jnp.asarray(value), most)
    if most <= _ONE_WORD:
        return _checks.scalar_count(name, value, most)
    number = _checks.known(value)
    if number is None:
        low = _checks.scalar_count(name, value, min(most, _INT32))
        return jnp.stack([low >> _BITS, low & _MASK])
    _checks.scalar_count(name, value, most)
    return _known_words(int(number))


def excess(counts: jax.Array, wanted: jax.Array) -> jax.Array:
    """Subtract a wanted count, from `count_words`, from sums of int32 counts.

    Args:
      counts: int32 array [..., n], n < 2**15, of counts >= 0 that are summed over the last axis.
      wanted: the count to subtract.

    Returns:
      int32 array [...]; differences that do not fit are replaced by the nearest number that does.
    """
    if not wanted.ndim:
        return counts.sum(-1, dtype=jnp.int32) - wanted
    high = (counts >> _BITS).sum(-1, dtype=jnp.int32) - wanted[0]
    low = (counts & _MASK).sum(-1, dtype=jnp.int32) - wanted[1]
    high, low = high + (low >> _BITS), low & _MASK
    limit = 1 << (31 - _BITS)
    inside = (high << _BITS) | low
    return jnp.where(high >= limit, _INT32, jnp.where(high < -limit, -_INT32 - 1, inside))


def as_float(count: jax.Array) -> jax.Array:
    """Return a count from `count_words` in float32, rounded."""
    words = count.astype(jnp.float32)
    return words[0] * 2.0**_BITS + words[1] if count.ndim else words


def _from_pair(name: str, pair: jax.Array, most: int) -> jax.Array:
    known = _checks.known(pair)
    if known is not None:
        return count_words(name, (int(known[0]) << 32) | int(known[1]), most)
    high, low = pair[0], pair[1]
    # As in all traced counts, what is too large is clipped; `most` is below 2**47.
    limit_high, limit_low = np.uint32(most >> 32), np.uint32(most & 0xFFFFFFFF)
    over = (high > limit_high) | ((high == limit_high) & (low > limit_low))
    high, low = jnp.where(over, limit_high, high), jnp.where(over, limit_low, low)
    if most <= _ONE_WORD:
        return low.astype(jnp.int32)
    upper = (high << (32 - _BITS)) | (low >> _BITS)
    return jnp.stack([upper.astype(jnp.int32), (low & np.uint32(_MASK)).astype(jnp.int32)])


def _known_words(number: int) -> jax.Array:
    return jnp.asarray([number >> _BITS, number & _MASK], jnp.int32)
