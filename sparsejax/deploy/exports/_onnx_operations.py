"""Which ONNX operations compute a primitive of JAX."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax.deploy.exports._onnx_nodes import Nodes, element_type
from sparsejax.graph import Equation, Window, taken_axis, through_windows, window_of

OPSET = 19
"""The version of the operations, of 2023: the first in which every pooling can be dilated."""

_ELEMENTWISE = {
    "abs": "Abs", "add": "Add", "add_any": "Add", "and": "And", "ceil": "Ceil", "cos": "Cos",
    "div": "Div", "eq": "Equal", "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge":
    "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid",
    "lt": "Less", "min": "Min", "mul": "Mul", "neg": "Neg", "not": "Not", "or": "Or",
    "pow": "Pow", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
_UNCHANGED = frozenset({"copy", "copy_p", "stop_gradient", "optimization_barrier"})


def write(nodes: Nodes, equation: Equation) -> list[str]:
    """Append the nodes that compute an equation; the names of its results.

    Raises:
      ValueError: the equation's primitive, or this form of it, is not understood.
    """
    name = equation.name
    if name in _UNCHANGED:
        return [nodes.name(value) for value in equation.ins]
    if name in _ELEMENTWISE:
        return [nodes.node(_ELEMENTWISE[name], *map(nodes.name, equation.ins))]
    if name in _REDUCTIONS:
        return [_reduce(nodes, equation)]
    if name not in _RULES:
        known = sorted({*_UNCHANGED, *_ELEMENTWISE, *_REDUCTIONS, *_RULES})
        raise ValueError(
            f"function has the operation {name}, which export_onnx does not understand; it "
            f"understands {', '.join(known)}"
        )
    results = _RULES[name](nodes, equation)
    return results if isinstance(results, list) else [results]


def _refuse(equation: Equation, what: str) -> ValueError:
    return ValueError(
        f"function has the operation {equation.name} {what}, which export_onnx does not understand"
    )


def _fixed(nodes: Nodes, equation: Equation, value: int, axis: int) -> None:
    """Refuse to work on positions of a dimension that depends on the batch."""
    if nodes.multiples[value][axis]:
        raise _refuse(equation, "along the batch")


# Elementwise


def _maximum(nodes: Nodes, equation: Equation) -> str:
    """A maximum with 0 by its own name, since runtimes merge that with the layer before."""
    for value, bound in (equation.ins, equation.ins[::-1]):
        if _is_zero(nodes, bound) and jnp.issubdtype(nodes.graph.dtypes[value], jnp.floating):
            return nodes.node("Relu", nodes.name(value))
    return nodes.node("Max", *map(nodes.name, equation.ins))


def _is_zero(nodes: Nodes, value: int) -> bool:
    return value in nodes.known and not nodes.graph.shapes[value] and nodes.known[value] == 0


def _not_equal(nodes: Nodes, equation: Equation) -> str:
    return nodes.node("Not", nodes.node("Equal", *map(nodes.name, equation.ins)))


def _rsqrt(nodes: Nodes, equation: Equation) -> str:
    return nodes.node("Reciprocal", nodes.node("Sqrt", nodes.name(equation.ins[0])))


def _square(nodes: Nodes, equation: Equation) -> str:
    operand = nodes.name(equation.ins[0])
    return nodes.node("Mul", operand, operand)


def _integer_pow(nodes: Nodes, equation: Equation) -> str:
    dtype = nodes.graph.dtypes[equation.ins[0]]
    exponent = nodes.constant(np.asarray(equation.params["y"], dtype))
    return nodes.node("Pow", nodes.name(equation.ins[0]), exponent)


def _clamp(nodes: Nodes, equation: Equation) -> str:
    low, operand, high = map(nodes.name, equation.ins)
    return nodes.node("Min", nodes.node("Max", operand, low), high)


def _select(nodes: Nodes, equation: Equation) -> str:
    which, *cases = equation.ins
    if nodes.graph.dtypes[which] != np.bool_ or len(cases) != 2:
        raise _refuse(equation, "by a number")
    return nodes.node("Where", nodes.name(which), nodes.name(cases[1]), nodes.name(cases[0]))


def _convert(nodes: Nodes, equation: Equation) -> str:
    (value,), (out,) = equation.ins, equation.outs
    dtypes = nodes.graph.dtypes
    return _cast(nodes, nodes.name(value), dtypes[value], dtypes[out])


def _cast(nodes: Nodes, name: str, before: Any, after: Any) -> str:
    if before == after:
        return name
    return nodes.node("Cast", name, to=element_type(after))


# Products


def _dot_general(nodes: Nodes, equation: Equation) -> str:
    left, right = equation.ins
    shapes = nodes.graph.shapes
    (left_axes, right_axes), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left_rank, right_rank = len(shapes[left]), len(shapes[right])
    if left_axes == (left_rank - 1,) and right_rank == 2 and not left_batch:
        axis = right_axes[0]
        names = nodes.name(left), nodes.transposed(right, (axis, 1 - axis))
        return nodes.node("MatMul", *_same_type(nodes, equation, names))
    letters = iter(string.ascii_letters)
    of_left = [next(letters) for _ in range(left_rank)]
    of_right = [next(letters) for _ in range(right_rank)]
    for i, j in zip((*left_batch, *left_axes), (*right_batch, *right_axes), strict=True):
        of_right[j] = of_left[i]
    of_out = [of_left[axis] for axis in left_batch]
    of_out += [of_left[i] for i in range(left_rank) if i not in (*left_batch, *left_axes)]
    of_out += [of_right[i] for i in range(right_rank) if i not in (*right_batch, *right_axes)]
    rule = f"{''.join(of_left)},{''.join(of_right)}->{''.join(of_out)}"
    names = nodes.name(left), nodes.name(right)
    return nodes.node("Einsum", *_same_type(nodes, equation, names), equation=rule)


def _same_type(nodes: Nodes, equation: Equation, names: tuple[str, str]) -> list[str]:
    """Both factors in the product's dtype, in which JAX sums."""
    dtypes = nodes.graph.dtypes
    return [
        _cast(nodes, name, dtypes[value], dtypes[equation.outs[0]])
        for name, value in zip(names, equation.ins, strict=True)
    ]


