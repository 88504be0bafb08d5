"""Arrays that are the product of two factors and stay factored up to the product that reads them.

A kernel of low rank that a layer multiplies by is two smaller layers. On its way from the
parameters to that product a kernel may be reshaped, transposed and converted, and each of these
operations applies to the factors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


class NotFactoredError(Exception):
    """An operation does not apply to the factors."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Factored:
    r"""An array whose dimensions are those of two factors.

    .. math:: T_{ab} = \sum_r L_{ar} R_{rb}
    """

    left: Any
    """[*dimensions of the left side, r], the dimensions in their order in the array."""
    right: Any
    """[r, *dimensions of the right side]."""
    sides: tuple[bool, ...] = dataclasses.field(metadata={"static": True})
    """For each dimension of the array whether it is one of the right side."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        lengths = {False: iter(self.left.shape[:-1]), True: iter(self.right.shape[1:])}
        return tuple(next(lengths[side]) for side in self.sides)

    def axes(self, side: bool) -> list[int]:
        """Return the dimensions of the array that are of a side, in their order."""
        return [axis for axis, own in enumerate(self.sides) if own == side]

    def reshaped(self, shape: Sequence[int]) -> Factored:
        """Return the array in another shape.

        Raises:
          NotFactoredError: dimensions of both sides are merged, or the array is empty.
        """
        if not math.prod(shape):
            raise NotFactoredError
        sides: list[bool] = []
        for old, new in _blocks(self.shape, shape):
            own = {self.sides[axis] for axis in old if self.shape[axis] != 1}
            if len(own) > 1:
                raise NotFactoredError
            sides += [next(iter(own), False)] * len(new)
        lengths: dict[bool, list[int]] = {False: [], True: []}
        for side, length in zip(sides, shape, strict=True):
            lengths[side].append(length)
        rank = self.left.shape[-1]
        return Factored(
            _reshape(self.left, (*lengths[False], rank)),
            _reshape(self.right, (rank, *lengths[True])),
            tuple(sides),
        )

    def transposed(self, order: Sequence[int]) -> Factored:
        """Return the array with its dimensions in another order."""
        moved = {
            side: [self.axes(side).index(axis) for axis in order if self.sides[axis] == side]
            for side in (False, True)
        }
        return Factored(
            transposed(self.left, (*moved[False], len(moved[False]))),
            transposed(self.right, (0, *(axis + 1 for axis in moved[True]))),
            tuple(self.sides[axis] for axis in order),
        )

    def map(self, function: Callable[[Any], Any]) -> Factored:
        """Return the array with a function applied to both factors."""
        return Factored(function(self.left), function(self.right), self.sides)

    def whole(self) -> Any:
        """Multiply the factors."""
        product = lax.dot_general(
            self.left,
            self.right,
            (((self.left.ndim - 1,), (0,)), ((), ())),
            precision=lax.Precision.HIGHEST,
        )
        order = [*self.axes(False), *self.axes(True)]
        return transposed(product, [order.index(axis) for axis in range(len(order))])


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the shortest runs of dimensions of both shapes that have the same product."""
    found = []
    i = j = 0
    while i < len(old) or j < len(new):
        first, second = (i, min(i + 1, len(old))), (j, min(j + 1, len(new)))
        while (one := math.prod(old[slice(*first)])) != (other := math.prod(new[slice(*second)])):
            if (one < other and first[1] < len(old)) or second[1] == len(new):
                first = (i, first[1] + 1)
            else:
                second = (j, second[1] + 1)
        found.append((list(range(*first)), list(range(*second))))
        i, j = first[1], second[1]
    return found


def _reshape(array: Any, shape: Sequence[int]) -> Any:
    return array if tuple(array.shape) == tuple(shape) else lax.reshape(array, shape)


def transposed(array: Any, order: Sequence[int]) -> Any:
    return array if list(order) == list(range(array.ndim)) else jnp.transpose(array, order)
