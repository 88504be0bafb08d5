"""Export to ONNX: one file for runtimes outside JAX, for any batch size."""

from __future__ import annotations

from typing import Any

import jax

from sparsejax._names import leaves_by_name
from sparsejax._where import PyTree
from sparsejax.deploy._decode_network import decode_network
from sparsejax.deploy._network import Network, check_network
from sparsejax.graph import (
    RULES,
    Graph,
    OnnxBuilder,
    concrete_leaves,
    trace_every_batch,
    write_onnx,
)


def export_onnx(network: Network, *inputs: PyTree, batched: PyTree = None) -> bytes:
    """Serialize a network and its parameters as an ONNX model.

    The first dimension of the inputs is the batch and stays open; an input without a batch keeps
    its shape. For a shrunk network::

        small = shrink(network, images)
        pathlib.Path("network.onnx").write_bytes(export_onnx(small, images))
        session = onnxruntime.InferenceSession("network.onnx")
        (logits,) = session.run(None, {"input0": images})

    The inputs are named ``input0``, ``input1`` and so on, followed by the path of a leaf
    (``input0/mask``); the output is named ``output``, and leaves of a tree ``output/0`` or
    ``output/logits``. Values that depend on parameters alone, such as a masked kernel, are computed
    here and stored under the path of their parameter.

    Supported are products (``dot_general``, convolutions in one group or several, transposed ones),
    the usual elementwise operations and activations, sums and extrema over dimensions and windows,
    ``argmax`` and ``argmin`` (among NaN the runtime's choice counts), reshapes, transposition,
    broadcasting, concatenation, slices, fixed indices, computed ones along one dimension (token
    ids), reversal, padding, and ``scan``, whose steps are written one after another. Only the batch
    stays open: a file is for sequences of the examples' length. The model uses operator set 19 of
    ONNX.

    Args:
      network: a pure function, as it is used for inference, and its parameters. It must compute the
        same for every batch size.
      *inputs: examples, arrays or ``jax.ShapeDtypeStruct``; only shapes and dtypes are used.
      batched: which inputs have a batch as their first dimension: a bool for each input, or a tree
        of bools that is a prefix of ``inputs``; ``False`` keeps all shapes. By default, all inputs
        but scalars and those for which the function cannot be traced with another first dimension.
        It is required if the first dimensions that can vary have several lengths.

    Returns:
      The bytes of the file.

    Raises:
      ImportError: the package ``onnx`` is missing (``pip install 'sparsejax[deploy]'``).
      TypeError: ``network`` is not a `Network`; its parameters hold a traced array, or something
        that is not an array.
      ValueError: ``network`` is from `compile_sparse`; there is no input, or none has a first
        dimension; it is not clear which inputs have a batch; the function has an unsupported
        operation, or computes something else for another batch size; the parameters have 2 GiB,
        more than such a file can hold.
    """
    try:
        from sparsejax.deploy.exports._onnx_model import serialize
    except ImportError as error:
        raise ImportError(
            "export_onnx needs the package onnx: pip install 'sparsejax[deploy]'"
        ) from error
    check_network(network, "export_onnx")
    network = decode_network(network, *inputs)
    function, params = network.function, network.params
    leaves = concrete_leaves(params)
    if not jax.tree.leaves(inputs):
        raise ValueError("inputs must hold at least one array; got none")
    traced, multiples = trace_every_batch(function, params, inputs, batched)
    graph = traced.graph
    input_names = [f"input{path}" for path in leaves_by_name(inputs)]
    paths = leaves_by_name(jax.tree.unflatten(graph.tree, graph.outputs))
    output_names = [f"output/{path}".removesuffix("/") for path in paths]
    known, labels = _known(graph, leaves, list(leaves_by_name(params)))
    batch_input = next(iter(traced.batches), None)
    builder = OnnxBuilder(
        graph, multiples, batch_input, known, labels, input_names, output_names, RULES
    )
    write_onnx(builder)
    for name, value in zip(output_names, graph.outputs, strict=True):
        builder.output(name, value)
    return serialize(builder, input_names, output_names)


def _known(
    graph: Graph, leaves: list[Any], names: list[str]
) -> tuple[dict[int, Any], dict[int, str]]:
    """Return values that do not depend on the inputs, and names for those of one parameter."""
    known = graph.given(leaves)
    labels = dict(zip(graph.leaves, names, strict=True))
    for equation in graph.equations:
        if (
            equation.name not in RULES
            or not all(value in known for value in equation.ins)
            or any(map(graph.varying, equation.outs))
        ):
            continue
        with jax.debug_nans(False), jax.debug_infs(False):  # unused entries may hold any number
            results = equation.apply([known[value] for value in equation.ins])
        known |= dict(zip(equation.outs, results, strict=True))
        parameters = {labels[value] for value in equation.ins if value in labels}
        if len(parameters) == 1:
            labels |= dict.fromkeys(equation.outs, parameters.pop())
    return known, labels
