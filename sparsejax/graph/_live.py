"""Which units stay: the fewest from which all outputs can be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.graph._axes import Axes, Joined, Parts, Read
from sparsejax.graph._constants import Constants, Places
from sparsejax.graph._graph import Equation, Graph
from sparsejax.graph._primitives import fixed_values, written_axes
from sparsejax.graph._reshape import reshape_groups


class Fold(NamedTuple):
    """Where a contraction's constant units can go: a leaf that is added to all that it writes."""

    leaf: int
    """A value: a parameter or a constant."""
    sign: int
    """-1 where the leaf, or the contraction, is subtracted."""


def find_folds(graph: Graph, axes: Axes) -> dict[int, Fold]:
    """For each contraction that has one, by the equation's place, the leaf that can absorb."""
    uses, fixed = graph.uses(), fixed_values(graph)
    # Of values that are a leaf in another shape: the leaf, and where its dimensions are.
    leaf_of = {
        value: (value, _long(graph.shapes[value]))
        for value in [*graph.leaves, *graph.constants]
        if fixed[value] and jnp.issubdtype(graph.dtypes[value], jnp.number)
    }
    reader: dict[int, int] = {}
    for number, equation in enumerate(graph.equations):
        reader |= dict.fromkeys(equation.ins, number)
        value, out = equation.ins[0] if equation.ins else -1, equation.outs[0]
        if value in leaf_of and uses[value] == 1:
            moved = _moved(graph, equation, leaf_of[value][1])
            if moved is not None:
                leaf_of[out] = leaf_of[value][0], moved
    found = {}
    for read in axes.ties:
        if not isinstance(read, Read):
            continue
        equation = graph.equations[read.equation]
        out = equation.outs[0]
        if uses[out] != 1 or out not in reader:
            continue
        after = graph.equations[reader[out]]
        if after.name not in ("add", "sub"):
            continue
        other = after.ins[1] if after.ins[0] == out else after.ins[0]
        if other not in leaf_of or uses[other] != 1:
            continue
        written = written_axes(graph, equation, read.contraction)
        long = tuple(axis for axis in written if graph.shapes[out][axis] != 1)
        leaf, places = leaf_of[other]
        if places == long:
            found[read.equation] = Fold(leaf, 1 if after.name == "add" else -1)
    return found


def _long(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis for axis, length in enumerate(shape) if length != 1)


def _moved(graph: Graph, equation: Equation, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Where dimensions are after an operation on the shape alone; None if it is none."""
    value, out = equation.ins[0], equation.outs[0]
    if equation.name == "broadcast_in_dim":
        return tuple(equation.params["broadcast_dimensions"][axis] for axis in axes)
    if equation.name == "squeeze":
        gone = equation.params["dimensions"]
        return tuple(axis - sum(other < axis for other in gone) for axis in axes)
    if equation.name != "reshape" or equation.params["dimensions"] is not None:
        return None
    groups = reshape_groups(graph.lengths(value), graph.lengths(out))
    if any(len(group.ins) != 1 or len(group.outs) != 1 for group in groups):
        return None
    moved = {group.ins[0]: group.outs[0] for group in groups}
    return tuple(moved[axis] for axis in axes)


def removable(read: Read, constants: Constants, folds: Mapping[int, Fold]) -> Places:
    """The units that a contraction can do without, and their constants."""
    contraction = read.contraction
    weights = constants.weights[read.equation]
    length = len(weights.link)
    nowhere = Places(np.zeros(length, bool), np.zeros(length, weights.array.dtype))
    known = constants.places.get(contraction.computed, {}).get(contraction.axis, nowhere)
    if read.equation in folds and not contraction.padded:
        return known
    return Places(known.constant & (known.numbers == 0), known.numbers)


def find_live(
    axes: Axes, constants: Constants, folds: Mapping[int, Fold], at_least_one: bool
) -> dict[int, np.ndarray]:
    """Masks of the units that stay, for each family; ``at_least_one`` leaves none empty."""
    whole = axes.whole | axes.mixed.keys()
    live = {family: np.full(size, family in whole, bool) for family, size in axes.sizes.items()}
    needs = []
    last: dict[int, int] = {}
    for place, tie in enumerate(axes.ties):
        if isinstance(tie, Read):
            needs.append(~removable(tie, constants, folds).constant)
            last |= dict.fromkeys((tie.read, *tie.written), place)
        else:
            needs.append(np.zeros(0, bool))

    def settle() -> None:
        changed = True
        while changed:
            changed = False
            for tie, needed in zip(reversed(axes.ties), reversed(needs), strict=True):
                if isinstance(tie, Read):
                    link = constants.weights[tie.equation].link
                    changed |= _require(live, tie.read, _is_read(link, tie, live) & needed)
                elif isinstance(tie, Parts):
                    here = live[tie.whole][tie.start : tie.start + len(tie.places)]
                    mask = np.zeros_like(live[tie.part])
                    mask[tie.places[here]] = True
                    changed |= _require(live, tie.part, mask)
                else:
                    changed |= _settle_joined(live, tie)

    settle()
    if not at_least_one:
        return live
    # A product over nothing is no product: of a family without live units one stays.
    while empty := [f for f, mask in live.items() if len(mask) and not mask.any()]:
        live[max(empty, key=lambda family: (last.get(family, -1), family))][0] = True
        settle()
    return live


def _require(live: dict[int, np.ndarray], family: int, mask: np.ndarray) -> bool:
    more = bool((mask & ~live[family]).any())
    if more:
        live[family] |= mask
    return more


def _is_read(link: np.ndarray, tie: Read, live: Mapping[int, np.ndarray]) -> np.ndarray:
    """Which units have a weight to one that stays."""
    for family in reversed(tie.written):
        mask = live[family]
        link = np.any(link if mask.all() else link[..., mask], axis=-1, keepdims=True)[..., 0]
    return link


def _settle_joined(live: dict[int, np.ndarray], tie: Joined) -> bool:
    lengths = [len(live[factor]) for factor in tie.factors]
    tuples = live[tie.whole].reshape(lengths)
    changed = False
    for place, factor in enumerate(tie.factors):
        by_unit = np.moveaxis(tuples, place, 0).reshape(lengths[place], -1)
        changed |= _require(live, factor, np.logical_or.reduce(by_unit, axis=1))
    if tie.exact:
        product = np.ix_(*(live[factor] for factor in tie.factors))
        whole = np.zeros(lengths, bool)
        whole[product] = True
        changed |= _require(live, tie.whole, whole.ravel())
    return changed
