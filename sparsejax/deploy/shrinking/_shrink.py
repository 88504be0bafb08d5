"""Remove dead units from a network: a smaller one with the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from sparsejax._names import leaves_by_name, named_leaves
from sparsejax._where import PyTree
from sparsejax.deploy._decode_network import decode_network
from sparsejax.deploy._network import Network, check_network
from sparsejax.deploy.shrinking._plan import agree, cut, make_plan, refusal
from sparsejax.deploy.shrinking._smaller_function import SmallerFunction
from sparsejax.graph import DependencyGroups, concrete_leaves, trace_batch


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
    indices in any spelling, also those of what is written (scatter), reversal, padding, ``argmax``,
    Fourier transforms of positions and ``scan``; calls (``jit``,
    ``custom_jvp``, ``custom_vjp``, ``checkpoint``) are inlined. Batch normalisation with running
    statistics, attention, rotary positions, embeddings and recurrent cells consist of these:

    - A hidden unit of a gated block leaves with its columns and its row. A head leaves if the rows
      of the output kernel for it, or its values, are zero; where several heads of queries share
      keys and values, these leave with all of their queries.
    - Sums, means and maxima over units depend on all units but those that are constantly zero (for
      a maximum, minus infinity), and the number that a mean divides by stays. So a norm by the root
      mean square loses channels that are zero on every branch. A softmax over units keeps all of
      them, and so does the mean of squared deviations from a mean, which are no zeros.
    - Where indices are computed, such as those of tokens, all that they may read or write is kept;
      all classes of an ``argmax`` are, and all experts that ``top_k`` chooses from. Experts that
      a softmax weights leave with their layers; only the softmax counts them.
    - A convolution in groups loses whole groups (for a depthwise one, channels), and channels that
      are dead in every group at the same place.
    - A kernel may be computed from parameters, as a low-rank addition or a weight norm is. What it
      is made of leaves with its units, but for the rows and columns that a norm depends on; a
      decomposition, as of a spectral norm, depends on all.
    - Layers or time steps under ``scan``, and members of a population under ``vmap``, lose the
      units that are dead in all of them; after `unroll_layers` each layer loses its own.

    If units are read in another way (sorted or cumulated, in ``while`` or ``cond``), the function
    is refused with the name of the operation and of the nearest parameter, unless
    ``keep_unsupported``.

    A constant other than 0 is kept if no bias or mean directly follows the products that read it,
    inside ``scan``, and before convolutions that pad (their border is zero). Each layer keeps one
    unit at least. Inputs that nothing reads, also single ones after flattening, are dropped by an
    index. Weights and the numbers computed with them are assumed to be finite, so that zero times a
    unit is zero, sums of exponentials to be positive, and computed indices to be within bounds.
    Custom derivatives are lost: the smaller function is differentiated as it is computed.

    Shrinking runs on the host, with concrete parameters. Besides them and the smaller ones it needs
    the memory of one boolean for each weight of a dense layer. With Flax::

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
        computes something else for them, the result is for the examples' shapes alone. A batch of
        one may be computed otherwise, as ``jnp.matmul`` does.)
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
    traced = trace_batch(function, params, inputs, batched, single=True)
    plan = make_plan(traced.graph, leaves, traced.batches)
    if plan.refused and not keep_unsupported:
        raise ValueError(refusal(traced.graph, plan.groups, plan.refused, names))
    single = None
    if traced.single is not None:
        plan, single = agree(plan, traced, leaves)
    graph, groups = traced.graph, plan.groups
    small = {
        value: cut(array, groups.of_values[value], plan.kept, plan.folded.get(value))
        for value, array in zip(graph.leaves, leaves, strict=True)
    }
    unsupported: dict[str, int] = {}
    equations = graph.every_equation()
    for group in plan.refused:
        name = equations[groups.unsupported[group]].name
        unsupported[name] = unsupported.get(name, 0) + groups.sizes[group]
    smaller = SmallerFunction.of(traced, plan)
    if traced.single is not None and single is not None:
        smaller = replace(smaller, single=SmallerFunction.of(traced.single, single))
    return Shrunk(
        smaller,
        jax.tree.unflatten(jax.tree.structure(params), [small[v] for v in graph.leaves]),
        _by_path(params, graph.leaves, groups, plan.kept),
        _by_path(inputs, graph.inputs, groups, plan.kept),
        unsupported,
        not plan.folded.keys().isdisjoint(graph.constants),
        network.with_params(
            jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        ),
    )


def _by_path(
    tree: PyTree, values: Sequence[int], groups: DependencyGroups, kept: Mapping[int, np.ndarray]
) -> dict[str, tuple[np.ndarray | None, ...]]:
    return {
        name: tuple(kept.get(group) for group in groups.of_values[value])
        for (name, _), value in zip(named_leaves(tree), values, strict=True)
    }
