"""Training with products in bfloat16 and everything else in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from sparsejax.graph import Equation, Graph, evaluate_equations, trace


def mixed_precision(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Round the operands of products with matrices to bfloat16, in the gradient, too.

    The products are those over the last axis of an array and an axis of a matrix, both float32: the
    dense layers and the logits. Their sums, all parameters and gradients, and all other operations
    stay float32, among them the products of an attention block, whose operands both depend on the
    example. On CPUs with instructions for bfloat16 these products take half the time.

    Args:
      function: ``function(params, *inputs)``. Products inside of ``scan`` stay as they are, and
        custom derivatives are lost.

    Returns:
      The function with these products; it is traced again in each call.

    References:
      Micikevicius et al., Mixed precision training, ICLR 2018.
    """

    def mixed(params: PyTree, *inputs: PyTree) -> PyTree:
        graph = trace(function, params, inputs)

        def apply(equation: Equation, operands: Sequence[Any]) -> list[Any]:
            axis = _axis_of_matrix(graph, equation)
            return equation.apply(operands) if axis is None else [_product(*operands, axis)]

        given = graph.given(jax.tree.leaves(params), jax.tree.leaves(inputs))
        outputs = evaluate_equations(graph.equations, given, graph.outputs, apply)
        return jax.tree.unflatten(graph.tree, outputs)

    return mixed


def _axis_of_matrix(graph: Graph, equation: Equation) -> int | None:
    """Return the axis of the matrix over which a product sums; None for other equations."""
    if equation.name != "dot_general":
        return None
    (of_left, of_right), batch = equation.params["dimension_numbers"]
    left, right = (len(graph.shapes[value]) for value in equation.ins)
    if any(graph.dtypes[value] != jnp.float32 for value in (*equation.ins, *equation.outs)):
        return None
    if any(batch) or right != 2 or tuple(of_left) != (left - 1,):
        return None
    return int(of_right[0])


def _sum(
    left: Float[Array, "..."],
    right: Float[Array, "..."],
    of_left: Sequence[int],
    of_right: Sequence[int],
) -> Float[Array, "..."]:
    """Multiply and sum over an axis, or some, of each operand."""
    product = lax.dot_general(
        left.astype(jnp.bfloat16),
        right.astype(jnp.bfloat16),
        ((of_left, of_right), ((), ())),
        preferred_element_type=jnp.float32,
    )
    # A transposition that follows would be merged into the product, which XLA refuses on CPUs.
    alone: jax.Array = lax.optimization_barrier(product)
    return alone


# The gradient is written out for two reasons: JAX does not round the gradient of the result, and
# it transposes that of the matrix, which XLA computes at less than half the speed on CPUs.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(
    inputs: Float[Array, "... inputs"], matrix: Float[Array, "_ _"], axis: int
) -> Float[Array, "... outputs"]:
    return _sum(inputs, matrix, (inputs.ndim - 1,), (axis,))


def _forward(inputs: jax.Array, matrix: jax.Array, axis: int) -> tuple[jax.Array, Any]:
    inputs, matrix = inputs.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16)
    return _product(inputs, matrix, axis), (inputs, matrix)


def _backward(axis: int, saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, matrix = saved
    gradient = gradient.astype(jnp.bfloat16)
    examples = tuple(range(inputs.ndim - 1))
    left, right = (inputs, gradient) if axis == 0 else (gradient, inputs)
    return (
        _sum(gradient, matrix, (inputs.ndim - 1,), (1 - axis,)),
        _sum(left, right, examples, examples),
    )


_product.defvjp(_forward, _backward)
