"""The order in which kernels are pruned: each after all that its inputs are computed with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparsejax.oneshot._calibration import KernelLayout
from sparsejax.oneshot._find_uses import Uses
from sparsejax.oneshot._levels import Level
from sparsejax.oneshot._plan import Plan, Term, term_of

Entry = tuple[int | None, ...]
"""For each batch axis of a kernel an index; None for all of the axis."""


class Part(NamedTuple):
    """A kernel, or an entry of a kernel of stacked layers, that is pruned at once."""

    leaf: int
    """The number of the parameter."""
    entry: Entry
    layout: KernelLayout
    """The layout of the part, which has length 1 along axes with an index."""
    terms: tuple[Term, ...]
    """The terms of its Gram matrices."""
    products: frozenset[int]
    """The equations that multiply by it."""

    @property
    def start(self) -> tuple[int, ...]:
        """The index of the part's first entry in the kernel."""
        start = [0] * len(self.layout.shape)
        for axis, index in zip(self.layout.batch_axes, self.entry, strict=True):
            start[axis] = index or 0
        return tuple(start)

    def label(self, names: Sequence[str]) -> str:
        """Return the name of the part, given those of all parameters."""
        known = [str(index) for index in self.entry if index is not None]
        return f"{names[self.leaf]}[{', '.join(known)}]" if known else names[self.leaf]


@dataclasses.dataclass(frozen=True)
class Stage:
    """Parts whose inputs do not depend on one another."""

    parts: list[Part]
    cut: int
    """The number of the first equation that multiplies by a part of this stage or a later one."""


def parts_of(plan: Plan, uses: Mapping[int, Uses], names: Sequence[str]) -> list[Part]:
    """Return the parts of all kernels; those that are not read as a whole are left out.

    Raises:
      ValueError: products read single entries of a kernel, and others all of them.
    """
    found: list[Part] = []
    for leaf, layout in plan.layouts.items():
        terms: dict[Entry, dict[Term, None]] = {}
        products: dict[Entry, set[int]] = {}
        for use in uses[leaf].products:
            term = term_of(use, layout)
            entry = tuple(index and index.known for index in term.entry)
            terms.setdefault(entry, {})[term] = None
            products.setdefault(entry, set()).add(use.place[-1])
        kinds = {tuple(index is None for index in entry) for entry in terms}
        if len(kinds) > 1:
            raise ValueError(
                f"function must read single entries of {names[leaf]}, or all at once; it does "
                "both, so that they cannot be pruned in turn. Leave it out by where="
            )
        (whole,) = kinds
        pairs = list(zip(layout.batch_axes, whole, strict=True))
        shape = list(layout.shape)
        for axis, is_whole in pairs:
            shape[axis] = shape[axis] if is_whole else 1
        part = layout._replace(shape=tuple(shape))
        if len(terms) * part.batch != layout.batch:
            plan.skipped[leaf] = (
                f"{layout.batch - len(terms) * part.batch} of its {layout.batch} matrices are "
                "never multiplied"
            )
            continue
        for entry, own in terms.items():
            found.append(Part(leaf, entry, part, tuple(own), frozenset(products[entry])))
    return sorted(found, key=lambda part: min(part.products))


def stages_of(level: Level, parts: Sequence[Part]) -> list[Stage]:
    """Return the stages in their order.

    A stage has all parts whose inputs depend on no part that is still to be pruned. A kernel that
    is used several times may depend on itself; then it is a stage of its own.
    """
    left, found = list(parts), []
    while left:
        products = frozenset().union(*(part.products for part in left))
        dirty: set[int] = set()
        for equation in level.graph.equations:
            if equation.number in products or not dirty.isdisjoint(equation.ins):
                dirty.update(equation.outs)
        clean = [part for part in left if not any(t.site.value in dirty for t in part.terms)]
        stage = clean or left[:1]
        found.append(Stage(stage, min(products)))
        left = [part for part in left if part not in stage]
    return found
