import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax import compression
from sparsejax.projections import project_l0_ball
from tests.reference import as_float64, l1_ball

CASES = {
    "l0_ball": (compression.l0_ball(9), lambda t: 0.0),
    "l0_ball_l2": (compression.l0_ball_l2(9, 0.3), lambda t: 0.3 * (t**2).sum()),
    "l1_ball": (compression.l1_ball(4.0), lambda t: 0.0),
    "l0_penalty": (compression.l0_penalty(0.4), lambda t: 0.4 * (t != 0).sum()),
    "l1_penalty": (
        compression.l1_penalty(0.4),
        lambda t: 0.4 * np.abs(t).sum(),
    ),
}


def weights(dtype=jnp.float32):
    return {
        "kernel": jax.random.normal(jax.random.key(0), (6, 5), dtype),
        "bias": jax.random.normal(jax.random.key(1), (5,), dtype),
    }


def flat(tree):
    return as_float64(jax.tree.leaves(tree))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mu", [0.5, 3.0])
def test_no_feasible_point_near_or_far_is_better(name, mu):
    """theta minimises mu/2 |w - theta|^2 + P(theta) against thousands of other feasible points."""
    step, penalty = CASES[name]
    w = weights()
    theta, _ = jax.jit(step.project)(w, mu, step.init(w))
    theta, w = flat(theta), flat(w)
    value = lambda t: mu / 2 * ((w - t) ** 2).sum() + penalty(t)  # noqa: E731
    rng = np.random.default_rng(0)
    best = value(theta)
    for _ in range(3000):
        if name.startswith("l0_ball"):
            support = rng.permutation(w.size)[:9] if rng.random() < 0.7 else np.flatnonzero(theta)
            other = np.zeros_like(w)
            other[support] = w[support] * rng.uniform(0.2, 1.2)
        else:
            other = theta + rng.normal(size=w.size) * rng.choice([1e-3, 0.1, 1])
            other *= rng.random(w.size) < rng.choice([0.5, 0.9, 1])
            if name == "l1_ball":
                other *= min(1, 4.0 / np.abs(other).sum())
        assert best <= value(other) + 1e-5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_shapes_dtypes_and_closed_forms(name, dtype):
    step = CASES[name][0]
    w, mu = weights(dtype), 2.0
    theta, _ = step.project(w, mu, step.init(w))
    assert jax.tree.map(lambda t: (t.shape, t.dtype), theta) == jax.tree.map(
        lambda t: (t.shape, t.dtype), w
    )
    x, t = flat(w), flat(theta)
    kept = flat(project_l0_ball(w, 9, lambda path, leaf: True))
    expected = {
        "l0_ball": lambda: kept,
        "l0_ball_l2": lambda: mu / (mu + 0.6) * kept,
        "l1_ball": lambda: l1_ball([x], 4.0),
        "l0_penalty": lambda: np.where(np.abs(x) > np.sqrt(0.8 / mu), x, 0),
        "l1_penalty": lambda: np.sign(x) * np.maximum(np.abs(x) - 0.4 / mu, 0),
    }[name]()
    np.testing.assert_allclose(t, expected, rtol=2 * float(jnp.finfo(dtype).eps), atol=1e-6)


def test_a_decay_schedule_is_followed_c_step_by_c_step():
    step = compression.l0_ball_l2(9, lambda n: 0.4 * 0.5**n)
    w, mu = weights(), 2.0
    state = step.init(w)
    kept = flat(project_l0_ball(w, 9, lambda path, leaf: True))
    for n in range(3):
        theta, state = jax.jit(step.project)(w, mu, state)
        np.testing.assert_allclose(flat(theta), mu / (mu + 0.8 * 0.5**n) * kept, rtol=1e-6)
    with pytest.raises(ValueError, match=r"decay\(0\) must be a number >= 0; got -0\.1"):
        compression.l0_ball_l2(9, lambda n: -0.1)


@pytest.mark.parametrize("name", CASES)
def test_changing_a_hyperparameter_or_mu_compiles_nothing(name):
    build = getattr(compression, name)
    more = (0.3,) if name == "l0_ball_l2" else ()
    w = weights()
    traces = []

    @jax.jit
    def project(w, mu, value):
        traces.append(mu)
        step = build(value, *more)
        return step.project(w, mu, step.init(w))[0]

    first, second = project(w, 1.0, jnp.asarray(9)), project(w, 2.0, jnp.asarray(2))
    assert len(traces) == 1
    assert not np.array_equal(flat(first), flat(second))
    np.testing.assert_array_equal(
        flat(second), flat(build(2, *more).project(w, 2.0, build(2, *more).init(w))[0])
    )


@pytest.mark.parametrize(
    "build",
    [compression.l0_ball, compression.l0_penalty, compression.l1_penalty, compression.l1_ball],
)
def test_vmap_over_the_hyperparameter(build):
    w = weights()
    values = jnp.array([0, 3, 35]) if build is compression.l0_ball else jnp.array([0.0, 0.5, 2.0])

    def one(value):
        step = build(value)
        return step.project(w, 1.5, step.init(w))[0]

    together = jax.vmap(one)(values)
    for member, value in enumerate(values):
        alone = one(value)
        for name in w:
            np.testing.assert_allclose(together[name][member], alone[name], atol=1e-6)


def test_masked_nodes_are_no_leaves():
    w = {"kernel": jnp.ones((2, 2)), "bias": optax.MaskedNode()}
    step = compression.l0_ball(1)
    theta, _ = step.project(w, 1.0, step.init(w))
    assert theta["bias"] == optax.MaskedNode()
    with pytest.raises(ValueError, match="from 0 to 4; got 5"):
        compression.l0_ball(5).init(w)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: compression.l0_ball(-1), "kappa must be an integer >= 0; got -1"),
        (lambda: compression.l0_ball(2.5), "kappa must be an integer >= 0; got 2.5"),
        (lambda: compression.l0_ball_l2(3, -0.1), "decay must be a number >= 0; got -0.1"),
        (lambda: compression.l1_ball(-1), "radius must be a number >= 0"),
        (lambda: compression.l0_penalty(np.nan), "alpha must be a number >= 0; got nan"),
        (lambda: compression.l1_penalty(-1e-6), "alpha must be a number >= 0"),
    ],
)
def test_bad_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", CASES)
def test_nan_weights_are_refused(name):
    with pytest.raises(ValueError, match="it has NaN in 36"):
        CASES[name][0].init({"kernel": jnp.full((6, 6), jnp.nan)})
