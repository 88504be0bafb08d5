"""Which units put out the same number whatever the input, and which number.

One pass forwards. A value is either fixed (computed from parameters alone) and known in full, or
computed from inputs; of such a one it is known, dimension by dimension, at which places everything
in it is one and the same number. Nothing is noted along dimensions that depend on the batch size,
and no number that does: what is found holds for every batch size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.graph._graph import Equation, Graph
from sparsejax.graph._primitives import (
    ELEMENTWISE,
    PARTS,
    PRODUCTS,
    REDUCTIONS,
    SHAPES,
    WINDOWS,
    Window,
    contraction_of,
    fixed_values,
    taken_axis,
    through_windows,
    window_of,
    window_size,
    written_axes,
)
from sparsejax.graph._reshape import reshape_groups

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


Indices = Mapping[int, np.ndarray | Window]
"""By the equation's place: which places of one dimension a gather takes, or the window in which
those lie that a gather or a dynamic slice takes."""


class Constants(NamedTuple):
    """What the pass finds."""

    places: dict[int, Constant]
    """Of computed values."""
    weights: dict[int, Weights]
    """Of contractions, by the equation's place."""
    indices: Indices
    """Of equations that take fixed places: the places."""


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
        self.known: dict[int, np.ndarray] = {}
        for value, array in graph.given(leaves).items():
            if self.fixed[value]:
                self.known[value] = np.asarray(array, graph.dtypes[value])
        self.places: dict[int, Constant] = {}
        self.weights: dict[int, Weights] = {}
        self.indices: dict[int, np.ndarray | Window] = {}

    def visit(self, number: int, equation: Equation) -> None:
        if equation.name in ("gather", "dynamic_slice"):
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
        elif name in ("gather", "dynamic_slice"):
            found = self.taken(number, equation)
        elif name in SHAPES | PARTS:
            found = getattr(self, name)(equation)
        else:
            found = {}
        several = found if isinstance(found, list) else [found] * len(equation.outs)
        for value, constant in zip(equation.outs, several, strict=True):
            self.places[value] = {
                axis: places
                for axis, places in constant.items()
                if places.constant.any() and not self.graph.varies(value, axis)
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
        if equation.name in ("reshape", "squeeze"):
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
        window = window_of(self.graph, equation, self.known, self.fixed)
        if window is not None:
            self.indices[number] = window
            return
        axes = None
        if equation.name == "gather":
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
        nowhere = Places(np.zeros(length, bool), np.zeros(length, self.graph.dtypes[value]))
        if value not in self.known or self.graph.varies(value, axis):
            return self.places.get(value, {}).get(axis, nowhere)
        rows = np.moveaxis(self.known[value], axis, 0)
        rows = rows.reshape(len(rows), -1)
        if rows.shape[1] == 0:
            return nowhere
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
                    constant, numbers = constant | zero, _zero_at(zero, numbers)
            if equation.name == "div" and self.never_zero(equation.ins[1]):
                zero = operands[0].constant & (operands[0].numbers == 0) & ~constant
                constant, numbers = constant | zero, _zero_at(zero, numbers)
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
        found = {place: self.along(value, axis) for place, axis in enumerate(left)}
        if equation.name != "reduce_sum":
            return found
        if any(self.graph.varies(value, axis) for axis in reduced):  # a number by batch size
            return {place: _zeros_of(places) for place, places in found.items()}
        times = math.prod(shape[axis] for axis in reduced)
        return {place: _times(places, times) for place, places in found.items()}

    def windows(self, equation: Equation) -> Constant:
        value = equation.ins[0]
        padded = any(map(any, equation.params["padding"]))
        dilated = any(n != 1 for n in equation.params["base_dilation"])
        found = {}
        for axis in range(len(self.graph.shapes[value])):
            if not through_windows(equation, axis):
                continue
            places = self.along(value, axis)
            if equation.name == "reduce_window_sum":
                places = _zeros_of(places) if padded or dilated else places
                places = _times(places, window_size(equation))
            elif padded or dilated:  # a window may lie outside altogether
                places = places._replace(constant=np.zeros_like(places.constant))
            found[axis] = places
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
        places = Places(~varies, narrowed(moved, self.graph.dtypes[equation.outs[0]]))
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

    def squeeze(self, equation: Equation) -> Constant:
        rank, gone = len(self.graph.shapes[equation.ins[0]]), equation.params["dimensions"]
        left = [axis for axis in range(rank) if axis not in gone]
        return {place: self.along(equation.ins[0], axis) for place, axis in enumerate(left)}

    def reshape(self, equation: Equation) -> Constant:
        value, out = equation.ins[0], equation.outs[0]
        found: dict[int, Places] = {}
        if equation.params["dimensions"] is not None:
            return found
        for group in reshape_groups(self.graph.lengths(value), self.graph.lengths(out)):
            lengths = [length for length, _ in group.factors]
            factors: dict[int, Places] = {}
            for axis, places in zip(group.ins, group.of_ins, strict=False):
                split = _split(self.along(value, axis), [lengths[place] for place in places])
                factors |= zip(places, split, strict=True)
            for axis, places in zip(group.outs, group.of_outs, strict=False):
                found[axis] = _joined([factors[place] for place in places])
        return found

    def concatenate(self, equation: Equation) -> Constant:
        chosen = equation.params["dimension"]
        found = {}
        for axis in range(len(self.graph.shapes[equation.ins[0]])):
            pieces = [self.along(value, axis) for value in equation.ins]
            if axis == chosen:
                found[axis] = Places(*map(np.concatenate, zip(*pieces, strict=True)))
            else:  # constant is what all pieces have in common
                first, *rest = pieces
                alike = [first.numbers == places.numbers for places in rest]
                constant = np.logical_and.reduce([places.constant for places in pieces] + alike)
                found[axis] = Places(constant, first.numbers)
        return found

    def slice(self, equation: Equation) -> Constant:
        starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
        strides = equation.params["strides"] or (1,) * len(starts)
        found = {}
        for axis, (start, limit, step) in enumerate(zip(starts, limits, strides, strict=True)):
            constant, numbers = self.along(equation.ins[0], axis)
            found[axis] = Places(constant[start:limit:step], numbers[start:limit:step])
        return found

    def rev(self, equation: Equation) -> Constant:
        found = {}
        for axis in range(len(self.graph.shapes[equation.ins[0]])):
            step = -1 if axis in equation.params["dimensions"] else 1
            found[axis] = Places(*(array[::step] for array in self.along(equation.ins[0], axis)))
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

    def taken(self, number: int, equation: Equation) -> Constant:
        value, places = equation.ins[0], self.indices.get(number)
        if places is None:
            return {}
        if isinstance(places, Window):
            found = []
            for axis, start in enumerate(places.starts):
                if axis not in places.squeezed:
                    end = start + equation.params["slice_sizes"][axis]
                    found.append(Places(*(array[start:end] for array in self.along(value, axis))))
            return dict(enumerate(found))
        axes = taken_axis(self.graph, equation, self.fixed)
        assert axes is not None
        order = [axis for axis in range(len(self.graph.shapes[value])) if axis != axes[0]]
        order.insert(axes[1], axes[0])
        taken = {place: self.along(value, axis) for place, axis in enumerate(order)}
        constant, numbers = taken[axes[1]]
        return taken | {axes[1]: Places(constant[places], numbers[places])}


def fold(array: np.ndarray, ndim: int, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    r"""What constant units add to what is written from them: :math:`\sum_i c_i \sum_p w_{ijp}`.

    Args:
      array: weights [read, *written, *window].
      ndim: dimensions of [read, *written].
      rows: which units are constant.
      numbers: c.

    Returns:
      [*written] in the widest dtype of their kind; integers are exact modulo its range.
    """
    dtype = wide(array.dtype, numbers.dtype)
    total = np.zeros(array.shape[1:ndim], dtype)
    chosen = np.flatnonzero(rows & (numbers != 0))
    step = max(1, _PIECE // max(1, array[:1].size))
    for start in range(0, len(chosen), step):
        some = chosen[start : start + step]
        piece = array[some].astype(dtype)
        piece = piece.sum(axis=tuple(range(ndim, array.ndim)), dtype=dtype)
        total += np.tensordot(numbers[some].astype(dtype), piece, axes=1)
    return total


def wide(*dtypes: Any) -> np.dtype:
    """The widest dtype of their kind, in which sums are computed here."""
    for kind, widest in (
        (jnp.complexfloating, np.complex128),
        (jnp.floating, np.float64),
        (jnp.signedinteger, np.int64),
        (jnp.unsignedinteger, np.uint64),
    ):
        if any(jnp.issubdtype(dtype, kind) for dtype in dtypes):
            return np.dtype(widest)
    return np.dtype(np.int64)


def narrowed(array: np.ndarray, dtype: Any) -> np.ndarray:
    """In a dtype of the same kind: rounded, infinite where too large, integers modulo its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def _times(places: Places, count: int) -> Places:
    """Of a sum over so many equal numbers."""
    numbers = places.numbers.astype(wide(places.numbers.dtype)) * count
    return Places(places.constant, narrowed(numbers, places.numbers.dtype))


def _zeros_of(places: Places) -> Places:
    return places._replace(constant=places.constant & (places.numbers == 0))


def _zero_at(where: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return np.where(where, np.zeros((), numbers.dtype), numbers)


def _split(places: Places, lengths: Sequence[int]) -> list[Places]:
    """Of the factors of a dimension: a unit is constant where all of its tuples are, and equal."""
    if len(lengths) == 1:
        return [places]
    whole = [array.reshape(lengths) for array in places]
    found = []
    for place in range(len(lengths)):
        constant, numbers = (np.moveaxis(array, place, 0) for array in whole)
        constant, numbers = (array.reshape(len(array), -1) for array in (constant, numbers))
        alike = (numbers[:, 0] == numbers.T).all(axis=0)
        found.append(Places(constant.all(axis=1) & alike, numbers[:, 0]))
    return found


def _joined(factors: Sequence[Places]) -> Places:
    """Of a dimension that is joined: a tuple of units is constant where any one of them is."""
    if len(factors) == 1:
        return factors[0]
    lengths = [len(places.constant) for places in factors]
    constant, numbers = np.zeros(lengths, bool), np.zeros(lengths, factors[0].numbers.dtype)
    for place, places in enumerate(factors):
        along = [1] * len(factors)
        along[place] = -1
        here, there = (array.reshape(along) for array in places)
        numbers = np.where(here, there, numbers)
        constant = constant | here
    return Places(constant.ravel(), numbers.ravel())


def _bind(equation: Equation, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The primitive of arrays; those of an elementwise one are broadcast to one another."""
    if equation.name in ELEMENTWISE:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        arrays = [array if array.ndim == 0 else np.broadcast_to(array, shape) for array in arrays]
    if equation.name in _WITH_NUMPY:
        return [np.asarray(_WITH_NUMPY[equation.name](*arrays))]
    # A unit that stands still at NaN is no mistake of ours; whoever looks for NaN finds it later.
    with jax.ensure_compile_time_eval(), jax.debug_nans(False), jax.debug_infs(False):
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
