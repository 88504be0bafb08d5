import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.constraints import dual_ascent, nupi
from tests.reference import as_float64, shard

G = np.array([0.5, -0.2, 0.0, -3.0], np.float32)
LAMBDA = np.array([0.0, 1.0, 2.0, 0.1], np.float32)


def ascend(transform, violation, multipliers, state=None):
    state = transform.init(multipliers) if state is None else state
    updates, state = transform.update(violation, state, multipliers)
    return optax.apply_updates(multipliers, updates), state


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"restarts": False}, np.maximum(0, LAMBDA + 0.1 * G)),
        ({"restarts": True}, np.where(G <= 0, 0, LAMBDA + 0.1 * G)),
        ({"equality": True}, LAMBDA + 0.1 * G),
        ({"equality": True, "restarts": False}, LAMBDA + 0.1 * G),
    ],
)
def test_one_step_is_its_equation(jit, options, expected):
    run = jax.jit(ascend, static_argnums=0) if jit else ascend
    trees = [{"layers": [jnp.asarray(x), jnp.asarray(x[0])]} for x in (G, LAMBDA)]
    new, _ = run(dual_ascent(0.1, **options), *trees)
    np.testing.assert_allclose(new["layers"][0], expected, rtol=1e-6)
    np.testing.assert_allclose(new["layers"][1], expected[0], rtol=1e-6)


def test_a_plain_number_is_a_multiplier():
    new, _ = ascend(dual_ascent(0.5), 0.2, 1.0)
    np.testing.assert_allclose(new, 1.1, rtol=1e-6)


def test_a_restart_forgets_and_no_restart_remembers():
    violations = [1.0, 1.0, 1.0, -0.5, -0.5, 1.0]
    trace = {}
    for restarts in (True, False):
        transform, lam, state, trace[restarts] = dual_ascent(0.1, restarts), jnp.zeros(()), None, []
        for g in violations:
            lam, state = ascend(transform, jnp.asarray(g), lam, state)
            trace[restarts].append(float(lam))
    np.testing.assert_allclose(trace[True], [0.1, 0.2, 0.3, 0, 0, 0.1], atol=1e-6)
    np.testing.assert_allclose(trace[False], [0.1, 0.2, 0.3, 0.25, 0.2, 0.3], atol=1e-6)


def test_a_schedule_counts_updates():
    transform, lam, state = dual_ascent(optax.piecewise_constant_schedule(1.0, {2: 0.1})), 0.0, None
    seen = []
    for _ in range(4):
        lam, state = ascend(transform, jnp.asarray(1.0), lam, state)
        seen.append(float(lam))
    np.testing.assert_allclose(seen, [1, 2, 2.1, 2.2], rtol=1e-6)
    assert int(state.step) == 4


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_any_float_dtype_is_kept_and_never_negative(dtype):
    rng = np.random.default_rng(0)
    lam, g = rng.uniform(size=200).astype(dtype), rng.normal(size=200).astype(dtype)
    new, _ = jax.jit(ascend, static_argnums=0)(dual_ascent(1.0, restarts=False), g, lam)
    exact = np.maximum(0, as_float64([lam]) + as_float64([g]))
    assert new.dtype == dtype
    assert (np.asarray(new) >= 0).all()
    np.testing.assert_array_equal(np.asarray(new) == 0, exact == 0)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(as_float64([new]), exact, rtol=eps, atol=2e-7)


@pytest.mark.parametrize("make", [dual_ascent, lambda rate: nupi(rate, 10 * rate, 0.5)])
def test_a_new_learning_rate_does_not_recompile(make):
    traces = []

    @jax.jit
    def run(rate, violation, multipliers):
        traces.append(1)
        return ascend(make(rate), violation, multipliers)[0]

    results = [run(jnp.float32(rate), G, LAMBDA) for rate in (0.1, 0.2, 0.7)]
    assert len(traces) == 1
    for rate, result in zip((0.1, 0.2, 0.7), results, strict=True):
        np.testing.assert_allclose(result, ascend(make(rate), G, LAMBDA)[0], rtol=1e-6)


@pytest.mark.parametrize("make", [dual_ascent, lambda rate: nupi(rate, 10 * rate, 0.5)])
def test_under_vmap_each_member_goes_its_own_way(make):
    rates = np.array([0.1, 0.5], np.float32)
    gs, lams = np.stack([G, -G]), np.stack([LAMBDA, 2 * LAMBDA])
    run = jax.jit(lambda rate, g, lam: ascend(make(rate), g, lam)[0])
    alone = [run(*members) for members in zip(rates, gs, lams, strict=True)]
    np.testing.assert_allclose(jax.vmap(run)(rates, gs, lams), alone, rtol=1e-6)


