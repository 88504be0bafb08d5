"""A graph of a function that holds for all batch sizes, or for the examples' shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax._where import PyTree
from sparsejax.graph._batch import SIZES, with_batch
from sparsejax.graph._compare import (
    NotProportionalError,
    compared_params,
    differing_param,
    own_numbers,
    same_array,
    scale,
    scaled_equation,
    structure,
)
from sparsejax.graph._graph import Equation, Graph, Length
from sparsejax.graph._trace import trace
from sparsejax.graph.rules import RULES

_SMALL = (2, 3)  # further batch sizes that a graph for every batch size is compared at


@dataclass(frozen=True)
class BatchTrace:
    """A graph for all batch sizes, or for the examples' shapes alone."""

    function: Callable[..., PyTree]
    """The function that was traced."""
    params: PyTree
    """Shapes and dtypes of its parameters."""
    inputs: list[PyTree]
    """Shapes and dtypes of the examples."""
    batched: tuple[bool, ...]
    """For each leaf of the inputs, whether its first dimension is the batch."""
    graph: Graph
    """The graph as traced for the first of two batch sizes, with the shapes for both."""
    other: Graph | None
    """The graph as traced for the second batch size, if there is one."""
    reason: str = ""
    """Why inputs must have the examples' shapes; empty if other batch sizes are allowed."""
    single: BatchTrace | None = None
    """The trace for a batch of one, if that is computed otherwise and was asked for."""

    @property
    def batches(self) -> list[int]:
        """Inputs of the graph whose first dimension is the batch."""
        pairs = zip(self.graph.inputs, self.batched, strict=True)
        return [value for value, batched in pairs if batched]

    def at(self, inputs: Sequence[PyTree], caller: str) -> Graph:
        """Return the graph for other inputs: the same values and equations with their shapes.

        Args:
          inputs: arrays or tracers.
          caller: the name of the public function that is used, for errors.

        Raises:
          ValueError: the function computes something else for ``inputs``, or their shapes differ
            from the examples' in more than the batch.
        """
        shapes = [jnp.shape(array) for array in jax.tree.leaves(list(inputs))]
        self._check(shapes, caller)
        here = trace(self.function, self.params, inputs)
        if self.fits(here):
            return here
        symbolic = any(not isinstance(n, int) for shape in shapes for n in shape)
        scaled = self._scaled(shapes) if symbolic else None
        if scaled is None and symbolic:
            raise ValueError(
                f"inputs of shapes {shapes} have a symbolic batch, of which function computes with "
                f"the number, or with a part; give the shapes of the examples, {self._examples()} "
                "(batched=False)"
            )
        if scaled is None:
            dtypes, ours = (
                [str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]
                for tree in (list(inputs), self.inputs)
            )
            differ = f" and dtypes {dtypes} (those of the examples are {ours})"
            raise ValueError(
                f"inputs of shapes {shapes}{differ * (dtypes != ours)} make another computation of "
                f"function than the examples, {self._examples()}, did; give {caller} an example "
                "like them"
            )
        return scaled

    def takes(self, inputs: Sequence[PyTree]) -> bool:
        """Return whether inputs have the shapes of the examples."""
        return [jnp.shape(array) for array in jax.tree.leaves(list(inputs))] == self._examples()

    def multiples(self) -> list[tuple[int, ...]]:
        """Return the length of each value's dimensions as a multiple of the batch size; 0 if fixed.

        Raises:
          ValueError: the function does not compute the same for every batch size.
        """
        graph, other = self.graph, self.other
        if not any(self.batched):
            return [(0,) * len(shape) for shape in graph.shapes]
        if other is None:
            raise ValueError(_refusal(self.reason.removeprefix("function ")))
        if graph.batch_dependent:
            raise ValueError(_refusal("computes with its number"))
        for one, another in zip(graph.every_equation(), other.every_equation(), strict=True):
            if one.name in RULES:
                _check_params(one, another)
        found = [tuple(map(_multiple, graph.lengths(value))) for value in range(len(graph.shapes))]
        for size in _SMALL:
            here = trace(self.function, self.params, with_batch(self.inputs, self.batched, size))
            if not self.fits(here):
                raise ValueError(_refusal("computes differently for another one"))
            for shape, lengths, many in zip(here.shapes, graph.shapes, found, strict=True):
                grown = [m * size if m else n for n, m in zip(lengths, many, strict=True)]
                if list(shape) != grown:
                    raise ValueError(
                        _refusal(f"has an array of shape {shape} for {size}, not {tuple(grown)}")
                    )
        return found

    def _examples(self) -> list[tuple[int, ...]]:
        return [leaf.shape for leaf in jax.tree.leaves(self.inputs)]

    def _check(self, shapes: Sequence[tuple[Any, ...]], caller: str) -> None:
        """Refuse shapes that differ from the examples' in more than the batch."""
        examples = self._examples()
        if self.reason:
            if list(shapes) != examples:
                raise ValueError(
                    f"inputs must have the shapes of the examples that {caller} was given, "
                    f"{examples}, because {self.reason}; got {list(shapes)}"
                )
        elif len(shapes) != len(examples) or any(
            shape[batched:] != example[batched:] or len(shape) != len(example)
            for shape, example, batched in zip(shapes, examples, self.batched, strict=True)
        ):
            pairs = zip(examples, self.batched, strict=True)
            fixed = [example for example, batched in pairs if not batched]
            raise ValueError(
                f"inputs must have the shapes of the examples that {caller} was given but for the "
                f"first dimension, the batch, {examples}"
                + (f" (without a batch: {fixed})" if fixed else "")
                + f"; got {list(shapes)}"
            )

    def fits(self, here: Graph) -> bool:
        """Return whether a graph has the same structure, fixed lengths, parameters and numbers.

        Args:
          here: the graph of the same function for another batch size.
        """
        graph = self.graph
        if structure(here) != structure(graph):
            return False
        lengths = (
            (both, length)
            for value, shape in enumerate(here.shapes)
            for both, length in zip(graph.lengths(value), shape, strict=True)
        )
        if any(one == other and length != one for (one, other), length in lengths):
            return False
        pairs = zip(graph.every_equation(), here.every_equation(), strict=True)
        if any(differing_param(graph, one, other) for one, other in pairs):
            return False
        found = own_numbers(here)
        return all(
            value in graph.batch_dependent or same_array(number, found[value])
            for value, number in own_numbers(graph).items()
        )

    def _scaled(self, shapes: Sequence[tuple[Any, ...]]) -> Graph | None:
        """Return the graph for a symbolic batch, for which JAX traces other operations.

        A function that can be traced for a symbolic batch computes the same for every batch size,
        so its graph is this one with all lengths that depend on the batch in proportion to it.
        """
        if self.other is None or self.graph.batch_dependent:
            return None
        sizes, batch = (0, 0), None
        for value, shape in zip(self.graph.inputs, shapes, strict=True):
            for both, length in zip(self.graph.lengths(value), shape, strict=True):
                if both[0] != both[1]:
                    sizes, batch = both, length
        try:
            return self.graph._replace(
                shapes=[
                    tuple(scale(*both, sizes, batch) for both in self.graph.lengths(value))
                    for value in range(len(self.graph.shapes))
                ],
                equations=[
                    scaled_equation(one, other, sizes, batch)
                    for one, other in zip(self.graph.equations, self.other.equations, strict=True)
                ],
            )
        except NotProportionalError:
            return None


def _refusal(what: str) -> str:
    return f"function must compute the same for every batch size; it {what}"


def _multiple(both: Length) -> int:
    """Return a length as a multiple of the batch size, given its values for `SIZES`."""
    one, other = both
    if one == other:
        return 0
    multiple = one // SIZES[0]
    if both != (multiple * SIZES[0], multiple * SIZES[1]):
        raise ValueError(
            _refusal(
                f"has a dimension of length {one} for {SIZES[0]} and {other} for {SIZES[1]}, which "
                "is no multiple"
            )
        )
    return multiple


def _check_params(one: Equation, other: Equation) -> None:
    """Refuse parameters that are neither equal nor lengths in proportion to the batch."""
    if one.body is not None and one.params["length"] != other.params["length"]:
        raise ValueError(_refusal("has a loop over it"))
    for name, value in compared_params(one).items():
        try:
            scale(value, other.params[name], SIZES, SIZES[0])
        except NotProportionalError as error:
            raise ValueError(_refusal(f"has {one.name} with another {name} for each")) from error
