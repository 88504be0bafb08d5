import numpy as np
import pytest

from experiments.data import stratified_holdout


def test_holds_out_exactly_and_in_proportion():
    labels = np.repeat(np.arange(4), [100, 53, 27, 20])
    train, validation = stratified_holdout(labels, 41, seed=0)
    assert (len(train), len(validation)) == (159, 41)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(200))
    # Shares of 20.5, 10.865, 5.535 and 4.1: the two largest remainders are rounded up.
    assert np.bincount(labels[validation]).tolist() == [20, 11, 6, 4]


def test_depends_on_the_seed_alone():
    labels = np.arange(1000) % 10
    first, again, other = (stratified_holdout(labels, 100, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bad_sizes_are_named():
    assert len(stratified_holdout(np.zeros(5, int), 0, 0)[1]) == 0
    for size in (-1, 5):
        with pytest.raises(ValueError, match=f"size must be from 0 to 4; got {size}"):
            stratified_holdout(np.zeros(5, int), size, 0)


def test_folds_are_disjoint_and_all_in_proportion():
    labels = np.repeat(np.arange(3), [40, 31, 30])
    folds = [stratified_holdout(labels, 30, seed=5, fold=fold)[1] for fold in range(3)]
    assert len(np.unique(np.concatenate(folds))) == 90
    assert [np.bincount(labels[fold]).tolist() for fold in folds] == [[12, 9, 9]] * 3
    np.testing.assert_array_equal(folds[0], stratified_holdout(labels, 30, seed=5)[1])
    for fold in (-1, 3):
        with pytest.raises(ValueError, match=f"fold must be from 0 to 2; got {fold}"):
            stratified_holdout(labels, 30, seed=5, fold=fold)
