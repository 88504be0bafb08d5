"""A traced function as a flat list of equations: its jaxpr with all calls inlined."""

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


# Primitives that are replaced by an equivalent composition of others.
_DECOMPOSED: dict[str, Callable[..., Any]] = {"stack": _stack, "unstack": _unstack, "tile": _tile}


Length = tuple[int, int]
"""The length of a dimension for two batch sizes. A single length of 4, traced for a batch of 4, may
be the batch or four channels; the two lengths differ exactly if the batch determines them."""


class Equation(NamedTuple):
    """One primitive applied to values. A value is an index into the lists of a `Graph`."""

    number: int
    """The equation's index in ``Graph.equations``."""
    primitive: Any
    """The primitive of JAX."""
    ins: tuple[int, ...]
    """The values of its operands."""
    outs: tuple[int, ...]
    """The values of its results."""
    params: dict[str, Any]
    """Its parameters, as in the jaxpr."""

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return str(self.primitive.name)

    def apply(self, operands: Sequence[Any], **changed: Any) -> list[Any]:
        """Return the results for the given operands, with some parameters replaced."""
        result = self.primitive.bind(*operands, **(self.params | changed))
        return list(result) if self.primitive.multiple_results else [result]

    def compute(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the results for NumPy arrays, even while something else is traced."""
        # A unit whose constant output is NaN is no error here; it shows in the outputs.
        with jax.ensure_compile_time_eval(), jax.debug_nans(False), jax.debug_infs(False):
            return [np.asarray(array) for array in self.apply([jnp.asarray(a) for a in arrays])]


class Graph(NamedTuple):
    """A traced function, with calls inlined and equations that nothing reads removed."""

    shapes: list[tuple[int, ...]]
    """The shape of each value."""
    other_shapes: list[tuple[int, ...]]
    """The shape of each value for another batch size. A dimension with equal lengths in both does
    not depend on the batch. A graph of a single trace holds ``shapes`` twice."""
    batch_dependent: frozenset[int]
    """Literals and constants whose numbers depend on the batch size."""
    dtypes: list[Any]
    """The dtype of each value."""
    leaves: list[int]
    """The values that are leaves of the parameters."""
    constants: list[int]
    """The values that are arrays which the function closes over."""
    arrays: list[Any]
    """The arrays of ``constants``."""
    inputs: list[int]
    """The values that are leaves of the inputs."""
    literals: dict[int, np.ndarray]
    """The values that are numbers in the jaxpr."""
    equations: list[Equation]
    """The equations, in the order of computation."""
    outputs: list[int]
    """The values that are leaves of the outputs."""
    tree: Any
    """The structure of the outputs."""

    def given(self, leaves: Sequence[Any]) -> dict[int, Any]:
        """Return the arrays of parameters, constants and literals by value."""
        given: dict[int, Any] = dict(self.literals)
        given |= zip(self.leaves, leaves, strict=True)
        given |= zip(self.constants, self.arrays, strict=True)
        return given

    def lengths(self, value: int) -> list[Length]:
        """Return the lengths of a value's dimensions for both batch sizes."""
        return list(zip(self.shapes[value], self.other_shapes[value], strict=True))

    def varies(self, value: int, axis: int) -> bool:
        """Return whether the length of a dimension depends on the batch size."""
        return self.shapes[value][axis] != self.other_shapes[value][axis]

    def varying(self, value: int) -> list[int]:
        """Return the dimensions of a value whose lengths depend on the batch size."""
        return [axis for axis in range(len(self.shapes[value])) if self.varies(value, axis)]

    def uses(self) -> list[int]:
        """Return how often each value is read; being an output counts as one read."""
        count = [0] * len(self.shapes)
        for value in self.outputs:
            count[value] += 1
        for equation in self.equations:
            for value in equation.ins:
                count[value] += 1
        return count


def abstract(tree: PyTree) -> PyTree:
    """Return a tree of ``jax.ShapeDtypeStruct`` for a tree of arrays or numbers.

    Dtypes are those that the arrays would have in JAX: without x64, float64 becomes float32.

    Args:
      tree: pytree of arrays, ``jax.ShapeDtypeStruct`` or numbers.

    Returns:
      The pytree of shapes and dtypes.
    """

    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else promoted(leaf)
        dtype = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
        return jax.ShapeDtypeStruct(jnp.shape(leaf), dtype)

    return jax.tree.map(one, tree)


def concrete_leaves(params: PyTree) -> list[Any]:
    """Return the leaves of a pytree of concrete arrays.

    Args:
      params: the pytree.

    Returns:
      Its leaves, in the order of ``jax.tree.leaves``.

    Raises:
      TypeError: a leaf is traced, or is not an array.
    """
    named = named_leaves(params)
    for name, leaf in named:
        if isinstance(leaf, jax.core.Tracer) or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"params must hold concrete arrays; {name or 'params'} is {leaf!r} "
                f"({type(leaf).__name__}). Of a module with other leaves, pass the arrays alone, "
                "such as nnx.split(model, nnx.Param, ...) or equinox.partition gives them"
            )
    return [leaf for _, leaf in named]


def trace(function: Callable[..., PyTree], params: PyTree, inputs: Sequence[PyTree]) -> Graph:
    """Trace ``function(params, *inputs)``; only shapes and dtypes are used.

    Args:
      function: a pure function that JAX can trace.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``.
      inputs: the same, one for each further argument.

    Returns:
      The graph, for this batch size alone.
    """
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
        _without_dead_equations(writer.equations, outputs),
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
            elif eqn.primitive.name in _DECOMPOSED:
                composed = partial(_DECOMPOSED[eqn.primitive.name], **eqn.params)
                operands = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
                outs = self._call(jax.make_jaxpr(composed)(*operands), ins)
            else:
                outs = [self.new(var.aval) for var in eqn.outvars]
                self.equations.append(Equation(0, eqn.primitive, ins, tuple(outs), eqn.params))
            value_of |= dict(zip(eqn.outvars, outs, strict=True))
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


def _without_dead_equations(
    equations: Sequence[Equation], outputs: Sequence[int]
) -> list[Equation]:
    read = set(outputs)
    found = []
    for equation in reversed(equations):
        if read & set(equation.outs):
            read |= set(equation.ins)
            found.append(equation)
    return [equation._replace(number=number) for number, equation in enumerate(reversed(found))]
