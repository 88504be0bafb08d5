import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.constraints import augmented_lagrangian, dual_ascent, lagrangian

X = np.array([0.3, -1.2, 0.7], np.float32)
MULTIPLIERS = {"ball": jnp.asarray(0.4), "planes": jnp.array([0.0, 1.5])}


def loss(x):
    return jnp.sum(jnp.cosh(x))


def violation(x):
    planes = jnp.array([[1.0, 2.0, 0.5], [0.2, -1.0, 1.0]]) @ x - jnp.array([0.1, 0.2])
    return {"ball": x @ x - 1.0, "planes": planes}


FORMS = {
    "plain": lagrangian,
    "augmented": lambda f, g, m: augmented_lagrangian(f, g, m, 2.0),
    "equality": lambda f, g, m: augmented_lagrangian(f, g, m, 2.0, equality=True),
}


def in_float64(form, x, multipliers):
    """The published formulas, written out."""
    x = np.asarray(x, np.float64)
    rows = np.array([[1.0, 2.0, 0.5], [0.2, -1.0, 1.0]]) @ x - np.array([0.1, 0.2])
    g = np.concatenate([[x @ x - 1], rows])
    m, c = np.concatenate([[multipliers["ball"]], multipliers["planes"]]), 2.0
    terms = {
        "plain": m * g,
        "augmented": (np.maximum(0, m + c * g) ** 2 - m**2) / (2 * c),
        "equality": m * g + c / 2 * g**2,
    }
    return np.cosh(x).sum() + terms[form].sum()


@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_are_those_of_the_formula(form):
    value = lambda x, m: FORMS[form](loss(x), violation(x), m)  # noqa: E731
    np.testing.assert_allclose(value(X, MULTIPLIERS), in_float64(form, X, MULTIPLIERS), rtol=1e-6)
    slope = jax.jit(jax.grad(value))(X, MULTIPLIERS)
    h = 1e-5 * np.eye(3)
    differences = [
        (in_float64(form, X + d, MULTIPLIERS) - in_float64(form, X - d, MULTIPLIERS)) / 2e-5
        for d in h
    ]
    np.testing.assert_allclose(slope, differences, rtol=1e-5, atol=1e-5)


def test_the_gradient_in_the_multipliers_is_the_violation():
    g = violation(X)
    slope = jax.grad(lambda m: lagrangian(loss(X), g, m))(MULTIPLIERS)
    jax.tree.map(np.testing.assert_allclose, slope, g)


def test_the_augmented_gradient_is_the_plain_one_at_the_updated_multipliers():
    form = lambda x: augmented_lagrangian(loss(x), violation(x), MULTIPLIERS, 2.0)  # noqa: E731
    augmented = jax.jit(jax.grad(form))
    transform = dual_ascent(2.0, restarts=False)
    updates, _ = transform.update(violation(X), transform.init(MULTIPLIERS), MULTIPLIERS)
    new = optax.apply_updates(MULTIPLIERS, updates)
    plain = jax.jit(jax.grad(lambda x: lagrangian(loss(x), violation(x), new)))
    np.testing.assert_allclose(augmented(X), plain(X), rtol=1e-5)


def test_the_method_of_multipliers_finds_the_closed_form():
    """min |x - a|^2 / 2  s.t.  x <= 1: x = min(a, 1), lambda = max(0, a - 1), linearly in c."""
    a, c = jnp.array([3.0, 0.5]), 10.0
    lam, transform = jnp.zeros(2), dual_ascent(10.0, restarts=False)
    state = transform.init(lam)
    for _ in range(8):
        # The inner problem solved exactly: x - a + max(0, lambda + c (x - 1)) = 0.
        x = jnp.where(lam + c * (a - 1) > 0, (a - lam + c) / (1 + c), a)
        inner = lambda x, lam=lam: augmented_lagrangian(jnp.sum((x - a) ** 2) / 2, x - 1, lam, c)  # noqa: E731
        np.testing.assert_allclose(jax.grad(inner)(x), 0, atol=1e-5)
        updates, state = transform.update(x - 1, state, lam)
        lam = optax.apply_updates(lam, updates)
    np.testing.assert_allclose(x, [1, 0.5], atol=1e-5)
    np.testing.assert_allclose(lam, [2, 0], atol=1e-4)


def test_small_penalties_lose_no_digits():
    """The difference of two large squares would."""
    value = augmented_lagrangian(0.0, jnp.asarray(1e-3), jnp.asarray(1e3), 1e-3)
    np.testing.assert_allclose(value, 1.0, rtol=1e-6)


def test_kinds_of_constraints_add_up():
    both = augmented_lagrangian(
        augmented_lagrangian(1.0, jnp.asarray(0.5), jnp.asarray(0.0), 2.0),
        jnp.asarray(-0.5), jnp.asarray(1.0), 2.0, equality=True,
    )  # fmt: skip
    np.testing.assert_allclose(both, 1.0 + 0.25 + (-0.5 + 0.25))


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_is_heard(form):
    assert jnp.isnan(FORMS[form](0.0, jnp.array([jnp.nan, 1.0]), jnp.ones(2)))


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_is_summed_in_float32_and_vmap_equals_one_at_a_time(form):
    rng = np.random.default_rng(0)
    gs, ms = rng.normal(size=(3, 1000)).astype(jnp.bfloat16), rng.uniform(size=(3, 1000))
    run = jax.jit(lambda g, m: FORMS[form](jnp.bfloat16(0), g, m))
    together = jax.vmap(run)(gs, ms)
    assert together.dtype == jnp.float32
    alone = [run(*pair) for pair in zip(gs, ms, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, -1.0, np.nan, np.inf])
def test_bad_penalties_are_named(penalty):
    with pytest.raises(ValueError, match=f"penalty must be a finite number > 0; got {penalty}"):
        augmented_lagrangian(0.0, 1.0, 1.0, penalty)


@pytest.mark.parametrize("form", FORMS)
def test_violations_of_another_structure_are_named_by_every_form(form):
    with pytest.raises(ValueError, match="violation must have the structure of the multipliers"):
        FORMS[form](0.0, {"a": jnp.ones(2)}, jnp.ones(2))


def test_violations_that_do_not_fit_are_named():
    with pytest.raises(TypeError, match=r"violation must be floating .*; \['a'\] has dtype bool"):
        lagrangian(0.0, {"a": jnp.ones(3) < 2}, {"a": jnp.zeros(3)})
    with pytest.raises(ValueError, match="violation must have the structure"):
        lagrangian(0.0, {"a": 1.0}, 1.0)
    with pytest.raises(ValueError, match=r"has shape \(3,\), its multiplier \(\)"):
        lagrangian(0.0, jnp.zeros(3), jnp.zeros(()))
