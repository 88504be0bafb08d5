"""The function of a shrunk network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax._where import PyTree
from sparsejax.deploy.shrinking._plan import Plan, cut
from sparsejax.graph import BatchTrace, evaluate, take


@dataclass(frozen=True, eq=False)
class SmallerFunction:
    """The function on the smaller parameters; it is traced again in each call."""

    traced: BatchTrace
    plan: Plan
    closure: tuple[Any, ...]
    """The smaller arrays that the function closes over."""
    single: SmallerFunction | None = None
    """The same for a batch of one, if that is computed otherwise."""

    @classmethod
    def of(cls, traced: BatchTrace, plan: Plan) -> SmallerFunction:
        """Return the function of a trace and its plan, with the arrays that it closes over cut."""
        graph, groups = traced.graph, plan.groups
        closure = (
            cut(array, groups.of_values[value], plan.kept, plan.folded.get(value))
            for value, array in zip(graph.constants, graph.arrays, strict=True)
        )
        # Numbers that were folded are no longer needed.
        return cls(traced, plan._replace(folded={}), tuple(closure))

    def __call__(self, params: PyTree, *inputs: PyTree) -> PyTree:
        if self.single is not None and self.single.traced.takes(inputs):
            return self.single(params, *inputs)
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
        plan = self.plan
        outputs = evaluate(here, plan.groups, plan.kept, plan.indices, arrays)
        return jax.tree.unflatten(here.tree, outputs)

    def _shape(self, value: int) -> tuple[int, ...]:
        kept = self.plan.kept
        pairs = zip(self.plan.groups.of_values[value], self.traced.graph.shapes[value], strict=True)
        return tuple(len(kept[group]) if group in kept else n for group, n in pairs)

    def _take(self, value: int, array: Any) -> jax.Array:
        whole = jnp.asarray(array)
        for axis, group in enumerate(self.plan.groups.of_values[value]):
            if group in self.plan.kept:
                whole = take(whole, self.plan.kept[group], axis)
        return whole
