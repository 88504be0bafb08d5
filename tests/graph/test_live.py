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
    ReshapeEdge,
    SliceEdge,
    Weights,
    find_live,
)


def draw(rng):
    """Random groups 0 ... n with random edges between them; group 0 is whole."""
    sizes = {group: int(rng.integers(1, 6)) for group in range(8)}
    edges, weights, units, foldings = [], {}, {}, {}
    for number in range(10):
        reader, source, other = map(int, rng.permutation(8)[:3])
        kind = rng.integers(3)
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
    return groups, Constants(units, weights, {}), foldings


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
