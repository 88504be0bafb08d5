import itertools

import numpy as np
import pytest

from sparsejax.graph._reshape import regroup

BATCH = (12, 18)


def const(n):
    return (n, n)


def times(*lengths):
    return tuple(int(n) for n in np.prod(lengths, axis=0))


def sides(group):
    """The dimensions of both sides, each with the lengths of its factors."""
    return [
        [(axis, [group.factors[p] for p in places]) for axis, places in zip(*side, strict=True)]
        for side in ((group.ins, group.in_factors), (group.outs, group.out_factors))
    ]


def test_a_batch_is_told_from_what_is_as_long():
    joined = times(BATCH, const(12))
    (group,) = regroup([BATCH, const(12)], [joined])
    assert sides(group) == [[(0, [BATCH]), (1, [const(12)])], [(0, [BATCH, const(12)])]]
    # For a batch of 12 this would be no reshape at all.
    (group,) = regroup([BATCH, const(12)], [const(12), BATCH])
    assert group.factors == ()


def test_what_is_split_and_joined_goes_through_common_factors():
    before = [times(BATCH, const(4)), const(6)]
    groups = regroup(before, [BATCH, const(24)])
    ins, outs = sides(groups[0])
    assert len(groups) == 1
    assert ins == [(0, [BATCH, const(4)]), (1, [const(6)])]
    assert outs == [(0, [BATCH]), (1, [const(4), const(6)])]


def test_dimensions_of_length_1_and_arrays_without_entries():
    groups = regroup([const(1), BATCH, const(1), const(5)], [BATCH, const(5), const(1)])
    assert [(group.ins, group.outs) for group in groups] == [((1,), (0,)), ((3,), (1,))]
    assert regroup([const(1)], []) == []
    (group,) = regroup([const(0), const(3)], [const(0)])
    assert (group.ins, group.outs, group.factors) == ((0, 1), (0,), ())
    (group,) = regroup([const(0)], [const(0), const(1)])
    assert group.factors == (const(0),)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 12])
def test_groups_hold_for_every_batch_size(batch):
    """Entries go from place to place as a reshape of NumPy puts them."""
    lengths = [const(2), const(3), BATCH, const(2)]
    for cuts in itertools.product([False, True], repeat=6):
        before, after = joins(lengths, cuts[:3]), joins(lengths, cuts[3:])
        here = [size(n, batch) for n in before], [size(n, batch) for n in after]
        array = np.arange(np.prod(here[0])).reshape(here[0])
        whole = array.reshape(here[1])
        for group in regroup(before, after):
            assert group.factors
            middle = [size(n, batch) for n in group.factors]
            assert np.prod(middle) == np.prod([here[0][axis] for axis in group.ins])
            assert np.prod(middle) == np.prod([here[1][axis] for axis in group.outs])
        np.testing.assert_array_equal(whole.ravel(), array.ravel())


def joins(lengths, cuts):
    found = [lengths[0]]
    for length, cut in zip(lengths[1:], cuts, strict=True):
        if cut:
            found.append(length)
        else:
            found[-1] = times(found[-1], length)
    return found


def size(length, batch):
    return length[0] if length[0] == length[1] else length[0] * batch // 12
