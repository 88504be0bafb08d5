import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.training import (
    Batches,
    Checkpoints,
    StopWhen,
    fit,
    init_state,
    make_step,
    report,
    revise,
)
from sparsejax.transforms import (
    GatedWeightDecayState,
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
    return optimizer, start._replace(pruning=PRUNER.init(START))


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
    batches, stop = Batches(DATA, 16), StopWhen(plateau, every=5)
    cut = Checkpoints(tmp_path, every=15)
    whole = fit(step, state, batches, steps=200, stop=stop)
    assert int(whole.pruning.remaining) == 9  # 32, 24, 18, 13, 9
    fit(step, state, batches, steps=20, stop=stop, checkpoints=cut)
    resumed = fit(step, state, batches, steps=200, stop=stop, checkpoints=cut)
    assert int(resumed.step) == int(whole.step) < 200
    again = fit(step, state, batches, steps=200, stop=stop, checkpoints=cut)
    for other in (resumed, again):
        leaves = (jax.tree.leaves(tree._replace(key=0)) for tree in (whole, other))
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_array_equal(a, b)


def test_without_gated_decay_and_with_no_mask_to_set():
    mask = PRUNER.init(START).mask
    optimizer = optax.chain(optax.sgd(0.1), sparsejax.hold_zeros(mask))
    state = init_state(START, optimizer, jax.random.key(0))._replace(pruning=PRUNER.init(START))
    step = pruning_step(make_step(loss, optimizer), PRUNER, lambda params: 1.0, every=1)
    state, _ = jax.jit(step)(state, {"x": jnp.asarray(DATA["x"])})
    assert int((state.params["kernel"] == 0).sum()) == 8
    bare = optax.sgd(0.1)
    step = pruning_step(make_step(loss, bare), PRUNER, lambda params: 1.0, every=1)
    state = init_state(START, bare, jax.random.key(0))._replace(pruning=PRUNER.init(START))
    with pytest.raises(ValueError, match="opt_state must hold a state of sparsejax.hold_zeros"):
        step(state, {"x": jnp.asarray(DATA["x"])})


@pytest.mark.parametrize("every", [0, -3, 2.5, None])
def test_a_bad_interval_is_named(every):
    with pytest.raises(ValueError, match="every must be an integer >= 1; got"):
        pruning_step(lambda state, batch: (state, {}), PRUNER, lambda params: 1.0, every)


@pytest.mark.parametrize("stop", [20, 23])
def test_pruning_between_steps_is_pruning_inside_them(stop, tmp_path):
    """`revise` with `prune_state`, ended at an assessment or past one and resumed."""
    optimizer, state = optimizer_and_state(optax.exponential_decay(1e-3, 1, 0.9))

    def accuracy(params):
        return ((params["kernel"] != 0).mean() > 0.35).astype(jnp.float32)

    plain = make_step(loss, optimizer)
    batches = Batches(DATA, 16)
    inside = fit(pruning_step(plain, PRUNER, accuracy, every=5), state, batches, steps=60)
    assert int(inside.pruning.prunings) == 4

    def prune(state):
        return prune_state(state, PRUNER, float(accuracy(state.params)))

    how = {"callbacks": [revise(prune, 5), report(every=7)], "checkpoints": Checkpoints(tmp_path)}
    fit(plain, state, batches, steps=stop, **how)
    between = fit(plain, state, batches, steps=60, **how)
    leaves = (jax.tree.leaves(tree._replace(key=0)) for tree in (inside, between))
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a, b)
