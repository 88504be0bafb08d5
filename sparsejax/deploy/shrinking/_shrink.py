"""Dead units taken out of any feed-forward network: a smaller one with the same outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._names import leaves_by_name, named_leaves
from sparsejax._where import PyTree
from sparsejax.deploy.shrinking._evaluate import evaluate, take
from sparsejax.graph import (
    Axes,
    Constants,
    Fold,
    Graph,
    Indices,
    Read,
    Traced,
    concrete_leaves,
    find_axes,
    find_constants,
    find_folds,
    find_live,
    fold,
    narrowed,
    nearest_leaf,
    removable,
    trace_batch,
    wide,
)


class Shrunk(NamedTuple):
    """What `shrink` leaves."""

    function: Callable[..., PyTree]
    """``function(params, *inputs)``: the outputs, from the smaller parameters and whole inputs.
    Pure: for ``jit``, ``grad``, ``vmap``, any batch size."""
    params: PyTree
    """As they were given, with smaller leaves; one that lost nothing is the very same array."""
    kept: dict[str, tuple[np.ndarray | None, ...]]
    """For each leaf by path, for each of its dimensions: the indices that stayed, None for all."""
    kept_inputs: dict[str, tuple[np.ndarray | None, ...]]
    """The same of the inputs: what is read of them (``0``: the first one)."""
    mixed: dict[str, int]
    """Operations that read units in ways that are not understood (``keep_mixed``), with the number
    of units that had to stay for it."""
    folded_outside: bool = False
    """Whether constants went into arrays that ``function`` closes over, which ``params`` lack."""


def shrink(
    function: Callable[..., PyTree],
    params: PyTree,
    *inputs: PyTree,
    keep_mixed: bool = False,
    batched: PyTree = None,
) -> Shrunk:
    r"""Take out the dead units of a network; what is left computes the same, within rounding.

    A unit is dead when nothing that matters reads it, or when it puts out a constant c whatever the
    input is; a constant goes into the bias above, :math:`b' = b + \sum c\,w`. What reads what is
    found in the function's jaxpr, not told: of a kernel that is convolved, a bias that is added and
    a scale that multiplies, the same channel goes from all. So with whatever is summed, a residual
    stream goes only where it is dead on every branch. The fewest units are kept from which the
    outputs can be computed.

    Understood are products with weights (``dot_general`` over one dimension, convolutions in one
    group, with any stride, padding and dilation), everything elementwise, sums and maxima over
    windows and over positions, reshapes, transposition, broadcasting, concatenation, slices and
    indices at fixed places however they are spelled, reversal and padding; calls (``jit``,
    ``custom_jvp``, ``custom_vjp``, ``checkpoint``) are looked into. Batch normalisation with
    running statistics is made of these. Where units are read in another way (a softmax, a layer
    norm, attention or a sort over them, a recurrence, a convolution in groups), the function is
    refused with that operation's name and the parameter nearest to it, unless ``keep_mixed``.

    A constant stays where there is no bias or mean right behind the products that read it, and
    before convolutions that pad (its border is zero) unless it is 0. Of every layer one unit stays
    at least. Inputs that nothing reads, single ones behind a flattening too, are dropped by an
    index. Weights are taken to be finite: zero times a unit is zero. The smaller function does not
    have custom derivatives of the whole one, but those of what it computes.

    Runs on the host, with ``params`` concrete. Beyond them and the smaller ones it takes the memory
    of a boolean for each weight of a dense layer. As for Flax::

        graph, params, rest = nnx.split(model, nnx.Param, ...)
        small = shrink(lambda params, x: nnx.merge(graph, params, rest)(x), params, images)
        logits = jax.jit(small.function)(small.params, images)

    Args:
      function: ``function(params, *inputs)``, pure, in the form that is used for inference.
      params: pytree of arrays with zeros where pruned (gates and masks multiplied in, or multiplied
        in by ``function``). Arrays that ``function`` closes over count as known, too.
      *inputs: examples, arrays or ``jax.ShapeDtypeStruct``: their shapes and dtypes count. The
        first dimension is the batch and may differ later; what is found does not depend on how many
        examples these are. (``function`` is traced for other batch sizes, too. Where it cannot be,
        or computes something else for them, what is returned is for the examples' shapes alone.)
      keep_mixed: keep units whole that are read in ways that are not understood.
      batched: which inputs have a batch as their first dimension: a bool for each input, or a tree
        of bools that is a prefix of ``inputs``. Default: every input that has dimensions and with
        which ``function`` can be traced at another length of the first one.

    Raises:
      TypeError: ``params`` hold a traced array, or something that is no array.
      ValueError: an operation reads units in a way that is not understood. The function that is
        returned: inputs or parameters of other shapes.
    """
    leaves = concrete_leaves(params)
    names = list(leaves_by_name(params))
    leaves_by_name(inputs)
    traced = trace_batch(function, params, inputs, batched)
    graph = traced.graph
    constants = find_constants(graph, leaves)
    axes = find_axes(graph, constants.indices, traced.batches)
    refused = (axes.mixed.keys() & axes.of_parameters) - axes.whole
    if refused and not keep_mixed:
        raise ValueError(_refusal(graph, axes, refused, names))
    folds = find_folds(graph, axes)
    live = find_live(axes, constants, folds, at_least_one=True)
    kept = {family: np.flatnonzero(mask) for family, mask in live.items() if not mask.all()}
    moved = _moved_constants(graph, axes, constants, folds, live)
    indices = constants.indices
    del constants, live  # they hold memory of the size of the weights
    small = {
        value: _cut(array, axes.families[value], kept, moved.get(value))
        for value, array in [
            *zip(graph.leaves, leaves, strict=True),
            *zip(graph.constants, graph.arrays, strict=True),
        ]
    }
    mixed: dict[str, int] = {}
    for family in refused:
        name = graph.equations[axes.mixed[family]].name
        mixed[name] = mixed.get(name, 0) + axes.sizes[family]
    return Shrunk(
        _smaller_function(traced, axes, kept, indices, [small[v] for v in graph.constants]),
        jax.tree.unflatten(jax.tree.structure(params), [small[v] for v in graph.leaves]),
        _by_path(params, graph.leaves, axes, kept),
        _by_path(inputs, graph.inputs, axes, kept),
        mixed,
        not moved.keys().isdisjoint(graph.constants),
    )


def _refusal(graph: Graph, axes: Axes, refused: set[int], names: Sequence[str]) -> str:
    """Each operation once, with the places where it stands."""
    places: dict[str, dict[str, None]] = {}
    for number in sorted({axes.mixed[family] for family in refused}):
        equation = graph.equations[number]
        units = [axes.sizes[f] for f in _families(axes, equation.ins) if f in refused]
        units += [axes.sizes[f] for f in _families(axes, equation.outs) if f in refused]
        where = f"over {units[0]} units {nearest_leaf(graph, number, names)}".strip()
        places.setdefault(equation.name, {})[where] = None
    reasons = [f"{name} ({'; '.join(where)})" for name, where in sorted(places.items())]
    return (
        f"function reads units in ways that shrink does not understand: {', '.join(reasons)}; "
        "keep_mixed=True keeps all of those units and shrinks the rest"
    )


def _families(axes: Axes, values: Sequence[int]) -> list[int]:
    return [family for value in values for family in axes.families[value]]


def _moved_constants(
    graph: Graph,
    axes: Axes,
    constants: Constants,
    folds: Mapping[int, Fold],
    live: Mapping[int, np.ndarray],
) -> dict[int, np.ndarray]:
    """What the constants of units that go add to each leaf, in its shape."""
    moved: dict[int, np.ndarray] = {}
    for tie in axes.ties:
        if not isinstance(tie, Read) or tie.equation not in folds:
            continue
        known = removable(tie, constants, folds)
        gone = known.constant & ~live[tie.read]
        weights, into = constants.weights[tie.equation], folds[tie.equation]
        amount = fold(weights.array, weights.link.ndim, gone, known.numbers)
        if amount.any():
            amount = amount.reshape(graph.shapes[into.leaf])
            moved[into.leaf] = amount if into.sign > 0 else np.negative(amount)
    return moved


def _cut(
    array: Any,
    families: Sequence[int],
    kept: Mapping[int, np.ndarray],
    moved: np.ndarray | None,
) -> Any:
    """A leaf with what was moved into it, without the units that go."""
    chosen = [kept.get(family) for family in families]
    if moved is None and all(places is None for places in chosen):
        return array
    whole = np.asarray(array)
    if moved is not None:
        whole = narrowed(whole.astype(wide(whole.dtype)) + moved, whole.dtype)
    # The dimension that loses most first: what lies in between is small.
    for axis in sorted(range(whole.ndim), key=lambda a: _share(chosen[a], whole.shape[a])):
        if (places := chosen[axis]) is not None:
            whole = np.take(whole, places, axis=axis)
    return jnp.asarray(whole)


def _share(places: np.ndarray | None, length: int) -> float:
    return 1.0 if places is None else len(places) / length


def _by_path(
    tree: PyTree, values: Sequence[int], axes: Axes, kept: Mapping[int, np.ndarray]
) -> dict[str, tuple[np.ndarray | None, ...]]:
    return {
        name: tuple(kept.get(family) for family in axes.families[value])
        for (name, _), value in zip(named_leaves(tree), values, strict=True)
    }


def _smaller_function(
    traced: Traced,
    axes: Axes,
    kept: Mapping[int, np.ndarray],
    indices: Indices,
    constants: Sequence[Any],
) -> Callable[..., PyTree]:
    """The function on the smaller parameters; it is traced again for each new batch size."""
    graph = traced.graph
    sizes = [
        tuple(
            _length(kept.get(family), n)
            for family, n in zip(axes.families[value], graph.shapes[value], strict=True)
        )
        for value in graph.leaves
    ]

    def cut(value: int, array: Any) -> jax.Array:
        whole = jnp.asarray(array)
        for axis, family in enumerate(axes.families[value]):
            if family in kept:
                whole = take(whole, kept[family], axis)
        return whole

    def smaller(params: PyTree, *inputs: PyTree) -> PyTree:
        leaves = jax.tree.leaves(params)
        found = [jnp.shape(leaf) for leaf in leaves]
        if found != sizes:
            raise ValueError(f"params must have the shapes that shrink left, {sizes}; got {found}")
        here = traced.at(inputs, "shrink")
        chosen = dict(zip(graph.leaves, leaves, strict=True))
        for value, array, new in zip(graph.constants, constants, here.arrays, strict=True):
            # An array that depends on the batch size is that of this one.
            chosen[value] = cut(value, new) if value in graph.unsure else array
        for value, array in zip(graph.inputs, jax.tree.leaves(inputs), strict=True):
            chosen[value] = cut(value, array)
        return jax.tree.unflatten(here.tree, evaluate(here, axes, kept, indices, chosen))

    return smaller


def _length(places: np.ndarray | None, length: int) -> int:
    return length if places is None else len(places)
