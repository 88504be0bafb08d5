"""Exact sums of magnitudes in multi-digit integers, which do not depend on the order of the terms.

A magnitude is an integer multiple of a power of two. It is written in fixed point, in a window of
72 bits (float64: 132 bits) that starts at the leading bit of the largest magnitude. The window is
cut into digits of a few bits, and each digit is summed in an int32. Bits below the window, the part
of an entry that is less than 2^-72 (float64: 2^-132) of the largest magnitude, are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.projections._count import add_up, split_as_on_devices, sum_together
from sparsejax.projections._keys import KeyFormat
from sparsejax.projections._shards import Layout

_SUM_BITS = 31  # bits of a non-negative int32, in which a digit is summed
_WIDEST = 12  # maximum bits of a digit, so that a few products of two digits fit in an int32
_ABOVE = 34  # bits above the window, for twice the sum of fewer than 2**31 entries and a sign
_BELOW = 36  # bits below the window, for single numbers that are subtracted from sums


class FixedPoint(NamedTuple):
    """The fixed-point format of sums: the power of two that each digit stands for.

    A number is an int32 array of digits, the most significant first. In a normalised number all
    digits but the first lie in ``[0, 2**width)``; the first has the number's sign.
    """

    keys: KeyFormat
    width: int
    """The number of bits of a digit."""
    top: jax.Array
    """int32 scalar: the biased exponent of the largest magnitude, at which the window begins."""

    @property
    def above(self) -> int:
        """The number of digits above the window."""
        return math.ceil(_ABOVE / self.width)

    @property
    def window(self) -> int:
        """The number of digits of each magnitude that are summed."""
        return math.ceil((72 if self.keys.dtype.itemsize < 8 else 132) / self.width)

    @property
    def below(self) -> int:
        """The number of digits below the window."""
        return math.ceil(_BELOW / self.width)

    def number(self, key: jax.Array) -> jax.Array:
        """Return the magnitude of a key, rounded up to a multiple of the last digit.

        The magnitude must be less than 2**32 times the largest one. The number is normalised,
        except that its last digit may be ``2**width``.
        """
        shifts = self._shift(key) - self.width * np.arange(
            1 - self.above, self.window + self.below + 1, dtype=np.int32
        )
        mantissa = self._mantissa(key)
        digits = _shifted(mantissa, shifts) & self._mask
        kept = _shifted(_shifted(mantissa, shifts[-1]), -shifts[-1])
        lost = (shifts[-1] > 0) & (kept != mantissa)
        return digits.astype(jnp.int32).at[-1].add(lost.astype(jnp.int32))

    def sum_reaching(
        self, leaves: Sequence[jax.Array], layouts: Sequence[Layout], least: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Sum and count the magnitudes whose keys are at least ``least``, over leaves and devices.

        Returns:
          The sum, not normalised, and the count, an int32 scalar.
        """
        sums = []
        for leaf in leaves:
            # The barrier makes the digits depend on the key: otherwise XLA hoists their
            # computation out of the search loop and stores the digits of all weights.
            leaf, tied = lax.optimization_barrier((leaf, least))
            sums.append(self._sum_leaf(leaf, tied))
        *digits, count = add_up(sums, layouts)
        return jnp.stack([*digits, *[jnp.zeros_like(count)] * self.below]), count

    def times(self, number: jax.Array, count: jax.Array) -> jax.Array:
        """Multiply a number by a count >= 0; the product is not normalised."""
        product = jnp.zeros_like(number)
        for place in range(math.ceil(_SUM_BITS / self.width)):
            part = (count >> (place * self.width)) & self._mask
            moved = jnp.concatenate([number[place:], jnp.zeros_like(number[:place])])
            product = product + part * moved
        return product

    def normalised(self, number: jax.Array) -> jax.Array:
        """Normalise a number."""
        return jnp.stack(self._carry(list(number)))

    def quotient(self, number: jax.Array, count: jax.Array) -> jax.Array:
        """Divide a number by a count in floating point.

        The quotient is precise where the number is normalised and >= 0.
        """
        dtype = self.keys.dtype
        places = np.arange(1 - self.above, self.window + self.below + 1)
        weights = jnp.asarray(2.0 ** (-self.width * places), dtype)
        # The window begins at twice the power of two that the largest magnitude has.
        leading = self.keys.magnitude(self.top.astype(self.keys.bits) * self.keys.octave)
        total = jnp.sum(number.astype(dtype) * weights)
        return 2 * total / jnp.maximum(count, 1).astype(dtype) * leading

    @property
    def _mask(self) -> int:
        return (1 << self.width) - 1

    def _sum_leaf(self, leaf: jax.Array, least: jax.Array) -> list[jax.Array]:
        """Return the digits of the sum down to the end of the window, followed by the count."""
        keys = self.keys.keys(leaf)
        keys, inside = split_as_on_devices(keys if keys.ndim else keys.reshape(1))
        reached = keys >= least
        mantissa = jnp.where(reached, self._mantissa(keys), 0)
        shift = self._shift(keys)
        parts = [
            (_shifted(mantissa, shift - self.width * place) & self._mask).astype(jnp.int32)
            for place in range(1, self.window + 1)
        ]
        parts.append(reached.astype(jnp.int32))
        left = list(range(keys.ndim))
        outside = [axis for axis in left if axis not in inside]
        groups = _groups(keys.shape, inside, self.width) + _groups(keys.shape, outside, self.width)
        for number, group in enumerate(groups):
            axes = tuple(left.index(axis) for axis in group)
            left = [axis for axis in left if axis not in group]
            *digits, count = _sum_later(parts, axes) if number else sum_together(parts, axes)
            above = [] if number else [jnp.zeros_like(count)] * self.above
            parts = [*self._carry([*above, *digits]), count]
        return parts

    def _carry(self, digits: Sequence[jax.Array]) -> list[jax.Array]:
        carried, over = [], jnp.zeros_like(digits[0])
        for digit in reversed(digits[1:]):
            over = over + digit
            carried.append(over & self._mask)
            over = over >> self.width
        return [digits[0] + over, *carried[::-1]]

    def _shift(self, key: jax.Array) -> jax.Array:
        """The number of bits of a mantissa that lie below the beginning of the window."""
        stored = jnp.finfo(self.keys.dtype).nmant
        exponent = jnp.maximum(key >> stored, 1).astype(jnp.int32)
        return self.top - exponent + (stored + 1)

    def _mantissa(self, key: jax.Array) -> jax.Array:
        octave = self.keys.octave
        return (key & (octave - 1)) + jnp.where(key >= octave, octave, 0).astype(key.dtype)


