"""Counts beyond 2^31 in pairs of int32 words, since 64-bit integers are usually switched off.

A count has two forms. Users see an int32 scalar or, where it may exceed 2^31 - 1, an array [2] of
uint32: its high and its low 32 bits. Arithmetic uses words, int32 [2]: the number above the lowest
16 bits, and these bits, so that the words of many counts can be summed.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def check_sizes(paths: Sequence[str], sizes: Sequence[int]) -> None:
    """Check that the entries of each leaf can be counted in an int32.

    Raises:
      ValueError: a leaf has more than 2**31 - 1 entries.
    """
    for path, size in zip(paths, sizes, strict=True):
        if size > _INT32:
            raise ValueError(
                f"each chosen leaf must have at most {_INT32} entries; "
                f"{path or 'the leaf'} has {size}. Split it into several leaves"
            )


def count_words(name: str, value: Any, most: int | None = None) -> jax.Array:
    """Return a count in ``[0, most]`` as an int32 scalar or, if ``most`` needs it, as two words.

    Args:
      name: the name of the argument in error messages.
      value: an integer scalar, or an array [2] of uint32: the high and the low 32 bits.
      most: the largest allowed value, below 2**47; None for any, in two words.

    Returns:
      An int32 scalar if ``most`` is at most 2**31 - 1. Otherwise words, int32 [2].

    Raises:
      TypeError: the value is not an integer.
      ValueError: the value is not a scalar or a pair, it is out of range, or ``most`` is.
    """
    if most is not None and most >= _LARGEST:
        raise ValueError(f"{name} can be at most {_LARGEST - 1}; the tree allows {most}")
    if jnp.shape(value) == (2,) and jnp.result_type(value) == jnp.uint32:
        return _from_pair(name, jnp.asarray(value), most)
    if most is not None and most <= _ONE_WORD:
        return _checks.scalar_count(name, value, most)
    _checks.scalar_count(name, value, most)
    number = _checks.known(value)
    if number is not None:
        return _known_words(min(int(number), _LARGEST - 1))
    value = value.astype(jnp.int32) if value.dtype.itemsize < 4 else value
    limit = min(_LARGEST - 1 if most is None else most, int(jnp.iinfo(value.dtype).max))
    value = jnp.clip(value, 0, value.dtype.type(limit))
    return jnp.stack([value >> _BITS, value & _MASK]).astype(jnp.int32)


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


def as_float(count: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """Return a count from `count_words` in floating point, rounded once."""
    words = count.astype(dtype)
    return words[0] * 2.0**_BITS + words[1] if count.ndim else words


def words_of(count: jax.Array) -> jax.Array:
    """Return the words of a count >= 0 in the form that users see."""
    if count.ndim:
        return _words_of_pair(count[0], count[1])
    return jnp.stack([count >> _BITS, count & _MASK]).astype(jnp.int32)


def as_count(words: jax.Array, most: int) -> jax.Array:
    """Return the count that users see of words whose number is in ``[0, most]``.

    Returns:
      An int32 scalar if ``most`` is at most 2**31 - 1, otherwise a pair, uint32 [2].
    """
    if most <= _ONE_WORD:
        return (words[0] << _BITS) | words[1]
    upper, low = words[0].astype(jnp.uint32), words[1].astype(jnp.uint32)
    return jnp.stack([upper >> (32 - _BITS), (upper << _BITS) | low])


def total(counts: Sequence[jax.Array]) -> jax.Array:
    """Return the words of the sum of fewer than 2**15 counts, int32 scalars >= 0."""
    if not counts:
        return jnp.zeros(2, jnp.int32)
    every = jnp.stack(counts)
    return _carried(
        (every >> _BITS).sum(0, dtype=jnp.int32), (every & _MASK).sum(0, dtype=jnp.int32)
    )


def without_fraction(words: jax.Array, fraction: jax.Array, least: jax.Array) -> jax.Array:
    r"""Return the words of what is left of n weights after a fraction of them is pruned.

    .. math:: \max(n - \lceil \text{fraction} \cdot n \rceil, \min(\text{least}, n))

    Args:
      words: those of n.
      fraction: scalar in [0, 1]. The product is rounded to its dtype before it is rounded up.
      least: the words of a count.
    """
    leaving = jnp.ceil(fraction * as_float(words, fraction.dtype))
    high = jnp.floor(leaving * 2.0**-_BITS)
    low = leaving - high * 2.0**_BITS  # exact, as a factor of a power of two is
    left = _carried(words[0] - high.astype(jnp.int32), words[1] - low.astype(jnp.int32))
    least = jnp.where(less(words, least), words, least)
    return jnp.where(less(left, least), least, left)


def less(left: jax.Array, right: jax.Array) -> jax.Array:
    """Return whether the number of some words is less than that of others."""
    return (left[0] < right[0]) | ((left[0] == right[0]) & (left[1] < right[1]))


def table(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Return known counts in the form that users see: int32 [r, n], or uint32 [r, n, 2].

    They are pairs if one of them exceeds 2**31 - 1.
    """
    counts = np.asarray(rows, np.int64)
    if counts.max(initial=0) <= _ONE_WORD:
        return counts.astype(np.int32)
    return np.stack([counts >> 32, counts & 0xFFFFFFFF], -1).astype(np.uint32)


def _carried(high: jax.Array, low: jax.Array) -> jax.Array:
    return jnp.stack([high + (low >> _BITS), low & _MASK])


def _from_pair(name: str, pair: jax.Array, most: int | None) -> jax.Array:
    known = _checks.known(pair)
    if known is not None:
        return count_words(name, (int(known[0]) << 32) | int(known[1]), most)
    high, low = pair[0], pair[1]
    # As in all traced counts, what is too large is clipped; the limit is below 2**47.
    limit = _LARGEST - 1 if most is None else most
    limit_high, limit_low = np.uint32(limit >> 32), np.uint32(limit & 0xFFFFFFFF)
    over = (high > limit_high) | ((high == limit_high) & (low > limit_low))
    high, low = jnp.where(over, limit_high, high), jnp.where(over, limit_low, low)
    return low.astype(jnp.int32) if limit <= _ONE_WORD else _words_of_pair(high, low)


def _words_of_pair(high: jax.Array, low: jax.Array) -> jax.Array:
    upper = (high << (32 - _BITS)) | (low >> _BITS)
    return jnp.stack([upper.astype(jnp.int32), (low & np.uint32(_MASK)).astype(jnp.int32)])


def _known_words(number: int) -> jax.Array:
    return jnp.asarray([number >> _BITS, number & _MASK], jnp.int32)
