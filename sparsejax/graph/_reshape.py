"""The dimensions that a reshape splits and merges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sparsejax.graph._graph import Length

_ONE = (1, 1)


class Regrouping(NamedTuple):
    """The smallest sets of adjacent dimensions of equal product on both sides of a reshape.

    Each dimension of the operand is split into factors, and each dimension of the result merges
    consecutive factors. If one side has a single dimension, it is only split, merged or kept.
    """

    ins: tuple[int, ...]
    """The operand's dimensions, in order."""
    outs: tuple[int, ...]
    """The result's dimensions, in order."""
    factors: tuple[Length, ...]
    """The lengths of the factors, in order."""
    in_factors: tuple[range, ...]
    """For each of ``ins``, the indices of its factors. Empty if the lengths have no common factors,
    as in a reshape from (4, 6) to (3, 8)."""
    out_factors: tuple[range, ...]
    """For each of ``outs``, the indices of its factors."""


def regroup(before: Sequence[Length], after: Sequence[Length]) -> list[Regrouping]:
    """Return the regroupings of a reshape, in order.

    Lengths are compared for two batch sizes, so that a batch is never mistaken for a dimension of
    the same length. Dimensions of length 1 belong to no regrouping; arrays without entries have a
    single one.
    """
    ins = [axis for axis, length in enumerate(before) if length != _ONE]
    outs = [axis for axis, length in enumerate(after) if length != _ONE]
    if any(0 in before[axis] for axis in ins):
        return [_regrouping(ins, outs, before, after)]
    groups = []
    left, right = _products(before, ins), _products(after, outs)
    start = [0, 0]
    for end, product in enumerate(left, 1):
        if product in right:
            stop = right.index(product) + 1
            groups.append(_regrouping(ins[start[0] : end], outs[start[1] : stop], before, after))
            start = [end, stop]
    return groups


def unchanged(axes: Sequence[tuple[int, int]], lengths: Sequence[Length]) -> list[Regrouping]:
    """Return one regrouping for each dimension (before, after) that is kept as it is."""
    one = (range(1),)
    return [Regrouping((ins,), (outs,), (lengths[ins],), one, one) for ins, outs in axes]


def _products(lengths: Sequence[Length], axes: Sequence[int]) -> list[Length]:
    """Return the cumulative products; they increase, as no length is 1 for both batch sizes."""
    product, found = _ONE, []
    for axis in axes:
        product = product[0] * lengths[axis][0], product[1] * lengths[axis][1]
        found.append(product)
    return found


def _regrouping(
    ins: Sequence[int], outs: Sequence[int], before: Sequence[Length], after: Sequence[Length]
) -> Regrouping:
    left, right = _products(before, ins), _products(after, outs)
    factors = left if left == right and len(left) == 1 else _ratios(sorted({*left, *right}))
    if factors is None:
        return Regrouping(tuple(ins), tuple(outs), (), (), ())
    ends = _products(factors, range(len(factors)))
    of_ins, of_outs = (
        _between([ends.index(product) + 1 for product in side]) for side in (left, right)
    )
    return Regrouping(tuple(ins), tuple(outs), tuple(factors), of_ins, of_outs)


def _ratios(products: Sequence[Length]) -> list[Length] | None:
    """Return the ratio of each product to its predecessor; None if one is 0 or not an integer."""
    before, found = _ONE, []
    for product in products:
        if not all(product) or product[0] % before[0] or product[1] % before[1]:
            return None
        found.append((product[0] // before[0], product[1] // before[1]))
        before = product
    return found


def _between(ends: Sequence[int]) -> tuple[range, ...]:
    return tuple(range(start, end) for start, end in zip([0, *ends], ends, strict=False))
