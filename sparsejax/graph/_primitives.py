"""What kinds of primitives there are, and how the ones that mix units read their operands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import lax

from sparsejax.graph._graph import Equation, Graph

ELEMENTWISE = frozenset(
    {
        "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2",
        "atanh", "cbrt", "ceil", "clamp", "complex", "conj", "convert_element_type", "copy",
        "copy_p", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp",
        "exp2", "expm1", "floor", "ge", "gt", "imag", "integer_pow", "is_finite", "le",
        "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg",
        "nextafter", "not", "or",
        "pow", "real", "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin",
        "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor"
    }
)  # fmt: skip
REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min"})
WINDOWS = frozenset({"reduce_window_sum", "reduce_window_max", "reduce_window_min"})
SHAPES = frozenset({"reshape", "transpose", "squeeze", "broadcast_in_dim"})
PARTS = frozenset({"concatenate", "slice", "dynamic_slice", "split", "pad", "gather", "rev"})
PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
UNDERSTOOD = ELEMENTWISE | REDUCTIONS | WINDOWS | SHAPES | PARTS | PRODUCTS | {"iota"}
# What these make of numbers that are the same for each example of a batch is so, too.
_BY_EXAMPLE = ELEMENTWISE | SHAPES


class Contraction(NamedTuple):
    """A product of computed values with weights that sums over units: a dense layer, a convolution.

    Weights are indexed by the unit that is read, the units that are written, and a window.
    """

    computed: int
    """The value that is read."""
    axis: int
    """Its dimension that is summed over."""
    weights: int
    read: int
    """The weights' dimension that is summed with it."""
    written: tuple[int, ...]
    """The weights' dimensions that the result has, in its order."""
    window: tuple[int, ...]
    """The weights' dimensions over positions."""
    padded: bool
    """Whether zeros stand in for some of the positions that are read."""


class Window(NamedTuple):
    """Fixed places of an operand that lie in a box: of a slice whose start is an operand."""

    starts: tuple[int, ...]
    """For each dimension of the operand."""
    squeezed: tuple[int, ...]
    """The operand's dimensions that the result has not; they have one place."""


def fixed_values(graph: Graph) -> list[bool]:
    """Which values are computed from parameters and constants alone, by what is understood.

    And whatever the batch size is: numbers that depend on it are not fixed, nor those of which one
    could not say what they are for another one.
    """
    fixed = [False] * len(graph.shapes)
    for value in [*graph.leaves, *graph.constants, *graph.literals]:
        # Keys of random numbers are no numbers.
        numbers = not jax.dtypes.issubdtype(graph.dtypes[value], jax.dtypes.extended)
        fixed[value] = numbers and value not in graph.unsure
    for equation in graph.equations:
        known = equation.name in UNDERSTOOD and all(fixed[value] for value in equation.ins)
        if known and equation.name not in _BY_EXAMPLE:
            known = not any(map(graph.varying, (*equation.ins, *equation.outs)))
        for value in equation.outs:
            fixed[value] = known
    return fixed


def contraction_of(graph: Graph, equation: Equation, fixed: Sequence[bool]) -> Contraction | None:
    """The equation as a contraction; None if it is another kind of product."""
    left, right = equation.ins
    known = [fixed[value] and not graph.varying(value) for value in (left, right)]
    if known[0] == known[1]:
        return None
    if equation.name == "conv_general_dilated":
        return _convolution(equation) if known[1] else None
    (left_axes, right_axes), (batch, _) = equation.params["dimension_numbers"]
    if len(left_axes) != 1 or batch:
        return None
    if known[1]:
        computed, axis, weights, read = left, left_axes[0], right, right_axes[0]
    else:
        computed, axis, weights, read = right, right_axes[0], left, left_axes[0]
    written = tuple(axis for axis in range(len(graph.shapes[weights])) if axis != read)
    return Contraction(computed, axis, weights, read, written, (), False)


def _convolution(equation: Equation) -> Contraction | None:
    params = equation.params
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    lhs, rhs, _ = params["dimension_numbers"]
    padded = any(map(any, params["padding"])) or any(n != 1 for n in params["lhs_dilation"])
    left, right = equation.ins
    return Contraction(left, lhs[1], right, rhs[1], (rhs[0],), tuple(rhs[2:]), padded)


