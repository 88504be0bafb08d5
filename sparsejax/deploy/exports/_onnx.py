"""A network as ONNX: one file for runtimes outside JAX, for any batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from sparsejax._names import leaves_by_name
from sparsejax._where import PyTree
from sparsejax.deploy._batch import BatchGraph, trace_batch
from sparsejax.graph import UNDERSTOOD, concrete_leaves

_LIMIT = 2**31 - 2**20  # of a protobuf message, less what describes the arrays


def export_onnx(
    function: Callable[..., PyTree], params: PyTree, *inputs: PyTree, batched: PyTree = None
) -> bytes:
    """Write ``function(params, *inputs)`` as an ONNX model with its parameters in it.

    The first dimension of the inputs is the batch and stays open; an input without a batch keeps
    its shape. As behind `shrink`::

        small = shrink(function, params, images)
        data = export_onnx(small.function, small.params, images)
        pathlib.Path("network.onnx").write_bytes(data)
        session = onnxruntime.InferenceSession("network.onnx")
        (logits,) = session.run(None, {"input0": images})

    The inputs are ``input0``, ``input1`` and so on, leaves of trees with their paths behind
    (``input0/mask``); the output is ``output``, leaves of a tree ``output/0`` or ``output/logits``.
    What depends on parameters alone, such as a mask that is multiplied in, is computed here and
    stored, under the path of the parameter it is made of.

    Understood are products (``dot_general``, convolutions in one group or several), the usual
    elementwise operations, sums and extrema over dimensions and windows, reshapes, transposition,
    broadcasting, concatenation, slices and indices at fixed places, reversal and padding. It is
    operation set 19 of ONNX.

    Args:
      function: pure, in the form that is used for inference; it must compute the same for every
        batch size.
      params: pytree of arrays.
      *inputs: examples, arrays or ``jax.ShapeDtypeStruct``; shapes and dtypes count alone.
      batched: which inputs have a batch as their first dimension: a bool for each input, or a tree
        of bools that is a prefix of ``inputs``; ``False`` keeps all shapes. Default: all but
        scalars and those with whose first dimension ``function`` cannot be traced if it is another
        one. Where that leaves a doubt (inputs of several lengths, all of which can be others), it
        has to be told.

    Returns:
      The bytes of the file.

    Raises:
      ImportError: the package ``onnx`` is missing (``pip install 'sparsejax[deploy]'``).
      TypeError: ``params`` hold a traced array, or something that is no array.
      ValueError: there is no input, or none has a first dimension; it is not clear which have a
        batch; ``function`` has an operation that is not understood, or computes something else for
        another batch size; the parameters have 2 GiB, more than such a file can hold.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "export_onnx needs the package onnx: pip install 'sparsejax[deploy]'"
        ) from error
    from sparsejax.deploy.exports import _onnx_operations
    from sparsejax.deploy.exports._onnx_nodes import Nodes, element_type

    leaves = concrete_leaves(params)
    if not jax.tree.leaves(inputs):
        raise ValueError("inputs must hold at least one array; got none")
    batch_graph = trace_batch(function, params, inputs, batched)
    graph = batch_graph.graph
    names = [f"input{path}" for path in _paths(inputs)]
    paths = _paths(jax.tree.unflatten(graph.tree, graph.outputs))
    outputs = [f"output/{path}".removesuffix("/") for path in paths]
    known, labels = _known(batch_graph, leaves, _paths(params))
    nodes = Nodes(batch_graph, known, labels, names, outputs)
    for equation in graph.equations:
        if not all(value in known for value in equation.outs):
            results = _onnx_operations.write(nodes, equation)
            nodes.names |= dict(zip(equation.outs, results, strict=True))
    for name, value in zip(outputs, graph.outputs, strict=True):
        nodes.output(name, value)

    def described(name: str, value: int) -> Any:
        lengths = zip(graph.shapes[value], batch_graph.multiples[value], strict=True)
        shape = [_dimension(length, many) for length, many in lengths]
        kind = element_type(graph.dtypes[value])
        return onnx.helper.make_tensor_value_info(name, kind, shape)

    size = sum(len(tensor.raw_data) for tensor in nodes.stored)
    if size >= _LIMIT:
        raise ValueError(f"params must have less than {_LIMIT} bytes for one file; got {size}")
    opset = onnx.helper.make_opsetid("", _onnx_operations.OPSET)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes.written,
            "sparsejax",
            list(map(described, names, graph.inputs)),
            list(map(described, outputs, graph.outputs)),
            nodes.stored,
        ),
        opset_imports=[opset],
        ir_version=onnx.helper.find_min_ir_version_for([opset]),  # older runtimes read it
        producer_name="sparsejax",
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(
            f"function has an operation on a dtype or shape that ONNX does not allow: {error}"
        ) from error
    return model.SerializeToString()


def _paths(tree: PyTree) -> list[str]:
    return list(leaves_by_name(tree))


def _known(
    batch_graph: BatchGraph, leaves: list[Any], names: list[str]
) -> tuple[dict[int, Any], dict[int, str]]:
    """The values that do not depend on the inputs; of those made of one parameter, its name."""
    graph = batch_graph.graph
    known = graph.given(leaves)
    labels = dict(zip(graph.leaves, names, strict=True))
    for equation in graph.equations:
        if (
            equation.name not in UNDERSTOOD
            or not all(value in known for value in equation.ins)
            or any(any(batch_graph.multiples[value]) for value in equation.outs)
        ):
            continue
        with jax.debug_nans(False), jax.debug_infs(False):  # unused places may hold any number
            results = equation.apply([known[value] for value in equation.ins])
        known |= dict(zip(equation.outs, results, strict=True))
        made_of = {labels[value] for value in equation.ins if value in labels}
        if len(made_of) == 1:
            labels |= dict.fromkeys(equation.outs, made_of.pop())
    return known, labels


def _dimension(length: int, many: int) -> int | str:
    return length if not many else "batch" if many == 1 else f"{many}*batch"
