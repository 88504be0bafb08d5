"""The fixed point of all edges, against the same rules unit by unit."""

import itertools

import numpy as np
import pytest

from sparsejax.graph import (
    BiasFolding,
    Constants,
    ConstantUnits,
    Contraction,
    ContractionEdge,
    DependencyGroups,
    Factor,
    Product,
    ProductEdge,
    ReductionEdge,
    ReshapeEdge,
    SliceEdge,
    Weights,
    find_live,
)


def draw(rng):
    """Random groups 0 ... n with random edges between them; group 0 is whole."""
    sizes = {group: int(rng.integers(1, 6)) for group in range(8)}
    edges, weights, units, foldings, products, reduced = [], {}, {}, {}, {}, {}
    for number in range(10):
        reader, source, other = map(int, rng.permutation(8)[:3])
        kind = rng.integers(5)
        if kind == 0:
            start = int(rng.integers(sizes[reader]))
            indices = rng.integers(0, sizes[source], sizes[reader] - start)
            edges.append(SliceEdge(reader, start, source, indices))
        elif kind == 1:
            merged = len(sizes)
            sizes[merged] = sizes[source] * sizes[other]
            edges.append(ReshapeEdge(merged, (source, other), bool(rng.random() < 0.5)))
            edges.append(
                SliceEdge(reader, 0, merged, rng.integers(0, sizes[merged], sizes[reader]))
            )
        elif kind == 2:
            batch, free, summed = (
                (rng.random(sizes[group]) < 0.7,) for group in (other, reader, source)
            )
            nonzero = rng.random([sizes[group] for group in (other, reader, source)]) < 0.3
            left = Factor(nonzero if rng.random() < 0.5 else None, batch, free, summed)
            right = Factor(nonzero[:, 0], batch, (), summed)
            products[number] = [Product(left, right)]
            edges.append(ProductEdge(number, (source,), (other,), (reader,), ()))
        elif kind == 3:
            known = (sizes[reader], sizes[other]) if rng.random() < 0.5 else ()
            reduced[number] = {1: rng.random((sizes[source], *known)) < 0.4}
            edges.append(ReductionEdge(number, 1, source, (reader, other)))
        else:
            written = (reader, other)[: int(rng.integers(1, 3))]
            shape = (sizes[source], *(sizes[group] for group in written))
            array = rng.normal(size=shape) * (rng.random(shape) < 0.3)
            weights[number] = Weights(array != 0, array)
            axes = tuple(range(1, len(shape)))
            padded = bool(rng.random() < 0.3)
            contraction = Contraction(number, 0, -1, 0, axes, axes, (), padded)
            edges.append(ContractionEdge(number, contraction, source, written))
            numbers = rng.integers(0, 2, sizes[source]).astype(float)
            units[number] = {0: ConstantUnits(rng.random(sizes[source]) < 0.3, numbers)}
            if rng.random() < 0.5:
                foldings[number] = BiasFolding(0, 1)
    groups = DependencyGroups([], sizes, {0}, {}, set(), edges, {})
    return groups, Constants(units, weights, {}, products, reduced), foldings


def needed(groups, constants, foldings, live):
    """The units that any edge needs for the pairs (group, unit) that are live."""
    sizes = groups.sizes
    for edge in groups.edges:
        if isinstance(edge, SliceEdge):
            for offset, index in enumerate(edge.indices):
                if (edge.reader, edge.start + offset) in live:
                    yield edge.source, int(index)
        elif isinstance(edge, ReshapeEdge):
            tuples = itertools.product(*(range(sizes[group]) for group in edge.factors))
            for unit, parts in enumerate(tuples):
                pairs = list(zip(edge.factors, parts, strict=True))
                if (edge.merged, unit) in live:
                    yield from pairs
                if edge.grid and all(pair in live for pair in pairs):
                    yield edge.merged, unit
        elif isinstance(edge, ReductionEdge):
            changes = constants.reduced[edge.equation][edge.axis]
            some = all(any((g, u) in live for u in range(sizes[g])) for g in edge.written)
            for unit, *entry in np.argwhere(changes).tolist():
                if set(zip(edge.written, entry, strict=True)) <= live if entry else some:
                    yield edge.read, unit
        elif isinstance(edge, ProductEdge):
            ((left, right),) = constants.products[edge.equation]
            factors = (*left.batch, *left.free, *left.summed)
            for b, m, k in np.ndindex(*map(len, factors)):
                here = factors[0][b] and factors[1][m] and factors[2][k]
                here = here if left.nonzero is None else left.nonzero[b, m, k]
                if here and right.nonzero[b, k] and {(edge.batch[0], b), (edge.left[0], m)} <= live:
                    yield edge.read[0], k
        else:
            mask, numbers = constants.units[edge.equation][0]
            weights = constants.weights[edge.equation].array
            for unit, *written in np.argwhere(weights != 0).tolist():
                foldable = edge.equation in foldings and not edge.contraction.padded
                removable = mask[unit] and (foldable or numbers[unit] == 0)
                if not removable and all(
                    pair in live for pair in zip(edge.written, written, strict=True)
                ):
                    yield edge.read, unit


@pytest.mark.parametrize("seed", range(20))
def test_the_least_fixed_point(seed):
    groups, constants, foldings = draw(np.random.default_rng(seed))
    live = {(0, unit) for unit in range(groups.sizes[0])}
    while not (more := set(needed(groups, constants, foldings, live))) <= live:
        live |= more
    found = find_live(groups, constants, foldings, at_least_one=False)
    assert {(group, int(u)) for group, mask in found.items() for u in np.flatnonzero(mask)} == live


@pytest.mark.parametrize("seed", range(5))
def test_one_unit_of_each_group(seed):
    groups, constants, foldings = draw(np.random.default_rng(seed))
    few = find_live(groups, constants, foldings, at_least_one=False)
    found = find_live(groups, constants, foldings, at_least_one=True)
    for group, mask in found.items():
        assert mask.any()
        assert (mask >= few[group]).all()
    live = {(group, int(unit)) for group, mask in found.items() for unit in np.flatnonzero(mask)}
    assert set(needed(groups, constants, foldings, live)) <= live
