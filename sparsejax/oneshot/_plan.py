"""The Gram matrices to compute: the uses of each kernel as a layout and a sum of terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sparsejax.oneshot._calibration import KernelLayout
from sparsejax.oneshot._find_uses import Uses
from sparsejax.oneshot._uses import Index, Site, Use


class Term(NamedTuple):
    """The Gram matrices of a site, and the matrices of a kernel to which they are added."""

    site: Site
    entry: tuple[Index | None, ...]
    """For each batch axis of the kernel the index; None for all of the axis."""


class Total(NamedTuple):
    """A sum of terms, which the kernels with the same terms share."""

    batch: tuple[int, ...]
    """The lengths of the kernels' batch axes."""
    inputs: int
    terms: tuple[Term, ...]


class Plan(NamedTuple):
    """The sums of Gram matrices that calibrate a function."""

    totals: list[Total]
    """In the order of the computation."""
    places: dict[Term, tuple[int, ...]]
    """The place of the first product of each term."""
    layouts: dict[int, KernelLayout]
    """The layout of each kernel, by the number of the parameter."""
    total_of: dict[int, int]
    """The index in ``totals`` for each kernel."""
    skipped: dict[int, str]
    """Why other parameters have no Gram matrix."""


def make_plan(uses: Mapping[int, Uses], shapes: Sequence[tuple[int, ...]]) -> Plan:
    """Return the plan for the uses of parameters, given the shapes of all parameters."""
    plan = Plan([], {}, {}, {}, {})
    found = {}
    for leaf, of_leaf in uses.items():
        terms = _terms(of_leaf, shapes[leaf])
        if isinstance(terms, str):
            plan.skipped[leaf] = terms
            continue
        layout, pairs = terms
        plan.layouts[leaf] = layout
        for term, place in pairs:
            plan.places[term] = min(place, plan.places.get(term, place))
        batch = tuple(shapes[leaf][axis] for axis in layout.batch_axes)
        found[leaf] = Total(batch, layout.inputs, tuple(dict.fromkeys(term for term, _ in pairs)))
    first = {total: min(plan.places[term] for term in total.terms) for total in found.values()}
    plan.totals.extend(sorted(first, key=first.__getitem__))
    plan.total_of.update({leaf: plan.totals.index(total) for leaf, total in found.items()})
    return plan


def _terms(
    uses: Uses, shape: tuple[int, ...]
) -> tuple[KernelLayout, list[tuple[Term, tuple[int, ...]]]] | str:
    """Return the layout of a kernel, and its terms with their places; or why there are none."""
    if uses.refusals or not uses.products:
        return uses.reason
    products = uses.products
    # Slices that read the same inputs, as those of q, k and v in one kernel, are output units.
    outputs = frozenset.intersection(*(frozenset(filter(_static(use), use.indexed))
                                       for use in products))  # fmt: skip
    for left_out in (outputs, frozenset()):
        batches = {use.batch_axes | (use.indexed.keys() - left_out) for use in products}
        inputs = {use.input_axes for use in products}
        if len(batches) > 1 or len(inputs) > 1:
            continue
        (batch_axes,), (input_axes,) = batches, inputs
        layout = KernelLayout(
            shape,
            tuple(sorted(batch_axes)),
            tuple(axis for axis in range(len(shape)) if axis not in batch_axes | input_axes),
            tuple(sorted(input_axes)),
        )
        pairs = [(term_of(use, layout), use) for use in products]
        one = len({term for term, _ in pairs}) == 1
        if one or (left_out == frozenset() and _whole_parts(pairs)):
            return layout, [(term, use.place) for term, use in pairs]
    if len(batches) > 1 or len(inputs) > 1:
        return "products read it in different layouts, such as x @ kernel and h @ kernel.T"
    return "parts of it are multiplied by different inputs"


def _static(use: Use) -> Callable[[int], bool]:
    return lambda axis: not use.indexed[axis].traced


def term_of(use: Use, layout: KernelLayout) -> Term:
    return Term(use.site, tuple(use.indexed.get(axis) for axis in layout.batch_axes))


def _whole_parts(pairs: Sequence[tuple[Term, Use]]) -> bool:
    """Return whether the same part of each matrix is multiplied by all of its inputs."""
    parts: dict[tuple[Index | None, ...], dict[Site, set[object]]] = {}
    for term, use in pairs:
        parts.setdefault(term.entry, {}).setdefault(term.site, set()).add(use.part)
    return all(
        len(sites) == 1 or len({frozenset(each) for each in sites.values()}) == 1
        for sites in parts.values()
    )
