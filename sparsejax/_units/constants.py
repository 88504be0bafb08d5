"""Which units put out the same number whatever the input, and which number.

One pass forwards. A value is either fixed (computed from parameters alone) and known in full, or
computed from inputs; of such a one it is known, dimension by dimension, at which places everything
in it is one and the same number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._units.graph import Equation, Graph, reshape_groups
from sparsejax._units.primitives import (
    ELEMENTWISE,
    PRODUCTS,
    REDUCTIONS,
    WINDOWS,
    contraction_of,
    fixed_values,
    taken_axis,
    through_windows,
    window_size,
    written_axes,
)

_PIECE = 2**22  # weights that are multiplied by constants at once

# Rounded as XLA does. The rest, and there is little of it, is worth compiling a program for.
_WITH_NUMPY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


class Places(NamedTuple):
    """At which places of a dimension a value is constant, and its value there."""

    constant: np.ndarray
    """Booleans."""
    numbers: np.ndarray
    """Of the value's dtype; meaningless where it is not constant."""


Constant = Mapping[int, Places]
"""What is known of a computed value: by dimension; a dimension that is missing has none."""


class Weights(NamedTuple):
    """A contraction's weights."""

    link: np.ndarray
    """Booleans [read, *written]: what is read for what."""
    array: np.ndarray
    """[read, *written, *window], mostly a view of the parameter."""


class Constants(NamedTuple):
    """What the pass finds."""

    places: dict[int, Constant]
    """Of computed values."""
    weights: dict[int, Weights]
    """Of contractions, by the equation's place."""
    indices: dict[int, np.ndarray]
    """Of equations that take fixed places of a dimension: the places."""


def find_constants(graph: Graph, leaves: Sequence[Any]) -> Constants:
    """Run the pass; ``leaves`` are the arrays of the parameters."""
    finder = _Finder(graph, leaves)
    last: dict[int, int] = {}
    for number, equation in enumerate(graph.equations):
        last |= dict.fromkeys(equation.ins, number)
    for number, equation in enumerate(graph.equations):
        finder.visit(number, equation)
        for value in equation.ins:
            if last[value] == number:  # copies of weights need not stay
                finder.known.pop(value, None)
    return Constants(finder.places, finder.weights, finder.indices)


