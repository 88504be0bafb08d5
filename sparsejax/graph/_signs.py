"""Signs of the entries of values, for quotients that are zero because their divisor is not.

Signs are those of real arithmetic, in which an exponential is positive: it may be 0 in floating
point, but a quotient of 0 by such a sum is none that a network is meant to compute.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from sparsejax.graph._graph import Equation


class Sign(enum.IntEnum):
    """A bound on the sign of all entries of a value; a larger one implies the smaller ones."""

    ANY = 0
    NONNEGATIVE = 1
    POSITIVE = 2


SignRule = Callable[[Equation, Sequence[Sign]], Sign]
"""Returns the sign of the results, given those of the operands."""


def of_first(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """Return the sign of a result whose entries are entries, or sums, of the first operand."""
    return signs[0]


def smallest(equation: Equation, signs: Sequence[Sign]) -> Sign:
    """Return the sign of a result whose entries are products, or any, of those of all operands."""
    return min(signs)