def fixed_point(
    keys: KeyFormat, leaves: Sequence[jax.Array], layouts: Sequence[Layout], largest: jax.Array
) -> FixedPoint:
    """Return the format for sums over leaves whose largest key is ``largest``.

    The longest dimension limits the width of a digit, so that its sum does not overflow.
    """
    pairs = zip(leaves, layouts, strict=True)
    longest = max((n for leaf, layout in pairs for n in layout.shape(leaf)), default=1)
    width = max(1, min(_WIDEST, _SUM_BITS - longest.bit_length()))
    stored = jnp.finfo(keys.dtype).nmant
    return FixedPoint(keys, width, jnp.maximum(largest >> stored, 1).astype(jnp.int32))


def _shifted(number: jax.Array, down: jax.Array) -> jax.Array:
    """Shift a number right by ``down`` bits, or left where ``down`` is negative."""
    most = 8 * number.dtype.itemsize - 1
    down = down.astype(number.dtype)
    return (number >> jnp.clip(down, 0, most)) << jnp.clip(-down, 0, most)


def _groups(shape: tuple[int, ...], axes: Sequence[int], width: int) -> list[list[int]]:
    """Group dimensions, longest first, such that the sum over a group cannot overflow."""
    groups: list[list[int]] = []
    for axis in sorted(axes, key=lambda axis: -shape[axis]):
        together = math.prod(shape[other] for other in (groups[-1] if groups else []))
        if groups and together * shape[axis] <= 2 ** (_SUM_BITS - width):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def _sum_later(numbers: Sequence[jax.Array], axes: tuple[int, ...]) -> list[jax.Array]:
    """Sum partial sums over dimensions, with one all-reduce where devices hold them."""
    stacked = jnp.stack(numbers)
    return list(stacked.sum(tuple(axis + 1 for axis in axes), dtype=jnp.int32))
