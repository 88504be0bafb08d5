"""Sums of squares of groups of entries that are bit-identical in every order of summation.

A floating-point sum depends on the order of its terms, so it differs between one device and
several, and between two groups that hold the same entries in another order. Here squares are summed
as integers, in digits of base 4096 whose weight depends on the largest entry of the group alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.projections._count import sum_together
from sparsejax.projections._keys import KeyFormat
from sparsejax.projections._shards import automatic_shards

_WIDTH = 12  # bits of a digit
_MOST = 2**19  # the number of digits that can be summed in an int32 without overflow
_ABOVE = 3  # digits for the integer part of a sum of fewer than 2**31 squares below 1
_LEAST_PIECE = 16  # entries of a group in a piece, from which on pieces are summed by themselves


class SquaredNorms(NamedTuple):
    """The squared norm of each group: sum_j digits[j] * 4096^(place + 2 - j) times a constant.

    In dtypes of up to 32 bits, entries within a factor of 2^-18 of the group's largest are squared
    exactly, and a smaller entry loses less than 2^-59 of the sum (float64: 2^-13 and 2^-78).
    """

    largest: jax.Array
    """The key of the group's largest entry."""
    place: jax.Array
    """int32: the exponent of the group's digits."""
    digits: list[jax.Array]
    """int32 digits in ``[0, 4096)``, the most significant first."""


def squared_norms(
    array: jax.Array, inner: tuple[int, ...], names: frozenset[str], ranks: KeyFormat
) -> SquaredNorms:
    """Return the squared norm of each group of an array.

    Args:
      array: floating point; the result is defined where the entries of a group are finite.
      inner: the dimensions inside a group, in increasing order; the result has the other ones.
      names: the mesh axes that shard single groups.
      ranks: the key format of all leaves that are ranked together.

    Raises:
      ValueError: a dimension inside a group has more than 2**19 entries.
    """
    for axis in inner:
        if array.shape[axis] > _MOST:
            raise ValueError(
                f"a dimension that is summed over must have at most {_MOST} entries; dimension "
                f"{axis} of an array of shape {array.shape} has {array.shape[axis]}"
            )
    keys, stored = ranks.keys(array), jnp.finfo(ranks.dtype).nmant
    largest = jnp.max(keys, inner, initial=0)
    if names:
        largest = lax.pmax(largest, tuple(sorted(names)))
    # Exponents are rounded up to multiples of six, so that all groups share one grid of digits.
    place = (jnp.maximum(largest >> stored, 1) + 5) // 6
    exponent = jnp.maximum(keys >> stored, 1)  # 1 for subnormals, too
    mantissa = (keys & (ranks.octave - 1)) + jnp.where(keys >= ranks.octave, ranks.octave, 0)
    dropped = stored + 1 - exponent + 6 * jnp.expand_dims(place, inner)
    digits = [_bits(mantissa, dropped - _WIDTH * (j + 1)) for j in range(_digits(ranks))]
    squares = _carry(_times(digits, digits), 1)
    return SquaredNorms(largest, place.astype(jnp.int32), _sum(squares, inner, names))


def divided(norms: SquaredNorms, divisor: int) -> SquaredNorms:
    """Divide by an integer in ``[1, 2**31)`` with two more digits, rounding down."""
    if divisor == 1:
        return norms
    zero = jnp.zeros_like(norms.digits[0])
    digits = jnp.stack([*norms.digits, zero, zero])
    weights = jnp.arange(_WIDTH, dtype=jnp.int32)[::-1].reshape(1, _WIDTH, *([1] * zero.ndim))
    bits = ((digits[:, None] >> weights) & 1).astype(jnp.uint32)

    def long_division(rest: jax.Array, bit: jax.Array) -> tuple[jax.Array, jax.Array]:
        rest = 2 * rest + bit
        fits = rest >= jnp.uint32(divisor)
        return jnp.where(fits, rest - jnp.uint32(divisor), rest), fits

    _, quotient = lax.scan(long_division, zero.astype(jnp.uint32), bits.reshape(-1, *zero.shape))
    digits = (quotient.reshape(bits.shape).astype(jnp.int32) << weights).sum(1, dtype=jnp.int32)
    return norms._replace(digits=list(digits))


