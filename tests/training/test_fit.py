"""However a run is looped, fed, reported on or interrupted, it ends in the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.compression import l0_penalty
from sparsejax.training import (
    Batches,
    Callback,
    Checkpoints,
    MetricLog,
    ProgressBar,
    fit,
    init_run_dir,
    init_state,
    read_metrics,
    report,
)
from tests.training.mlp import arrays, assert_same_bits, build

DATA = arrays(1030)
STEPS = 48  # of 16 an epoch


@pytest.fixture(scope="module")
def built():
    """A step whose loss depends on the key, and its first state."""
    # A C step at each seventh step, and one that compiles fast.
    optimizer = optax.chain(
        sparsejax.learning_compression(l0_penalty(1e-4), 0.1, 7), optax.sgd(0.05, momentum=0.9)
    )
    step, params, _ = build(noise=0.01, optimizer=optimizer)
    return step, init_state(params, optimizer, jax.random.key(0))


@pytest.fixture(scope="module")
def uninterrupted(built):
    return fit(*built, Batches(DATA, 64, seed=5), steps=STEPS)


@pytest.mark.parametrize(
    ("device_bytes", "how"),
    [
        (2**31, {"loop": "python", "callbacks": [report(every=10)]}),
        (2**31, {"steps_per_call": 5}),
        (0, {"loop": "scan"}),
        (0, {"loop": "python"}),
    ],
)
def test_however_it_is_run_the_bits_are_the_same(device_bytes, how, built, uninterrupted):
    batches = Batches(DATA, 64, seed=5, device_bytes=device_bytes)
    assert_same_bits(fit(*built, batches, steps=STEPS, **how), uninterrupted)


def test_it_trains_and_leaves_its_input_alone(built, uninterrupted):
    assert (int(built[1].step), int(uninterrupted.step)) == (0, STEPS)
    assert jnp.isfinite(built[1].params["dense1"]["kernel"]).all()
    seen = []
    errors = Callback(lambda step, state, metrics: seen.append(metrics["train_error"]))
    fit(*built, Batches(DATA, 64), steps=STEPS, callbacks=[errors])
    assert len(seen) == 3
    assert seen[-1] < seen[0]


@pytest.mark.parametrize("device_bytes", [0, 2**31])
def test_a_loop_of_ones_own_takes_the_same_steps(device_bytes, built, uninterrupted):
    def loop(take, state, arrays, rows):
        return jax.lax.scan(lambda state, row: take(state, arrays, row), state, rows)

    batches = Batches(DATA, 64, seed=5, device_bytes=device_bytes)
    assert_same_bits(fit(*built, batches, steps=STEPS, loop=loop), uninterrupted)


def test_different_seeds_see_different_orders(built, uninterrupted):
    other = fit(*built, Batches(DATA, 64, seed=6), steps=STEPS)
    leaves = zip(jax.tree.leaves(other.params), jax.tree.leaves(uninterrupted.params), strict=True)
    assert any(not np.array_equal(a, b) for a, b in leaves)


def first_bias(state):
    return {"weight": float(state.params["dense2"]["bias"][0])}


def run(built, folder, steps):
    """Train in a folder, from its newest checkpoint; return the state and the rows by step."""
    folder = init_run_dir(folder, {"a": 1}, resume=True)
    state = fit(
        *built,
        Batches(DATA, 64, seed=5),
        steps=steps,
        loop="python",
        callbacks=[report(MetricLog(folder), evaluate=first_bias, every=8)],
        checkpoints=Checkpoints(folder / "checkpoints", every=10),
        learning_rate=optax.constant_schedule(0.05),
    )
    return state, {row["step"]: row for row in read_metrics(folder)}


@pytest.fixture(scope="module")
def whole(built, tmp_path_factory):
    return run(built, tmp_path_factory.mktemp("whole"), STEPS)


@pytest.mark.parametrize("end", [1, 16, 20, 44])
def test_resuming_gives_the_same_bits_and_rows(end, built, uninterrupted, whole, tmp_path):
    run(built, tmp_path, end)
    resumed, rows = run(built, tmp_path, STEPS)
    assert_same_bits(whole[0], uninterrupted)
    assert_same_bits(resumed, uninterrupted)
    if end % 8:
        rows.pop(end)  # the first part ended with a report of its own
    assert list(rows) == [8, 16, 24, 32, 40, 48]
    for step, row in whole[1].items():
        assert row | {"seconds": 0} == rows[step] | {"seconds": 0}


class Stream:
    """Batches that are made when asked for, as those of data that is not in memory."""

    batch_size, steps_per_epoch = 64, 1030 // 64

    def block(self, step, count):
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([5, epoch]).permutation(1030)
        indices = order[position * 64 : (position + count) * 64].reshape(count, 64)
        return {name: array[indices] for name, array in DATA.items()}, None


@pytest.mark.parametrize("loop", ["python", "scan"])
def test_a_source_of_batches_in_place_of_arrays(loop, built, uninterrupted):
    assert_same_bits(fit(*built, Stream(), steps=STEPS, loop=loop), uninterrupted)


def test_a_run_that_has_ended_is_not_run_again(built, tmp_path):
    checkpoints, seen = Checkpoints(tmp_path), []
    callbacks = [Callback(lambda step, state, metrics: seen.append(step), at_end=True)]
    arguments = {
        "steps": 10, "loop": "python", "callbacks": callbacks, "checkpoints": checkpoints
    }  # fmt: skip
    first = fit(*built, Batches(DATA, 64), **arguments)
    assert_same_bits(fit(*built, Batches(DATA, 64), **arguments), first)
    assert seen == [10]


def test_quiet_when_not_a_terminal(built, capsys):
    bar = report(ProgressBar(4, "quiet"))
    fit(*built, Batches(DATA, 64), steps=4, loop="python", callbacks=[bar])
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
