import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax.models import LeNet5
from sparsejax.transforms import exact_gated_decay, inverse_sensitivity, reset_decay_schedule
from tests.reference import shard

RNG = np.random.default_rng(0)
PARAMS = {"kernel": RNG.normal(size=(8, 8)), "bias": RNG.normal(size=8)}
GRADS = {"kernel": RNG.normal(size=(8, 8)), "bias": RNG.normal(size=8)}


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def gated(g, w, decay):
    return g + 2 * decay * w / (1 + np.abs(g))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)])
def test_adds_the_gated_decay_to_the_chosen_leaves(jit, dtype, tolerance):
    transform = sparsejax.gated_weight_decay(0.3)
    params, grads = cast(PARAMS, dtype), cast(GRADS, dtype)
    update = jax.jit(transform.update) if jit else transform.update
    got, _ = update(grads, transform.init(params), params)
    assert got["kernel"].dtype == dtype
    wide = [np.asarray(tree["kernel"]).astype(np.float64) for tree in (grads, params)]
    np.testing.assert_allclose(
        np.asarray(got["kernel"]).astype(np.float64), gated(*wide, 0.3), rtol=tolerance, atol=1e-2
        if dtype == jnp.bfloat16 else 1e-6,
    )  # fmt: skip
    np.testing.assert_array_equal(got["bias"], grads["bias"])


def test_the_field_s_variants_are_a_coefficient_each():
    params, grads = cast(PARAMS, jnp.float32), cast(GRADS, jnp.float32)
    everything = lambda path, leaf: True  # noqa: E731
    plain = sparsejax.gated_weight_decay(0.3, everything, jnp.ones_like)
    got, _ = plain.update(grads, plain.init(params), params)
    wanted, _ = optax.add_decayed_weights(0.6).update(grads, optax.EmptyState(), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, wanted)
    sensitivity = sparsejax.gated_weight_decay(
        0.5, coefficient=lambda g: jnp.maximum(0, 1 - jnp.abs(g))
    )
    got, _ = sensitivity.update(grads, sensitivity.init(params), params)
    wanted = GRADS["kernel"] + np.maximum(0, 1 - np.abs(GRADS["kernel"])) * PARAMS["kernel"]
    np.testing.assert_allclose(got["kernel"], wanted, rtol=1e-4, atol=1e-6)


def test_a_schedule_restarts_when_told():
    optimizer = optax.chain(
        sparsejax.gated_weight_decay(optax.exponential_decay(1.0, 1, 0.5)), optax.sgd(1.0)
    )
    params = jnp.ones((1, 1))
    state = optimizer.init(params)
    seen = []
    restart = jax.jit(reset_decay_schedule)
    for number in range(5):
        state = restart(state, number == 3)
        updates, state = optimizer.update(jnp.zeros((1, 1)), state, params)
        seen.append(-float(updates[0, 0]) / 2)
    np.testing.assert_allclose(seen, [1, 0.5, 0.25, 1, 0.5])
    with pytest.raises(ValueError, match=r"opt_state must hold a state of .*gated_weight_decay"):
        reset_decay_schedule(optax.sgd(1.0).init(params))


def test_a_traced_decay_compiles_once_and_vmaps():
    traces = []

    @jax.jit
    def decayed(decay):
        traces.append(decay)
        transform = sparsejax.gated_weight_decay(decay)
        return transform.update(jnp.ones((1, 1)), transform.init(None), jnp.ones((1, 1)))[0]

    for decay in (0.5, 1.0):
        np.testing.assert_allclose(decayed(decay), 1 + decay)
    assert len(traces) == 1
    np.testing.assert_allclose(jax.vmap(decayed)(jnp.array([0.5, 2.0])).ravel(), [1.5, 3.0])


def test_gates_with_the_accumulated_gradient():
    """Inside MultiSteps it sees the mean of the gradients, as from one large batch."""
    inner = optax.chain(sparsejax.gated_weight_decay(0.3), optax.sgd(0.1))
    several = optax.MultiSteps(inner, 4)
    params = jnp.asarray(PARAMS["kernel"], jnp.float32)
    grads = jnp.asarray(RNG.normal(size=(4, 8, 8)), jnp.float32)
    state = several.init(params)
    for g in grads:
        updates, state = several.update(g, state, params)
    wanted = -0.1 * gated(np.asarray(grads.mean(axis=0)), np.asarray(params), 0.3)
    np.testing.assert_allclose(updates, wanted, rtol=1e-5, atol=1e-7)


