"""A network's graph with all that is known computed, and each product in the way chosen for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._names import named_leaves
from sparsejax._where import PyTree
from sparsejax.deploy.sparse_programs import _direct_convolution, _products
from sparsejax.graph import (
    Constants,
    Contraction,
    Equation,
    Graph,
    Weights,
    find_constants,
    find_contractions,
    trace_batch,
)

_MOST_WEIGHTS = 1000  # A direct convolution is compiled to an operation for each weight.

DENSE = "dense"
FUSED = "direct_convolution_fused"
CONVOLUTIONS = ("direct_convolution", FUSED)


class Layer(NamedTuple):
    """A product with known weights."""

    equation: int
    name: str
    weights: np.ndarray
    """[in, out, *window]; a layer with several dimensions of units has them as one."""
    macs: int
    """For the examples, dense."""
    kinds: tuple[str, ...]
    """Ways to compute it, `DENSE` first."""


class Program:
    """``function(params, *inputs)`` with its parameters known."""

    def __init__(
        self,
        function: Callable[..., PyTree],
        params: PyTree,
        inputs: Sequence[PyTree],
        batched: PyTree = None,
    ):
        self._params = params
        self._traced = trace_batch(function, params, inputs, batched)
        graph = self._traced.graph
        constants = find_constants(graph, jax.tree.leaves(params))
        self._settled = _settled(graph, constants)
        self._contractions = find_contractions(graph)
        # What is known of the network holds for all batch sizes, the work for that of the examples.
        example = graph if self._traced.reason else self._traced.at(inputs, "compile_sparse")
        self.layers = [
            layer
            for layer in _layers(graph, example.shapes, params, constants.weights)
            if graph.equations[layer.equation].outs[0] not in self._settled
        ]

    def run(self, kinds: Mapping[int, str], *inputs: PyTree) -> PyTree:
        """The outputs; ``kinds`` by the layer's equation. To be called under ``jit``."""
        if any(map(_explicitly_sharded, jax.tree.leaves(inputs))):
            # How gathers and loops are sharded is for the compiler to say; the outputs are as those
            # of the dense network.
            out = jax.eval_shape(lambda *arrays: self._run({}, *arrays), *inputs)
            specs = jax.tree.map(lambda array: array.sharding.spec, out)
            run = jax.sharding.auto_axes(partial(self._run, kinds), out_sharding=specs)
            return run(*inputs)
        return self._run(kinds, *inputs)

    def _run(self, kinds: Mapping[int, str], *inputs: PyTree) -> PyTree:
        graph = self._traced.at(inputs, "compile_sparse")
        values = _known(graph, jax.tree.leaves(self._params))
        known = set(values)
        for value, (axis, numbers) in self._settled.items():
            shape = graph.shapes[value]
            along = numbers.reshape([-1 if place == axis else 1 for place in range(len(shape))])
            if _symbolic(shape):
                values[value] = jnp.broadcast_to(along, shape)
            else:
                values[value] = np.broadcast_to(along, shape)
                known.add(value)
        values |= zip(graph.inputs, map(jnp.asarray, jax.tree.leaves(inputs)), strict=True)
        biases = _biases(graph, self._contractions, values, known)
        layers = {layer.equation: layer for layer in self.layers}
        for number, equation in enumerate(graph.equations):
            if all(value in values for value in equation.outs):
                continue
            kind = kinds.get(number, DENSE)
            if kind == DENSE:
                values |= _compute(equation, values, known)
                continue
            out, bias = biases.get(number, (equation.outs[0], None))
            contraction = self._contractions[number]
            values[out] = _product(graph, contraction, layers[number], kind, values, bias)
        outputs = [_array(_whole(values[value])) for value in graph.outputs]
        return jax.tree.unflatten(graph.tree, outputs)


def _explicitly_sharded(array: Any) -> bool:
    """Whether the type of an array says that a dimension is spread over a mesh."""
    spec = getattr(jax.typeof(array).sharding, "spec", ())
    return any(axes is not None for axes in spec)


def _settled(graph: Graph, constants: Constants) -> dict[int, tuple[int, np.ndarray]]:
    """Values that are the same whatever the input: along which dimension they vary, and how.

    So a branch without live units is not computed at all.
    """
    found = {}
    for value, by_axis in constants.units.items():
        for axis, units in by_axis.items():
            if not graph.varies(value, axis) and units.mask.all():
                found[value] = axis, units.numbers
    return found


def _layers(
    graph: Graph,
    shapes: Sequence[tuple[int, ...]],
    params: PyTree,
    weights: Mapping[int, Weights],
) -> list[Layer]:
    found = []
    paths = [name for name, _ in named_leaves(params)]
    names = _names(graph, paths)
    taken: dict[str, int] = {}
    for number, contraction in find_contractions(graph).items():
        equation = graph.equations[number]
        array = _matrix(weights[number], contraction)
        name = names[contraction.weights]
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:  # weights that are used again
            name += f" ({taken[name]})"
        outputs = math.prod(shapes[equation.outs[0]])
        macs = outputs * array[:, :1].size
        kinds = (DENSE, *_kinds(graph, equation, array))
        found.append(Layer(number, name, array, macs, kinds))
    return found


