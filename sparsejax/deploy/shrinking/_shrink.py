"""Remove dead units from a network: a smaller one with the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax._names import leaves_by_name, named_leaves
from sparsejax._where import PyTree
from sparsejax.deploy._decode_network import decode_network
from sparsejax.deploy._network import Network, check_network
from sparsejax.graph import (
    BatchTrace,
    BiasFolding,
    Constants,
    ContractionEdge,
    DependencyGroups,
    Graph,
    Indices,
    concrete_leaves,
    constant_contribution,
    evaluate,
    find_bias_foldings,
    find_constants,
    find_groups,
    find_live,
    narrow,
    nearest_leaf,
    removable_units,
    take,
    trace_batch,
    widest,
)


@dataclass(frozen=True, eq=False, repr=False)
class Shrunk(Network):
    """A network without its dead units, from `shrink`.

    Its function takes the whole inputs and the smaller parameters. It is pure, for ``jit``,
    ``grad`` and ``vmap``, and takes any batch size. A leaf of ``params`` that lost nothing is the
    same array as before.
    """

    kept: dict[str, tuple[np.ndarray | None, ...]]
    """For each leaf by path and each of its dimensions: the indices that are kept, None for all."""
    kept_inputs: dict[str, tuple[np.ndarray | None, ...]]
    """The same for the inputs: what is read of them (``0`` is the first one)."""
    unsupported: dict[str, int]
    """Operations that read units in unsupported ways (``keep_unsupported``), with the number of
    units that are kept for it."""
    folded_into_closure: bool
    """Whether constants went into arrays that ``function`` closes over, which ``params`` lack."""
    original: Network
    """The network that was given, with ``jax.ShapeDtypeStruct`` for its parameters."""


def shrink(
    network: Network,
    *inputs: PyTree,
    keep_unsupported: bool = False,
    batched: PyTree = None,
) -> Shrunk:
    r"""Remove the dead units of a network; the rest computes the same, up to rounding.

    A unit is dead if no live unit reads it, or if its output is a constant c for every input; the
    constant is added to the bias that follows its readers, :math:`b' = b + \sum c\,w`.
    Dependencies between units are inferred from the jaxpr: the same channel is removed from a
    kernel, from the bias that is added and from the scale that multiplies. A residual channel is
    removed only if it is dead on every branch. The fewest units are kept from which all outputs can
    be computed.

    Supported are products (``dot_general`` of any two factors, convolutions with any stride,
    padding, dilation and number of groups), all elementwise operations, sums and maxima over
    windows, positions and units, reshapes, transposition, broadcasting, concatenation, slices and
    indices in any spelling, reversal, padding, ``argmax`` and ``scan``; calls (``jit``,
    ``custom_jvp``, ``custom_vjp``, ``checkpoint``) are inlined. Batch normalisation with running
    statistics, attention, rotary positions, embeddings and recurrent cells consist of these:

    - A hidden unit of a gated block leaves with its columns and its row. A head leaves if the rows
      of the output kernel for it, or its values, are zero; where several heads of queries share
      keys and values, these leave with all of their queries.
    - Sums, means and maxima over units depend on all units but those that are constantly zero (for
      a maximum, minus infinity), and the number that a mean divides by stays. So a norm by the root
      mean square loses channels that are zero on every branch. A softmax over units keeps all of
      them, and so does the mean of squared deviations from a mean, which are no zeros.
    - Where indices are computed, such as those of tokens, all that they may read is kept; all
      classes of an ``argmax`` are.
    - A convolution in groups loses whole groups (for a depthwise one, channels), and channels that
      are dead in every group at the same place.
    - A kernel may be computed from parameters, as a low-rank addition or a weight norm is. What it
      is made of leaves with its units, but for the rows and columns that a norm depends on; a
      decomposition, as of a spectral norm, depends on all.
    - Layers or time steps under ``scan``, and members of a population under ``vmap``, lose the
      units that are dead in all of them.

    If units are read in another way (sorted or cumulated, in a ``while`` loop), the function is
    refused with the name of the operation and of the nearest parameter, unless
    ``keep_unsupported``.

    A constant other than 0 is kept if no bias or mean directly follows the products that read it,
    inside ``scan``, and before convolutions that pad (their border is zero). Each layer keeps one
    unit at least. Inputs that nothing reads, also single ones after flattening, are dropped by an
    index. Weights and the numbers computed with them are assumed to be finite, so that zero times a
    unit is zero, sums of exponentials to be positive, and computed indices to be within bounds.
    Custom derivatives are lost: the smaller function is differentiated as it is computed.

    Runs on the host, with concrete parameters. Besides them and the smaller ones it needs the
    memory of one boolean for each weight of a dense layer. With Flax::

        graph, params, rest = nnx.split(model, nnx.Param, ...)
        network = Network(lambda params, x: nnx.merge(graph, params, rest)(x), params)
        small = shrink(network, images)
        logits = jax.jit(small)(images)

    Args:
      network: a pure function, as it is used for inference, and its parameters, with zeros where
        pruned (gates and masks multiplied in, or multiplied in by the function). Arrays that the
        function closes over are known, too. A kernel of low rank in the form of two factors is
        made two layers first, where these take fewer products (`decode_network`).
      *inputs: examples, arrays or ``jax.ShapeDtypeStruct``; only shapes and dtypes are used. The
        first dimension is the batch and may differ later; the result does not depend on the number
        of examples. (The function is traced for other batch sizes, too. If it cannot be, or
        computes something else for them, the result is for the examples' shapes alone.)
      keep_unsupported: keep all units that are read in unsupported ways.
      batched: which inputs have a batch as their first dimension: a bool for each input, or a tree
        of bools that is a prefix of ``inputs``. By default, every input that has dimensions and
        with which the function can be traced for another length of the first one.

    Returns:
      The smaller network, as a `Shrunk`. Its function raises ValueError for inputs or parameters of
      other shapes.

    Raises:
      TypeError: ``network`` is not a `Network`; its parameters hold a traced array, or something
        that is not an array.
      ValueError: an operation reads units in an unsupported way; ``network`` is from
        `compile_sparse`.
    """
    check_network(network, "shrink")
    network = decode_network(network, *inputs)
    function, params = network.function, network.params
    leaves = concrete_leaves(params)
    names = list(leaves_by_name(params))
    leaves_by_name(inputs)  # refuses names that occur twice
    traced = trace_batch(function, params, inputs, batched)
    graph = traced.graph
    constants = find_constants(graph, leaves)
    groups = find_groups(graph, constants.indices, traced.batches)
    refused = (groups.unsupported.keys() & groups.of_parameters) - groups.whole
    if refused and not keep_unsupported:
        raise ValueError(_refusal(graph, groups, refused, names))
    foldings = find_bias_foldings(graph, groups)
    live = find_live(groups, constants, foldings, at_least_one=True)
    kept = {group: np.flatnonzero(mask) for group, mask in live.items() if not mask.all()}
    folded = _folded_constants(graph, groups, constants, foldings, live)
    indices = constants.indices
    del constants, live  # they hold memory of the size of the weights
    arrays = [*zip(graph.leaves, leaves, strict=True)]
    arrays += zip(graph.constants, graph.arrays, strict=True)
    small = {
        value: _cut(array, groups.of_values[value], kept, folded.get(value))
        for value, array in arrays
    }
    unsupported: dict[str, int] = {}
    equations = graph.every_equation()
    for group in refused:
        name = equations[groups.unsupported[group]].name
        unsupported[name] = unsupported.get(name, 0) + groups.sizes[group]
    closure = tuple(small[value] for value in graph.constants)
    return Shrunk(
        _SmallerFunction(traced, groups, kept, indices, closure),
        jax.tree.unflatten(jax.tree.structure(params), [small[v] for v in graph.leaves]),
        _by_path(params, graph.leaves, groups, kept),
        _by_path(inputs, graph.inputs, groups, kept),
        unsupported,
        not folded.keys().isdisjoint(graph.constants),
        network.with_params(
            jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        ),
    )


def _refusal(
    graph: Graph, groups: DependencyGroups, refused: set[int], names: Sequence[str]
) -> str:
    """Return the message that names each unsupported operation once, with all of its sites."""
    sites: dict[str, dict[str, None]] = {}
    equations = graph.every_equation()
    for number in sorted({groups.unsupported[group] for group in refused}):
        equation = equations[number]
        sizes = [
            groups.sizes[group]
            for value in (*equation.ins, *equation.outs)
            for group in groups.of_values[value]
            if group in refused
        ]
        site = f"over {sizes[0]} units {nearest_leaf(graph, number, names)}".strip()
        sites.setdefault(equation.name, {})[site] = None
    reasons = [f"{name} ({'; '.join(found)})" for name, found in sorted(sites.items())]
    return (
        f"function reads units in ways that shrink does not understand: {', '.join(reasons)}; "
        "keep_unsupported=True keeps all of those units and shrinks the rest"
    )


def _folded_constants(
    graph: Graph,
    groups: DependencyGroups,
    constants: Constants,
    foldings: Mapping[int, BiasFolding],
    live: Mapping[int, np.ndarray],
) -> dict[int, np.ndarray]:
    """Return what the constants of removed units add to each leaf, in its shape."""
    folded: dict[int, np.ndarray] = {}
    for edge in groups.edges:
        if not isinstance(edge, ContractionEdge) or edge.equation not in foldings:
            continue
        units, (leaf, sign) = removable_units(edge, constants, foldings), foldings[edge.equation]
        removed = units.mask & ~live[edge.read]
        amount = constant_contribution(constants.weights[edge.equation], removed, units.numbers)
        if amount.any():
            amount = amount.reshape(graph.shapes[leaf])
            folded[leaf] = amount if sign > 0 else np.negative(amount)
    return folded


def _cut(
    array: Any,
    groups: Sequence[int],
    kept: Mapping[int, np.ndarray],
    folded: np.ndarray | None,
) -> Any:
    """Return a leaf with constants added to it, without the units that are removed."""
    chosen = [kept.get(group) for group in groups]
    if folded is None and all(indices is None for indices in chosen):
        return array
    whole = np.asarray(array)
    if folded is not None:
        whole = narrow(whole.astype(widest(whole.dtype)) + folded, whole.dtype)
    # The dimension that loses the largest share first, so that intermediate arrays are small.
    share = [1.0 if c is None else len(c) / n for c, n in zip(chosen, whole.shape, strict=True)]
    for axis in sorted(range(whole.ndim), key=share.__getitem__):
        if (indices := chosen[axis]) is not None:
            whole = np.take(whole, indices, axis=axis)
    return jnp.asarray(whole)


def _by_path(
    tree: PyTree, values: Sequence[int], groups: DependencyGroups, kept: Mapping[int, np.ndarray]
) -> dict[str, tuple[np.ndarray | None, ...]]:
    return {
        name: tuple(kept.get(group) for group in groups.of_values[value])
        for (name, _), value in zip(named_leaves(tree), values, strict=True)
    }


@dataclass(frozen=True, eq=False)
class _SmallerFunction:
    """The function on the smaller parameters; it is traced again in each call."""

    traced: BatchTrace
    groups: DependencyGroups
    kept: Mapping[int, np.ndarray]
    indices: Indices
    closure: tuple[Any, ...]
    """The smaller arrays that the function closes over."""

    def __call__(self, params: PyTree, *inputs: PyTree) -> PyTree:
        graph = self.traced.graph
        leaves = jax.tree.leaves(params)
        found = [jnp.shape(leaf) for leaf in leaves]
        wanted = [self._shape(value) for value in graph.leaves]
        if found != wanted:
            raise ValueError(f"params must have the shapes that shrink left, {wanted}; got {found}")
        here = self.traced.at(inputs, "shrink")
        arrays = dict(zip(graph.leaves, leaves, strict=True))
        for value, array, whole in zip(graph.constants, self.closure, here.arrays, strict=True):
            # An array that depends on the batch size is made for the batch size of this call.
            arrays[value] = self._take(value, whole) if value in graph.batch_dependent else array
        for value, array in zip(graph.inputs, jax.tree.leaves(inputs), strict=True):
            arrays[value] = self._take(value, array)
        outputs = evaluate(here, self.groups, self.kept, self.indices, arrays)
        return jax.tree.unflatten(here.tree, outputs)

    def _shape(self, value: int) -> tuple[int, ...]:
        pairs = zip(self.groups.of_values[value], self.traced.graph.shapes[value], strict=True)
        return tuple(len(self.kept[group]) if group in self.kept else n for group, n in pairs)

    def _take(self, value: int, array: Any) -> jax.Array:
        whole = jnp.asarray(array)
        for axis, group in enumerate(self.groups.of_values[value]):
            if group in self.kept:
                whole = take(whole, self.kept[group], axis)
        return whole
