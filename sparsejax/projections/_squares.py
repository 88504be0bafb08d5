"""Sums of squares of groups of entries, the same to the last bit in whatever order they are added.

A floating-point sum depends on the order of its terms, so that it differs between one device and
several, and between two groups with the same entries in another order. Here squares are added as
integers, in digits of base 4096 whose place depends on the largest entry of the group alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.projections._keys import KeyFormat

_WIDTH = 12  # bits of a digit
_MOST = 2**19  # so many digits are added in an int32 without overflow
_ABOVE = 3  # digits that hold what fewer than 2**31 squares below 1 add up to, beyond 1


class SquaredNorms(NamedTuple):
    """One number for each group: sum_j digits[j] * 4096^(place + 2 - j), times a common constant.

    Of entries of at most float32 bits that are within 2^-18 of the group's largest nothing is lost;
    what smaller ones lose is below 2^-59 of the whole for each of them (float64: 2^-13, 2^-78).
    """

    largest: jax.Array
    """The key of the group's largest entry."""
    place: jax.Array
    """int32."""
    digits: list[jax.Array]
    """int32, highest first, each from 0 to 4095."""


def squared_norms(
    array: jax.Array, inner: tuple[int, ...], names: frozenset[str], ranks: KeyFormat
) -> SquaredNorms:
    """Of each group of an array.

    Args:
      array: floating point; finite entries are added up.
      inner: the dimensions inside a group, rising; the results have the others.
      names: the mesh axes that cut groups, where the code sees a piece of them.
      ranks: the format of keys that all leaves ranked together share.

    Raises:
      ValueError: a dimension inside a group has more than 2**19 entries.
    """
    for axis in inner:
        if array.shape[axis] > _MOST:
            raise ValueError(
                f"a dimension that is summed over may have {_MOST} entries at most; one of a leaf "
                f"of shape {array.shape} has {array.shape[axis]}"
            )
    keys, stored = ranks.keys(array), jnp.finfo(ranks.dtype).nmant
    largest = jnp.max(keys, inner, initial=0)
    if names:
        largest = lax.pmax(largest, tuple(sorted(names)))
    # Exponents are rounded up to sixes: so the digits of squares lie on one grid for all groups.
    place = (jnp.maximum(largest >> stored, 1) + 5) // 6
    exponent = jnp.maximum(keys >> stored, 1)  # of subnormals too
    mantissa = (keys & (ranks.octave - 1)) + jnp.where(keys >= ranks.octave, ranks.octave, 0)
    dropped = stored + 1 - exponent + 6 * jnp.expand_dims(place, inner)
    digits = [_bits(mantissa, dropped - _WIDTH * (j + 1)) for j in range(_digits(ranks))]
    squares = _carry(_times(digits, digits), 1)
    return SquaredNorms(largest, place.astype(jnp.int32), _sum(squares, inner, names))


def divided(norms: SquaredNorms, divisor: int) -> SquaredNorms:
    """The quotients by an integer from 1 to 2**31 - 1, with two more digits, the rest cut off."""
    if divisor == 1:
        return norms
    zero = jnp.zeros_like(norms.digits[0])
    digits = jnp.stack([*norms.digits, zero, zero])
    weights = jnp.arange(_WIDTH, dtype=jnp.int32)[::-1].reshape(1, _WIDTH, *([1] * zero.ndim))
    bits = ((digits[:, None] >> weights) & 1).astype(jnp.uint32)

    def long_division(rest, bit):
        rest = 2 * rest + bit
        fits = rest >= jnp.uint32(divisor)
        return jnp.where(fits, rest - jnp.uint32(divisor), rest), fits

    _, quotient = lax.scan(long_division, zero.astype(jnp.uint32), bits.reshape(-1, *zero.shape))
    digits = (quotient.reshape(bits.shape).astype(jnp.int32) << weights).sum(1, dtype=jnp.int32)
    return norms._replace(digits=list(digits))


def ranked(norms: SquaredNorms, ranks: KeyFormat) -> list[jax.Array]:
    """Integers from 0 to 2**24, first the most important, that rank numbers of this kind.

    They hold the number's leading 49 bits at least (float64: 73): what agrees in them is a tie.
    """
    kept = _digits(ranks) + 1
    zero = jnp.zeros_like(norms.place)
    digits = jnp.stack([*norms.digits, *([zero] * kept)])
    first = jnp.argmax(digits != 0, axis=0).astype(jnp.int32)
    where = first + jnp.arange(kept, dtype=jnp.int32).reshape(kept, *([1] * zero.ndim))
    leading = jnp.take_along_axis(digits, where, axis=0)
    exponent = norms.place + (2 * _digits(ranks) + 2 + _ABOVE) - first  # never negative
    words = [jnp.where(leading[0] > 0, (exponent << _WIDTH) | leading[0], 0)]
    words += [(leading[j] << _WIDTH) | leading[j + 1] for j in range(1, kept, 2)]
    infinite = norms.largest >= ranks.infinity  # then all its kind tie
    highest = [1 << (2 * _WIDTH)] + [0] * (len(words) - 1)
    return [
        jnp.where(infinite, high, word).astype(jnp.int32)
        for high, word in zip(highest, words, strict=True)
    ]


def _digits(ranks: KeyFormat) -> int:
    """How many digits of an entry are squared; even."""
    return 4 if jnp.finfo(ranks.dtype).nmant < 24 else 6


def _bits(mantissa: jax.Array, dropped: jax.Array) -> jax.Array:
    """The digit that is the lowest one after ``dropped`` bits are."""
    most = 8 * mantissa.dtype.itemsize - 1
    digit = (mantissa >> jnp.clip(dropped, 0, most)) << jnp.clip(-dropped, 0, most)
    return (digit & ((1 << _WIDTH) - 1)).astype(jnp.int32)


def _times(left: Sequence[jax.Array], right: Sequence[jax.Array]) -> list[jax.Array]:
    """The product's digits, not yet carried."""
    product = [jnp.zeros_like(left[0])] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            product[i + j] = product[i + j] + a * b
    return product


def _carry(digits: Sequence[jax.Array], more: int) -> list[jax.Array]:
    """The same number in digits below 4096, with so many ``more`` at the top."""
    zero = jnp.zeros_like(digits[0])
    carried, over = [], zero
    for digit in (*reversed(digits), *([zero] * more)):
        over = over + digit
        carried.append(over & ((1 << _WIDTH) - 1))
        over = over >> _WIDTH
    return carried[::-1]


def _sum(
    digits: Sequence[jax.Array], inner: tuple[int, ...], names: frozenset[str]
) -> list[jax.Array]:
    """Added up over the dimensions ``inner`` and over devices."""
    together = math.prod(digits[0].shape[axis] for axis in inner) <= _MOST
    passes = [inner] if together else [(axis,) for axis in reversed(inner)]
    for number, axes in enumerate(passes):
        # One reduction of several operands, that nothing of the size of the entries is stored.
        zeros = tuple(jnp.asarray(0, jnp.int32) for _ in digits)
        sums = lax.reduce(tuple(digits), zeros, _added, axes)
        digits = _carry(sums, 0 if number else _ABOVE)
    if names:
        digits = _carry(list(lax.psum(jnp.stack(digits), tuple(sorted(names)))), 0)
    return list(digits)


def _added(left: Any, right: Any) -> Any:
    return tuple(a + b for a, b in zip(left, right, strict=True))
