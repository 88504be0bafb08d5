"""The rule of ``conv_general_dilated``, a contraction where its weights are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jax import lax

from sparsejax.graph._factored import transposed
from sparsejax.graph._onnx_convolution import write_convolution
from sparsejax.graph._rule import (
    AxisConstants,
    ConstantFinder,
    Contraction,
    Equation,
    Factored,
    Graph,
    GroupBuilder,
    NotFactoredError,
    Rule,
    SlicedGraph,
)


def _contraction(graph: Graph, equation: Equation, known: tuple[bool, bool]) -> Contraction | None:
    params = equation.params
    if known != (False, True):
        return None
    if params["batch_group_count"] != 1:
        return None
    lhs, rhs, out = params["dimension_numbers"]
    padded = any(map(any, params["padding"])) or any(n != 1 for n in params["lhs_dilation"])
    left, right = equation.ins
    groups, window = params["feature_group_count"], tuple(rhs[2:])
    return Contraction(left, lhs[1], right, rhs[1], (rhs[0],), (out[1],), window, padded, groups)


def _groups(builder: GroupBuilder, equation: Equation) -> None:
    (left, right), out = equation.ins, equation.outs[0]
    specs = equation.params["dimension_numbers"]
    contraction = builder.contractions.get(equation.number)
    for value, spec in zip((left, right, out), specs, strict=True):
        builder.keep_whole(value, spec[2:])
        if contraction is None:
            builder.unsupported(equation, value, spec[:2])
    if contraction is not None:
        lhs, rhs, result = specs
        builder.same(left, lhs[0], out, result[0])
        builder.same(right, rhs[0], out, result[1])
        builder.contraction(equation, contraction)


def _constants(finder: ConstantFinder, equation: Equation) -> list[AxisConstants]:
    return finder.contracted(equation)


def _evaluate(sliced: SlicedGraph, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Groups leave as a whole, or lose the same of their channels."""
    lhs, rhs, _ = equation.params["dimension_numbers"]
    groups = operands[0].shape[lhs[1]] // operands[1].shape[rhs[1]]
    return equation.apply(operands, feature_group_count=groups)


def _multiply_accumulates(graph: Graph, equation: Equation) -> int:
    weights = graph.shapes[equation.ins[1]]
    units = equation.params["dimension_numbers"].rhs_spec[0]
    each = (length for axis, length in enumerate(weights) if axis != units)
    return math.prod((*graph.shapes[equation.outs[0]], *each))


_BY_WINDOW: dict[str, Any] = {
    "window_strides": 1, "padding": (0, 0), "lhs_dilation": 1, "rhs_dilation": 1,
}  # fmt: skip
"""Parameters with an entry for each dimension of the window, and what has no effect."""


def _factored(equation: Equation, operands: Sequence[Any]) -> Any:
    """Convolve with the factor that reads the input channels, and then with the other one.

    Each dimension of the window belongs to one of them, with its stride, padding and dilation.
    """
    image, kernel = operands
    params = equation.params
    written, read, *window = params["dimension_numbers"].rhs_spec
    groups = params["feature_group_count"], params["batch_group_count"]
    if isinstance(image, Factored) or groups != (1, 1):
        raise NotFactoredError
    if kernel.sides[written] == kernel.sides[read]:
        raise NotFactoredError
    side = kernel.sides[read]

    def convolve(image: Any, own: bool, axis: int, **changed: Any) -> Any:
        """Convolve with the factor of a side, whose rank takes the place of dimension ``axis``."""
        array = kernel.right if own else kernel.left
        places = [axis, *kernel.axes(own)] if own else [*kernel.axes(own), axis]
        order = sorted(range(len(places)), key=places.__getitem__)
        absent = [other for other in range(len(kernel.sides)) if other not in places]
        weights = lax.expand_dims(transposed(array, order), absent)
        mine = [kernel.sides[dimension] == own for dimension in window]
        for name, neutral in _BY_WINDOW.items():
            given = zip(params[name], mine, strict=True)
            changed[name] = tuple(one if yes else neutral for one, yes in given)
        return equation.apply([image, weights], **changed)[0]

    # What is between the two has the layout of an image.
    between = params["dimension_numbers"]._replace(out_spec=params["dimension_numbers"].lhs_spec)
    small = convolve(image, side, written, dimension_numbers=between, preferred_element_type=None)
    return convolve(small, not side, read)


RULES = {
    "conv_general_dilated": Rule(
        groups=_groups,
        constants=_constants,
        evaluate=_evaluate,
        onnx=write_convolution,
        contraction=_contraction,
        multiply_accumulates=_multiply_accumulates,
        factored=_factored,
    )
}