def written_axes(graph: Graph, equation: Equation, contraction: Contraction) -> tuple[int, ...]:
    """The result's dimensions that are the weights' ``written`` ones."""
    if equation.name == "conv_general_dilated":
        return (equation.params["dimension_numbers"].out_spec[1],)
    others = len(graph.shapes[contraction.computed]) - 1
    first = 0 if contraction.weights == equation.ins[0] else others
    return tuple(range(first, first + len(contraction.written)))


def taken_axis(graph: Graph, equation: Equation, fixed: Sequence[bool]) -> tuple[int, int] | None:
    """Of a gather that takes fixed places of one dimension: that dimension, and the result's."""
    operand, indices = equation.ins
    numbers = equation.params["dimension_numbers"]
    shape, places = graph.shapes[operand], graph.shapes[indices]
    if (
        not fixed[indices]
        or numbers.operand_batching_dims
        or len(numbers.start_index_map) != 1
        or numbers.collapsed_slice_dims != numbers.start_index_map
        or len(places) != 2
        or places[1] != 1
    ):
        return None
    axis = int(numbers.start_index_map[0])
    if set(_cut_axes(graph, equation)) - {axis} or graph.varies(operand, axis):
        return None
    (out,) = set(range(len(shape))) - set(numbers.offset_dims)
    return axis, int(out)


def window_of(
    graph: Graph, equation: Equation, known: Mapping[int, np.ndarray], fixed: Sequence[bool]
) -> Window | None:
    """What a dynamic slice, or a gather at one index, takes; None if the places are not fixed.

    Args:
      graph: the graph.
      equation: a ``dynamic_slice`` or ``gather``.
      known: arrays of the fixed values; those of scalars may have more dimensions.
      fixed: as `fixed_values` gives it.
    """
    operand, *starts = equation.ins
    found = [0] * len(graph.shapes[operand])
    squeezed: tuple[int, ...] = ()
    clamped = True
    numbers = equation.params.get("dimension_numbers")
    if numbers is not None and numbers.operand_batching_dims:
        return None
    cut = _cut_axes(graph, equation)
    if numbers is None:
        # Where nothing is cut off, the slice begins at 0 whatever its start is said to be.
        for axis in cut:
            if not fixed[starts[axis]]:
                return None
            found[axis] = int(known[starts[axis]].item())
    else:
        if not fixed[starts[0]] or len(graph.shapes[starts[0]]) != 1:
            return None
        squeezed = tuple(map(int, numbers.collapsed_slice_dims))
        places = np.broadcast_to(known[starts[0]], graph.shapes[starts[0]]).tolist()
        for axis, place in zip(numbers.start_index_map, places, strict=True):
            found[int(axis)] = int(place)
        clamped = equation.params["mode"] == lax.GatherScatterMode.CLIP
    for axis, start in enumerate(found):
        if graph.varies(operand, axis):
            if axis in cut or (start and not clamped):
                return None
            found[axis] = 0
            continue
        last = graph.shapes[operand][axis] - equation.params["slice_sizes"][axis]
        found[axis] = min(max(start, 0), last)
        if found[axis] != start and not clamped:
            return None  # outside, a gather gives numbers of its own
    return Window(tuple(found), squeezed)


def _cut_axes(graph: Graph, equation: Equation) -> list[int]:
    """Dimensions of which a dynamic slice, or a gather, takes a part."""
    operand, out = graph.lengths(equation.ins[0]), graph.lengths(equation.outs[0])
    if equation.name == "gather":
        numbers = equation.params["dimension_numbers"]
        rest = iter(numbers.offset_dims)
        out = [
            (1, 1) if axis in numbers.collapsed_slice_dims else out[next(rest)]
            for axis in range(len(operand))
        ]
    return [axis for axis, length in enumerate(operand) if out[axis] != length]


def through_windows(equation: Equation, axis: int) -> bool:
    """Whether a windowed reduction leaves each position of a dimension by itself."""
    params = equation.params
    return (
        params["window_dimensions"][axis] == 1
        and params["window_strides"][axis] == 1
        and params["base_dilation"][axis] == 1
        and not any(params["padding"][axis])
    )


def window_size(equation: Equation) -> int:
    """Entries of a window."""
    return math.prod(equation.params["window_dimensions"])
