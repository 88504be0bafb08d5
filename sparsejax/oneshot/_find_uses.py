"""The products between chosen parameters and values that depend on the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping

from sparsejax.graph import RULES, Equation, MovedLeaf
from sparsejax.oneshot._levels import Level
from sparsejax.oneshot._uses import Traced, UnsupportedError, Use, use_in_product

_PRODUCTS = ("dot_general", "conv_general_dilated")
_PASSED_ON = ("sharding_constraint", "reshard", "mesh_cast", "optimization_barrier")
_NOTHING = "the function does not multiply by it"


@dataclasses.dataclass
class Uses:
    """The products that read a parameter, and what else does."""

    products: list[Use] = dataclasses.field(default_factory=list)
    """The uses, in the order of the computation."""
    refusals: list[str] = dataclasses.field(default_factory=list)
    """Why products with values of the batch have no Gram matrix."""
    others: list[str] = dataclasses.field(default_factory=list)
    """The names of other primitives that read it."""

    @property
    def reason(self) -> str:
        """Why there is no product to calibrate."""
        if self.refusals:
            return self.refusals[0]
        if self.others:
            names = ", ".join(dict.fromkeys(self.others))
            return f"no product with values of the batch reads it, but {names}"
        return _NOTHING


def find_uses(level: Level, leaves: Mapping[int, MovedLeaf]) -> dict[int, Uses]:
    """Find the products that read parameters.

    Args:
      level: the level of the function.
      leaves: parameters by their values.

    Returns:
      The uses of each parameter, by its number.
    """
    found = {leaf.leaf: Uses() for leaf in leaves.values()}
    _walk(level, leaves, found)
    return found


def _walk(level: Level, leaves: Mapping[int, MovedLeaf], found: dict[int, Uses]) -> None:
    moved = dict(leaves)
    for equation in level.graph.equations:
        places = [place for place, value in enumerate(equation.ins) if value in moved]
        if not places:
            continue
        if equation.name == "scan":
            _walk_scan(level, equation, moved, found)
            continue
        if equation.name == "optimization_barrier":
            moved |= {equation.outs[place]: moved[equation.ins[place]] for place in places}
            continue
        leaf = moved[equation.ins[places[0]]]
        if equation.name in _PRODUCTS and len(places) == 1:
            _product(level, equation, places[0], leaf, found[leaf.leaf])
            continue
        results = _moved(level, equation, leaf) if places == [0] else [None]
        for value, result in zip(equation.outs, results, strict=False):
            if result is not None:
                moved[value] = result
        if None in results:
            for place in places:
                found[moved[equation.ins[place]].leaf].others.append(equation.name)


def _product(level: Level, equation: Equation, place: int, leaf: MovedLeaf, uses: Uses) -> None:
    if not level.depends[equation.ins[1 - place]]:
        uses.others.append(f"a {equation.name} with values that do not depend on the batch")
        return
    try:
        use = use_in_product(level, equation, place, leaf)
    except UnsupportedError as error:
        uses.refusals.append(str(error))
    else:
        uses.products.append(use)


def _walk_scan(
    level: Level, equation: Equation, moved: Mapping[int, MovedLeaf], found: dict[int, Uses]
) -> None:
    scan, inside = level.scans[equation.number]
    arguments = {}
    for place, value in enumerate(equation.ins):
        if value not in moved:
            continue
        leaf: MovedLeaf | None = moved[value]
        assert leaf is not None
        if scan.sliced(place):
            entry = leaf.at(0, Traced(inside.number, None))
            leaf = entry and dataclasses.replace(entry, dims=entry.dims[1:])
        elif not scan.kept(place):
            leaf = None
        if leaf is None:
            found[moved[value].leaf].others.append("scan")
        else:
            arguments[scan.body.inputs[place]] = leaf
    _walk(inside, arguments, found)


def _moved(level: Level, equation: Equation, leaf: MovedLeaf) -> list[MovedLeaf | None]:
    """Return the results of an equation as a moved parameter; None where they are not."""
    rule = RULES.get(equation.name)
    if equation.name in _PASSED_ON:
        return [leaf]
    if equation.name == "dynamic_slice":
        return [_dynamic_slice(level, equation, leaf)]
    if rule is not None and rule.indices is not None:
        indices = rule.indices(level.graph, equation, level.graph.literals)
        return [indices and leaf.read(indices)]
    if rule is not None and rule.moved is not None:
        return rule.moved(level.graph, equation, leaf)
    return [None] * len(equation.outs)


def _dynamic_slice(level: Level, equation: Equation, leaf: MovedLeaf) -> MovedLeaf | None:
    """Return a parameter at an index that may be computed, as in a loop over layers."""
    value, *starts = equation.ins
    found: MovedLeaf | None = leaf
    for axis, size in enumerate(equation.params["slice_sizes"]):
        length = level.graph.shapes[value][axis]
        if size == length or found is None:
            continue
        known = level.graph.literals.get(starts[axis])
        index: Hashable = Traced(level.number, level.same[starts[axis]])
        if known is not None:
            index = min(max(int(known.item()), 0), length - size)
        found = found.at(axis, index) if size == 1 else None
    return found
