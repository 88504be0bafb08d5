"""The flows of all batches, which may have several shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from sparsejax.graph import abstract
from sparsejax.oneshot._calibrate import check_finite, check_rows, whole_sums
from sparsejax.oneshot._calibration import Calibration, KernelInputs
from sparsejax.oneshot._flow import Flow
from sparsejax.oneshot._gram import Sums, whole
from sparsejax.oneshot._segments import Programs, Values
from sparsejax.oneshot._stages import Part


class Flows:
    """The flows of all batches, and the values of each batch before the current stage."""

    def __init__(
        self,
        function: Callable[[PyTree, PyTree], PyTree],
        params: PyTree,
        batches: Sequence[PyTree],
        chosen: Sequence[bool],
        names: Sequence[str],
    ):
        if not batches:
            raise ValueError("batches must hold at least one batch; there is none")
        arrays = jax.tree.leaves((params, batches))
        programs, flows = Programs(whole_sums(arrays)), {}
        self._groups: list[tuple[Flow, list[Values]]] = []
        for number, batch in enumerate(batches):
            shapes = abstract(batch)
            key = (
                jax.tree.structure(shapes),
                tuple((one.shape, one.dtype) for one in jax.tree.leaves(shapes)),
            )
            if key not in flows:
                flow = Flow(function, params, batch, chosen, names, programs)
                check_rows(flow.plan, names, number)
                flows[key] = flow, list[Values]()
                self._groups.append(flows[key])
            flow, values = flows[key]
            values.append(flow.start(batch))
            if _order(flow) != _order(self.first):
                raise ValueError(
                    f"all batches must give the same kernels inputs; batch {number}, of shapes "
                    f"{[leaf.shape for leaf in jax.tree.leaves(batch)]}, makes another "
                    "computation of function"
                )
        self._names = names

    @property
    def first(self) -> Flow:
        """The flow of the first batch."""
        return self._groups[0][0]

    def parts(self) -> list[Part]:
        """Return all parts in the order in which they are pruned."""
        return [part for stage in self.first.stages for part in stage.parts]

    def advance(self, number: int, leaves: Sequence[Any]) -> None:
        """Bring all batches to a stage."""
        for place, (flow, values) in enumerate(self._groups):
            self._groups[place] = flow, flow.advance(number, values, leaves)

    def calibration(self, number: int, leaves: Sequence[Any], labels: Sequence[str]) -> Calibration:
        """Return the Gram matrices of the kernels of a stage."""
        state = self.first.empty(number)
        for flow, values in self._groups:
            state = flow.add(number, state, values, leaves)
        totals, parts = self.first.totals(number), self.first.stages[number].parts
        inputs: list[KernelInputs] = []
        for terms, sums in zip(totals, state, strict=True):
            pairs = zip(labels, parts, strict=True)
            check_finite(sums, [label for label, part in pairs if part.terms == terms])
            inputs.append(_inputs(sums))
        return Calibration(
            {
                label: inputs[totals.index(part.terms)]
                for label, part in zip(labels, parts, strict=True)
            },
            {label: part.layout for label, part in zip(labels, parts, strict=True)},
        )


def _inputs(sums: Sums) -> KernelInputs:
    gram = whole(sums.strips)
    return KernelInputs(gram.reshape(-1, *gram.shape[-2:]), sums.rows.reshape(-1))


def _order(flow: Flow) -> list[list[Any]]:
    return [[part[:3] for part in stage.parts] for stage in flow.stages]