def test_gates_with_the_all_reduced_gradient():
    """Data parallel, sharded or in a shard_map with its own mean, as on one device."""
    model = nn.Dense(4)
    x = jnp.asarray(RNG.normal(size=(16, 6)), jnp.float32)
    params = model.init(jax.random.key(0), x)
    optimizer = optax.chain(sparsejax.gated_weight_decay(0.3), optax.sgd(0.1))

    def step(params, x, axis=None):
        grads = jax.grad(lambda p: (model.apply(p, x) ** 2).mean())(params)
        if axis:
            grads = jax.lax.pmean(grads, axis)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    wanted = step(params, x)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    spec = jax.sharding.PartitionSpec
    cut = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec("data")))
    mapped = jax.shard_map(
        lambda p, x: step(p, x, "data"), mesh=mesh, in_specs=(spec(), spec("data")),
        out_specs=spec(), check_vma=False,
    )  # fmt: skip
    for got in (jax.jit(step)(params, cut), mapped(params, cut)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, wanted)


def test_sharded_parameters_stay_so():
    transform = sparsejax.gated_weight_decay(0.3)
    w, g = (shard(np.asarray(t["kernel"], np.float32), "a", "b") for t in (PARAMS, GRADS))
    got, _ = jax.jit(transform.update)(g, transform.init(w), w)
    assert got.sharding.is_equivalent_to(w.sharding, 2)
    np.testing.assert_allclose(got, gated(GRADS["kernel"], PARAMS["kernel"], 0.3), atol=1e-5)


def test_the_exact_form_is_the_gradient_of_the_gated_loss():
    x = jnp.asarray(RNG.normal(size=(20, 8)), jnp.float32)

    def loss(params):
        return (jnp.tanh(x @ params["kernel"] + params["bias"]) ** 2).mean()

    def whole(params):
        g = jax.grad(loss)(params)["kernel"]
        return loss(params) + 0.7 * (inverse_sensitivity(g) * params["kernel"] ** 2).sum()

    params = cast(PARAMS, jnp.float32)
    got = jax.jit(lambda p: exact_gated_decay(jax.grad(loss), p, 0.7))(params)
    wanted = jax.grad(whole)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, wanted)
    # Without the second-order term it is what the transformation makes.
    transform = sparsejax.gated_weight_decay(0.7)
    first, _ = transform.update(jax.grad(loss)(params), transform.init(params), params)
    assert np.abs(np.asarray(first["kernel"] - wanted["kernel"])).max() > 1e-3


@pytest.mark.long
def test_the_exact_form_takes_our_convolutions():
    graph, params, rest = nnx.split(LeNet5((2, 3, 4), rngs=nnx.Rngs(0)), nnx.Param, ...)
    images = jnp.asarray(RNG.random((2, 28, 28, 1)), jnp.float32)
    gradient = jax.grad(lambda p: (nnx.merge(graph, p, rest)(images) ** 2).mean())

    def penalty(params):
        terms = jax.tree.map(lambda g, w: inverse_sensitivity(g) * w**2, gradient(params), params)
        return sum(leaf.sum() for leaf in jax.tree.leaves(terms) if leaf.ndim > 1)

    def decayed(params):
        return jax.tree.map(lambda g, p: g + 0.1 * p, gradient(params), jax.grad(penalty)(params))

    got = jax.jit(lambda params: exact_gated_decay(gradient, params, 0.1))(params)
    wanted = jax.jit(decayed)(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("decay", [-1.0, np.nan, lambda step: -1.0])
def test_a_bad_decay_is_named(decay):
    with pytest.raises(ValueError, match=r"decay.* must be a number >= 0; got"):
        sparsejax.gated_weight_decay(decay)


def test_missing_parameters_are_named():
    transform = sparsejax.gated_weight_decay(0.1)
    with pytest.raises(ValueError, match="params must be passed to update"):
        transform.update(jnp.ones((1, 1)), transform.init(None))
