"""A written ONNX graph as the bytes of a model file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sparsejax.graph import OPSET, OnnxBuilder, OnnxNode

_LIMIT = 2**31 - 2**20  # bytes of a protobuf message, less what describes the arrays


def serialize(builder: OnnxBuilder, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return the bytes of a model.

    Args:
      builder: holds the nodes and arrays.
      inputs: the names of the graph's inputs.
      outputs: the names of its outputs.

    Raises:
      ValueError: the arrays are too large for one file; ONNX does not allow a dtype or a shape.
    """
    size = sum(array.nbytes for array in builder.arrays.values())
    if size >= _LIMIT:
        raise ValueError(f"params must have less than {_LIMIT} bytes for one file; got {size}")
    graph = builder.graph

    def described(name: str, value: int) -> Any:
        lengths = zip(graph.shapes[value], builder.multiples[value], strict=True)
        shape = [_dimension(length, many) for length, many in lengths]
        return helper.make_tensor_value_info(name, _element_type(graph.dtypes[value]), shape)

    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(
        helper.make_graph(
            [_node(node) for node in builder.nodes],
            "sparsejax",
            list(map(described, inputs, graph.inputs)),
            list(map(described, outputs, graph.outputs)),
            [numpy_helper.from_array(array, name) for name, array in builder.arrays.items()],
        ),
        opset_imports=[opset],
        ir_version=helper.find_min_ir_version_for([opset]),  # older runtimes read it
        producer_name="sparsejax",
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(
            f"function has an operation on a dtype or shape that ONNX does not allow: {error}"
        ) from error
    data: bytes = model.SerializeToString()
    return data


def _node(node: OnnxNode) -> Any:
    attributes: dict[str, Any] = {
        name: _element_type(value) if isinstance(value, np.dtype) else value
        for name, value in node.attributes.items()
    }
    return helper.make_node(node.operator, node.operands, [node.result], **attributes)


def _element_type(dtype: Any) -> int:
    """Return ONNX's number of a dtype."""
    try:
        return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"function has an array of dtype {dtype}, which ONNX has not") from error


def _dimension(length: int, multiple: int) -> int | str:
    return length if not multiple else "batch" if multiple == 1 else f"{multiple}*batch"
