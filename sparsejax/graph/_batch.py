"""A function traced for two batch sizes, so that what is found in it holds for every one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._dtypes import promoted
from sparsejax._names import named_leaves
from sparsejax._where import PyTree
from sparsejax.graph._graph import Equation, Graph, Length, abstract, trace
from sparsejax.graph._primitives import UNDERSTOOD

SIZES = (12, 18)
"""Batch sizes to trace for. Their halves, thirds and sixths are whole and differ, so that a part of
a batch is no constant either."""

# Parameters that are lengths, and may be others for another batch size.
_LENGTHS = {
    "reshape": "new_sizes", "broadcast_in_dim": "shape", "iota": "shape", "split": "sizes",
    "gather": "slice_sizes", "dynamic_slice": "slice_sizes",
}  # fmt: skip
# Parameters with an entry for each dimension, which only says something about that one.
_BY_AXIS = {"slice": ("start_indices", "limit_indices"), "pad": ("padding_config",)}

_MOST = 6  # inputs of which all subsets are tried


class Traced:
    """A graph for all batch sizes, or for that of the examples where there is none."""

    def __init__(
        self,
        function: Callable[..., PyTree],
        params: PyTree,
        inputs: Sequence[PyTree],
        batched: Sequence[bool],
        graph: Graph,
        other: Graph | None,
        reason: str = "",
    ):
        self._function, self._params = function, abstract(params)
        self._other = other
        self.inputs = abstract(list(inputs))
        self.batched = tuple(batched)
        """Of the leaves of the inputs: whether their first dimension is the batch."""
        self.graph = graph
        """As traced for the first of two batch sizes, with the shapes for both."""
        self.reason = reason
        """Why no other shapes will do than those of the examples; empty where others do."""
        self._known: dict[Any, Graph] = {}

    @property
    def batches(self) -> list[int]:
        """The inputs of the graph whose first dimension is the batch."""
        pairs = zip(self.graph.inputs, self.batched, strict=True)
        return [value for value, batched in pairs if batched]

    def at(self, inputs: Sequence[PyTree], caller: str) -> Graph:
        """The graph for other inputs: the same values and equations, with their own shapes.

        Raises:
          ValueError: ``inputs`` have shapes that ``function`` computes something else for, or
            others than a batch allows.
        """
        arrays = jax.tree.leaves(list(inputs))
        shapes = [jnp.shape(array) for array in arrays]
        key = tuple(shapes), tuple(promoted(array) for array in arrays)
        if key not in self._known:
            self._check(shapes, caller)
            here = trace(self._function, self._params, inputs)
            if not self._fits(here):
                symbolic = [n for shape in shapes for n in shape if not isinstance(n, int)]
                scaled = self._scaled(shapes) if symbolic else None
                if scaled is None:
                    raise ValueError(
                        f"inputs of shapes {shapes} make another computation of function than the "
                        f"examples, {self._examples()}, did; give {caller} an example like them"
                    )
                here = scaled
            self._known[key] = here
        return self._known[key]

    def _examples(self) -> list[tuple[int, ...]]:
        return [leaf.shape for leaf in jax.tree.leaves(self.inputs)]

    def _check(self, shapes: Sequence[tuple[Any, ...]], caller: str) -> None:
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
            fixed = [example for example, batched in zip(examples, self.batched, strict=True)
                     if not batched]  # fmt: skip
            raise ValueError(
                f"inputs must have the shapes of the examples that {caller} was given but for the "
                f"first dimension, the batch, {examples}"
                + (f" (without a batch: {fixed})" if fixed else "")
                + f"; got {list(shapes)}"
            )

    def _fits(self, here: Graph) -> bool:
        """Whether it is the same graph, and what was taken for the same numbers is."""
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
        numbers = _numbers(graph).items()
        found = _numbers(here)
        return all(value in graph.unsure or same(n, found[value]) for value, n in numbers)

    def _scaled(self, shapes: Sequence[tuple[Any, ...]]) -> Graph | None:
        """The graph for a symbolic batch, of which JAX makes other operations from the same code.

        A function that can be traced for one computes the same for every batch size; so its graph
        is ours, with all lengths that depend on the batch in proportion to it.
        """
        if self._other is None or self.graph.unsure:
            return None
        sizes, batch = (0, 0), None
        for value, shape in zip(self.graph.inputs, shapes, strict=True):
            for both, length in zip(self.graph.lengths(value), shape, strict=True):
                if both[0] != both[1]:
                    sizes, batch = both, length
        try:
            shapes_here = [
                tuple(_scale(one, other, sizes, batch) for one, other in self.graph.lengths(value))
                for value in range(len(self.graph.shapes))
            ]
            equations = [
                one._replace(params=_scaled_params(one, other, sizes, batch))
                for one, other in zip(self.graph.equations, self._other.equations, strict=True)
            ]
        except _NoMultipleError:
            return None
        return self.graph._replace(shapes=shapes_here, equations=equations)


def trace_batch(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    batched: PyTree = None,
) -> Traced:
    """Trace ``function(params, *inputs)`` for two batch sizes.

    What is found does not depend on how many examples ``inputs`` hold. A function that makes
    something else of the examples than of other batches, or that cannot be traced for others, is
    traced for the examples alone.

    Args:
      function: pure.
      params: pytree of arrays or ``jax.ShapeDtypeStruct``.
      inputs: likewise, examples.
      batched: which inputs have a batch as their first dimension: a prefix of ``inputs`` of bools.
        Default: the most of them that ``function`` can be traced for with another batch size.
    """
    leaves = jax.tree.leaves(abstract(list(inputs)))
    example = trace(function, params, inputs)
    told = None if batched is None else told_batched(inputs, batched)
    first = [bool(leaf.shape) for leaf in leaves] if told is None else told
    reason = "none of them has a batch"
    for chosen in _candidates(function, params, inputs, first, told is None):
        for sizes in _sizes(leaves, chosen):
            try:
                one, other = (
                    trace(function, params, with_batch(inputs, chosen, size)) for size in sizes
                )
            except Exception as error:  # whatever the function raises where it cannot be traced
                reason = f"function cannot be traced for another batch size ({_short(error)})"
                continue
            found = _merged(one, other)
            if isinstance(found, str):
                reason = f"function {found}"
            elif structure(found) != structure(example):
                reason = "function computes something else for another batch size"
            else:
                return Traced(function, params, inputs, chosen, found, other)
    return Traced(function, params, inputs, first, example, None, reason)


def told_batched(inputs: Sequence[PyTree], batched: PyTree) -> list[bool]:
    """The leaves of ``batched``, a prefix of ``inputs``.

    Raises:
      ValueError: it is no prefix, holds something that is no bool, or says that a scalar has a
        batch.
    """
    try:
        whole = jax.tree.leaves(jax.tree.broadcast(_as_list(batched), list(inputs)))
    except ValueError as error:
        raise ValueError(
            "batched must be a bool, or a tuple with one for each input (or a tree of bools that "
            f"is a prefix of it); got {batched!r} for inputs {jax.tree.structure(tuple(inputs))}"
        ) from error
    for (name, leaf), value in zip(named_leaves(list(inputs)), whole, strict=True):
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"batched must hold bools; it holds {value!r}")
        if value and not jnp.shape(leaf):
            raise ValueError(f"batched says that input {name} has a batch; it is a scalar")
    return [bool(value) for value in whole]


def _as_list(batched: PyTree) -> PyTree:
    return list(batched) if isinstance(batched, tuple) else batched


def batched_inputs(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    batched: PyTree = None,
) -> list[bool]:
    """Which leaves of ``inputs`` have a batch as their first dimension: as told, or as can be said.

    An input has none where ``function`` cannot be traced with another first dimension.

    Raises:
      ValueError: ``batched`` is no prefix of ``inputs``; there is no input with a dimension; or it
        is not clear which have a batch.
    """
    if batched is not None:
        return told_batched(inputs, batched)
    named = named_leaves(abstract(list(inputs)))
    shaped = [bool(leaf.shape) for _, leaf in named]
    if not any(shaped):
        raise ValueError(
            "inputs must have a first dimension, the batch; all are scalars (batched=False is for "
            "functions without a batch)"
        )
    candidates = list(_candidates(function, params, inputs, shaped, True))
    leaves = [leaf for _, leaf in named]
    for chosen in candidates:
        if any(not _errors(function, params, inputs, chosen, s) for s in _sizes(leaves, chosen)):
            lengths = {leaf.shape[0] for leaf, has in zip(leaves, chosen, strict=True) if has}
            if len(lengths) == 1:
                return chosen
            found = ", ".join(
                f"{name}: {leaf.shape[0]}"
                for (name, leaf), has in zip(named, chosen, strict=True) if has
            )  # fmt: skip
            raise ValueError(
                f"inputs have first dimensions of several lengths ({found}), and function can be "
                "traced with others for each; say which of them are the batch, by batched=(True, "
                "False, ...) with one bool for each input"
            )
    error = _errors(function, params, inputs, shaped, SIZES)
    raise ValueError(
        "function must compute the same for every batch size; with another first dimension of "
        f"inputs it fails ({error}). If some of the inputs have no batch, say so by batched=(True, "
        "False, ...), with one bool for each input; batched=False keeps all of their shapes"
    )


def with_batch(inputs: Sequence[PyTree], batched: Iterable[bool], size: Any) -> list[PyTree]:
    """Shapes and dtypes of the inputs with another batch size, or one for each leaf."""
    leaves, treedef = jax.tree.flatten(abstract(list(inputs)))
    sizes = size if isinstance(size, list) else [size] * len(leaves)
    return jax.tree.unflatten(
        treedef,
        [
            jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype) if has else leaf
            for leaf, has, n in zip(leaves, batched, sizes, strict=True)
        ],
    )


def _sizes(leaves: Sequence[Any], batched: Sequence[bool]) -> list[tuple[Any, Any]]:
    """Pairs of batch sizes to try: multiples of the examples' where only some sizes will do."""
    if not any(batched):
        return []
    own = [leaf.shape[0] if has else 0 for leaf, has in zip(leaves, batched, strict=True)]
    pairs: list[tuple[Any, Any]] = [SIZES]
    if all(n > 0 for n, has in zip(own, batched, strict=True) if has):
        pairs.append(([2 * n for n in own], [3 * n for n in own]))
    return pairs


