import contextlib
import math
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsejax
from sparsejax import compression
from sparsejax.models import LeNet300
from sparsejax.training import (
    Checkpoints,
    TrainingDivergedError,
    fit,
    init_state,
    make_step,
    read_metrics,
)

STEPS = 45  # of 16 an epoch


def build(optimizer=None, seed=0):
    """A step of learning-compression on LeNet300 and its state."""
    graph, params, rest = nnx.split(LeNet300(rngs=nnx.Rngs(seed)), nnx.Param, ...)
    optimizer = optimizer or optax.chain(
        sparsejax.learning_compression(compression.l0_ball(2000), 0.1, 7),
        optax.sgd(0.05, momentum=0.9),
    )

    def loss(params, batch, key):
        noise = 0.01 * jax.random.normal(key, batch["image"].shape)  # the key matters
        logits = nnx.merge(graph, params, rest)(batch["image"] / 255 + noise)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return loss, {"train_error": 100 * (logits.argmax(-1) != batch["label"]).mean()}

    return make_step(loss, optimizer), init_state(params, optimizer, jax.random.key(seed))


@pytest.fixture(scope="module")
def data(mnist):
    return {"image": mnist.train.images[:1030], "label": mnist.train.labels[:1030]}


@pytest.fixture(scope="module")
def built():
    return build()


@pytest.fixture(scope="module")
def uninterrupted(built, data):
    return fit(*built, data, batch_size=64, steps=STEPS, seed=5)


def assert_same_bits(one, other):
    for new, old in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            new, old = jax.random.key_data(new), jax.random.key_data(old)
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))


@pytest.mark.parametrize(
    "how",
    [
        {"block": 1},
        {"block": 5},
        {"device_bytes": 0},
        {"block": 1, "device_bytes": 0},
        {"report_every": 10},
    ],
)
def test_however_it_is_run_the_bits_are_the_same(how, built, data, uninterrupted):
    assert_same_bits(fit(*built, data, batch_size=64, steps=STEPS, seed=5, **how), uninterrupted)


def test_it_trains_and_leaves_its_input_alone(built, data, uninterrupted):
    step, start = built
    assert int(start.step) == 0
    assert int(uninterrupted.step) == STEPS
    assert jnp.isfinite(start.params["dense1"]["kernel"][...]).all()
    rows = []
    fit(step, start, data, batch_size=64, steps=STEPS, evaluate=lambda state: rows.append(1) or {})
    assert len(rows) == 3


@pytest.mark.parametrize("device_bytes", [0, 2**31])
def test_a_loop_of_ones_own_takes_the_same_steps(device_bytes, built, data, uninterrupted):
    def scan(take, state, arrays, rows):
        return jax.lax.scan(lambda state, row: take(state, arrays, row), state, rows)

    state = fit(
        *built, data, batch_size=64, steps=STEPS, seed=5, scan=scan, device_bytes=device_bytes
    )
    assert_same_bits(state, uninterrupted)


def test_different_seeds_see_different_orders(built, data, uninterrupted):
    other = fit(*built, data, batch_size=64, steps=STEPS, seed=6)
    leaves = zip(jax.tree.leaves(other.params), jax.tree.leaves(uninterrupted.params), strict=True)
    assert any(not np.array_equal(a, b) for a, b in leaves)


@pytest.mark.parametrize("stop", [1, 16, 20, 44])
def test_resuming_gives_the_same_bits_and_rows(stop, built, data, uninterrupted, tmp_path):
    arguments = {
        "batch_size": 64, "seed": 5, "report_every": 8, "checkpoint_every": 10, "config": {"a": 1},
        "learning_rate": optax.constant_schedule(0.05),
        "evaluate": lambda state: {"weight": float(state.params["dense3"]["bias"][0])},
    }  # fmt: skip
    whole = fit(*built, data, steps=STEPS, folder=tmp_path / "whole", **arguments)
    fit(*built, data, steps=stop, folder=tmp_path / "part", **arguments)
    resumed = fit(*built, data, steps=STEPS, folder=tmp_path / "part", resume=True, **arguments)
    assert_same_bits(whole, uninterrupted)
    assert_same_bits(resumed, uninterrupted)
    rows = [
        {row["step"]: row for row in read_metrics(tmp_path / folder)}
        for folder in ("whole", "part")
    ]
    rows[1].pop(stop, None)  # the first part ended with a report of its own
    later = [step for step in rows[0] if step in rows[1] and step > stop + 10]
    assert rows[0].keys() - rows[1].keys() <= {stop}
    for step in later:
        for name in rows[0][step].keys() - {"seconds"}:
            assert rows[0][step][name] == rows[1][step][name]


