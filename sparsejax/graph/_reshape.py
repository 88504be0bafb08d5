"""Which dimensions a reshape splits and joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sparsejax.graph._graph import Length

_ONE = (1, 1)


class Group(NamedTuple):
    """Dimensions whose entries go into those of the result: the fewest of equal product.

    Each of the operand's dimensions is split into factors, and each of the result's is joined of
    some that follow one another. A dimension that only stays, is split or is joined is the case in
    which one side has a single dimension.
    """

    ins: tuple[int, ...]
    """The operand's dimensions, in order."""
    outs: tuple[int, ...]
    """The result's."""
    factors: tuple[Length, ...]
    """Lengths of the factors, in order."""
    of_ins: tuple[range, ...]
    """For each of ``ins``: the places of its factors. Empty where lengths have no common factors,
    as in a reshape from (4, 6) to (3, 8)."""
    of_outs: tuple[range, ...]


def reshape_groups(before: Sequence[Length], after: Sequence[Length]) -> list[Group]:
    """The groups of a reshape, in order.

    Lengths are compared for two batch sizes, so that a batch is never taken for a dimension that
    happens to be as long. Dimensions of length 1 belong to no group; arrays without entries have
    one group.
    """
    ins = [axis for axis, length in enumerate(before) if length != _ONE]
    outs = [axis for axis, length in enumerate(after) if length != _ONE]
    if any(0 in before[axis] for axis in ins):
        return [_group(ins, outs, before, after)]
    groups = []
    left, right = _products(before, ins), _products(after, outs)
    start = [0, 0]
    for end, product in enumerate(left, 1):
        if product in right:
            stop = right.index(product) + 1
            groups.append(_group(ins[start[0] : end], outs[start[1] : stop], before, after))
            start = [end, stop]
    return groups


def exact_groups(axes: Sequence[tuple[int, int]], lengths: Sequence[Length]) -> list[Group]:
    """One group for each dimension that stays as it is, as (before, after): of a squeeze."""
    one = (range(1),)
    return [Group((ins,), (outs,), (lengths[ins],), one, one) for ins, outs in axes]


def _products(lengths: Sequence[Length], axes: Sequence[int]) -> list[Length]:
    """Of the first dimensions up to each one; they rise, since none has length 1 for both sizes."""
    product, found = _ONE, []
    for axis in axes:
        product = product[0] * lengths[axis][0], product[1] * lengths[axis][1]
        found.append(product)
    return found


def _group(
    ins: Sequence[int], outs: Sequence[int], before: Sequence[Length], after: Sequence[Length]
) -> Group:
    left, right = _products(before, ins), _products(after, outs)
    factors = left if left == right and len(left) == 1 else _ratios(sorted({*left, *right}))
    if factors is None:
        return Group(tuple(ins), tuple(outs), (), (), ())
    ends = _products(factors, range(len(factors)))
    of_ins, of_outs = (_between([ends.index(product) + 1 for product in side])
                       for side in (left, right))  # fmt: skip
    return Group(tuple(ins), tuple(outs), tuple(factors), of_ins, of_outs)


def _ratios(products: Sequence[Length]) -> list[Length] | None:
    """Of each product to the one before it; None if one is no whole number, or 0."""
    before, found = _ONE, []
    for product in products:
        if not all(product) or product[0] % before[0] or product[1] % before[1]:
            return None
        found.append((product[0] // before[0], product[1] // before[1]))
        before = product
    return found


def _between(ends: Sequence[int]) -> tuple[range, ...]:
    return tuple(range(start, end) for start, end in zip([0, *ends], ends, strict=False))
