import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax import compression
from sparsejax.models import LeNet300
from sparsejax.training import (
    Batches,
    Callback,
    Checkpoints,
    MetricLog,
    ProgressBar,
    TrainingDivergedError,
    fit,
    init_run_dir,
    init_state,
    make_step,
    read_metrics,
    report,
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
    return fit(*built, Batches(data, 64, 5), steps=STEPS)


def assert_same_bits(one, other):
    for new, old in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            new, old = jax.random.key_data(new), jax.random.key_data(old)
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))


@pytest.mark.parametrize(
    ("device_bytes", "how"),
    [
        (2**31, {"loop": "python"}),
        (2**31, {"steps_per_call": 5}),
        (2**31, {"callbacks": [report(every=10)]}),
        (0, {"loop": "scan"}),
        (0, {"loop": "python"}),
    ],
)
def test_however_it_is_run_the_bits_are_the_same(device_bytes, how, built, data, uninterrupted):
    batches = Batches(data, 64, seed=5, device_bytes=device_bytes)
    assert_same_bits(fit(*built, batches, steps=STEPS, **how), uninterrupted)


def test_it_trains_and_leaves_its_input_alone(built, data, uninterrupted):
    step, start = built
    assert int(start.step) == 0
    assert int(uninterrupted.step) == STEPS
    assert jnp.isfinite(start.params["dense1"]["kernel"][...]).all()
    seen = []
    evaluation = report(evaluate=lambda state: seen.append(int(state.step)) or {})
    fit(step, start, Batches(data, 64), steps=STEPS, callbacks=[evaluation])
    assert seen == [16, 32, 45]


@pytest.mark.parametrize("device_bytes", [0, 2**31])
def test_a_loop_of_ones_own_takes_the_same_steps(device_bytes, built, data, uninterrupted):
    def loop(take, state, arrays, rows):
        return jax.lax.scan(lambda state, row: take(state, arrays, row), state, rows)

    batches = Batches(data, 64, seed=5, device_bytes=device_bytes)
    state = fit(*built, batches, steps=STEPS, loop=loop)
    assert_same_bits(state, uninterrupted)


def test_different_seeds_see_different_orders(built, data, uninterrupted):
    other = fit(*built, Batches(data, 64, 6), steps=STEPS)
    leaves = zip(jax.tree.leaves(other.params), jax.tree.leaves(uninterrupted.params), strict=True)
    assert any(not np.array_equal(a, b) for a, b in leaves)


def first_bias(state):
    return {"weight": float(state.params["dense3"]["bias"][0])}


@pytest.mark.parametrize("stop", [1, 16, 20, 44])
def test_resuming_gives_the_same_bits_and_rows(stop, built, data, uninterrupted, tmp_path):
    rows = {}
    for name in ("whole", "part"):
        folder = init_run_dir(tmp_path / name, {"a": 1}, resume=False)
        arguments = {
            "callbacks": [report(MetricLog(folder), evaluate=first_bias, every=8)],
            "checkpoints": Checkpoints(folder / "checkpoints", every=10),
            "learning_rate": optax.constant_schedule(0.05),
        }
        if name == "part":
            fit(*built, Batches(data, 64, seed=5), steps=stop, **arguments)
        final = fit(*built, Batches(data, 64, seed=5), steps=STEPS, **arguments)
        assert_same_bits(final, uninterrupted)
        rows[name] = {row.pop("step"): row for row in read_metrics(folder)}
    if stop % 8:
        rows["part"].pop(stop)  # the first part ended with a report of its own
    for row in (*rows["whole"].values(), *rows["part"].values()):
        del row["seconds"]
    assert list(rows["whole"]) == [8, 16, 24, 32, 40, 45]
    assert rows["part"] == rows["whole"]


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
    assert_same_bits(fit(*built, Stream(data), steps=STEPS, loop="python"), uninterrupted)


def test_a_run_that_has_ended_is_not_run_again(built, data, tmp_path):
    checkpoints, seen = Checkpoints(tmp_path), []
    callbacks = [Callback(lambda step, state, metrics: seen.append(step), at_end=True)]
    arguments = {"steps": 10, "callbacks": callbacks, "checkpoints": checkpoints}
    first = fit(*built, Batches(data, 64), **arguments)
    again = fit(*built, Batches(data, 64), **arguments)
    assert_same_bits(again, first)
    assert seen == [10]


def test_a_nan_loss_names_step_rate_and_checkpoint(data, tmp_path):
    rate = lambda step: jnp.where(step < 23, 0.05, 1e30)  # noqa: E731
    step, state = build(optax.sgd(rate))
    checkpoints = Checkpoints(tmp_path, every=10)
    arguments = {"steps": STEPS, "checkpoints": checkpoints, "learning_rate": rate}
    with pytest.raises(
        TrainingDivergedError,
        match=r"the loss is (nan|inf) at step 2[45] with learning rate 1e\+30; the last good "
        r"checkpoint is that of step 20",
    ):
        fit(step, state, Batches(data, 64), **arguments)
    kept = checkpoints.restore(state)
    assert kept.step == 20
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.state.params))
    checkpoints.close()


def test_parameters_that_are_not_finite_never_reach_a_checkpoint(data, tmp_path):
    """The step before the checkpoint breaks the weights while its own loss is still finite."""
    step, state = build(optax.sgd(lambda step: jnp.where(step == 19, jnp.inf, 0.05)))
    with pytest.raises(TrainingDivergedError, match="a parameter is not finite at step 19"):
        fit(
            step, state, Batches(data, 64), steps=STEPS, checkpoints=Checkpoints(tmp_path, every=10)
        )
    assert sorted(int(path.stem) for path in (tmp_path / "sums").iterdir()) == [10]


def test_without_a_folder_divergence_says_so(data):
    step, state = build(optax.sgd(1e30))
    with pytest.raises(TrainingDivergedError, match="no checkpoint was written yet"):
        fit(step, state, Batches(data, 64), steps=STEPS)


def test_quiet_when_not_a_terminal(built, data, capsys):
    fit(*built, Batches(data, 64), steps=4, callbacks=[report(ProgressBar(4, "quiet"))])
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