def _convolution(nodes: Nodes, equation: Equation) -> str:
    params = equation.params
    left, right = equation.ins
    numbers = params["dimension_numbers"]
    pads = params["padding"]
    if params["batch_group_count"] != 1:
        raise _refuse(equation, "in groups of the batch")
    if any(n != 1 for n in params["lhs_dilation"]):
        raise _refuse(equation, "with lhs_dilation")
    if min(map(min, pads), default=0) < 0:
        raise _refuse(equation, "with negative padding")
    for axis in numbers.lhs_spec[1:]:
        _fixed(nodes, equation, left, axis)
    names = nodes.transposed(left, numbers.lhs_spec), nodes.transposed(right, numbers.rhs_spec)
    result = nodes.node(
        "Conv",
        *_same_type(nodes, equation, names),
        strides=[int(n) for n in params["window_strides"]],
        dilations=[int(n) for n in params["rhs_dilation"]],
        pads=[int(low) for low, _ in pads] + [int(high) for _, high in pads],
        group=int(params["feature_group_count"]),
    )
    return _turned_back(nodes, result, numbers.out_spec)


def _turned_back(nodes: Nodes, name: str, order: Any) -> str:
    """A result whose dimensions are in this order in their own."""
    perm = [int(axis) for axis in np.argsort(order)]
    return name if perm == sorted(perm) else nodes.node("Transpose", name, perm=perm)


# Reductions


def _reduce(nodes: Nodes, equation: Equation) -> str:
    (operand,) = map(nodes.name, equation.ins)
    axes = equation.params["axes"]
    if not axes:  # to ONNX no axes are all
        return operand
    return nodes.node(_REDUCTIONS[equation.name], operand, nodes.integers(axes), keepdims=0)