def _candidates(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    first: Sequence[bool],
    derive: bool,
) -> Iterable[list[bool]]:
    """Which inputs may have a batch: all that are said to, else the one largest set that can."""
    yield list(first)
    able = [place for place, has in enumerate(first) if has]
    if not derive or not 1 < len(able) <= _MOST:
        return
    leaves = jax.tree.leaves(abstract(list(inputs)))
    if any(not _errors(function, params, inputs, first, s) for s in _sizes(leaves, first)):
        return  # it can be traced with all of them
    for count in range(len(able) - 1, 0, -1):
        found = []
        for some in itertools.combinations(able, count):
            chosen = [place in some for place in range(len(first))]
            pairs = _sizes(leaves, chosen)
            if any(not _errors(function, params, inputs, chosen, s) for s in pairs):
                found.append(chosen)
        if found:
            if len(found) == 1:
                yield found[0]
            return


def _errors(
    function: Callable[..., PyTree],
    params: PyTree,
    inputs: Sequence[PyTree],
    batched: Sequence[bool],
    sizes: tuple[Any, Any],
) -> str:
    """Why the function cannot be traced for a pair of batch sizes; empty where it can."""
    for size in sizes:
        try:
            jax.eval_shape(function, abstract(params), *with_batch(inputs, batched, size))
        except Exception as error:  # whatever the function raises where it cannot be traced
            return _short(error)
    return ""


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def structure(graph: Graph) -> tuple[Any, ...]:
    """What reads what."""
    equations = [(equation.name, equation.ins, equation.outs) for equation in graph.equations]
    sources = graph.leaves, graph.constants, graph.inputs, list(graph.literals)
    return equations, sources, graph.outputs, graph.dtypes, graph.tree