class _Finder:
    def __init__(self, graph: Graph, leaves: Sequence[Any]):
        self.graph = graph
        self.fixed = fixed_values(graph)
        # Arrays of full shape, or of length 1 along dimensions in which they do not vary.
        self.known: dict[int, np.ndarray] = dict(graph.literals)
        sources = [*zip(graph.leaves, leaves, strict=True)]
        sources += zip(graph.constants, graph.arrays, strict=True)
        for value, array in sources:
            if self.fixed[value]:
                self.known[value] = np.asarray(array)
        self.places: dict[int, Constant] = {}
        self.weights: dict[int, Weights] = {}
        self.indices: dict[int, np.ndarray] = {}

    def visit(self, number: int, equation: Equation) -> None:
        if equation.name == "gather":
            self.note_indices(number, equation)
        if self.fixed[equation.outs[0]]:
            for value, array in zip(equation.outs, self.compute(equation), strict=True):
                self.known[value] = array
            return
        name = equation.name
        if name in ELEMENTWISE:
            found = self.elementwise(equation)
        elif name in REDUCTIONS:
            found = self.reduction(equation)
        elif name in WINDOWS:
            found = self.windows(equation)
        elif name in PRODUCTS:
            found = self.product(number, equation)
        elif name in ("reshape", "squeeze", "expand_dims"):
            found = self.reshape(equation)
        elif name == "gather":
            found = self.gather(number, equation)
        else:
            found = getattr(self, name, lambda _: {})(equation)
        several = found if isinstance(found, list) else [found] * len(equation.outs)
        for value, constant in zip(equation.outs, several, strict=True):
            self.places[value] = {
                axis: places for axis, places in constant.items() if places.constant.any()
            }

    # Fixed values

    def compute(self, equation: Equation) -> list[np.ndarray]:
        arrays = [self.known[value] for value in equation.ins]
        shape = self.graph.shapes[equation.outs[0]]
        if equation.name == "transpose":
            return [np.transpose(arrays[0], equation.params["permutation"])]
        if equation.name == "broadcast_in_dim":
            spread = [1] * len(shape)
            for axis, place in enumerate(equation.params["broadcast_dimensions"]):
                spread[place] = arrays[0].shape[axis]
            return [arrays[0].reshape(spread)]
        if equation.name in ("reshape", "squeeze", "expand_dims"):
            if arrays[0].size == 1:
                return [arrays[0].reshape((1,) * len(shape))]
            if equation.params.get("dimensions") is None or equation.name != "reshape":
                return [self.whole(equation.ins[0]).reshape(shape)]
        if equation.name not in ELEMENTWISE:
            arrays = [self.whole(value) for value in equation.ins]
        return _bind(equation, arrays)

    def whole(self, value: int) -> np.ndarray:
        return np.broadcast_to(self.known[value], self.graph.shapes[value])

    def note_indices(self, number: int, equation: Equation) -> None:
        axes = taken_axis(self.graph, equation, self.fixed)
        if axes is None:
            return
        places = self.whole(equation.ins[1]).ravel().astype(np.int64)
        length = self.graph.shapes[equation.ins[0]][axes[0]]
        if (places >= 0).all() and (places < length).all():
            self.indices[number] = places

    # Computed values

    def along(self, value: int, axis: int) -> Places:
        """What is known along a dimension of any value."""
        length = self.graph.shapes[value][axis]
        dtype = self.graph.dtypes[value]
        if value not in self.known:
            nowhere = Places(np.zeros(length, bool), np.zeros(length, dtype))
            return self.places.get(value, {}).get(axis, nowhere)
        rows = np.moveaxis(self.known[value], axis, 0)
        rows = rows.reshape(len(rows), -1)
        if rows.shape[1] == 0:
            return Places(np.zeros(length, bool), np.zeros(length, dtype))
        numbers = rows[:, 0]
        uniform = np.ones(len(rows), bool) if rows.shape[1] == 1 else (numbers == rows.T).all(0)
        return Places(np.broadcast_to(uniform, length), np.broadcast_to(numbers, length))

    def elementwise(self, equation: Equation) -> Constant:
        out = equation.outs[0]
        found: dict[int, Places] = {}
        for axis, length in enumerate(self.graph.shapes[out]):
            operands = [self.operand(value, axis, length) for value in equation.ins]
            constant = np.logical_and.reduce([places.constant for places in operands])
            numbers = np.zeros(length, self.graph.dtypes[out])
            if constant.any():
                arguments = [places.numbers[constant] for places in operands]
                numbers[constant] = _bind(equation, arguments)[0]
            if equation.name == "mul":  # by zero: whatever the other factor is
                for places in operands:
                    zero = places.constant & (places.numbers == 0) & ~constant
                    constant, numbers = constant | zero, np.where(zero, numbers * 0, numbers)
            if equation.name == "div" and self.never_zero(equation.ins[1]):
                zero = operands[0].constant & (operands[0].numbers == 0) & ~constant
                constant, numbers = constant | zero, np.where(zero, numbers * 0, numbers)
            if equation.name == "select_n":
                constant, numbers = _selected(operands, constant, numbers)
            found[axis] = Places(constant, numbers)
        return found

    def never_zero(self, value: int) -> bool:
        return value in self.known and bool((self.known[value] != 0).all())

    def operand(self, value: int, axis: int, length: int) -> Places:
        """Along a dimension of the result: an operand may be a scalar, or of length 1 there."""
        shape = self.graph.shapes[value]
        if shape and shape[axis] == length:
            return self.along(value, axis)
        if value in self.known and self.known[value].size == 1:
            number = self.known[value].reshape(())
            return Places(np.ones(length, bool), np.broadcast_to(number, length))
        if shape:
            one = self.along(value, axis)
            return Places(*(np.broadcast_to(array, length) for array in one))
        return Places(np.zeros(length, bool), np.zeros(length, self.graph.dtypes[value]))

    def reduction(self, equation: Equation) -> Constant:
        value = equation.ins[0]
        shape, reduced = self.graph.shapes[value], equation.params["axes"]
        left = [axis for axis in range(len(shape)) if axis not in reduced]
        times = math.prod(shape[axis] for axis in reduced)
        times = times if equation.name == "reduce_sum" else 1
        found = {}
        for place, axis in enumerate(left):
            constant, numbers = self.along(value, axis)
            found[place] = Places(constant, (numbers * times).astype(numbers.dtype))
        return found

    def windows(self, equation: Equation) -> Constant:
        value = equation.ins[0]
        padded = any(map(any, equation.params["padding"]))
        dilated = any(n != 1 for n in equation.params["base_dilation"])
        found = {}
        for axis in range(len(self.graph.shapes[value])):
            if not through_windows(equation, axis):
                continue
            constant, numbers = self.along(value, axis)
            if equation.name == "reduce_window_sum":
                if padded or dilated:
                    constant = constant & (numbers == 0)
                numbers = (numbers * window_size(equation)).astype(numbers.dtype)
            elif padded or dilated:  # a window may lie outside altogether
                constant = np.zeros_like(constant)
            found[axis] = Places(constant, numbers)
        return found

    def product(self, number: int, equation: Equation) -> Constant:
        contraction = contraction_of(self.graph, equation, self.fixed)
        if contraction is None:
            return {}
        array = np.transpose(
            self.whole(contraction.weights),
            (contraction.read, *contraction.written, *contraction.window),
        )
        inside = tuple(range(1 + len(contraction.written), array.ndim))
        link = (array != 0).any(inside) if inside else array != 0
        self.weights[number] = Weights(link, array)
        if len(contraction.written) != 1:
            return {}
        constant, numbers = self.along(contraction.computed, contraction.axis)
        usable = constant & (numbers == 0) if contraction.padded else constant
        moved = fold(array, link.ndim, usable, numbers)
        varies = (link[~usable] if usable.any() else link).any(axis=0)
        places = Places(~varies, moved.astype(self.graph.dtypes[equation.outs[0]]))
        return {written_axes(self.graph, equation, contraction)[0]: places}

    def transpose(self, equation: Equation) -> Constant:
        order = equation.params["permutation"]
        return {place: self.along(equation.ins[0], axis) for place, axis in enumerate(order)}

    def broadcast_in_dim(self, equation: Equation) -> Constant:
        value, shape = equation.ins[0], self.graph.shapes[equation.outs[0]]
        return {
            place: Places(
                *(np.broadcast_to(array, shape[place]) for array in self.along(value, axis))
            )
            for axis, place in enumerate(equation.params["broadcast_dimensions"])
        }

    def reshape(self, equation: Equation) -> Constant:
        value, out = equation.ins[0], equation.outs[0]
        shape = self.graph.shapes[value]
        found: dict[int, Places] = {}
        if equation.params.get("dimensions") is not None and equation.name == "reshape":
            return found
        for ins, outs in reshape_groups(shape, self.graph.shapes[out]):
            if len(outs) == 1:
                # A tuple of units is constant where any one of them is.
                lengths = [shape[axis] for axis in ins]
                constant = np.zeros(lengths, bool)
                numbers = np.zeros(lengths, self.graph.dtypes[value])
                for place, axis in enumerate(ins):
                    along = [1] * len(ins)
                    along[place] = -1
                    here, there = (array.reshape(along) for array in self.along(value, axis))
                    numbers = np.where(here, there, numbers)
                    constant = constant | here
                found[outs[0]] = Places(constant.ravel(), numbers.ravel())
            elif len(ins) == 1:
                # A unit is constant where all of its tuples are, with one value.
                lengths = [self.graph.shapes[out][axis] for axis in outs]
                whole = [array.reshape(lengths) for array in self.along(value, ins[0])]
                for place, axis in enumerate(outs):
                    here, there = (np.moveaxis(array, place, 0) for array in whole)
                    here, there = (array.reshape(len(array), -1) for array in (here, there))
                    alike = (there[:, 0] == there.T).all(axis=0)
                    found[axis] = Places(here.all(axis=1) & alike, there[:, 0])
        return found

    def concatenate(self, equation: Equation) -> Constant:
        axis = equation.params["dimension"]
        pieces = [self.along(value, axis) for value in equation.ins]
        constant, numbers = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        return {axis: Places(constant, numbers)}

    def slice(self, equation: Equation) -> Constant:
        starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
        strides = equation.params["strides"] or (1,) * len(starts)
        found = {}
        for axis, (start, limit, step) in enumerate(zip(starts, limits, strides, strict=True)):
            constant, numbers = self.along(equation.ins[0], axis)
            found[axis] = Places(constant[start:limit:step], numbers[start:limit:step])
        return found

    def split(self, equation: Equation) -> list[Constant]:
        chosen, sizes = equation.params["axis"], equation.params["sizes"]
        ends = np.cumsum([0, *sizes])
        found: list[Constant] = []
        for start, end in itertools.pairwise(ends):
            whole = {
                axis: self.along(equation.ins[0], axis)
                for axis in range(len(self.graph.shapes[equation.ins[0]]))
            }
            constant, numbers = whole[chosen]
            found.append(whole | {chosen: Places(constant[start:end], numbers[start:end])})
        return found

    def pad(self, equation: Equation) -> Constant:
        value, padding = equation.ins
        config = equation.params["padding_config"]
        if padding not in self.known:
            return {}
        number = self.known[padding].reshape(())
        padded = {axis for axis, amounts in enumerate(config) if any(amounts)}
        found = {}
        for axis, (low, high, inside) in enumerate(config):
            constant, numbers = self.along(value, axis)
            if padded - {axis}:  # along other dimensions the padding lies among the constant
                constant = constant & (numbers == number)
            if low < 0 or high < 0 or inside:
                continue
            low, high = int(low), int(high)
            around = (np.full(low, number), np.full(high, number))
            found[axis] = Places(
                np.concatenate([np.ones(low, bool), constant, np.ones(high, bool)]),
                np.concatenate([around[0], numbers, around[1]]).astype(numbers.dtype),
            )
        return found

    def gather(self, number: int, equation: Equation) -> Constant:
        axes = taken_axis(self.graph, equation, self.fixed)
        places = self.indices.get(number)
        if axes is None or places is None:
            return {}
        constant, numbers = self.along(equation.ins[0], axes[0])
        return {axes[1]: Places(constant[places], numbers[places])}