def _pool(nodes: Nodes, equation: Equation) -> str:
    """ONNX pools over all dimensions behind the first two; windows of length 1 change nothing."""
    params, (value,) = equation.params, equation.ins
    rank = len(nodes.graph.shapes[value])
    others = [axis for axis in range(rank) if through_windows(equation, axis)]
    if len(others) < 2:
        raise _refuse(equation, "over all dimensions but one")
    order = [others[0], others[-1]]
    order += [axis for axis in range(rank) if axis not in order]
    spatial = order[2:]
    if not spatial:
        return nodes.name(value)
    for axis in set(range(rank)) - set(others):
        _fixed(nodes, equation, value, axis)
    window = [int(params["window_dimensions"][axis]) for axis in spatial]
    dilation = [int(params["window_dilation"][axis]) for axis in spatial]
    pads = [params["padding"][axis] for axis in spatial]
    if any(params["base_dilation"][axis] != 1 for axis in spatial):
        raise _refuse(equation, "with base_dilation")
    for length, (low, high) in zip(window, pads, strict=True):
        if not (0 <= low < length and 0 <= high < length):
            raise _refuse(equation, f"with padding {(int(low), int(high))} of windows of {length}")
    attributes = {
        "kernel_shape": window,
        "strides": [int(params["window_strides"][axis]) for axis in spatial],
        "dilations": dilation,
        "pads": [int(low) for low, _ in pads] + [int(high) for _, high in pads],
    }
    operand = nodes.transposed(value, order)
    if equation.name == "reduce_window_max":
        result = nodes.node("MaxPool", operand, **attributes)
    elif equation.name == "reduce_window_min":
        result = nodes.node("Neg", nodes.node("MaxPool", nodes.node("Neg", operand), **attributes))
    else:  # a sum is a mean times a count, up to its last bit
        count = nodes.constant(np.asarray(np.prod(window), nodes.graph.dtypes[value]))
        mean = nodes.node("AveragePool", operand, count_include_pad=1, **attributes)
        result = nodes.node("Mul", mean, count)
    return _turned_back(nodes, result, order)


# Shapes


def _reshape(nodes: Nodes, equation: Equation) -> str:
    (value,), (out,) = equation.ins, equation.outs
    return nodes.reshaped(nodes.name(value), nodes.graph.shapes[out], nodes.multiples[out])


def _transpose(nodes: Nodes, equation: Equation) -> str:
    return nodes.transposed(equation.ins[0], equation.params["permutation"])


def _broadcast(nodes: Nodes, equation: Equation) -> str:
    """First dimensions of length 1 where new ones go, then those that grow."""
    value, (out,) = equation.ins[0], equation.outs
    lengths, multiples = nodes.graph.shapes[out], nodes.multiples[out]
    stays = [False] * len(lengths)
    for axis, place in enumerate(equation.params["broadcast_dimensions"]):
        stays[place] = nodes.graph.shapes[value][axis] == lengths[place]
    if all(stays):
        return nodes.name(value)
    ones = nodes.reshaped(
        nodes.name(value),
        [n if stay else 1 for n, stay in zip(lengths, stays, strict=True)],
        [n if stay else 0 for n, stay in zip(multiples, stays, strict=True)],
    )
    if all(stay or n == 1 for n, stay in zip(lengths, stays, strict=True)):
        return ones
    return nodes.expanded(
        ones,
        [1 if stay else n for n, stay in zip(lengths, stays, strict=True)],
        [0 if stay else n for n, stay in zip(multiples, stays, strict=True)],
    )


# Parts


def _concatenate(nodes: Nodes, equation: Equation) -> str:
    return nodes.node(
        "Concat", *map(nodes.name, equation.ins), axis=int(equation.params["dimension"])
    )


def _slice(nodes: Nodes, equation: Equation) -> str:
    params, (value,), (out,) = equation.params, equation.ins, equation.outs
    lengths = nodes.graph.shapes[value]
    strides = params["strides"] or (1,) * len(lengths)
    cuts = []
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    for axis, (start, limit, stride) in enumerate(bounds):
        whole = (start, limit, stride) == (0, lengths[axis], 1)
        if whole and nodes.multiples[value][axis] == nodes.multiples[out][axis]:
            continue
        _fixed(nodes, equation, value, axis)
        _fixed(nodes, equation, out, axis)
        cuts.append((axis, int(start), int(limit), int(stride)))
    return _cut(nodes, nodes.name(value), cuts)