def test_hyperparameters_can_be_injected():
    transform = optax.inject_hyperparams(dual_ascent)(learning_rate=0.1, restarts=False)
    new, state = ascend(transform, jnp.asarray(G), jnp.asarray(LAMBDA))
    np.testing.assert_allclose(new, np.maximum(0, LAMBDA + 0.1 * G), rtol=1e-6)
    state.hyperparams["learning_rate"] = jnp.asarray(0.2)
    new, _ = ascend(transform, jnp.asarray(G), jnp.asarray(LAMBDA), state)
    np.testing.assert_allclose(new, np.maximum(0, LAMBDA + 0.2 * G), rtol=1e-6)


def test_it_ends_a_chain_and_stands_beside_equalities():
    chain = optax.chain(optax.clip(0.2), dual_ascent(1.0))
    np.testing.assert_allclose(
        ascend(chain, jnp.asarray(G), jnp.asarray(LAMBDA))[0], [0.2, 0, 0, 0], rtol=1e-6
    )
    both = optax.multi_transform(
        {"<=": dual_ascent(1.0), "=": dual_ascent(1.0, equality=True)}, {"a": "<=", "b": "="}
    )
    lams = {"a": jnp.asarray(0.3), "b": jnp.asarray(0.3)}
    new, _ = ascend(both, {"a": jnp.asarray(-0.5), "b": jnp.asarray(-0.5)}, lams)
    np.testing.assert_allclose(new["a"], 0)
    np.testing.assert_allclose(new["b"], -0.2, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda: dual_ascent(0.1), lambda: nupi(0.1, 1.0, 0.5)])
def test_sharded_multipliers_give_the_same_answer_and_keep_their_sharding(make):
    rng = np.random.default_rng(0)
    g, lam = (x.astype(np.float32) for x in (rng.normal(size=(16, 8)), rng.uniform(size=(16, 8))))
    run = jax.jit(lambda g, lam: ascend(make(), g, lam)[0])
    cut = shard(lam, "a", "b")
    result = run(shard(g, "a", "b"), cut)
    np.testing.assert_allclose(result, run(g, lam), rtol=1e-6)
    assert result.sharding.is_equivalent_to(cut.sharding, 2)
    ascend(make(), shard(g, "a", "b"), cut)  # the checks outside jit read them, too


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "transform",
    [dual_ascent(0.1), dual_ascent(0.1, restarts=False), dual_ascent(0.1, equality=True),
     nupi(0.1, 1.0, 0.5)],
)  # fmt: skip
def test_a_violation_that_is_not_finite_is_an_error_and_nan_under_jit(transform, value):
    g, lam = {"a": jnp.array([1.0, value])}, {"a": jnp.ones(2)}
    with pytest.raises(ValueError, match=rf"violation must be finite; \['a'\] holds {value}"):
        ascend(transform, g, lam)
    new, _ = jax.jit(ascend, static_argnums=0)(transform, g, lam)
    np.testing.assert_array_equal(jnp.isnan(new["a"]), [False, True])


@pytest.mark.parametrize(
    "value", [-0.1, np.nan, np.inf, [0.1, -0.2], optax.constant_schedule(-1.0)]
)
def test_bad_learning_rates_are_named(value):
    value = np.asarray(value) if isinstance(value, list) else value
    with pytest.raises(ValueError, match="learning_rate.* must .*a finite number >= 0; got"):
        dual_ascent(value)
    with pytest.raises(TypeError, match="learning_rate must be a finite number >= 0; got 'fast'"):
        dual_ascent("fast")


@pytest.mark.parametrize(
    ("multipliers", "error", "message"),
    [
        ({"a": -0.5}, ValueError, r"finite and >= 0 .*; \['a'\] holds -0.5"),
        (jnp.array([0.0, jnp.nan]), ValueError, "its leaf holds nan"),
        (jnp.array([1, 2]), TypeError, "floating point; its leaf has dtype int32"),
    ],
)
@pytest.mark.parametrize("transform", [dual_ascent(0.1), nupi(0.1, 0.0)])
def test_bad_multipliers_are_named_in_init(transform, multipliers, error, message):
    with pytest.raises(error, match=message):
        transform.init(multipliers)


@pytest.mark.parametrize("transform", [dual_ascent(0.1), nupi(0.1, 0.0)])
def test_bad_updates_are_named(transform):
    lam = {"a": jnp.zeros(2)}
    state = transform.init(lam)
    with pytest.raises(ValueError, match="params .* must be passed"):
        transform.update(lam, state)
    with pytest.raises(ValueError, match="violation must have the structure of the multipliers"):
        transform.update({"b": jnp.zeros(2)}, state, lam)
    with pytest.raises(ValueError, match=r"\['a'\] has shape \(\), its multiplier \(2,\)"):
        transform.update({"a": jnp.zeros(())}, state, lam)


def test_equality_multipliers_may_be_negative():
    new, _ = ascend(dual_ascent(1.0, equality=True), jnp.asarray(-1.0), jnp.asarray(-1.0))
    np.testing.assert_allclose(new, -2.0)
