import numpy as np
import pytest

from sparsejax.training import Batches
from sparsejax.training._batches import placed

DATA = {"x": np.arange(50, dtype=np.float32).reshape(25, 2), "y": np.arange(25)}


def rows(batches, step, count):
    arrays, indices = placed(batches, None).block(step, count)
    if indices is None:
        return {name: np.asarray(array) for name, array in arrays.items()}
    return {name: np.asarray(array)[np.asarray(indices)] for name, array in arrays.items()}


def test_an_epoch_shows_each_example_at_most_once_and_epochs_differ():
    batches = Batches(DATA, 4, seed=3)
    assert batches.steps_per_epoch == 6
    first, second = rows(batches, 0, 6)["y"].ravel(), rows(batches, 6, 6)["y"].ravel()
    assert len(set(first)) == len(set(second)) == 24
    assert list(first) != list(second)


@pytest.mark.parametrize("device_bytes", [0, 2**31])
def test_any_block_and_either_place_give_the_same_batches(device_bytes):
    whole = rows(Batches(DATA, 4, seed=3), 6, 6)
    other = Batches(DATA, 4, seed=3, device_bytes=device_bytes)
    for step, count in ((10, 2), (6, 1), (7, 3)):  # in any order: resuming jumps
        part = rows(other, step, count)
        for name in DATA:
            np.testing.assert_array_equal(part[name], whole[name][step - 6 : step - 6 + count])
            assert part[name].shape == (count, 4, *DATA[name].shape[1:])


def test_the_rows_of_all_arrays_stay_together_and_seeds_differ():
    part = rows(Batches(DATA, 5, seed=0), 0, 5)
    np.testing.assert_array_equal(part["x"][..., 0], 2 * part["y"])
    other = rows(Batches(DATA, 5, seed=1), 0, 5)
    assert not np.array_equal(part["y"], other["y"])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="batch_size must be from 1 to 25"):
        Batches(DATA, 26, seed=0)
    with pytest.raises(ValueError, match="batch_size must be from 1 to 25"):
        Batches(DATA, 0, seed=0)
    with pytest.raises(ValueError, match="data must hold arrays of one length"):
        Batches({"x": np.zeros(3), "y": np.zeros(4)}, 2, seed=0)
    with pytest.raises(TypeError, match="data must be a mapping of arrays by name.*; got tuple"):
        Batches((np.zeros(3), np.zeros(3)), 2)
