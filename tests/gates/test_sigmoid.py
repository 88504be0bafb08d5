import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy.special import expit

from sparsejax import gates
from tests.reference import shard

RNG = np.random.default_rng(0)
PARAMS = {"kernel": RNG.normal(size=(8, 4)), "bias": np.zeros(4)}


def cast(tree, dtype=jnp.float32):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def logistic(x):
    return expit(np.asarray(x, np.float64))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("beta", [1.0, 7.5, 200.0])
def test_the_closed_forms(jit, dtype, scaled, beta):
    soft = gates.sigmoid(-0.2, beta=beta, scaled=scaled)
    params = cast(PARAMS, dtype)
    s = RNG.normal(size=(8, 4)).astype(np.float32)
    phi = {"kernel": jnp.asarray(s), "bias": optax.MaskedNode()}
    run = jax.jit if jit else lambda function: function
    over = logistic(-0.2) if scaled else 1
    for name, wanted in {
        "sample": logistic(beta * s.astype(np.float64)) / over,
        "median": (s > 0) / over,
        "active_probability": logistic(beta * s.astype(np.float64)),
        "binarize": s > 0,
    }.items():
        got = run(lambda phi, name=name: getattr(soft, name)(phi, *[None] * (name == "sample")))(
            phi
        )
        assert isinstance(got["bias"], optax.MaskedNode)
        assert got["kernel"].dtype == (bool if name == "binarize" else jnp.float32)
        np.testing.assert_allclose(got["kernel"], wanted, rtol=3e-5, atol=1e-7)
    start = soft.init(jax.random.key(0), params)
    np.testing.assert_array_equal(start["kernel"], np.full((8, 4), -0.2, np.float32))


def test_training_starts_at_the_whole_network_whatever_the_start():
    for initial in (-0.3, 0.0, 0.3):
        for scaled in (True, False):
            soft = gates.sigmoid(initial, scaled=scaled)
            params = cast(PARAMS)
            weights, phi = soft.rescale(params), soft.init(None, params)
            masked = gates.apply(weights, soft.sample(phi, None))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), masked, params)


def test_gradients_against_finite_differences():
    with jax.enable_x64(True):
        s = jnp.asarray(RNG.normal(size=(8, 4)) / 5)
        weight = jnp.asarray(RNG.normal(size=(8, 4)))
        soft = gates.sigmoid(0.1, beta=3.0)
        value = lambda s: (weight * soft.sample({"k": s}, None)["k"]).sum()  # noqa: E731
        check_grads(value, (s,), order=2, modes=["rev"])


def test_a_population_of_starts_and_temperatures_is_a_vmap_and_compiles_once():
    params, traces = cast(PARAMS), []

    @jax.jit
    def masked(initial, beta):
        traces.append(initial)
        soft = gates.sigmoid(initial, beta=beta)
        return gates.apply(params, soft.sample(soft.init(None, params), None))["kernel"]

    starts, betas = np.float32([-0.3, 0.0, 0.2]), np.float32([1, 5, 200])
    together = jax.vmap(masked)(starts, betas)
    for one, initial, beta in zip(together, starts, betas, strict=True):
        np.testing.assert_allclose(one, masked(initial, beta), rtol=1e-6)
    assert len(traces) == 1


def test_sharded_it_stays_so():
    params = {"kernel": shard(jnp.asarray(RNG.normal(size=(16, 8)), jnp.float32), "a", "b")}
    soft = gates.sigmoid(0.1, beta=4.0)
    phi = jax.tree.map(lambda leaf: leaf / 3, params)
    got = jax.jit(lambda phi: soft.sample(phi, None))(phi)["kernel"]
    assert got.sharding.is_equivalent_to(params["kernel"].sharding, 2)
    wanted = logistic(4 * np.asarray(phi["kernel"], np.float64)) / logistic(0.1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_a_round_hands_over_to_the_next():
    s = jnp.array([[-0.5, -1e-3, 1e-3, 0.5]])
    np.testing.assert_allclose(
        gates.next_round({"k": s}, 200.0, 0.1)["k"], [[-100.0, -0.2, 0.1, 0.1]], rtol=1e-6
    )
    np.testing.assert_allclose(gates.next_round(s, 200.0, -0.1), [[-100.0, -0.2, -0.1, -0.1]])


def test_the_schedule_is_exponential():
    schedule = gates.beta_schedule(50, 200.0)
    seen = np.array([schedule(t) for t in range(60)], np.float64)
    np.testing.assert_allclose(seen, 200.0 ** (np.minimum(np.arange(60), 50) / 50), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gates.sigmoid(np.nan), "initial must be a finite number; got nan"),
        (lambda: gates.sigmoid(beta=0.0), "beta must be a finite number > 0; got 0.0"),
        (lambda: gates.sigmoid(beta=np.inf), "beta must be a finite number > 0; got inf"),
        (lambda: gates.sigmoid(jnp.ones(2)), "initial must be a finite number; got shape"),
        (lambda: gates.beta_schedule(0), "steps must be an integer >= 1; got 0"),
        (lambda: gates.beta_schedule(5, 0.5), "final_beta must be a finite number >= 1; got 0.5"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_temperature_as_a_staircase():
    """One stair per epoch, the first at 1, the whole last one at the end value."""
    schedule = gates.beta_schedule(20, 200.0, steps_per_stair=5)
    wanted = 200.0 ** (np.minimum(np.arange(26) // 5, 3) / 3)
    np.testing.assert_allclose([schedule(step) for step in range(26)], wanted, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.int32(15)), 200.0, rtol=1e-5)
    for stair in (0, 3, 20, 2.5, True):
        with pytest.raises(
            ValueError, match=f"steps_per_stair must be .* more stairs; got {stair}"
        ):
            gates.beta_schedule(20, 200.0, steps_per_stair=stair)
