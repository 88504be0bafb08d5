"""The finder of constants, which rules use while they visit the equations of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from sparsejax.graph._constants import AxisConstants, Constants, ConstantUnits
from sparsejax.graph._contraction import (
    Contraction,
    Weights,
    constant_contribution,
    in_groups,
    narrow,
    widest,
)
from sparsejax.graph._graph import Body, Equation, Graph
from sparsejax.graph._indices import FixedIndices
from sparsejax.graph._product import Factor, Product
from sparsejax.graph._signs import Sign

if TYPE_CHECKING:
    from sparsejax.graph._rule import Rule


class ConstantFinder:
    """Collects the constants of a graph while rules visit its equations.

    Args:
      graph: the graph.
      leaves: the arrays of its parameters.
      fixed: whether each value is computed from parameters and constants alone.
      contractions: the graph's contractions, by the equation's number.
      rules: the rules by the name of their primitive.
    """

    def __init__(
        self,
        graph: Graph,
        leaves: Sequence[Any],
        fixed: Sequence[bool],
        contractions: Mapping[int, Contraction],
        rules: Mapping[str, Rule],
    ):
        self.graph, self.fixed, self.contractions = graph, fixed, contractions
        self._rules = rules
        self.known = {
            value: np.asarray(array, graph.dtypes[value])
            for value, array in graph.given(leaves).items()
            if fixed[value]
        }
        """Arrays of the fixed values, of length 1 along dimensions in which they do not vary."""
        self.signs: dict[int, Sign] = {}
        """Signs of computed values, where known."""
        self.loops: dict[int, list[AxisConstants]] = {}
        """The constant units of the results of scans, by the equation's number."""
        self._clear()

    def _clear(self) -> None:
        self.units: dict[int, AxisConstants] = {}
        self.weights: dict[int, Weights] = {}
        self.indices: dict[int, FixedIndices] = {}
        self.products: dict[int, list[Product]] = {}
        self.reduced: dict[int, dict[int, np.ndarray]] = {}

    def result(self) -> Constants:
        """Return what was found."""
        return Constants(self.units, self.weights, self.indices, self.products, self.reduced)

    def visit(self, equations: Sequence[Equation]) -> None:
        """Find the constants of equations in their order."""
        last_read: dict[int, int] = {}
        for equation in equations:
            last_read |= dict.fromkeys(equation.ins, equation.number)
        for equation in equations:
            if equation.name in self._rules:
                self._apply(equation, self._rules[equation.name])
            for value in equation.ins:
                if last_read[value] == equation.number:  # copies of weights need not stay in memory
                    self.known.pop(value, None)

    def _apply(self, equation: Equation, rule: Rule) -> None:
        if rule.indices is not None:
            indices = rule.indices(self.graph, equation, self.known)
            if indices is not None:
                self.indices[equation.number] = indices
        if rule.read is not None:
            rule.read(self, equation)
        if self.fixed[equation.outs[0]]:
            self.known |= zip(equation.outs, rule.compute(self, equation), strict=True)
            return
        if rule.sign is not None:
            sign = rule.sign(equation, [self.sign(value) for value in equation.ins])
            self.signs |= dict.fromkeys(equation.outs, sign)
        results = rule.constants(self, equation)
        for value, constants in zip(equation.outs, results, strict=True):
            self.units[value] = self._fixed_lengths(value, constants)

    def _fixed_lengths(self, value: int, units: AxisConstants) -> AxisConstants:
        return {
            axis: one
            for axis, one in units.items()
            if one.mask.any() and not self.graph.varies(value, axis)
        }

    def step(
        self, body: Body, known: Mapping[int, np.ndarray], units: Mapping[int, AxisConstants]
    ) -> tuple[Constants, list[AxisConstants]]:
        """Find the constants of one step of a loop.

        Args:
          body: the equations of a step.
          known: the arrays of its fixed inputs.
          units: the constant units of other inputs.

        Returns:
          What was found, with the weights of contractions without rows of units that are zero; and
          the constant units of the results.
        """
        known_outside, outside = dict(self.known), self.result()
        self._clear()
        self.known |= known
        self.units |= {value: self._fixed_lengths(value, one) for value, one in units.items()}
        self.visit(body.equations)
        for number, (nonzero, array) in self.weights.items():
            contraction = self.contractions[number]
            if contraction.groups > 1:
                continue
            zero = self.along(contraction.computed, contraction.axis).zeros().mask
            rows = zero.reshape(-1, *(1,) * (nonzero.ndim - 1))
            self.weights[number] = Weights(nonzero & ~rows, array)
        found = self.result()
        outs = [self._fixed_lengths(value, self.all_along(value)) for value in body.outs]
        self.known = known_outside
        self.units, self.weights, self.indices, self.products, self.reduced = outside
        return found, outs

    def add(self, constants: Constants) -> None:
        """Add the constants of a loop."""
        self.units |= constants.units
        self.weights |= constants.weights
        self.indices |= constants.indices
        self.products |= constants.products
        self.reduced |= constants.reduced

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

    def sign(self, value: int) -> Sign:
        """Return what is known of the signs of a value's entries."""
        if value not in self.known:
            return self.signs.get(value, Sign.ANY)
        array = self.known[value]
        if not jnp.issubdtype(array.dtype, jnp.number) or np.iscomplexobj(array):
            return Sign.ANY
        if not (array >= 0).all():
            return Sign.ANY
        return Sign.POSITIVE if array.all() else Sign.NONNEGATIVE

    def factor(
        self, value: int, batch: Sequence[int], free: Sequence[int], summed: Sequence[int]
    ) -> Factor:
        """Return where a factor of a product may be different from zero, given its dimensions."""
        nonzero = None
        if value in self.known:
            array = self.known[value] != 0
            array = np.broadcast_to(array, self.graph.shapes[value])
            nonzero = np.transpose(array, (*batch, *free, *summed))
        masks = (
            tuple(~self.along(value, axis).zeros().mask for axis in axes)
            for axes in (batch, free, summed)
        )
        return Factor(nonzero, *masks)

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
        mask, numbers = self.along(contraction.computed, contraction.axis)
        usable = mask & (numbers == 0) if contraction.padded else mask
        total = constant_contribution(weights, usable, numbers)
        varies = (nonzero[~usable] if usable.any() else nonzero).any(axis=0)
        found = narrow(total, self.graph.dtypes[equation.outs[0]])
        axes = range(len(contraction.written))
        units = {contraction.result_axes[i]: _along_axis(~varies, found, i) for i in axes}
        return [units if contraction.window else units | self._passed_zeros(equation, contraction)]

    def _passed_zeros(
        self, equation: Equation, contraction: Contraction
    ) -> dict[int, ConstantUnits]:
        """Return the units of zeros along dimensions that a product leaves as they are."""
        value, out = contraction.computed, equation.outs[0]
        left = [a for a in range(len(self.graph.shapes[value])) if a != contraction.axis]
        passed = [a for a in range(len(self.graph.shapes[out])) if a not in contraction.result_axes]
        zeros = [self.along(value, axis).zeros() for axis in left]
        dtype = self.graph.dtypes[out]
        return {
            axis: ConstantUnits(units.mask, np.zeros(len(units.mask), dtype))
            for axis, units in zip(passed, zeros, strict=True)
        }

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


def _along_axis(mask: np.ndarray, numbers: np.ndarray, axis: int) -> ConstantUnits:
    """Return the units of a dimension at which all entries are one constant number."""
    length = mask.shape[axis]
    rows, there = (np.moveaxis(array, axis, 0).reshape(length, -1) for array in (mask, numbers))
    if not rows.shape[1]:
        return ConstantUnits(np.zeros(length, bool), np.zeros(length, numbers.dtype))
    return ConstantUnits(rows.all(1) & (there == there[:, :1]).all(1), there[:, 0])
