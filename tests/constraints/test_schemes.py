"""The order of updates: on quadratic programs with known solutions, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.constraints import (
    augmented_lagrangian,
    constrained_step,
    current_multipliers,
    descent_ascent,
    dual_ascent,
    nupi,
)
from sparsejax.training import init_state

SCHEMES = ["simultaneous", "dual_first", "primal_first", "extrapolation"]


def program(seed=0):
    """min x'Qx/2 - b'x  s.t.  Ax <= c, with its solution and multipliers by active sets."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(4, 4))
    q, b = root @ root.T + np.eye(4), rng.normal(size=4)
    a = rng.normal(size=(2, 4))
    free = np.linalg.solve(q, b)
    c = a @ free + np.array([-0.5, 5.0])  # the first is active, the second is not
    top = np.concatenate([q, a[:1].T], axis=1)
    kkt = np.concatenate([top, np.concatenate([a[:1], np.zeros((1, 1))], axis=1)])
    found = np.linalg.solve(kkt, np.concatenate([b, c[:1]]))
    x, multiplier = found[:4], np.array([found[4], 0.0])
    assert multiplier[0] > 0
    assert (a @ x)[1] < c[1]
    return (q, b, a, c), x, multiplier


def trained(scheme, dual, loss, constraint, start, multipliers, steps, rate=0.1, **options):
    optimizer = descent_ascent(optax.sgd(rate), dual, multipliers)
    step = constrained_step(loss, constraint, optimizer, scheme=scheme, **options)
    state = init_state(start, optimizer, jax.random.key(0))
    scan = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, None), s, None, length=steps))
    return scan(state)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "dual", [dual_ascent(0.1, restarts=False), nupi(0.1, 0.2)], ids=["ga", "pi"]
)
def test_the_solution_and_the_multipliers(scheme, dual):
    (q, b, a, c), x, multiplier = program()
    with jax.enable_x64(True):
        state, metrics = trained(
            scheme, dual,
            lambda p, batch, key: (p @ jnp.asarray(q) @ p / 2 - jnp.asarray(b) @ p, {}),
            lambda p, batch, key: jnp.asarray(a) @ p - jnp.asarray(c),
            jnp.zeros(4), jnp.zeros(2), 20_000, rate=0.05,
        )  # fmt: skip
        np.testing.assert_allclose(state.params, x, atol=1e-8)
        np.testing.assert_allclose(current_multipliers(state.opt_state), multiplier, atol=1e-8)
        assert metrics["violation"][-1] == pytest.approx(0, abs=1e-8)


def test_a_step_of_each_by_hand():
    """f = x^2 / 2, g = x - 1, x = 3, lambda = 2, both rates 0.1."""

    def after(scheme):
        state, metrics = trained(
            scheme, dual_ascent(0.1, restarts=False), lambda x, batch, key: (x**2 / 2, {}),
            lambda x, batch, key: x - 1, jnp.asarray(3.0), jnp.asarray(2.0), 1,
        )  # fmt: skip
        assert metrics["violation"][0] == 2
        return float(state.params), float(current_multipliers(state.opt_state))

    assert after("simultaneous") == pytest.approx((2.5, 2.2))
    assert after("dual_first") == pytest.approx((3 - 0.1 * (3 + 2.2), 2.2))
    assert after("primal_first") == pytest.approx((2.5, 2 + 0.1 * 1.5))
    assert after("extrapolation") == pytest.approx((3 - 0.1 * (2.5 + 2.2), 2 + 0.1 * 1.5))


def test_extrapolation_converges_where_simultaneous_steps_diverge():
    """The saddle point of  lambda x  at 0."""

    def distance(scheme):
        state, _ = trained(
            scheme, dual_ascent(0.3, equality=True), lambda x, batch, key: (0 * x, {}),
            lambda x, batch, key: x, jnp.asarray(1.0), jnp.asarray(1.0), 200, rate=0.3,
        )  # fmt: skip
        return float(jnp.hypot(state.params, current_multipliers(state.opt_state)))

    assert distance("simultaneous") > 100
    assert distance("extrapolation") < 1e-3
    assert 0.1 < distance("dual_first") < 10
    assert 0.1 < distance("primal_first") < 10


@pytest.mark.parametrize("scheme", SCHEMES)
def test_with_momentum_and_a_quadratic_penalty(scheme):
    optimizer = descent_ascent(optax.sgd(0.05, momentum=0.5), dual_ascent(0.1, restarts=False))

    def penalised(loss, violation, multiplier):
        return augmented_lagrangian(loss, violation, multiplier, penalty=2.0)

    step = constrained_step(
        lambda x, batch, key: ((x - 2) ** 2, {}), lambda x, batch, key: x - 1, optimizer,
        penalised, scheme,
    )  # fmt: skip
    state = init_state(jnp.asarray(0.0), optimizer, jax.random.key(0))
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, None), s, None, length=1000))(
        state
    )
    assert int(state.step) == 1000
    assert float(state.params) == pytest.approx(1, abs=1e-3)
    assert float(current_multipliers(state.opt_state)) == pytest.approx(2, abs=1e-2)


def test_an_unknown_scheme_is_named():
    with pytest.raises(ValueError, match="scheme must be one of 'simultaneous', .*; got 'other'"):
        constrained_step(
            None, None, descent_ascent(optax.sgd(0.1), dual_ascent(0.1)), scheme="other"
        )