class Stream:
    """Batches that are made when asked for, as those of data that is not in memory."""

    batch_size = 64

    def __init__(self, data, rows=slice(None)):
        self.steps_per_epoch = len(data["label"]) // 64
        self._data, self._rows = data, rows

    def block(self, step, count):
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([5, epoch]).permutation(len(self._data["label"]))
        indices = order[position * 64 : (position + count) * 64].reshape(count, 64)
        return {name: array[indices[:, self._rows]] for name, array in self._data.items()}, None


def test_a_source_of_batches_in_place_of_arrays(built, data, uninterrupted):
    assert_same_bits(fit(*built, Stream(data), steps=STEPS), uninterrupted)
    assert_same_bits(fit(*built, Stream(data), steps=STEPS, block=1), uninterrupted)
    with pytest.raises(ValueError, match="batch_size must be that of data, 64; got 32"):
        fit(*built, Stream(data), steps=STEPS, batch_size=32)
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1; got None"):
        fit(*built, data, steps=STEPS)


def test_a_run_that_has_ended_is_not_run_again(built, data, tmp_path):
    arguments = {"batch_size": 64, "steps": 10, "folder": tmp_path, "config": {}}
    first = fit(*built, data, **arguments)
    again = fit(*built, data, resume=True, **arguments)
    assert_same_bits(again, first)
    with pytest.raises(ValueError, match="already holds a run"):
        fit(*built, data, **arguments)
    with pytest.raises(ValueError, match="another configuration"):
        fit(*built, data, resume=True, **(arguments | {"config": {"b": 2}}))


def test_a_nan_loss_names_step_rate_and_checkpoint(data, tmp_path):
    rate = lambda step: jnp.where(step < 23, 0.05, 1e30)  # noqa: E731
    step, state = build(optax.sgd(rate))
    arguments = {
        "batch_size": 64, "steps": STEPS, "folder": tmp_path, "checkpoint_every": 10,
        "learning_rate": rate,
    }  # fmt: skip
    with pytest.raises(
        TrainingDivergedError,
        match=r"the loss is (nan|inf) at step 2[45] with learning rate 1e\+30; the last good "
        r"checkpoint is that of step 20",
    ):
        fit(step, state, data, **arguments)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    kept = checkpoints.restore(state)
    assert kept.step == 20
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.state.params))
    checkpoints.close()


def test_parameters_that_are_not_finite_never_reach_a_checkpoint(data, tmp_path):
    """The step before the checkpoint breaks the weights while its own loss is still finite."""
    step, state = build(optax.sgd(lambda step: jnp.where(step == 19, jnp.inf, 0.05)))
    with pytest.raises(TrainingDivergedError, match="a parameter is not finite at step 19"):
        fit(step, state, data, batch_size=64, steps=STEPS, folder=tmp_path, checkpoint_every=10)
    assert sorted(int(p.stem) for p in (tmp_path / "checkpoints" / "sums").iterdir()) == [10]


def test_without_a_folder_divergence_says_so(data):
    step, state = build(optax.sgd(1e30))
    with pytest.raises(TrainingDivergedError, match="no checkpoint was written yet"):
        fit(step, state, data, batch_size=64, steps=STEPS)


@pytest.mark.parametrize("value", [-2, 0, 2.5])
@pytest.mark.parametrize(
    "name", ["block", "report_every", "checkpoint_every", "stop_every", "revise_every"]
)
def test_bad_arguments_are_named(name, value, built, data):
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1; got {value}"):
        fit(*built, data, batch_size=64, steps=3, **{name: value})


