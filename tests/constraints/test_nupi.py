import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.constraints import anneal_bound, dual_ascent, nupi

GS = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)


def run(transform, start=0.0, gs=GS):
    """The multipliers after each of the violations ``gs``, whatever they are."""

    def step(carry, g):
        lam, state = carry
        updates, state = transform.update(g, state, lam)
        lam = optax.apply_updates(lam, updates)
        return (lam, state), lam

    lam = jnp.full(gs.shape[1:], start)
    return np.asarray(jax.lax.scan(step, (lam, transform.init(lam)), jnp.asarray(gs))[1])


def by_hand(ki, kp, nu, start, zero=True, equality=False):
    lam, average = np.full(3, start), np.zeros(3) if zero else GS[0].astype(np.float64)
    for g in GS.astype(np.float64):
        change = (1 - nu) * (g - average)
        average = average + change
        lam = lam + ki * g + kp * change
        lam = lam if equality else np.maximum(lam, 0)
        yield lam


@pytest.mark.parametrize("nu", [0.0, 0.9, -0.5])
@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("equality", [True, False])
def test_follows_its_recursion(nu, zero, equality):
    first = "zero" if zero else "violation"
    transform = nupi(0.1, 0.7, nu, equality=equality, initial_average=first)
    expected = list(by_hand(0.1, 0.7, nu, 0.4, zero, equality))
    np.testing.assert_allclose(run(transform, 0.4), expected, rtol=1e-4, atol=1e-5)


def test_without_projection_it_is_proportional_plus_integral():
    average, averages = np.zeros(3), []
    for g in GS:
        average = 0.8 * average + 0.2 * g
        averages.append(average)
    expected = 3.0 + 0.5 * np.stack(averages) + 0.1 * np.cumsum(GS, axis=0)
    transform = nupi(0.1, 0.5, 0.8, equality=True, initial_average="zero")
    np.testing.assert_allclose(run(transform, 3.0), expected, rtol=1e-4)


@pytest.mark.parametrize("equality", [True, False])
@pytest.mark.parametrize("nu", [0.0, 0.9])
def test_without_the_proportional_part_it_is_dual_ascent(nu, equality):
    schedule = optax.exponential_decay(0.1, 10, 0.5)
    np.testing.assert_allclose(
        run(nupi(schedule, 0.0, nu, equality=equality), 0.3),
        run(dual_ascent(schedule, restarts=False, equality=equality), 0.3),
        rtol=1e-6,
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_a_special_case(nesterov):
    a, b = 0.1, 0.9
    kp = -a * (b**2 if nesterov else b) / (1 - b) ** 2
    ascent = optax.chain(optax.scale(-1.0), optax.sgd(a, momentum=b, nesterov=nesterov))
    np.testing.assert_allclose(
        run(nupi(a / (1 - b), kp, b, equality=True, initial_average="zero")), run(ascent),
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip


def test_the_optimistic_gradient_is_a_special_case():
    ascent = optax.chain(optax.scale(-1.0), optax.optimistic_gradient_descent(0.1))
    np.testing.assert_allclose(
        run(nupi(0.1, 0.1, equality=True)), run(ascent), rtol=1e-5, atol=1e-6
    )


def test_by_default_the_first_update_is_that_of_dual_ascent():
    """A proportional gain answers changes, so at these gains it does not start with a jump."""
    closing = optax.polynomial_schedule(0.6, -0.001, power=3, transition_steps=40_000)
    dual = optax.chain(anneal_bound(closing), nupi(ki=1e-3, kp=20.0))
    lam = jnp.zeros(())
    updates, _ = dual.update(jnp.asarray(40.6), dual.init(lam), lam)
    np.testing.assert_allclose(updates, 1e-3 * 40.0, rtol=1e-5)
    jump, _ = nupi(1e-3, 20.0, initial_average="zero").update(
        jnp.asarray(0.5), nupi(1e-3, 20.0).init(lam), lam
    )
    np.testing.assert_allclose(jump, (1e-3 + 20) * 0.5, rtol=1e-5)


def test_both_gains_can_be_scheduled():
    ki, kp = optax.linear_schedule(0.2, 0.1, 10), optax.linear_schedule(0.0, 1.0, 10)
    lam, average = np.full(3, 0.4), GS[0].astype(np.float64)
    for n, g in enumerate(GS.astype(np.float64)):
        lam = lam + float(ki(n)) * g + float(kp(n)) * 0.5 * (g - average)
        average = 0.5 * average + 0.5 * g
    transform = nupi(ki, kp, 0.5, equality=True)
    np.testing.assert_allclose(run(transform, 0.4)[-1], lam, rtol=1e-4, atol=1e-5)


def test_it_damps_what_dual_ascent_lets_spiral():
    """min -x s.t. x <= 1 has no curvature, so descent-ascent circles the saddle x = lambda = 1."""

    def distance(transform):
        def step(carry, _):
            x, lam, state = carry
            updates, state = transform.update(x - 1, state, lam)
            carry = x - 0.05 * (lam - 1), optax.apply_updates(lam, updates), state
            return carry, jnp.hypot(x - 1, lam - 1)

        start = jnp.asarray(0.5), jnp.asarray(0.5), transform.init(jnp.asarray(0.5))
        return np.asarray(jax.lax.scan(step, start, None, length=2000)[1])[-200:].max()

    assert distance(dual_ascent(0.05, restarts=False)) > 0.7
    assert distance(nupi(0.05, 0.5)) < 1e-5
    assert distance(nupi(0.05, 1.0, 0.5, initial_average="zero")) < 1e-5


def test_a_bfloat16_multiplier_keeps_its_dtype_and_a_wide_average():
    transform = nupi(0.1, 1.0, 0.99, initial_average="zero")
    lam = jnp.ones(3, jnp.bfloat16)
    updates, state = transform.update(jnp.ones(3, jnp.bfloat16), transform.init(lam), lam)
    assert optax.apply_updates(lam, updates).dtype == jnp.bfloat16
    assert state.average.dtype == jnp.float32
    np.testing.assert_allclose(state.average, 0.01, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ki": -0.1}, "ki must be a finite number >= 0; got -0.1"),
        ({"ki": lambda n: np.nan}, r"ki\(0\) must be a finite number >= 0; got nan"),
        ({"kp": np.inf}, "kp must be a finite number; got inf"),
        ({"nu": 1.0}, "nu must be a number between -1 and 1; got 1.0"),
        ({"nu": np.zeros(2)}, r"nu must be a number between -1 and 1; got shape \(2,\)"),
        ({"initial_average": "ones"}, "initial_average must be 'violation' or 'zero'; got 'ones'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        nupi(**({"ki": 0.1, "kp": 1.0} | arguments))
