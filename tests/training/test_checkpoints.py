import contextlib
import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.training import CheckpointError, Checkpoints
from tests.reference import shard


def state_at(step):
    return {
        "step": jnp.asarray(step, jnp.int32),
        "params": {"kernel": jax.random.normal(jax.random.key(step), (300, 200))},
        "half": jnp.full((3,), step + 0.5, jnp.bfloat16),
        "masked": optax.MaskedNode(),
        "key": jax.random.key(step),
    }


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints")
    yield made
    made.close()


def largest_file(checkpoints, step):
    files = [f for f in (checkpoints.folder / "states" / str(step)).rglob("*") if f.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def assert_same(restored, expected):
    for new, old in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert new.dtype == old.dtype
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            new, old = jax.random.key_data(new), jax.random.key_data(old)
        np.testing.assert_array_equal(new, old)


def test_comes_back_bit_for_bit_and_old_ones_go(checkpoints):
    for step in (10, 20, 30, 40):
        checkpoints.save(step, state_at(step), {"seconds": step / 2})
    assert checkpoints.steps() == [20, 30, 40]
    again = Checkpoints(checkpoints.folder)
    restored = again.restore(state_at(0))
    assert (restored.step, restored.extra) == (40, {"seconds": 20.0})
    assert_same(restored.state, state_at(40))
    again.close()


def test_coming_back_logs_no_warning(checkpoints, caplog):
    checkpoints.save(10, state_at(10), {})
    caplog.clear()  # old versions of Orbax warn when they save
    again = Checkpoints(checkpoints.folder)
    again.restore(state_at(0))
    again.close()
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


def test_nothing_there_is_none(checkpoints):
    assert checkpoints.restore(state_at(0)) is None


def test_arrays_come_back_without_the_state_they_were_in(checkpoints, caplog):
    assert checkpoints.arrays() == {}
    state = state_at(7) | {"sharded": shard(jnp.arange(64.0).reshape(8, 8), "a", "b")}
    checkpoints.save(7, state, {})
    caplog.clear()  # old versions of Orbax warn when they save
    again = Checkpoints(checkpoints.folder)
    found = again.arrays()
    again.close()
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    assert list(found) == [jax.tree_util.keystr(path) for path, _ in flat]
    assert_same(list(found.values()), [array for _, array in _raw(flat)])
    assert all(isinstance(array, np.ndarray) for array in found.values())
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


def _raw(flat):
    for path, leaf in flat:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        yield path, jax.random.key_data(leaf) if is_key else leaf


def test_takes_the_sharding_it_is_asked_for(checkpoints):
    state = {"kernel": shard(jnp.arange(64.0).reshape(8, 8), "a", "b")}
    checkpoints.save(1, state, {})
    like = {"kernel": shard(jnp.zeros((8, 8)), None, "a")}
    restored = checkpoints.restore(like).state["kernel"]
    np.testing.assert_array_equal(restored, state["kernel"])
    assert restored.sharding == like["kernel"].sharding


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda file: file.unlink()])
def test_a_damaged_newest_falls_back_with_a_warning(checkpoints, damage):
    for step in (1, 2):
        checkpoints.save(step, state_at(step), {})
    damage(largest_file(checkpoints, 2))
    with pytest.warns(RuntimeWarning, match=r"step 2 .* is damaged .* falling back"):
        restored = checkpoints.restore(state_at(0))
    assert restored.step == 1
    assert_same(restored.state, state_at(1))
    checkpoints.save(2, state_at(2), {})  # its place can be taken again
    assert checkpoints.restore(state_at(0)).step == 2


def test_damaged_sums_and_all_damaged(checkpoints):
    for step in (1, 2):
        checkpoints.save(step, state_at(step), {})
    (checkpoints.folder / "sums" / "2.json").write_text("{")
    with pytest.warns(RuntimeWarning, match="its checksums cannot be read"):
        assert checkpoints.restore(state_at(0)).step == 1
    truncate(largest_file(checkpoints, 1))
    with (
        pytest.warns(RuntimeWarning, match="is damaged"),
        pytest.raises(CheckpointError, match="every checkpoint in .* is damaged"),
    ):
        checkpoints.restore(state_at(0))


def test_one_without_sums_does_not_count(checkpoints):
    """A crash between Orbax's rename and the sums leaves it so."""
    for step in (1, 2):
        checkpoints.save(step, state_at(step), {})
    (checkpoints.folder / "sums" / "2.json").unlink()
    assert checkpoints.restore(state_at(0)).step == 1
    checkpoints.save(2, state_at(5), {})
    assert_same(checkpoints.restore(state_at(0)).state, state_at(5))


def test_another_kind_of_state_is_named(checkpoints):
    checkpoints.save(1, state_at(1), {})
    with pytest.raises(CheckpointError, match="holds another kind of state.*other"):
        checkpoints.restore(state_at(0) | {"other": jnp.zeros(2)})


@contextlib.contextmanager
def files_no_larger_than(size):
    """Writes beyond ``size`` bytes fail in the operating system, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Orbax leaves a write behind that finds its event loop closed; the error itself is raised.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_an_error_that_loses_nothing(checkpoints):
    checkpoints.save(1, state_at(1), {})
    with (
        files_no_larger_than(20_000),
        pytest.raises(CheckpointError, match="step 2 could not .* last good one is of step 1"),
    ):
        checkpoints.save(2, state_at(2), {})
    assert checkpoints.steps() == [1]
    assert not list((checkpoints.folder / "states").glob("2*"))
    checkpoints.save(2, state_at(2), {})
    restored = checkpoints.restore(state_at(0))
    assert restored.step == 2
    assert_same(restored.state, state_at(2))
    assert json.loads((checkpoints.folder / "sums" / "2.json").read_text())