def test_quiet_when_not_a_terminal(built, data, capsys):
    fit(*built, data, batch_size=64, steps=4)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


class Counter(NamedTuple):
    """A state of integers, so that a plain loop can repeat its steps, revisions and stop."""

    step: jax.Array
    params: jax.Array


def count_on(state, batch):
    params = (7 * state.params + state.step + batch["x"][0]) % 1009
    return Counter(state.step + 1, params), {"loss": params.astype(jnp.float32)}


def revised(state):
    return state._replace(params=(state.params * 3 + 1) % 1009)


class Killed(Exception):
    """In place of a process that dies."""


class Numbers:
    """One number a step; it dies when it is asked for those of step ``dies_at``."""

    batch_size, steps_per_epoch = 1, 4

    def __init__(self, dies_at=math.inf):
        self._dies_at = dies_at

    def block(self, step, count):
        if step + count > self._dies_at:
            raise Killed
        return {"x": np.arange(step, step + count, dtype=np.int32).reshape(count, 1)}, None


def plain_loop(steps, threshold, revise_every, stop_every):
    """The step and the number at which `fit` is to end, and the numbers on the way."""
    number, seen = 5, {}
    for step in range(steps):
        number = (7 * number + step + step) % 1009
        if revise_every and (step + 1) % revise_every == 0:
            number = (number * 3 + 1) % 1009
        seen[step + 1] = number
        if stop_every and (step + 1) % stop_every == 0 and number < threshold:
            return step + 1, number, seen
    return steps, number, seen


period = st.integers(1, 9)


@settings(max_examples=25, deadline=None)
@given(
    report_every=period,
    checkpoint_every=period,
    stop_every=st.none() | period,
    revise_every=st.none() | period,
    block=st.sampled_from([1, 3]),
    threshold=st.sampled_from([0, 30, 300]),
    kills=st.lists(st.integers(0, 24), max_size=2),
    folder=st.booleans(),
)
def test_reports_checkpoints_and_kills_change_nothing(
    report_every, checkpoint_every, stop_every, revise_every, block, threshold, kills, folder
):
    """Training ends where a plain loop ends, whatever is reported, kept or lost on the way."""
    steps = 25
    periods = [4 if every is None else every for every in (stop_every, revise_every)]
    last, number, seen = plain_loop(steps, threshold, periods[1], periods[0])
    reported = []
    arguments = {
        "steps": steps, "block": block, "report_every": report_every,
        "checkpoint_every": checkpoint_every, "stop_every": stop_every,
        "revise_every": revise_every, "revise": revised,
        "stop_when": lambda state: int(state.params) < threshold,
        "evaluate": lambda state: reported.append((int(state.step), int(state.params))) or {},
    }  # fmt: skip
    start = Counter(jnp.asarray(0, jnp.int32), jnp.asarray(5, jnp.int32))
    with tempfile.TemporaryDirectory() as path:
        where = {"folder": path, "resume": True} if folder else {}
        for dies_at in kills if folder else ():
            with contextlib.suppress(Killed):
                fit(count_on, start, Numbers(dies_at), **where, **arguments)
        final = fit(count_on, start, Numbers(), **where, **arguments)
        rows = read_metrics(path)
    assert (int(final.step), int(final.params)) == (last, number)
    assert all(seen[step] == found for step, found in reported)
    if folder:
        due = {step for step in range(1, last + 1) if step % report_every == 0} | {last}
        due |= {step for step in range(1, last + 1) if step % checkpoint_every == 0}
        assert [row["step"] for row in rows] == sorted(due)


@pytest.mark.parametrize("how", [{}, {"checkpoint_every": 20}, {"report_every": 7}])
def test_a_run_stops_at_the_same_step_whatever_is_logged(how):
    start = Counter(jnp.asarray(0, jnp.int32), jnp.asarray(5, jnp.int32))
    stop_when = lambda state: int(state.step) >= 14  # noqa: E731
    assert int(fit(count_on, start, Numbers(), steps=100, stop_when=stop_when, **how).step) == 16
    final = fit(count_on, start, Numbers(), steps=100, stop_when=stop_when, stop_every=5, **how)
    assert int(final.step) == 15