def _names(graph: Graph, paths: Sequence[str]) -> dict[int, str]:
    """Of values computed from a parameter: its path, of those of a constant: its number."""
    names = dict(zip(graph.leaves, paths, strict=True))
    names |= {value: f"constant {place}" for place, value in enumerate(graph.constants)}
    for equation in graph.equations:
        sources = [value for value in equation.ins if value in names]
        if sources:
            largest = max(sources, key=lambda value: math.prod(graph.shapes[value]))
            names |= dict.fromkeys(equation.outs, names[largest])
    return names


def _matrix(weights: Weights, contraction: Contraction) -> np.ndarray:
    array = weights.array
    window = array.shape[1 + len(contraction.written) :]
    return array.reshape(array.shape[0], -1, *window)


def _kinds(graph: Graph, equation: Equation, weights: np.ndarray) -> Sequence[str]:
    if not jnp.issubdtype(graph.dtypes[equation.outs[0]], jnp.floating):
        return ()
    if equation.name == "dot_general":
        return _products.usable(weights)
    if _direct_convolution.supports(equation) and np.count_nonzero(weights) <= _MOST_WEIGHTS:
        return CONVOLUTIONS
    return ()


def _known(graph: Graph, leaves: Sequence[Any]) -> dict[int, Any]:
    """All values that do not depend on the inputs, as NumPy arrays."""
    given = graph.given(leaves).items()
    values = {value: np.asarray(array) for value, array in given if _is_number(array)}
    with jax.ensure_compile_time_eval():
        for equation in graph.equations:
            if all(value in values for value in equation.ins):
                found = equation.apply([_array(values[value]) for value in equation.ins])
                values |= zip(equation.outs, map(np.asarray, found), strict=True)
    return values


def _symbolic(shape: tuple[Any, ...]) -> bool:
    """Whether a length is symbolic, as the batch is for ``jax.export``."""
    return not all(isinstance(length, int) for length in shape)


def _is_number(array: Any) -> bool:
    return not jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended)


def _array(operand: Any) -> jax.Array:
    """For a program: what is broadcast in NumPy is broadcast there, not stored."""
    if isinstance(operand, np.ndarray) and 0 in operand.strides:
        first = tuple(slice(None, None if stride else 1) for stride in operand.strides)
        return jnp.broadcast_to(jnp.asarray(operand[first]), operand.shape)
    return jnp.asarray(operand)


def _compute(equation: Equation, values: Mapping[int, Any], known: set[int]) -> dict[int, Any]:
    operands = [values[value] for value in equation.ins]
    if any(isinstance(operand, _direct_convolution.Pieces) for operand in operands):
        fixed = [value in known for value in equation.ins]
        pieces = _direct_convolution.compute(equation, operands, fixed)
        if pieces is not None:
            return {equation.outs[0]: pieces}
    found = equation.apply([_array(_whole(operand)) for operand in operands])
    return dict(zip(equation.outs, found, strict=True))


def _whole(value: Any) -> Any:
    return value.whole() if isinstance(value, _direct_convolution.Pieces) else value


def _biases(
    graph: Graph,
    contractions: Mapping[int, Contraction],
    values: Mapping[int, Any],
    known: set[int],
) -> dict[int, tuple[int, np.ndarray]]:
    """For products that a known number by unit is added to: the sum's value, and those numbers."""
    uses = graph.uses()
    products = {}
    for number, contraction in contractions.items():
        equation = graph.equations[number]
        if equation.name == "dot_general" and uses[equation.outs[0]] == 1:
            products[equation.outs[0]] = number, contraction.result_axes
    found = {}
    for equation in graph.equations:
        if equation.name != "add":
            continue
        for product, added in (equation.ins, equation.ins[::-1]):
            if product in products and added in known:
                number, axes = products[product]
                bias = _by_unit(values[added], graph.shapes[product], axes)
                if bias is not None:
                    found[number] = equation.outs[0], bias
                break
    return found


def _by_unit(array: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray | None:
    # An array that is known does not vary along a symbolic batch.
    lengths = [1 if _symbolic((length,)) else length for length in shape]
    whole = np.moveaxis(np.broadcast_to(array, lengths), axes, range(len(axes)))
    units = whole.reshape(math.prod(shape[axis] for axis in axes), -1)
    if not units.size or (units != units[:, :1]).any():
        return None
    return units[:, 0]


def _product(
    graph: Graph,
    contraction: Contraction,
    layer: Layer,
    kind: str,
    values: Mapping[int, Any],
    bias: np.ndarray | None,
) -> Any:
    equation = graph.equations[layer.equation]
    x, dtype = _array(_whole(values[contraction.computed])), graph.dtypes[equation.outs[0]]
    if equation.name == "conv_general_dilated":
        pieces = _direct_convolution.direct_convolution(x, layer.weights, equation)
        return pieces if kind == FUSED else _direct_convolution.concatenate(pieces)
    # The dimension summed over first, the batch last.
    moved = jnp.moveaxis(jnp.moveaxis(x, contraction.axis, 0), 1, -1) if x.ndim > 1 else x
    rest = moved.shape[1:]
    flat = _products.PRODUCTS[kind](moved.reshape(len(moved), -1), layer.weights, bias)
    shape = graph.shapes[equation.outs[0]]
    axes = contraction.result_axes
    units = [shape[axis] for axis in axes]
    result = flat.astype(dtype).reshape(*units, *rest)
    if rest:
        result = jnp.moveaxis(result, -1, len(units))
    return jnp.moveaxis(result, range(len(units)), axes)
