import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.training import fit, init_state, make_step
from sparsejax.transforms import (
    GatedWeightDecayState,
    PruningTrainState,
    prune_state,
    pruning_step,
)

RNG = np.random.default_rng(0)
START = {"kernel": RNG.normal(size=(8, 4)).astype(np.float32), "bias": np.zeros(4, np.float32)}
DATA = {"x": RNG.normal(size=(64, 8)).astype(np.float32)}
PRUNER = sparsejax.prune_when_accurate(0.25, 0.5)


def loss(params, batch, key):
    del key
    return ((batch["x"] @ params["kernel"] + params["bias"] - 1) ** 2).mean(), {}


def optimizer_and_state(decay=1e-3):
    mask = PRUNER.init(START).mask
    optimizer = optax.chain(
        sparsejax.gated_weight_decay(decay), optax.adam(0.01), sparsejax.hold_zeros(mask)
    )
    start = init_state(START, optimizer, jax.random.key(0))
    return optimizer, PruningTrainState(*start, PRUNER.init(START))


def test_prunes_at_its_steps_and_restarts_the_decay():
    optimizer, state = optimizer_and_state(optax.exponential_decay(1e-3, 1, 0.9))
    inner = make_step(loss, optimizer)
    batch = {"x": jnp.asarray(DATA["x"])}

    @jax.jit
    def run(state, accuracy):
        return pruning_step(inner, PRUNER, lambda params: accuracy, every=3)(state, batch)[0]

    seen = []
    for number in range(1, 13):  # only the accuracies of steps 3, 6, 9 and 12 are asked for
        state = run(state, 0.6 if number in (2, 3, 4, 9) else 0.4)
        decay = next(node for node in state.opt_state if isinstance(node, GatedWeightDecayState))
        zeros = int((state.params["kernel"] == 0).sum())
        seen.append((int(state.pruning.remaining), int(decay.step), zeros))
    left = [32, 32, 24, 24, 24, 24, 24, 24, 18, 18, 18, 18]
    assert [remaining for remaining, _, _ in seen] == left
    assert [steps for _, steps, _ in seen] == [1, 2, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert [zeros for _, _, zeros in seen] == [32 - remaining for remaining in left]


def test_a_killed_run_resumes_to_the_same_bits_and_stops_on_a_plateau(tmp_path):
    """Accurate as long as more than a third are left, so the plateau comes by itself."""
    optimizer, state = optimizer_and_state()

    def accuracy(params):
        return ((params["kernel"] != 0).mean() > 0.35).astype(jnp.float32)

    step = pruning_step(make_step(loss, optimizer), PRUNER, accuracy, every=5)
    plateau = lambda state: int(state.pruning.evaluations_since_pruning) >= 3  # noqa: E731
    common = {"batch_size": 16, "stop_every": 5, "checkpoint_every": 15, "stop_when": plateau}
    whole = fit(step, state, DATA, steps=200, folder=tmp_path / "whole", **common)
    assert int(whole.pruning.remaining) == 9  # 32, 24, 18, 13, 9
    fit(step, state, DATA, steps=20, folder=tmp_path / "cut", **common)
    resumed = fit(step, state, DATA, steps=200, folder=tmp_path / "cut", resume=True, **common)
    assert int(resumed.step) == int(whole.step) < 200
    again = fit(step, state, DATA, steps=200, folder=tmp_path / "cut", resume=True, **common)
    for other in (resumed, again):
        leaves = (jax.tree.leaves(tree._replace(key=0)) for tree in (whole, other))
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_array_equal(a, b)


def test_without_gated_decay_and_with_no_mask_to_set():
    mask = PRUNER.init(START).mask
    optimizer = optax.chain(optax.sgd(0.1), sparsejax.hold_zeros(mask))
    state = PruningTrainState(*init_state(START, optimizer, jax.random.key(0)), PRUNER.init(START))
    step = pruning_step(make_step(loss, optimizer), PRUNER, lambda params: 1.0, every=1)
    state, _ = jax.jit(step)(state, {"x": jnp.asarray(DATA["x"])})
    assert int((state.params["kernel"] == 0).sum()) == 8
    bare = optax.sgd(0.1)
    step = pruning_step(make_step(loss, bare), PRUNER, lambda params: 1.0, every=1)
    state = PruningTrainState(*init_state(START, bare, jax.random.key(0)), PRUNER.init(START))
    with pytest.raises(ValueError, match="opt_state must hold a state of sparsejax.hold_zeros"):
        step(state, {"x": jnp.asarray(DATA["x"])})


@pytest.mark.parametrize("every", [0, -3, 2.5, None])
def test_a_bad_interval_is_named(every):
    with pytest.raises(ValueError, match="every must be an integer >= 1; got"):
        pruning_step(lambda state, batch: (state, {}), PRUNER, lambda params: 1.0, every)


@pytest.mark.parametrize("stop", [20, 23])
def test_pruning_between_steps_is_pruning_inside_them(stop, tmp_path):
    """`fit(revise=...)` with `prune_state`, killed at an assessment or past one and resumed."""
    optimizer, state = optimizer_and_state(optax.exponential_decay(1e-3, 1, 0.9))

    def accuracy(params):
        return ((params["kernel"] != 0).mean() > 0.35).astype(jnp.float32)

    plain = make_step(loss, optimizer)
    common = {"batch_size": 16, "report_every": 7, "checkpoint_every": 10}
    inside = fit(pruning_step(plain, PRUNER, accuracy, every=5), state, DATA, steps=60, **common)
    assert int(inside.pruning.prunings) == 4

    def revise(state):
        return prune_state(state, PRUNER, float(accuracy(state.params)))

    common |= {"revise": revise, "revise_every": 5, "folder": tmp_path}
    fit(plain, state, DATA, steps=stop, **common)
    between = fit(plain, state, DATA, steps=60, resume=True, **common)
    leaves = (jax.tree.leaves(tree._replace(key=0)) for tree in (inside, between))
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a, b)
