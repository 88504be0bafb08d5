"""An ONNX graph while rules write it: plain values, without the package ``onnx``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sparsejax.graph._graph import Equation, Graph

if TYPE_CHECKING:
    from sparsejax.graph._rule import Rule

OPSET = 19
"""The version of ONNX's operator set, of 2023: the first in which every pooling can be dilated."""

_FEW = 16  # entries up to which equal arrays are stored once


class OnnxNode(NamedTuple):
    """An operator of ONNX applied to named operands."""

    operator: str
    """The name of the operator, as ``MatMul``."""
    operands: tuple[str, ...]
    """The names of its operands."""
    result: str
    """The name of its result."""
    attributes: dict[str, Any]
    """A ``np.dtype`` stands for ONNX's number of that dtype."""


class OnnxBuilder:
    """A collection of nodes and stored arrays, with the name of each value of a graph.

    Args:
      graph: the graph.
      multiples: the length of each value's dimensions as a multiple of the batch size; 0 if fixed.
      batch_input: an input whose first dimension is the batch, if there is one.
      known: values that do not depend on the inputs. An array is stored when a node reads it.
      labels: names for some of the known values.
      inputs: the names of the graph's inputs.
      outputs: the names that are reserved for its outputs.
      rules: the rules by the name of their primitive.
    """

    def __init__(
        self,
        graph: Graph,
        multiples: Sequence[Sequence[int]],
        batch_input: int | None,
        known: Mapping[int, Any],
        labels: Mapping[int, str],
        inputs: Sequence[str],
        outputs: Sequence[str],
        rules: Mapping[str, Rule],
    ):
        self.graph, self.multiples, self.known = graph, multiples, dict(known)
        self._labels, self._batch_input, self._rules = dict(labels), batch_input, rules
        self.nodes: list[OnnxNode] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.names = dict(zip(graph.inputs, inputs, strict=True))
        """The names of values that are written."""
        self._few: dict[tuple[Any, ...], str] = {}
        self._transposed: dict[tuple[int, tuple[int, ...]], str] = {}
        self._taken = {*inputs, *outputs}
        self._counts: dict[str, int] = {}
        self._batch: str | None = None

    def visit(self, equations: Iterable[Equation]) -> None:
        """Append the nodes that compute all values that are not known.

        Raises:
          ValueError: a primitive has no ONNX form, or the form that is used has none.
        """
        for equation in equations:
            if all(value in self.known for value in equation.outs):
                continue
            rule = self._rules.get(equation.name)
            if rule is None or rule.onnx is None:
                written = sorted(name for name, rule in self._rules.items() if rule.onnx)
                raise ValueError(
                    f"function has the operation {equation.name}, which export_onnx does not "
                    f"understand; it understands {', '.join(written)}"
                )
            self.names |= dict(zip(equation.outs, rule.onnx(self, equation), strict=True))

    def alias(self, inner: int, outer: int, index: int | None = None) -> None:
        """Let a value in a loop be one outside of it, or its entry at an index.

        Args:
          inner: the value in the loop.
          outer: the value outside.
          index: an index of the first dimension; None for all of the value.
        """
        if outer in self.known:
            array = self.known[outer]
            self.known[inner] = array if index is None else np.asarray(array)[index]
            if outer in self._labels:
                self._labels[inner] = self._labels[outer]
        elif index is None:
            self.names[inner] = self.name(outer)
        else:
            place = self.constant(np.asarray(index, np.int64))
            self.names[inner] = self.node("Gather", self.name(outer), place, axis=0)

    def forget(self, values: Iterable[int]) -> None:
        """Forget values of a step of a loop, which are other ones in the next step."""
        gone = set(values)
        for value in gone:
            self.names.pop(value, None)
            self.known.pop(value, None)
        self._transposed = {k: n for k, n in self._transposed.items() if k[0] not in gone}

    def node(self, operator: str, *operands: str, **attributes: Any) -> str:
        """Append a node and return the name of its result."""
        result = self._new(operator.lower())
        self.nodes.append(OnnxNode(operator, operands, result, attributes))
        return result

    def output(self, name: str, value: int) -> None:
        """Append a node that gives a value the name of an output."""
        self.nodes.append(OnnxNode("Identity", (self.name(value),), name, {}))

    def constant(self, array: Any, label: str | None = None) -> str:
        """Store an array and return its name; equal small arrays without a label are one."""
        whole = np.asarray(array)
        shared = label is None and whole.size <= _FEW
        key = str(whole.dtype), whole.shape, whole.tobytes() if shared else b""
        if shared and key in self._few:
            return self._few[key]
        name = self._new(label or "constant")
        self.arrays[name] = whole
        if shared:
            self._few[key] = name
        return name

    def integers(self, numbers: Sequence[int]) -> str:
        """Store an int64 vector, as axes and lengths are, and return its name."""
        return self.constant(np.asarray(numbers, np.int64))

    def name(self, value: int) -> str:
        """Return the name of a value."""
        if value not in self.names:
            self.names[value] = self.constant(self.known[value], self._labels.get(value))
        return self.names[value]

    def stored(self, value: int, array: np.ndarray) -> str:
        """Store a known value in another form and return its name."""
        return self.constant(array, self._labels.get(value))

    def operands(self, equation: Equation) -> list[str]:
        """Return the names of an equation's operands."""
        return [self.name(value) for value in equation.ins]

    def transposed(self, value: int, order: Sequence[int]) -> str:
        """Return the name of a transposed value; known values are stored transposed."""
        order = tuple(map(int, order))
        if order == tuple(range(len(order))):
            return self.name(value)
        if (value, order) not in self._transposed:
            if value in self.known:
                array = np.transpose(np.asarray(self.known[value]), order)
                name = self.stored(value, array)
            else:
                name = self.node("Transpose", self.name(value), perm=order)
            self._transposed[value, order] = name
        return self._transposed[value, order]

    def untransposed(self, name: str, order: Sequence[int]) -> str:
        """Undo a transposition by ``order``."""
        perm = [int(axis) for axis in np.argsort(order)]
        return name if perm == sorted(perm) else self.node("Transpose", name, perm=perm)

    def reshaped(self, name: str, lengths: Sequence[int], multiples: Sequence[int]) -> str:
        """Reshape; at most one dimension may depend on the batch."""
        if sum(map(bool, multiples)) > 1:
            shape = [f"{m} * batch" if m else n for n, m in zip(lengths, multiples, strict=True)]
            raise ValueError(
                "function must have one dimension at most that depends on the batch in each array "
                f"that is reshaped; one gets shape {shape}"
            )
        target = [-1 if many else n for n, many in zip(lengths, multiples, strict=True)]
        return self.node("Reshape", name, self.integers(target))

    def expanded(self, name: str, lengths: Sequence[int], multiples: Sequence[int]) -> str:
        """Broadcast to a shape; a length of 1 leaves a dimension as it is."""
        if not any(multiples):
            return self.node("Expand", name, self.integers(lengths))
        pieces = [
            self.node("Mul", self._batch_size(), self.integers([many])) if many
            else self.integers([length])
            for length, many in zip(lengths, multiples, strict=True)
        ]  # fmt: skip
        return self.node("Expand", name, self.node("Concat", *pieces, axis=0))

    def sliced(self, name: str, cuts: Sequence[tuple[int, int, int, int]]) -> str:
        """Slice some dimensions, each given as (axis, start, limit, stride)."""
        if not cuts:
            return name
        axes, starts, limits, strides = map(self.integers, zip(*cuts, strict=True))
        return self.node("Slice", name, starts, limits, axes, strides)

    def cast(self, name: str, before: Any, after: Any) -> str:
        """Convert from one dtype to another."""
        return name if before == after else self.node("Cast", name, to=np.dtype(after))

    def cast_operands(self, equation: Equation, names: Sequence[str]) -> list[str]:
        """Convert operands to the dtype of the result, in which JAX sums."""
        dtypes = self.graph.dtypes
        return [
            self.cast(name, dtypes[value], dtypes[equation.outs[0]])
            for name, value in zip(names, equation.ins, strict=True)
        ]

    def refusal(self, equation: Equation, what: str) -> ValueError:
        """Return the error for a form of a primitive that cannot be written."""
        return ValueError(
            f"function has the operation {equation.name} {what}, which export_onnx does not "
            "understand"
        )

    def require_fixed(self, equation: Equation, value: int, axis: int) -> None:
        """Refuse a dimension that depends on the batch, where indices are read from it."""
        if self.multiples[value][axis]:
            raise self.refusal(equation, "along the batch")

    def _batch_size(self) -> str:
        """Return a vector of one length, read from an input when the network runs."""
        if self._batch is None:
            assert self._batch_input is not None
            self._batch = self.node("Shape", self.names[self._batch_input], start=0, end=1)
        return self._batch

    def _new(self, label: str) -> str:
        """Return a name that no other value has."""
        name = label
        while name in self._taken:
            self._counts[label] = self._counts.get(label, 1) + 1
            name = f"{label}_{self._counts[label]}"
        self._taken.add(name)
        return name