def _merged(first: Graph, second: Graph) -> Graph | str:
    """One graph of two, or why they are not one."""
    if structure(first) != structure(second):
        return "computes something else for different batch sizes"
    found = first._replace(other_shapes=second.shapes)
    for one, other in zip(first.equations, second.equations, strict=True):
        wrong = one.name in UNDERSTOOD and _disagreement(found, one, other)
        if wrong:
            return f"has {one.name} with another {wrong} for each batch size"
    numbers = _numbers(first)
    again = _numbers(second)
    unsure = frozenset(value for value, n in numbers.items() if not same(n, again[value]))
    return found._replace(unsure=unsure)


def _disagreement(graph: Graph, one: Equation, other: Equation) -> str:
    """A parameter that differs in more than lengths which the batch size sets; empty if none."""
    for name, value in one.params.items():
        value_there = other.params[name]
        if value is value_there or value == value_there or name == _LENGTHS.get(one.name):
            continue
        if name not in _BY_AXIS.get(one.name, ()):
            return name
        for axis, (here, there) in enumerate(zip(value, value_there, strict=True)):
            ends = (one.ins[0], one.outs[0])
            if here != there and not any(graph.varies(end, axis) for end in ends):
                return name
    return ""


def _numbers(graph: Graph) -> dict[int, Any]:
    """The numbers that the function brings along, by value."""
    return dict(graph.literals) | dict(zip(graph.constants, graph.arrays, strict=True))


def same(one: Any, other: Any) -> bool:
    """Whether arrays are the same to the bit; NaN is the same as itself."""
    if one is other:
        return True
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if jax.dtypes.issubdtype(one.dtype, jax.dtypes.extended):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


class _NoMultipleError(Exception):
    """A number is neither the same for both batch sizes nor in proportion to them."""


def _scale(one: Any, other: Any, sizes: Length, batch: Any) -> Any:
    """What stands where there is ``one`` and ``other`` for batches of those sizes."""
    if one is other or one == other:
        return one
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        found = (_scale(a, b, sizes, batch) for a, b in zip(one, other, strict=True))
        return type(one)(*found) if hasattr(one, "_fields") else tuple(found)
    if isinstance(one, int) and isinstance(other, int) and one * sizes[1] == other * sizes[0]:
        return one // sizes[0] * batch if one % sizes[0] == 0 else one * batch // sizes[0]
    raise _NoMultipleError


def _scaled_params(one: Equation, other: Equation, sizes: Length, batch: Any) -> dict[str, Any]:
    return {
        name: _scale(value, other.params[name], sizes, batch) for name, value in one.params.items()
    }
