"""The nodes and the stored arrays of an ONNX graph while it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from sparsejax.deploy._batch import BatchGraph

_FEW = 16  # entries up to which equal arrays are looked for


class Nodes:
    """What has been written, and under which name each value of a graph is found there.

    Args:
      batched: the graph.
      known: values that do not depend on the inputs. An array is stored when a node reads it.
      labels: names for some of those.
      inputs: names of the graph's inputs.
      outputs: names that are kept for its outputs.
    """

    def __init__(
        self,
        batched: BatchGraph,
        known: Mapping[int, Any],
        labels: Mapping[int, str],
        inputs: Sequence[str],
        outputs: Sequence[str],
    ):
        self.graph, self.multiples, self._batched = batched
        self.known, self.labels = known, labels
        self.fixed = [value in known for value in range(len(self.graph.shapes))]
        self.written: list[Any] = []
        self.stored: list[Any] = []
        self.names = dict(zip(self.graph.inputs, inputs, strict=True))
        """Of values, as far as they are written."""
        self._few: dict[tuple[Any, ...], str] = {}
        self._transposed: dict[tuple[int, tuple[int, ...]], str] = {}
        self._taken = {*inputs, *outputs}
        self._counts: dict[str, int] = {}
        self._batch: str | None = None

    def node(self, operation: str, *operands: str, **attributes: Any) -> str:
        """Append a node; the name of its result."""
        result = self._new(operation.lower())
        self.written.append(helper.make_node(operation, operands, [result], **attributes))
        return result

    def output(self, name: str, value: int) -> None:
        """Append a node that gives a value one of the outputs' names."""
        self.written.append(helper.make_node("Identity", [self.name(value)], [name]))

    def constant(self, array: Any, label: str | None = None) -> str:
        """The name of a stored array; without a label, equal ones of few entries are one."""
        whole = np.asarray(array)
        shared = label is None and whole.size <= _FEW
        key = str(whole.dtype), whole.shape, whole.tobytes() if shared else b""
        if shared and key in self._few:
            return self._few[key]
        name = self._new(label or "constant")
        self.stored.append(numpy_helper.from_array(whole, name))
        if shared:
            self._few[key] = name
        return name

    def integers(self, numbers: Sequence[int]) -> str:
        """The name of a stored int64 vector, as axes and lengths are."""
        return self.constant(np.asarray(numbers, np.int64))

    def name(self, value: int) -> str:
        """Of a value."""
        if value not in self.names:
            self.names[value] = self.constant(self.known[value], self.labels.get(value))
        return self.names[value]

    def transposed(self, value: int, order: Sequence[int]) -> str:
        """The name of a value with its dimensions in this order; known ones are stored so."""
        order = tuple(map(int, order))
        if order == tuple(range(len(order))):
            return self.name(value)
        if (value, order) not in self._transposed:
            if value in self.known:
                turned = np.transpose(np.asarray(self.known[value]), order)
                name = self.constant(turned, self.labels.get(value))
            else:
                name = self.node("Transpose", self.name(value), perm=order)
            self._transposed[value, order] = name
        return self._transposed[value, order]

    def reshaped(self, name: str, lengths: Sequence[int], multiples: Sequence[int]) -> str:
        """The name of a value in another shape; at most one dimension depends on the batch."""
        if sum(map(bool, multiples)) > 1:
            raise ValueError(
                "function must have one dimension at most that depends on the batch in each array "
                f"that is reshaped; one gets lengths {tuple(lengths)} for a batch of 2"
            )
        target = [-1 if many else n for n, many in zip(lengths, multiples, strict=True)]
        return self.node("Reshape", name, self.integers(target))

    def expanded(self, name: str, lengths: Sequence[int], multiples: Sequence[int]) -> str:
        """The name of a value that is broadcast; a length of 1 leaves a dimension as it is."""
        if not any(multiples):
            return self.node("Expand", name, self.integers(lengths))
        pieces = [
            self.node("Mul", self._batch_size(), self.integers([many])) if many
            else self.integers([length])
            for length, many in zip(lengths, multiples, strict=True)
        ]  # fmt: skip
        return self.node("Expand", name, self.node("Concat", *pieces, axis=0))

    def _batch_size(self) -> str:
        """A vector of one length, read off the first input with a batch when the network runs."""
        if self._batch is None:
            first = self.names[self.graph.inputs[self._batched.index(True)]]
            self._batch = self.node("Shape", first, start=0, end=1)
        return self._batch

    def _new(self, label: str) -> str:
        """A name that no other value has."""
        name = label
        while name in self._taken:
            self._counts[label] = self._counts.get(label, 1) + 1
            name = f"{label}_{self._counts[label]}"
        self._taken.add(name)
        return name


def element_type(dtype: Any) -> int:
    """ONNX's number for a dtype.

    Raises:
      ValueError: it has none.
    """
    try:
        return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"function has an array of dtype {dtype}, which ONNX has not") from error
