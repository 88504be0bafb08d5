"""A function as a flat list of equations: its jaxpr with all calls written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from sparsejax._dtypes import promoted
from sparsejax._names import named_leaves
from sparsejax._where import PyTree

# What a call runs, by the name of the parameter that holds it. Rules of differentiation are lost:
# the equations inside are differentiated as they are.
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
}


def _stack(*arrays: jax.Array, axis: int) -> jax.Array:
    return lax.concatenate([lax.expand_dims(array, (axis,)) for array in arrays], axis)


def _unstack(array: jax.Array, *, axis: int) -> list[jax.Array]:
    length = array.shape[axis]
    return [lax.index_in_dim(array, place, axis, keepdims=False) for place in range(length)]


def _tile(array: jax.Array, *, reps: Sequence[int]) -> jax.Array:
    """Each dimension behind one for its repetitions, and the two joined."""
    lengths = [length for pair in zip(reps, array.shape, strict=True) for length in pair]
    spread = lax.broadcast_in_dim(array, lengths, range(1, len(lengths), 2))
    return lax.reshape(spread, [n * length for n, length in zip(reps, array.shape, strict=True)])


# Primitives that are short for others, which are put in their place.
_WRITTEN_OUT: dict[str, Callable[..., Any]] = {"stack": _stack, "unstack": _unstack, "tile": _tile}


Length = tuple[int, int]
"""How long a dimension is for two batch sizes. As one number, a length of a graph that was traced
for a batch of 4 may be that of the batch or four channels; as two, it is the one or the other."""


class Equation(NamedTuple):
    """One primitive applied to values; values are numbers, see `Graph`."""

    primitive: Any
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    params: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the primitive."""
        return self.primitive.name

    def apply(self, operands: Sequence[Any], **changed: Any) -> list[Any]:
        """Its results for other operands, perhaps with other parameters."""
        result = self.primitive.bind(*operands, **(self.params | changed))
        return list(result) if self.primitive.multiple_results else [result]


class Graph(NamedTuple):
    """A traced function without calls and without equations that nothing reads."""

    shapes: list[tuple[int, ...]]
    """Of each value."""
    other_shapes: list[tuple[int, ...]]
    """Of each value, its shape for another batch size; a dimension that is as long for both does
    not depend on the batch. The same list as ``shapes`` for a single trace."""
    unsure: frozenset[int]
    """Literals and constants whose numbers depend on the batch size."""
    dtypes: list[Any]
    leaves: list[int]
    """The values that are leaves of the parameters."""
    constants: list[int]
    """The values that are arrays which the function closes over."""
    arrays: list[Any]
    """Those arrays."""
    inputs: list[int]
    literals: dict[int, np.ndarray]
    equations: list[Equation]
    outputs: list[int]
    tree: Any
    """Structure of the outputs."""

    def given(self, leaves: Sequence[Any]) -> dict[int, Any]:
        """All values that no equation computes, without the inputs."""
        given: dict[int, Any] = dict(self.literals)
        given |= zip(self.leaves, leaves, strict=True)
        given |= zip(self.constants, self.arrays, strict=True)
        return given

    def lengths(self, value: int) -> list[Length]:
        """Of a value's dimensions."""
        return list(zip(self.shapes[value], self.other_shapes[value], strict=True))

    def varies(self, value: int, axis: int) -> bool:
        """Whether the length of a dimension depends on the batch size."""
        return self.shapes[value][axis] != self.other_shapes[value][axis]

    def varying(self, value: int) -> list[int]:
        """The dimensions of a value whose lengths depend on the batch size."""
        return [axis for axis in range(len(self.shapes[value])) if self.varies(value, axis)]

    def uses(self) -> list[int]:
        """How often each value is read; being an output counts."""
        count = [0] * len(self.shapes)
        for value in self.outputs:
            count[value] += 1
        for equation in self.equations:
            for value in equation.ins:
                count[value] += 1
        return count


def abstract(tree: PyTree) -> PyTree:
    """The shapes and dtypes of arrays, of numbers too."""

    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else promoted(leaf)
        return jax.ShapeDtypeStruct(jnp.shape(leaf), dtype)

    return jax.tree.map(one, tree)


def concrete_leaves(params: PyTree) -> list[Any]:
    """The leaves of a pytree of arrays.

    Raises:
      TypeError: one is traced, or no array.
    """
    named = named_leaves(params)
    for name, leaf in named:
        if isinstance(leaf, jax.core.Tracer) or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"params must hold concrete arrays; {name} is {leaf!r} ({type(leaf).__name__})"
            )
    return [leaf for _, leaf in named]


def trace(function: Callable[..., PyTree], params: PyTree, inputs: Sequence[PyTree]) -> Graph:
    """The graph of ``function(params, *inputs)``; of both only shapes and dtypes count."""
    make = jax.make_jaxpr(function, return_shape=True)
    closed, out = make(abstract(params), *abstract(inputs))
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
        _read_ones(writer.equations, outputs),
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
        """Append the equations of a jaxpr; the numbers of its results."""
        number = dict(zip(jaxpr.constvars, constants, strict=True))
        number |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> int:
            if not isinstance(atom, core.Literal):
                return number[atom]
            value = self.new(atom.aval)
            self.literals[value] = np.asarray(atom.val, self.dtypes[value])
            return value

        for eqn in jaxpr.eqns:
            ins = tuple(map(read, eqn.invars))
            if eqn.primitive.name in _CALLS:
                outs = self._call(eqn.params[_CALLS[eqn.primitive.name]], ins)
            elif eqn.primitive.name in _WRITTEN_OUT:
                same = partial(_WRITTEN_OUT[eqn.primitive.name], **eqn.params)
                operands = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
                outs = self._call(jax.make_jaxpr(same)(*operands), ins)
            else:
                outs = [self.new(var.aval) for var in eqn.outvars]
                self.equations.append(Equation(eqn.primitive, ins, tuple(outs), eqn.params))
            number |= dict(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _call(self, inner: Any, ins: Sequence[int]) -> list[int]:
        if not hasattr(inner, "consts"):  # an open jaxpr
            return self.write(inner, [], ins)
        constants = []
        for array in inner.consts:
            constants.append(self.new(jax.typeof(array)))
            self.constants.append(constants[-1])
            self.arrays.append(array)
        return self.write(inner.jaxpr, constants, ins)


def _read_ones(equations: Sequence[Equation], outputs: Sequence[int]) -> list[Equation]:
    read = set(outputs)
    found = []
    for equation in reversed(equations):
        if read & set(equation.outs):
            read |= set(equation.ins)
            found.append(equation)
    return found[::-1]