def ranked(norms: SquaredNorms, ranks: KeyFormat) -> list[jax.Array]:
    """Return the words that rank squared norms: int32 in ``[0, 2**24]``, most significant first.

    The words hold at least the leading 49 bits of a number (float64: 73 bits). Numbers that agree
    in them tie.
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
    infinite = norms.largest >= ranks.infinity  # all infinite groups tie
    highest = [1 << (2 * _WIDTH)] + [0] * (len(words) - 1)
    return [
        jnp.where(infinite, high, word).astype(jnp.int32)
        for high, word in zip(highest, words, strict=True)
    ]


def _digits(ranks: KeyFormat) -> int:
    """Return the number of digits of an entry that are squared, which is even."""
    return 4 if jnp.finfo(ranks.dtype).nmant < 24 else 6


def _bits(mantissa: jax.Array, dropped: jax.Array) -> jax.Array:
    """Return the lowest digit of a mantissa without its ``dropped`` lowest bits."""
    most = 8 * mantissa.dtype.itemsize - 1
    digit = (mantissa >> jnp.clip(dropped, 0, most)) << jnp.clip(-dropped, 0, most)
    return (digit & ((1 << _WIDTH) - 1)).astype(jnp.int32)


def _times(left: Sequence[jax.Array], right: Sequence[jax.Array]) -> list[jax.Array]:
    """Multiply two numbers; the digits of the product are not carried."""
    product = [jnp.zeros_like(left[0])] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            product[i + j] = product[i + j] + a * b
    return product


def _carry(digits: Sequence[jax.Array], more: int) -> list[jax.Array]:
    """Carry a number into digits below 4096, with ``more`` additional leading digits."""
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
    """Sum numbers over the dimensions ``inner`` and over the mesh axes ``names``."""
    together = math.prod(digits[0].shape[axis] for axis in inner) <= _MOST
    digits, inner, pieces = _split(digits, inner)
    passes = [inner] if together else [(axis,) for axis in reversed(inner)]
    for number, axes in enumerate(passes):
        # One variadic reduction, so that no array of the size of the entries is stored.
        digits = _carry(sum_together(digits, axes), 0 if number else _ABOVE)
    if pieces:  # XLA gathers the operands of a variadic reduction over devices, but adds up these
        digits = _carry(list(jnp.stack(digits).sum([1 + axis for axis in pieces])), 0)
    if names:
        digits = _carry(list(lax.psum(jnp.stack(digits), tuple(sorted(names)))), 0)
    return list(digits)


def _split(
    digits: Sequence[jax.Array], inner: tuple[int, ...]
) -> tuple[list[jax.Array], tuple[int, ...], list[int]]:
    """Split the dimensions ``inner`` into the pieces that the compiler may have sharded them into.

    Returns:
      The digits, their dimensions inside a piece, and, of what is left after summing over these,
      the dimensions that count pieces; none where that would leave much to be summed.
    """
    shape, shards = digits[0].shape, automatic_shards(digits[0])
    pieces = {axis: math.gcd(shape[axis], shards) for axis in inner}
    number = math.prod(pieces.values())
    if number == 1 or _LEAST_PIECE * number > math.prod(shape[axis] for axis in inner):
        return list(digits), inner, []
    split: list[int] = []
    inside: list[int] = []
    counting: list[int] = []
    for axis, length in enumerate(shape):
        if axis in pieces:
            counting.append(len(split) - len(inside))
            inside.append(len(split) + 1)
            split += [pieces[axis], length // pieces[axis]]
        else:
            split.append(length)
    return [digit.reshape(split) for digit in digits], tuple(inside), counting
