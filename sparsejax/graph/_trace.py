"""Tracing: the jaxpr of a function as a `Graph`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core

from sparsejax._where import PyTree
from sparsejax.graph._graph import Body, Equation, Graph, abstract

# The parameter of each call primitive that holds the jaxpr it runs. Custom derivatives and rules of
# ``vmap`` are lost: the inlined equations are differentiated and mapped as they are.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_vmap_call": "call",
}


_NOTE = (
    "This was raised while function(params, *inputs) was traced. It must be a pure function of "
    "arrays, as it is used for inference: for a Flax NNX module one that calls "
    "nnx.merge(graphdef, params, rest) of a module in the mode of model.eval()."
)


def _stack(*arrays: jax.Array, axis: int) -> jax.Array:
    return lax.concatenate([lax.expand_dims(array, (axis,)) for array in arrays], axis)


def _unstack(array: jax.Array, *, axis: int) -> list[jax.Array]:
    length = array.shape[axis]
    return [lax.index_in_dim(array, index, axis, keepdims=False) for index in range(length)]


def _tile(array: jax.Array, *, reps: Sequence[int]) -> jax.Array:
    """Broadcast a new dimension of repetitions before each dimension, and merge the two."""
    lengths = [length for pair in zip(reps, array.shape, strict=True) for length in pair]
    spread = lax.broadcast_in_dim(array, lengths, range(1, len(lengths), 2))
    return lax.reshape(spread, [n * length for n, length in zip(reps, array.shape, strict=True)])


def _reshape(
    array: jax.Array, *, new_sizes: Sequence[int], dimensions: Sequence[int], sharding: Any
) -> jax.Array:
    return lax.reshape(lax.transpose(array, dimensions), new_sizes, out_sharding=sharding)


# Primitives that are replaced by an equivalent composition of others.
_DECOMPOSED: dict[str, Callable[..., Any]] = {
    "stack": _stack, "unstack": _unstack, "tile": _tile, "reshape": _reshape,
}  # fmt: skip


def _is_composed(eqn: Any) -> bool:
    """Return whether a primitive is replaced; a reshape is if it permutes dimensions first."""
    name = eqn.primitive.name
    return name in _DECOMPOSED and (name != "reshape" or eqn.params["dimensions"] is not None)


def trace(function: Callable[..., PyTree], params: PyTree, inputs: Sequence[PyTree]) -> Graph:
    """Trace ``function(params, *inputs)``; only shapes and dtypes are used.

    Args:
      function: a pure function that JAX can trace.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``.
      inputs: the same, one for each further argument.

    Returns:
      The graph, for this batch size alone.

    Raises:
      Exception: whatever the function raises, with a note on what it must be.
    """
    make = jax.make_jaxpr(function, return_shape=True)
    try:
        closed, out = make(abstract(params), *abstract(inputs))
    except Exception as error:
        error.add_note(_NOTE)
        raise
    writer = _Writer()
    constants = [writer.new(var.aval) for var in closed.jaxpr.constvars]
    arguments = [writer.new(var.aval) for var in closed.jaxpr.invars]
    held = list(closed.consts)
    outputs = writer.write(closed.jaxpr, constants, arguments)
    number = len(jax.tree.leaves(params))
    return Graph(
        writer.shapes,
        writer.shapes,
        frozenset(),
        writer.dtypes,
        arguments[:number],
        constants + writer.constants,
        held + writer.arrays,
        arguments[number:],
        writer.literals,
        _numbered(_without_dead_equations(writer.equations, outputs)),
        outputs,
        jax.tree.structure(out),
    )


class _Writer:
    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: list[Any] = []
        self.literals: dict[int, np.ndarray] = {}
        self.constants: list[int] = []
        self.arrays: list[Any] = []
        self.equations: list[Equation] = []

    def new(self, aval: Any) -> int:
        self.shapes.append(tuple(aval.shape))
        self.dtypes.append(aval.dtype)
        return len(self.shapes) - 1

    def write(self, jaxpr: Any, constants: Sequence[int], arguments: Sequence[int]) -> list[int]:
        """Append the equations of a jaxpr and return the values of its results."""
        value_of: dict[Any, int] = dict(zip(jaxpr.constvars, constants, strict=True))
        value_of |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> int:
            if not isinstance(atom, core.Literal):
                return value_of[atom]
            value = self.new(atom.aval)
            self.literals[value] = np.asarray(atom.val, self.dtypes[value])
            return value

        for eqn in jaxpr.eqns:
            ins = tuple(map(read, eqn.invars))
            if eqn.primitive.name in _CALLS:
                outs = self._call(eqn.params[_CALLS[eqn.primitive.name]], ins)
            elif _is_composed(eqn):
                composed = partial(_DECOMPOSED[eqn.primitive.name], **eqn.params)
                operands = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
                outs = self._call(jax.make_jaxpr(composed)(*operands), ins)
            else:
                outs = [self.new(var.aval) for var in eqn.outvars]
                body = self._body(eqn.params["jaxpr"]) if eqn.primitive.name == "scan" else None
                equation = Equation(0, eqn.primitive, ins, tuple(outs), eqn.params, body)
                self.equations.append(equation)
            value_of |= dict(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _body(self, closed: Any) -> Body:
        """Return the body of a scan, whose equations are kept apart."""
        outside, self.equations = self.equations, []
        ins = [self.new(aval) for aval in closed.in_avals]
        outs = self._call(closed, ins)
        found = _without_dead_equations(self.equations, outs)
        self.equations = outside
        return Body(tuple(ins), tuple(outs), tuple(found))

    def _call(self, inner: Any, ins: Sequence[int]) -> list[int]:
        if not hasattr(inner, "consts"):  # an open jaxpr
            return self.write(inner, [], ins)
        constants = []
        for array in inner.consts:
            constants.append(self.new(jax.typeof(array)))
            self.constants.append(constants[-1])
            self.arrays.append(array)
        return self.write(inner.jaxpr, constants, ins)


def _without_dead_equations(
    equations: Sequence[Equation], outputs: Sequence[int]
) -> list[Equation]:
    read = set(outputs)
    found = []
    for equation in reversed(equations):
        if read & set(equation.outs):
            read |= set(equation.ins)
            found.append(equation)
    return found[::-1]


def _numbered(equations: Sequence[Equation]) -> list[Equation]:
    """Number equations in the order of `Graph.every_equation`."""
    found, starts = list(equations), []
    for equation in found:  # grows while it is read
        starts.append(len(found))
        if equation.body is not None:
            found += equation.body.equations

    def numbered(number: int) -> Equation:
        body = found[number].body
        if body is not None:
            numbers = range(starts[number], starts[number] + len(body.equations))
            body = body._replace(equations=tuple(map(numbered, numbers)))
        return found[number]._replace(number=number, body=body)

    return [numbered(number) for number in range(len(equations))]
