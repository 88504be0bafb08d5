"""The rule of ``dot_general``.

It is a contraction where it sums one dimension of known weights; every other product needs the
units that are zero in none of its factors.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsejax.graph._constants import ConstantUnits
from sparsejax.graph._factored import transposed
from sparsejax.graph._product import Product
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
from sparsejax.graph._signs import smallest


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


def _free(graph: Graph, equation: Equation) -> tuple[list[int], list[int]]:
    """Return the dimensions of both factors that are neither summed over nor of the batch."""
    summed, batch = equation.params["dimension_numbers"]
    left, right = (
        [axis for axis in range(len(graph.shapes[value])) if axis not in (*axes, *batch_axes)]
        for value, axes, batch_axes in zip(equation.ins, summed, batch, strict=True)
    )
    return left, right


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    out, contraction = equation.outs[0], builder.contractions.get(equation.number)
    summed, batch = equation.params["dimension_numbers"]
    free, count = _free(builder.graph, equation), len(batch[0])
    for value, batch_axes, axes in zip(equation.ins, batch, free, strict=True):
        builder.same_pairs(value, batch_axes, out, range(len(batch_axes)))
        builder.same_pairs(value, axes, out, range(count, count + len(axes)))
        count += len(axes)
    if contraction is None:
        builder.product(equation, summed, batch, free)
    else:
        builder.contraction(equation, contraction)


def _read(finder: ConstantFinder, equation: Equation) -> None:
    """Record where both factors may be different from zero."""
    if equation.number not in finder.contractions:
        summed, batch = equation.params["dimension_numbers"]
        free = _free(finder.graph, equation)
        left, right = (
            finder.factor(value, batch[side], free[side], summed[side])
            for side, value in enumerate(equation.ins)
        )
        finder.products[equation.number] = [Product(left, right)]


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    """Find units of zeros; where all weights of one factor are known, other constants, too."""
    if equation.number in finder.contractions:
        return finder.contracted(equation)
    (product,), graph, out = finder.products[equation.number], finder.graph, equation.outs[0]
    left, right = product
    nonzero = product.nonzero()
    count = len(left.batch)
    masks = [
        np.asarray(nonzero.any(tuple(other for other in range(nonzero.ndim) if other != axis)))
        for axis in range(count)
    ]
    for factor, other in ((left, right.over_free()), (right, left.over_free())):
        masks += [factor.along_free(index, other) for index in range(len(factor.free))]
    zero = np.zeros((), graph.dtypes[out])
    return [
        {
            axis: ConstantUnits(~mask, np.broadcast_to(zero, mask.shape))
            for axis, mask in enumerate(masks)
        }
    ]


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
        read=_read,
        sign=smallest,
        onnx=_onnx,
        contraction=_contraction,
        multiply_accumulates=_multiply_accumulates,
        factored=_factored,
    )
}