def _split(nodes: Nodes, equation: Equation) -> list[str]:
    axis, sizes = int(equation.params["axis"]), equation.params["sizes"]
    (value,) = equation.ins
    _fixed(nodes, equation, value, axis)
    ends = [int(n) for n in np.cumsum(sizes)]
    starts = [end - int(size) for end, size in zip(ends, sizes, strict=True)]
    return [
        _cut(nodes, nodes.name(value), [(axis, start, end, 1)])
        for start, end in zip(starts, ends, strict=True)
    ]


def _cut(nodes: Nodes, name: str, cuts: list[tuple[int, int, int, int]]) -> str:
    """Of some dimensions the part from a start to a limit, with a stride."""
    if not cuts:
        return name
    axes, starts, limits, strides = map(nodes.integers, zip(*cuts, strict=True))
    return nodes.node("Slice", name, starts, limits, axes, strides)


def _pad(nodes: Nodes, equation: Equation) -> str:
    value, padding = equation.ins
    config = equation.params["padding_config"]
    if any(inside for _, _, inside in config):
        raise _refuse(equation, "between entries")
    for axis, (low, high, _) in enumerate(config):
        if low or high:
            _fixed(nodes, equation, value, axis)
    pads = [int(low) for low, _, _ in config] + [int(high) for _, high, _ in config]
    if not any(pads):
        return nodes.name(value)
    return nodes.node("Pad", nodes.name(value), nodes.integers(pads), nodes.name(padding))


def _reverse(nodes: Nodes, equation: Equation) -> str:
    for axis in equation.params["dimensions"]:
        _fixed(nodes, equation, equation.ins[0], axis)
    backwards = [(int(axis), -1, -(2**31), -1) for axis in equation.params["dimensions"]]
    return _cut(nodes, nodes.name(equation.ins[0]), backwards)


def _window(nodes: Nodes, equation: Equation, window: Window) -> str:
    value, out = equation.ins[0], equation.outs[0]
    sizes = zip(window.starts, equation.params["slice_sizes"], strict=True)
    cuts = [
        (axis, start, start + int(size), 1)
        for axis, (start, size) in enumerate(sizes)
        if size != nodes.graph.shapes[value][axis]
    ]
    result = _cut(nodes, nodes.name(value), cuts)
    if not window.squeezed:
        return result
    return nodes.reshaped(result, nodes.graph.shapes[out], nodes.multiples[out])


def _dynamic_slice(nodes: Nodes, equation: Equation) -> str:
    window = window_of(nodes.graph, equation, nodes.known, nodes.fixed)
    if window is None:
        raise _refuse(equation, "from places that are not fixed")
    return _window(nodes, equation, window)


def _gather(nodes: Nodes, equation: Equation) -> str:
    value, indices = equation.ins
    window = window_of(nodes.graph, equation, nodes.known, nodes.fixed)
    if window is not None:
        return _window(nodes, equation, window)
    axes = taken_axis(nodes.graph, equation, nodes.fixed)
    if axes is None:
        raise _refuse(equation, "of other than fixed places of one dimension")
    axis, place = axes
    _fixed(nodes, equation, value, axis)
    places = np.asarray(nodes.known[indices])[:, 0]
    if places.size and not 0 <= places.min() <= places.max() < nodes.graph.shapes[value][axis]:
        raise _refuse(equation, "of places that are out of bounds")
    taken = nodes.node("Gather", nodes.name(value), nodes.integers(places.tolist()), axis=axis)
    rank = len(nodes.graph.shapes[value])
    order = [other for other in range(rank) if other != place]
    order.insert(axis, place)
    return _turned_back(nodes, taken, order)


_RULES: dict[str, Callable[[Nodes, Equation], Any]] = {
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "integer_pow": _integer_pow,
    "max": _maximum,
    "ne": _not_equal,
    "pad": _pad,
    "reduce_window_max": _pool,
    "reduce_window_min": _pool,
    "reduce_window_sum": _pool,
    "reshape": _reshape,
    "rev": _reverse,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": _square,
    "squeeze": _reshape,
    "transpose": _transpose,
}
