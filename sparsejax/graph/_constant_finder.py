"""Units that put out the same number for every input, and that number.

A value is either fixed (computed from parameters alone) and known in full, or computed from the
inputs. For a computed value it is known, for each dimension, at which indices all entries are one
number. Nothing is recorded along dimensions that depend on the batch size, and no number that does,
so the result holds for every batch size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparsejax.graph._contraction import (
    Contraction,
    Weights,
    constant_contribution,
    in_groups,
    narrow,
    widest,
)
from sparsejax.graph._graph import Equation, Graph
from sparsejax.graph._indices import Indices


class ConstantUnits(NamedTuple):
    """The indices of a dimension at which a value is constant, and its number there."""

    mask: np.ndarray
    """Booleans."""
    numbers: np.ndarray
    """In the value's dtype; undefined where ``mask`` is false."""

    def take(self, indices: Any) -> ConstantUnits:
        """Return the units at an index, a slice or an array of indices."""
        return ConstantUnits(self.mask[indices], self.numbers[indices])

    def zeros(self) -> ConstantUnits:
        """Return only the units that are constantly zero."""
        return self._replace(mask=self.mask & (self.numbers == 0))

    def times(self, count: int) -> ConstantUnits:
        """Return the units of a sum of ``count`` equal numbers."""
        numbers = self.numbers.astype(widest(self.numbers.dtype)) * count
        return ConstantUnits(self.mask, narrow(numbers, self.numbers.dtype))

    def broadcast(self, length: int) -> ConstantUnits:
        """Return the units of a dimension of length 1 that is broadcast."""
        return ConstantUnits(*(np.broadcast_to(array, length) for array in self))

    def with_zeros(self, where: np.ndarray) -> ConstantUnits:
        """Return the units with constant zeros added where a mask is true."""
        zero = np.zeros((), self.numbers.dtype)
        new = where & ~self.mask
        return ConstantUnits(self.mask | new, np.where(new, zero, self.numbers))


AxisConstants = Mapping[int, ConstantUnits]
"""The constant units of a computed value by dimension; a missing dimension has none."""


class Constants(NamedTuple):
    """The constants of a graph."""

    units: dict[int, AxisConstants]
    """The constant units of computed values."""
    weights: dict[int, Weights]
    """The weights of contractions, by the equation's number."""
    indices: Indices
    """The indices of gathers and dynamic slices at fixed indices, by the equation's number."""


class ConstantFinder:
    """Collects the constants of a graph while rules visit its equations.

    Args:
      graph: the graph.
      leaves: the arrays of its parameters.
      fixed: whether each value is computed from parameters and constants alone.
      contractions: the graph's contractions, by the equation's number.
    """

    def __init__(
        self,
        graph: Graph,
        leaves: Sequence[Any],
        fixed: Sequence[bool],
        contractions: Mapping[int, Contraction],
    ):
        self.graph, self.fixed, self.contractions = graph, fixed, contractions
        self.known = {
            value: np.asarray(array, graph.dtypes[value])
            for value, array in graph.given(leaves).items()
            if fixed[value]
        }
        """Arrays of the fixed values, of length 1 along dimensions in which they do not vary."""
        self.units: dict[int, AxisConstants] = {}
        self.weights: dict[int, Weights] = {}
        self.indices: dict[int, Any] = {}

    def whole(self, value: int) -> np.ndarray:
        """Return a fixed value in its full shape."""
        return np.broadcast_to(self.known[value], self.graph.shapes[value])

    def along(self, value: int, axis: int) -> ConstantUnits:
        """Return the constant units of any value along a dimension."""
        length = self.graph.shapes[value][axis]
        none = ConstantUnits(np.zeros(length, bool), np.zeros(length, self.graph.dtypes[value]))
        if value not in self.known or self.graph.varies(value, axis):
            return self.units.get(value, {}).get(axis, none)
        rows = np.moveaxis(self.known[value], axis, 0)
        rows = rows.reshape(len(rows), -1)
        if rows.shape[1] == 0:
            return none
        numbers = rows[:, 0]
        mask = np.ones(len(rows), bool) if rows.shape[1] == 1 else (numbers == rows.T).all(0)
        return ConstantUnits(mask, numbers).broadcast(length)

    def all_along(self, value: int) -> dict[int, ConstantUnits]:
        """Return the constant units along each dimension of a value."""
        return {axis: self.along(value, axis) for axis in range(len(self.graph.shapes[value]))}

    def moved(self, value: int, axes: Sequence[int]) -> dict[int, ConstantUnits]:
        """Return the constant units of a result whose dimensions are these of a value."""
        return {out_axis: self.along(value, axis) for out_axis, axis in enumerate(axes)}

    def contracted(self, equation: Equation) -> list[AxisConstants]:
        """Record the weights of a product, if it is a contraction; return what it makes constant.

        A written unit is constant if all units with weights to it are.
        """
        contraction = self.contractions.get(equation.number)
        if contraction is None:
            return [{}]
        order = (contraction.read, *contraction.written, *contraction.window)
        array = np.transpose(self.whole(contraction.weights), order)
        inside = tuple(range(1 + len(contraction.written), array.ndim))
        nonzero = (array != 0).any(inside) if inside else array != 0
        if contraction.groups > 1:
            return [self._contracted_in_groups(equation, contraction, nonzero, array)]
        weights = self.weights[equation.number] = Weights(nonzero, array)
        if len(contraction.written) != 1:
            return [{}]
        mask, numbers = self.along(contraction.computed, contraction.axis)
        usable = mask & (numbers == 0) if contraction.padded else mask
        total = constant_contribution(weights, usable, numbers)
        varies = (nonzero[~usable] if usable.any() else nonzero).any(axis=0)
        units = ConstantUnits(~varies, narrow(total, self.graph.dtypes[equation.outs[0]]))
        return [{contraction.result_axes[0]: units}]

    def _contracted_in_groups(
        self, equation: Equation, contraction: Contraction, nonzero: np.ndarray, array: np.ndarray
    ) -> AxisConstants:
        """Record the weights of a contraction in groups; return what it makes constant."""
        units = self.along(contraction.computed, contraction.axis)
        mask, numbers, zero = (
            in_groups(of_units, contraction.groups, nonzero.shape[1])
            for of_units in (*units, units.zeros().mask)
        )
        self.weights[equation.number] = Weights(nonzero & ~zero, array)
        usable = zero if contraction.padded else mask
        dtype = widest(array.dtype, numbers.dtype)
        summed = array.sum(axis=tuple(range(2, array.ndim)), dtype=dtype)
        total = np.where(usable & nonzero, numbers.astype(dtype), 0) * summed
        constant = ~(nonzero & ~usable).any(axis=0)
        numbers = narrow(total.sum(axis=0), self.graph.dtypes[equation.outs[0]])
        return {contraction.result_axes[0]: ConstantUnits(constant, numbers)}
