import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.training import Batches, Checkpoints, fit, init_state, make_step
from sparsejax.transforms import set_mask
from tests.reference import shard

RNG = np.random.default_rng(0)
START = {"kernel": RNG.normal(size=(8, 8)).astype(np.float32), "bias": np.ones(8, np.float32)}
MASK = {"kernel": jnp.asarray(RNG.random((8, 8)) < 0.5), "bias": optax.MaskedNode()}
DATA = {"x": RNG.normal(size=(40, 8)).astype(np.float32)}


def loss(params, batch, key):
    del key
    return ((batch["x"] @ params["kernel"] + params["bias"] - 1) ** 2).mean(), {}


OPTIMIZERS = {
    "momentum": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.05),
    "adamw": optax.adamw(0.05, weight_decay=0.1),
    "gated": optax.chain(sparsejax.gated_weight_decay(0.1), optax.adam(0.05)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_stay_at_exactly_zero_even_if_they_were_not(name, dtype):
    optimizer = optax.chain(OPTIMIZERS[name], sparsejax.hold_zeros(MASK))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), START)
    state = init_state(params, optimizer, jax.random.key(0))
    state = fit(make_step(loss, optimizer), state, Batches(DATA, 8), steps=7)
    kernel = np.asarray(state.params["kernel"]).astype(np.float64)
    np.testing.assert_array_equal(kernel[~np.asarray(MASK["kernel"])], 0)
    assert (kernel[np.asarray(MASK["kernel"])] != 0).all()
    assert (np.asarray(state.params["bias"]) != 1).any()


def test_free_weights_move_as_without_it():
    inner = optax.sgd(0.1)
    optimizer = optax.chain(inner, sparsejax.hold_zeros(MASK))
    grads = jax.tree.map(jnp.ones_like, START)
    got, _ = optimizer.update(grads, optimizer.init(START), START)
    np.testing.assert_allclose(
        got["kernel"], np.where(MASK["kernel"], -0.1, -START["kernel"]), rtol=1e-6
    )
    np.testing.assert_allclose(got["bias"], -0.1)


def test_a_new_mask_compiles_nothing_anew_and_a_resumed_run_keeps_it(tmp_path):
    optimizer = optax.chain(optax.adam(0.05), sparsejax.hold_zeros(MASK))
    step = make_step(loss, optimizer)
    state = init_state(START, optimizer, jax.random.key(0))
    fewer = {"kernel": MASK["kernel"] & (jnp.arange(64).reshape(8, 8) > 20), "bias": MASK["bias"]}
    traces = []

    @jax.jit
    def counted(state, batch):
        traces.append(state)
        return step(state, batch)

    batch = {"x": jnp.asarray(DATA["x"])}
    state, _ = counted(state, batch)
    state = state._replace(opt_state=set_mask(state.opt_state, fewer))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state, {})
    resumed = checkpoints.restore(state).state
    ends = []
    for start in (state, resumed):
        end, _ = counted(counted(start, batch)[0], batch)
        ends.append(end.params)
        zeros = np.asarray(end.params["kernel"]) == 0
        np.testing.assert_array_equal(zeros, ~np.asarray(fewer["kernel"]))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert len(traces) == 1


def test_sharded_and_vmapped():
    transform = sparsejax.hold_zeros(MASK["kernel"])
    cut = shard(START["kernel"], "a", "b")
    updates, _ = jax.jit(transform.update)(cut, transform.init(cut), cut)
    assert updates.sharding.is_equivalent_to(cut.sharding, 2)
    wanted = np.where(MASK["kernel"], START["kernel"], -START["kernel"])
    np.testing.assert_array_equal(updates, wanted)
    masks = jnp.stack([MASK["kernel"], ~MASK["kernel"]])
    both = jax.vmap(
        lambda m: (t := sparsejax.hold_zeros(m)).update(
            jnp.zeros((8, 8)), t.init(jnp.asarray(START["kernel"])), START["kernel"]
        )[0]
    )(masks)
    np.testing.assert_array_equal(both, np.where(masks, 0, -START["kernel"]))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ({"kernel": MASK["kernel"]}, ValueError, "mask must have the structure of params"),
        ({"kernel": jnp.ones((8, 7), bool), "bias": MASK["bias"]}, ValueError, "shape"),
        ({"kernel": jnp.ones((8, 8)), "bias": MASK["bias"]}, TypeError, "mask must be boolean"),
    ],
)
def test_a_bad_mask_is_named(mask, error, message):
    with pytest.raises(error, match=message):
        sparsejax.hold_zeros(mask).init(START)


def test_a_module_in_place_of_its_arrays_is_named():
    with pytest.raises(TypeError, match=r"\['activation'\] is .*equinox\.filter\(model"):
        sparsejax.hold_zeros(MASK).init(START | {"activation": jax.nn.relu})


def test_with_mask_needs_a_state_and_a_mask_that_fits():
    optimizer = optax.chain(optax.sgd(0.1), sparsejax.hold_zeros(MASK))
    with pytest.raises(ValueError, match="mask must have the shapes of the mask it replaces"):
        set_mask(optimizer.init(START), {"kernel": jnp.ones((8, 7), bool), "bias": MASK["bias"]})
    with pytest.raises(ValueError, match="opt_state must hold a state of sparsejax.hold_zeros"):
        set_mask(optax.sgd(0.1).init(START), MASK)
    transform = sparsejax.hold_zeros(MASK)
    with pytest.raises(ValueError, match="params must be passed"):
        transform.update(START, transform.init(START))