def fold(array: np.ndarray, ndim: int, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    r"""What constant units add to what is written from them: :math:`\sum_i c_i \sum_p w_{ijp}`.

    Args:
      array: weights [read, *written, *window].
      ndim: dimensions of [read, *written].
      rows: which units are constant.
      numbers: c.

    Returns:
      float64 [*written].
    """
    total = np.zeros(array.shape[1:ndim])
    chosen = np.flatnonzero(rows & (numbers != 0))
    step = max(1, _PIECE // max(1, array[:1].size))
    for start in range(0, len(chosen), step):
        some = chosen[start : start + step]
        piece = array[some].astype(np.float64)
        piece = piece.sum(axis=tuple(range(ndim, array.ndim)))
        total += np.tensordot(numbers[some].astype(np.float64), piece, axes=1)
    return total


def _bind(equation: Equation, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The primitive of arrays; those of an elementwise one are broadcast to one another."""
    if equation.name in ELEMENTWISE:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        arrays = [array if array.ndim == 0 else np.broadcast_to(array, shape) for array in arrays]
    if equation.name in _WITH_NUMPY:
        return [np.asarray(_WITH_NUMPY[equation.name](*arrays))]
    with jax.ensure_compile_time_eval():
        return [np.asarray(array) for array in equation.apply([jnp.asarray(a) for a in arrays])]


def _selected(
    operands: Sequence[Places], constant: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of a choice that is constant only the chosen case has to be."""
    which, *cases = operands
    for case, places in enumerate(cases):
        here = which.constant & (which.numbers == case) & places.constant & ~constant
        constant, numbers = constant | here, np.where(here, places.numbers, numbers)
    return constant, numbers
