"""A network that is evaluated equation by equation, each product in the kind chosen for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._where import PyTree
from sparsejax.deploy.sparse_programs import _direct_convolution, _products
from sparsejax.deploy.sparse_programs._biases import find_biases, is_symbolic
from sparsejax.deploy.sparse_programs._layers import DENSE, FUSED, Layer, find_layers
from sparsejax.graph import (
    Constants,
    Contraction,
    Equation,
    Graph,
    find_constants,
    find_contractions,
    trace_batch,
)


class Program:
    """``function(params, *inputs)`` with known parameters.

    Everything that depends on the parameters alone is computed once, in NumPy.
    """

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
        self._constant_values = _constant_values(graph, constants)
        self._contractions = {
            number: contraction
            for number, contraction in find_contractions(graph).items()
            if number < len(graph.equations)  # loops are computed as they are
        }
        # The analysis holds for all batch sizes, the counted work for that of the examples.
        example = graph if self._traced.reason else self._traced.at(inputs, "compile_sparse")
        layers = find_layers(graph, example.shapes, params, self._contractions, constants.weights)
        self.layers = [
            layer
            for layer in layers
            if graph.equations[layer.equation].outs[0] not in self._constant_values
        ]
        """The products that have to be computed."""

    def run(self, kinds: Mapping[int, str], *inputs: PyTree) -> PyTree:
        """Compute the outputs, under ``jit``.

        Args:
          kinds: the kind of each layer by the index of its equation; the others are dense.
          *inputs: as for the function.
        """
        if any(map(_explicitly_sharded, jax.tree.leaves(inputs))):
            # The compiler shards gathers and loops; the outputs are sharded as those of the dense
            # network.
            out = jax.eval_shape(lambda *arrays: self._run({}, *arrays), *inputs)
            specs = jax.tree.map(lambda array: array.sharding.spec, out)
            run = jax.sharding.auto_axes(partial(self._run, kinds), out_sharding=specs)
            return run(*inputs)
        return self._run(kinds, *inputs)

    def _run(self, kinds: Mapping[int, str], *inputs: PyTree) -> PyTree:
        graph = self._traced.at(inputs, "compile_sparse")
        values = _known_values(graph, jax.tree.leaves(self._params))
        known = set(values)
        for value, (axis, numbers) in self._constant_values.items():
            shape = graph.shapes[value]
            along = numbers.reshape([-1 if other == axis else 1 for other in range(len(shape))])
            if is_symbolic(shape):
                values[value] = jnp.broadcast_to(along, shape)
            else:
                values[value] = np.broadcast_to(along, shape)
                known.add(value)
        values |= zip(graph.inputs, map(jnp.asarray, jax.tree.leaves(inputs)), strict=True)
        biases = find_biases(graph, self._contractions, values, known)
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
    """Return whether the type of an array states that a dimension is sharded over a mesh."""
    spec = getattr(jax.typeof(array).sharding, "spec", ())
    return any(axes is not None for axes in spec)


def _constant_values(graph: Graph, constants: Constants) -> dict[int, tuple[int, np.ndarray]]:
    """Return the values that are the same for every input, which are not computed.

    These are the outputs of branches without live units. A value is given by the one dimension
    along which it varies, and by its numbers along that dimension.
    """
    found = {}
    for value, by_axis in constants.units.items():
        for axis, units in by_axis.items():
            if not graph.varies(value, axis) and units.mask.all():
                found[value] = axis, units.numbers
    return found


def _known_values(graph: Graph, leaves: Sequence[Any]) -> dict[int, Any]:
    """Return all values that do not depend on the inputs, as NumPy arrays."""
    given = graph.given(leaves).items()
    values = {value: np.asarray(array) for value, array in given if _is_number(array)}
    with jax.ensure_compile_time_eval():
        for equation in graph.equations:
            if all(value in values for value in equation.ins):
                found = equation.apply([_array(values[value]) for value in equation.ins])
                values |= zip(equation.outs, map(np.asarray, found), strict=True)
    return values


def _is_number(array: Any) -> bool:
    return not jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended)


def _array(operand: Any) -> jax.Array:
    """Return an operand for the program; NumPy broadcasts are repeated there instead of stored."""
    if isinstance(operand, np.ndarray) and 0 in operand.strides:
        first = tuple(slice(None, None if stride else 1) for stride in operand.strides)
        return jnp.broadcast_to(jnp.asarray(operand[first]), operand.shape)
    return jnp.asarray(operand)


def _whole(value: Any) -> Any:
    return value.whole() if isinstance(value, _direct_convolution.Pieces) else value


def _compute(equation: Equation, values: Mapping[int, Any], known: set[int]) -> dict[int, Any]:
    operands = [values[value] for value in equation.ins]
    if any(isinstance(operand, _direct_convolution.Pieces) for operand in operands):
        fixed = [value in known for value in equation.ins]
        pieces = _direct_convolution.compute(equation, operands, fixed)
        if pieces is not None:
            return {equation.outs[0]: pieces}
    found = equation.apply([_array(_whole(operand)) for operand in operands])
    return dict(zip(equation.outs, found, strict=True))


def _product(
    graph: Graph,
    contraction: Contraction,
    layer: Layer,
    kind: str,
    values: Mapping[int, Any],
    bias: np.ndarray | None,
) -> Any:
    """Compute a layer in a kind other than dense."""
    equation = graph.equations[layer.equation]
    x, dtype = _array(_whole(values[contraction.computed])), graph.dtypes[equation.outs[0]]
    if equation.name == "conv_general_dilated":
        pieces = _direct_convolution.direct_convolution(x, layer.weights, equation)
        return pieces if kind == FUSED else _direct_convolution.concatenate(pieces)
    # Products take the contracted dimension first and the batch last.
    moved = jnp.moveaxis(jnp.moveaxis(x, contraction.axis, 0), 1, -1) if x.ndim > 1 else x
    rest = moved.shape[1:]
    flat = _products.PRODUCTS[kind](moved.reshape(len(moved), -1), layer.weights, bias)
    shape = graph.shapes[equation.outs[0]]
    units = [shape[axis] for axis in contraction.result_axes]
    result = flat.astype(dtype).reshape(*units, *rest)
    if rest:
        result = jnp.moveaxis(result, -1, len(units))
    return jnp.moveaxis(result, range(len(units)), contraction.result_axes)
