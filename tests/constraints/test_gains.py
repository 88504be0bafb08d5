"""Gains and coefficients of single constraints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.constraints import (
    Implicit,
    augmented_lagrangian,
    dual_ascent,
    nupi,
    update_penalty,
)

MULTIPLIERS = {"a": jnp.asarray(1.0), "b": jnp.asarray([1.0, 2.0])}
VIOLATIONS = [
    {"a": jnp.asarray(0.5), "b": jnp.asarray([1.0, -0.25])},
    {"a": jnp.asarray(0.25), "b": jnp.asarray([2.0, 0.5])},
]


def run(dual, multipliers, violations):
    state = dual.init(multipliers)
    for violation in violations:
        updates, state = dual.update(violation, state, multipliers)
        multipliers = optax.apply_updates(multipliers, updates)
    return multipliers


def each(make, gains):
    """The multipliers of each constraint by itself, with its own gain."""
    alone = [lambda tree: tree["a"], lambda tree: tree["b"][0], lambda tree: tree["b"][1]]
    a, *b = (
        run(make(gain), pick(MULTIPLIERS), [pick(violation) for violation in VIOLATIONS])
        for gain, pick in zip(gains, alone, strict=True)
    )
    return {"a": a, "b": jnp.stack(b)}


@pytest.mark.parametrize(
    "make", [lambda gain: dual_ascent(gain, restarts=False), lambda gain: nupi(gain, gain, 0.5)],
    ids=["ascent", "nupi"],
)  # fmt: skip
def test_gains_of_single_constraints_are_those_of_single_runs(make):
    double = lambda step: 0.2 * (step + 1)  # noqa: E731
    got = run(make({"a": double, "b": np.array([0.1, 0.3])}), MULTIPLIERS, VIOLATIONS)
    jax.tree.map(np.testing.assert_allclose, got, each(make, [double, 0.1, 0.3]))
    same = run(make({"a": 0.1, "b": 0.1}), MULTIPLIERS, VIOLATIONS)
    jax.tree.map(np.testing.assert_array_equal, same, run(make(0.1), MULTIPLIERS, VIOLATIONS))


@pytest.mark.parametrize("equality", [False, True])
def test_penalties_of_single_constraints_add_up(equality):
    violation = VIOLATIONS[0]
    got = augmented_lagrangian(
        1.0, violation, MULTIPLIERS, {"a": 2.0, "b": jnp.array([3.0, 5.0])}, equality
    )
    wanted = augmented_lagrangian(1.0, violation["a"], MULTIPLIERS["a"], 2.0, equality)
    for i, c in enumerate([3.0, 5.0]):
        wanted = augmented_lagrangian(wanted, violation["b"][i], MULTIPLIERS["b"][i], c, equality)
    assert float(got) == pytest.approx(float(wanted))


def test_coefficients_grow_while_they_must():
    penalty = {"a": jnp.asarray(4.0), "b": jnp.asarray([4.0, 4.0, 4.0])}
    violation = {"a": jnp.asarray(0.2), "b": jnp.asarray([0.1, 0.0, -0.2])}
    update = jax.jit(
        lambda equality, **options: update_penalty(
            penalty, violation, equality=equality, **options
        ),
        static_argnames="equality",
    )
    got = update(False, factor=2.0, increment=1.0, tolerance=0.1, restart=3.0)
    np.testing.assert_array_equal(got["a"], 9)
    np.testing.assert_array_equal(got["b"], [4, 3, 3])
    got = update(True, factor=2.0, tolerance=0.1, restart=3.0)
    np.testing.assert_array_equal(got["b"], [4, 4, 8])
    got = update(False, increment=0.5)
    np.testing.assert_array_equal(got["b"], [4.5, 4, 4])


@pytest.mark.parametrize("penalty", [4, 4.0, {"a": 4.0, "b": np.float32(4)}])
def test_constraints_may_begin_with_one_coefficient(penalty):
    violation = {"a": {"c": jnp.asarray(0.5)}, "b": jnp.asarray([1.0, -1.0])}
    got = update_penalty(penalty, violation, 2.0)
    np.testing.assert_array_equal(got["a"]["c"], np.float32(8))
    np.testing.assert_array_equal(got["b"], np.float32([8, 4]))


def test_the_method_of_multipliers_with_growing_penalties():
    """min (x - 2)^2 + y^2  s.t.  x + y <= 1  and  x - y = 0.5, in float64."""
    with jax.enable_x64(True):
        constraints = lambda p: {"less": p.sum() - 1, "equal": p[0] - p[1] - 0.5}  # noqa: E731

        @jax.jit
        def minimised(multiplier, penalty):
            def objective(p):
                g = constraints(p)
                value = (p[0] - 2) ** 2 + p[1] ** 2
                value = augmented_lagrangian(value, g["less"], multiplier["less"], penalty["less"])
                return augmented_lagrangian(
                    value, g["equal"], multiplier["equal"], penalty["equal"], equality=True
                )

            p = jnp.zeros(2)
            for _ in range(8):  # Newton's method; the objective is piecewise quadratic
                p = p - jnp.linalg.solve(jax.hessian(objective)(p), jax.grad(objective)(p))
            return p

        multiplier = {"less": jnp.zeros(()), "equal": jnp.zeros(())}
        penalty = {"less": jnp.ones(()), "equal": jnp.ones(())}
        for _ in range(12):
            p = minimised(multiplier, penalty)
            g = constraints(p)
            multiplier = {
                "less": jnp.maximum(0, multiplier["less"] + penalty["less"] * g["less"]),
                "equal": multiplier["equal"] + penalty["equal"] * g["equal"],
            }
            penalty = {
                "less": update_penalty(penalty["less"], g["less"], 2.0, tolerance=1e-9),
                "equal": update_penalty(penalty["equal"], g["equal"], 2.0, equality=True),
            }
        # x = 0.75, y = 0.25; 2 (x - 2) + l + e = 0 and 2 y + l - e = 0
        np.testing.assert_allclose(p, [0.75, 0.25], atol=1e-9)
        np.testing.assert_allclose([multiplier["less"], multiplier["equal"]], [1.0, 1.5], atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dual_ascent({"a": 0.1, "b": -1.0}), r"learning_rate\['b'\] must be a finite numb"),
        (lambda: nupi(np.array([0.1, -1]), 0.0), "ki must hold a finite number >= 0; got"),
        (lambda: update_penalty(1.0, 1.0, factor=0.5), "factor must be a finite number >= 1; got"),
        (lambda: update_penalty(1.0, 1.0, restart=0), "restart must be a number > 0; got 0"),
        (lambda: update_penalty({"a": 1.0}, 1.0), "penalty must be a scalar or a prefix of the v"),
        (
            lambda: update_penalty({"a": np.ones(3, np.float32)}, {"a": np.ones(2)}),
            r"penalty\['a'\] must broadcast to the shape of its violation, .2,.; got shape .3,",
        ),
    ],
)
def test_bad_gains_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("gain", [np.ones(2), np.ones((2, 1)), np.ones(3)])
@pytest.mark.parametrize("make", [lambda gain: dual_ascent(gain), lambda gain: nupi(0.1, gain)])
def test_gains_do_not_broadcast_their_multiplier(make, gain):
    dual = make({"a": 0.1, "b": gain})
    multipliers = {"a": jnp.zeros(2), "b": jnp.zeros(2 if gain.ndim == 2 else ())}
    with pytest.raises(ValueError, match=r"\['b'\] must broadcast to the shape of its multiplier"):
        dual.update(multipliers, dual.init(multipliers), multipliers)
    with pytest.raises(ValueError, match=r"penalty\['b'\] must broadcast to the shape of its mul"):
        augmented_lagrangian(0.0, multipliers, multipliers, {"a": 1.0, "b": gain})


def test_penalties_that_cannot_be_meant_are_named():
    with pytest.raises(TypeError, match="penalty must be a number .* got a function"):
        augmented_lagrangian(0.0, 1.0, 1.0, {"a": optax.constant_schedule(1.0)})
    seen = Implicit(lambda phi, z: z @ phi, jnp.eye(2), jnp.ones(2))
    with pytest.raises(TypeError, match="violation must not be Implicit"):
        update_penalty(1.0, {"a": seen}, 2.0)


def test_a_violation_that_is_not_a_number_is_heard():
    got = update_penalty(jnp.ones(2), jnp.array([jnp.nan, 1.0]), 2.0)
    np.testing.assert_array_equal(got, [np.nan, 2])


def test_gains_of_another_structure_are_named():
    dual = dual_ascent({"c": 0.1})
    with pytest.raises(ValueError, match="learning_rate must be .* a prefix of the multipliers"):
        dual.update(VIOLATIONS[0], dual.init(MULTIPLIERS), MULTIPLIERS)


def test_coefficients_of_a_penalty_are_positive_floats():
    with pytest.raises(ValueError, match=r"penalty must be > 0; \['a'\] holds 0.0"):
        update_penalty({"a": jnp.zeros(2)}, {"a": jnp.ones(2)}, 2.0)
    with pytest.raises(TypeError, match="penalty must be floating point; its leaf has dtype int"):
        update_penalty(jnp.ones(2, jnp.int32), jnp.ones(2), 2.0)
