"""A traced function as a flat list of equations: its jaxpr with all calls inlined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._dtypes import promoted
from sparsejax._names import named_leaves
from sparsejax._where import PyTree
from sparsejax.graph._scan_counts import scan_counts

Length = tuple[int, int]
"""The length of a dimension for two batch sizes. A single length of 4, traced for a batch of 4, may
be the batch or four channels; the two lengths differ exactly if the batch determines them."""


class Body(NamedTuple):
    """The equations that each step of a ``scan`` computes, on values of the same graph."""

    ins: tuple[int, ...]
    """The values of its inputs: constants, carry and slices."""
    outs: tuple[int, ...]
    """The values of its results: carry and slices."""
    equations: tuple[Equation, ...]
    """The equations of a step; their numbers follow those of the graph's own equations."""


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
    body: Body | None = None
    """The steps of a ``scan``."""

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return str(self.primitive.name)

    def carry(self) -> range:
        """Return the places of the carry among the operands of a scan."""
        constants, carry = scan_counts(self.params)
        return range(constants, constants + carry)

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
    """The equations, in the order of computation, without those of the bodies of scans."""
    outputs: list[int]
    """The values that are leaves of the outputs."""
    tree: Any
    """The structure of the outputs."""

    def given(self, leaves: Sequence[Any], inputs: Iterable[Any] | None = None) -> dict[int, Any]:
        """Return the arrays of parameters, constants, literals and, if given, inputs by value."""
        given: dict[int, Any] = dict(self.literals)
        given |= zip(self.leaves, leaves, strict=True)
        given |= zip(self.constants, self.arrays, strict=True)
        if inputs is not None:
            given |= zip(self.inputs, inputs, strict=True)
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

    def every_equation(self) -> list[Equation]:
        """Return the equations by their number, with those of the bodies of scans behind."""
        found = list(self.equations)
        for equation in found:  # grows while it is read
            if equation.body is not None:
                found += equation.body.equations
        return found

    def uses(self) -> list[int]:
        """Return how often each value is read; being an output counts as one read."""
        count = [0] * len(self.shapes)
        for value in self.outputs:
            count[value] += 1
        for equation in self.every_equation():
            for value in (*equation.ins, *(equation.body.outs if equation.body else ())):
                count[value] += 1
        return count


def evaluate_equations(
    equations: Iterable[Equation],
    given: Mapping[int, Any],
    outputs: Iterable[int],
    apply: Callable[[Equation, Sequence[Any]], Sequence[Any]] = Equation.apply,
) -> list[Any]:
    """Compute values from those that are given.

    Args:
      equations: the equations, in the order of computation.
      given: what they read and do not compute, by value.
      outputs: the values to return.
      apply: returns the results of an equation for its operands; the primitive by default.

    Returns:
      The arrays of ``outputs``, or what ``apply`` returned in their place.
    """
    values = dict(given)
    for equation in equations:
        results = apply(equation, [values[value] for value in equation.ins])
        values |= zip(equation.outs, results, strict=True)
    return [values[value] for value in outputs]


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
      TypeError: a leaf is traced, or is not an array, but for instance only its shape.
    """
    named = named_leaves(params)
    for name, leaf in named:
        known = not isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct)
        if not known or not hasattr(leaf, "dtype"):
            raise TypeError(
                f"params must hold concrete arrays; {name or 'params'} is {leaf!r} "
                f"({type(leaf).__name__}). Of a module with other leaves, pass the arrays alone, "
                "such as nnx.split(model, nnx.Param, ...) or equinox.partition gives them"
            )
    return [leaf for _, leaf in named]
