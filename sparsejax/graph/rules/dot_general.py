"""The rule of ``dot_general``, a contraction where it sums one dimension of known weights."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

from sparsejax.graph._factored import transposed
from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Contraction,
    Equation,
    Factored,
    Graph,
    GroupBuilder,
    NotFactoredError,
    OnnxBuilder,
    Rule,
)


def _contraction(graph: Graph, equation: Equation, known: tuple[bool, bool]) -> Contraction | None:
    left, right = equation.ins
    (left_axes, right_axes), (batch, _) = equation.params["dimension_numbers"]
    if known[0] == known[1] or len(left_axes) != 1 or batch:
        return None
    if known[1]:
        computed, axis, weights, read = left, left_axes[0], right, right_axes[0]
    else:
        computed, axis, weights, read = right, right_axes[0], left, left_axes[0]
    written = tuple(other for other in range(len(graph.shapes[weights])) if other != read)
    first = 0 if known[0] else len(graph.shapes[computed]) - 1
    result_axes = tuple(range(first, first + len(written)))
    return Contraction(computed, axis, weights, read, written, result_axes, (), False)


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    out, contraction = equation.outs[0], builder.contractions.get(equation.number)
    summed, batch = equation.params["dimension_numbers"]
    for value, axes in zip(equation.ins, summed, strict=True):
        if contraction is None:
            builder.unsupported(equation, value, axes)
    count = len(batch[0])
    for value, axes, batch_axes in zip(equation.ins, summed, batch, strict=True):
        builder.same_pairs(value, batch_axes, out, range(len(batch_axes)))
        rank = len(builder.graph.shapes[value])
        free = [axis for axis in range(rank) if axis not in (*axes, *batch_axes)]
        builder.same_pairs(value, free, out, range(count, count + len(free)))
        count += len(free)
    if contraction is not None:
        builder.contraction(equation, contraction)


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return finder.contracted(equation)


def _multiply_accumulates(graph: Graph, equation: Equation) -> int:
    summed = equation.params["dimension_numbers"][0][0]
    each = (graph.shapes[equation.ins[0]][axis] for axis in summed)
    return math.prod((*graph.shapes[equation.outs[0]], *each))


def _onnx(builder: OnnxBuilder, equation: Equation) -> list[str]:
    left, right = equation.ins
    (left_axes, right_axes), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left_rank, right_rank = (len(builder.graph.shapes[value]) for value in equation.ins)
    if left_axes == (left_rank - 1,) and right_rank == 2 and not left_batch:
        axis = right_axes[0]
        names = builder.name(left), builder.transposed(right, (axis, 1 - axis))
        return [builder.node("MatMul", *builder.cast_operands(equation, names))]
    letters = iter(string.ascii_letters)
    of_left = [next(letters) for _ in range(left_rank)]
    of_right = [next(letters) for _ in range(right_rank)]
    for i, j in zip((*left_batch, *left_axes), (*right_batch, *right_axes), strict=True):
        of_right[j] = of_left[i]
    of_out = [of_left[axis] for axis in left_batch]
    of_out += [of_left[i] for i in range(left_rank) if i not in (*left_batch, *left_axes)]
    of_out += [of_right[i] for i in range(right_rank) if i not in (*right_batch, *right_axes)]
    formula = f"{''.join(of_left)},{''.join(of_right)}->{''.join(of_out)}"
    names = builder.name(left), builder.name(right)
    return [builder.node("Einsum", *builder.cast_operands(equation, names), equation=formula)]


def _factored(equation: Equation, operands: Sequence[Any]) -> Any:
    """Multiply by the factor that holds the summed dimensions, and then by the other one."""
    place = int(isinstance(operands[1], Factored))
    value, other = operands[place], operands[1 - place]
    summed, batch = equation.params["dimension_numbers"]
    sides = {value.sides[axis] for axis in summed[place]}
    if isinstance(other, Factored) or batch[0] or len(sides) != 1:
        raise NotFactoredError
    (side,) = sides
    near, far = (value.right, value.left) if side else (value.left, value.right)
    own = value.axes(side)
    # The dimension of the rank is the first one of the right factor, and the last of the left.
    axes = tuple(own.index(axis) + side for axis in summed[place])
    free = len(own) - len(axes)
    others = other.ndim - len(axes)
    rank = (0 if side else free) + (others if place else 0)
    far_rank = far.ndim - 1 if side else 0

    def product(one: Any, other: Any, one_axes: Any, other_axes: Any, **params: Any) -> Any:
        pairs = ((one, one_axes), (other, other_axes))
        (lhs, of_lhs), (rhs, of_rhs) = pairs if place else pairs[::-1]
        return equation.apply(
            [lhs, rhs], dimension_numbers=((of_lhs, of_rhs), ((), ())), out_sharding=None, **params
        )[0]

    small = product(other, near, summed[1 - place], axes, preferred_element_type=None)
    result = product(small, far, (rank,), (far_rank,))
    left = [axis for axis in own if axis not in summed[place]]
    beyond = value.axes(not side)
    found = [*left, *beyond] if place else [*beyond, *left]
    before = others if place else 0
    order = [before + found.index(axis) for axis in sorted(found)]
    last = range(before + len(found), result.ndim)
    return transposed(result, [*range(before), *order, *last])


RULES = {
    "dot_general": Rule(
        groups=_groups,
        constants=_constants,
        onnx=_onnx,
        contraction=_contraction,
        multiply_accumulates=_multiply_accumulates,
        factored=_factored,
    )
}
