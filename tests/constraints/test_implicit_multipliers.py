"""Multipliers that a model computes from features: on programs with known multipliers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax.constraints import (
    Implicit,
    Indexed,
    augmented_lagrangian,
    constrained_step,
    current_multipliers,
    descent_ascent,
    dual_ascent,
    implicit_multipliers,
    indexed,
    lagrangian,
)
from sparsejax.training import init_state

SCHEMES = ["simultaneous", "dual_first", "primal_first", "extrapolation"]


def linear(phi, features):
    return features @ phi


def train(constraint, target, dual, start, batches, rate=0.2, **options):
    """Steps of  min |x - target|^2 / 2  under constraints."""
    optimizer = descent_ascent(optax.sgd(rate), dual, start)

    def loss(x, rows, key):
        return ((x - target)[rows] ** 2).sum() / 2, {}

    step = constrained_step(loss, constraint, optimizer, **options)
    state = init_state(jnp.zeros_like(target), optimizer, jax.random.key(0))
    state, metrics = jax.jit(lambda s: jax.lax.scan(step, s, batches))(state)
    return state.params, current_multipliers(state.opt_state), metrics


def rows_of_batches(n, size, steps):
    rng = np.random.default_rng(1)
    return jnp.asarray(np.stack([rng.permutation(n)[:size] for _ in range(steps)]))


@pytest.mark.long
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("equality", [False, True])
def test_one_hot_features_give_indexed_multipliers(scheme, equality):
    """After any number of steps, also of constraints that are satisfied and violated in turn."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        target, bound = jnp.asarray(rng.normal(size=(2, 8)))
        batches, rate = rows_of_batches(8, 3, 300), 0.7
        sgd = optax.sgd(rate)
        if not equality:
            sgd = optax.chain(sgd, optax.keep_params_nonnegative())

        def by_index(x, rows, key):
            return Indexed(rows, (x - bound)[rows])

        def by_feature(x, rows, key):
            return Implicit(linear, jnp.eye(8)[rows], (x - bound)[rows], equality)

        ascent = indexed(dual_ascent(rate, restarts=False, equality=equality))
        x, multipliers, metrics = train(
            by_index, target, ascent, jnp.zeros(8), batches, scheme=scheme
        )
        found, phi, more = train(
            by_feature, target, implicit_multipliers(sgd), jnp.zeros(8), batches, scheme=scheme
        )
        np.testing.assert_allclose(found, x, rtol=0, atol=1e-13)
        np.testing.assert_allclose(phi, multipliers, rtol=0, atol=1e-13)
        for name in ("violation", "loss", "lagrangian"):
            np.testing.assert_allclose(more[name], metrics[name], rtol=0, atol=1e-12)
        if not equality:  # some multipliers are 0, and some have been positive and returned to 0
            assert 0 < (np.asarray(multipliers) == 0).sum() < 8


def program(seed=2, n=24):
    """A program whose multipliers are max(0, z'a): t - c is linear in the features."""
    rng = np.random.default_rng(seed)
    features, a, bound = rng.normal(size=(n, 3)), rng.normal(size=3), rng.normal(size=n)
    return features, a, bound, bound + features @ a


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("form", [lagrangian, functools.partial(augmented_lagrangian, penalty=0.5)])
def test_the_solution_and_the_multipliers_of_linear_features(scheme, form):
    features, a, bound, target = program()
    with jax.enable_x64(True):
        z, c, t = map(jnp.asarray, (features, bound, target))

        def constraint(x, rows, key):
            return Implicit(linear, z[rows], (x - c)[rows])

        x, phi, metrics = train(
            constraint, t, implicit_multipliers(optax.sgd(0.02)), jnp.zeros(3),
            rows_of_batches(24, 12, 4000), scheme=scheme, lagrangian=form,
        )  # fmt: skip
        np.testing.assert_allclose(phi, a, atol=1e-8)
        np.testing.assert_allclose(x, np.minimum(target, bound), atol=1e-8)
        last = rows_of_batches(24, 12, 4000)[-1]
        largest = np.maximum(0, features @ a)[last].max()
        assert metrics["multiplier"][-1] == pytest.approx(largest)


def test_equality_constraints_and_adam():
    features, a, bound, target = program()
    rate = optax.exponential_decay(0.02, 1000, 0.1)
    with jax.enable_x64(True):
        z, c, t = map(jnp.asarray, (features, bound, target))

        def constraint(x, rows, key):
            return Implicit(linear, z[rows], (x - c)[rows], equality=True)

        x, phi, _ = train(
            constraint, t, implicit_multipliers(optax.adam(rate)), jnp.zeros(3),
            rows_of_batches(24, 24, 6000),
        )  # fmt: skip
        np.testing.assert_allclose(phi, a, atol=1e-5)
        np.testing.assert_allclose(x, bound, atol=1e-5)


def test_new_constraints_have_the_multipliers_of_similar_ones():
    """The model is trained on some constraints and asked for the others."""
    features, a, bound, target = program()
    with jax.enable_x64(True):
        z, c, t = (jnp.asarray(leaf)[:16] for leaf in (features, bound, target))

        def constraint(x, rows, key):
            return Implicit(linear, z[rows], (x - c)[rows])

        _, phi, _ = train(
            constraint, t, implicit_multipliers(optax.sgd(0.02)), jnp.zeros(3),
            rows_of_batches(16, 8, 6000),
        )  # fmt: skip
        unseen = Implicit(linear, jnp.asarray(features[16:]), jnp.zeros(8)).multipliers(phi)
        np.testing.assert_allclose(unseen, np.maximum(0, features[16:] @ a), atol=1e-6)


def test_the_gradient_by_hand():
    """Terms: positive and violated, zero and violated, zero and satisfied, positive and not."""
    output, g = np.array([1.0, -1.0, -2.0, 3.0]), np.array([0.5, 0.25, -1.0, -2.0])
    seen = Implicit(lambda phi, z: z + phi, jnp.asarray(output), jnp.asarray(g))
    dual = implicit_multipliers(optax.sgd(1.0))
    updates, _ = dual.update(seen, dual.init(jnp.asarray(0.0)), jnp.asarray(0.0))
    assert float(updates) == 0.5 + 0.25 - 2
    np.testing.assert_array_equal(seen.multipliers(jnp.asarray(0.0)), [1, 0, 0, 3])
    both = Implicit(seen.model, seen.features, seen.values, equality=True)
    updates, _ = dual.update(both, dual.init(jnp.asarray(0.0)), jnp.asarray(0.0))
    assert float(updates) == g.sum()
    np.testing.assert_array_equal(both.multipliers(jnp.asarray(0.0)), output)
    unknown = Implicit(seen.model, seen.features, jnp.asarray([jnp.nan, 0, 0, 0]))
    updates, _ = dual.update(unknown, dual.init(jnp.asarray(0.0)), jnp.asarray(0.0))
    assert np.isnan(updates)


def test_multipliers_are_constants_for_the_parameters_of_the_network():
    """Features may be computed from x; the Lagrangian's gradient is lambda times that of g."""

    def constraint(x, batch, key):
        return Implicit(linear, x[:, None] ** 2, x - 1)

    optimizer = descent_ascent(optax.sgd(1.0), implicit_multipliers(optax.sgd(0.0)), jnp.ones(1))
    step = constrained_step(lambda x, batch, key: (0.0, {}), constraint, optimizer)
    state, metrics = step(init_state(jnp.asarray([3.0]), optimizer, jax.random.key(0)), None)
    np.testing.assert_allclose(state.params, [3 - 9.0])
    assert metrics["multiplier"] == 9


class Network(linen.Module):
    @linen.compact
    def __call__(self, z):
        return linen.Dense(1)(jnp.tanh(linen.Dense(5)(z)))[..., 0]


def networks():
    network = Network()
    yield network.apply, network.init(jax.random.key(0), jnp.zeros((1, 3)))
    graph, phi = nnx.split(nnx.Linear(3, 1, rngs=nnx.Rngs(0)))
    yield lambda phi, z: nnx.merge(graph, phi)(z)[:, 0], phi


@pytest.mark.parametrize("number", [0, 1], ids=["linen", "nnx"])
def test_networks_and_explicit_multipliers_beside_them(number):
    """Any optimizer for either; the multiplier's sign is that of the plain Lagrangian."""
    model, phi = list(networks())[number]
    both = {"each": phi, "total": jnp.zeros(())}
    dual = optax.partition(
        {"explicit": dual_ascent(0.1), "implicit": implicit_multipliers(optax.adam(1e-2))},
        {"total": "explicit", "each": "implicit"},
    )
    optimizer = descent_ascent(optax.sgd(0.1), dual, both)
    z = jax.random.normal(jax.random.key(1), (4, 3))

    def constraint(x, batch, key):
        return {"total": x.sum() - 1, "each": Implicit(model, z, x - 2)}

    step = jax.jit(constrained_step(lambda x, batch, key: ((x - 3) @ x, {}), constraint, optimizer))
    state = init_state(jnp.full(4, 3.0), optimizer, jax.random.key(0))
    before = constraint(state.params, None, None)["each"].multipliers(phi)
    state, metrics = step(state, None)
    after = current_multipliers(state.opt_state)
    assert float(after["total"]) == pytest.approx(0.1 * 11)
    assert list(map(jnp.shape, jax.tree.leaves(after))) == list(
        map(jnp.shape, jax.tree.leaves(both))
    )
    assert metrics["multiplier/each"] == pytest.approx(float(before.max()))
    raised = constraint(state.params, None, None)["each"].output(after["each"])
    assert float(raised.sum()) > float(model(phi, z).sum())  # all are violated


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes_under_strict_promotion(dtype):
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        phi = jnp.ones(2, dtype)
        z, g = jnp.ones((3, 2), dtype), jnp.asarray([0.5, -1, 2], dtype)
        dual = implicit_multipliers(optax.sgd(0.5))
        updates, _ = jax.jit(lambda g: dual.update(Implicit(linear, z, g), dual.init(phi), phi))(g)
        assert updates.dtype == dtype
        np.testing.assert_array_equal(np.asarray(updates, np.float64), [0.75, 0.75])


def test_vmap_is_one_run_for_each_member():
    phis = jnp.asarray([[0.5, -1.0], [1.0, 2.0]])
    z, g = jnp.asarray([[1.0, 2.0], [3.0, 1.0]]), jnp.asarray([[1.0, -1.0], [0.5, 2.0]])
    dual = implicit_multipliers(optax.sgd(0.5, momentum=0.9))

    def move(phi, g):
        updates, _ = dual.update(Implicit(linear, z, g), dual.init(phi), phi)
        return updates

    alone = [move(phi, one) for phi, one in zip(phis, g, strict=True)]
    np.testing.assert_allclose(jax.vmap(move)(phis, g), alone, rtol=1e-6)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_constraints_over_a_mesh(kind):
    rng = np.random.default_rng(0)
    z, g = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((16, 3), (16,)))
    phi, dual = jnp.asarray([1.0, -0.5, 0.25]), implicit_multipliers(optax.sgd(0.5))

    def model(phi, z):  # JAX 0.10.0 has no gradient of ``z @ phi`` over explicit axes
        return (z * phi).sum(-1)

    def move(z, g):
        return dual.update(Implicit(model, z, g), dual.init(phi), phi)[0]

    wanted = move(z, g)
    mesh = jax.make_mesh((8,), ("i",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        cut = [jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("i"))) for leaf in (z, g)]
        np.testing.assert_allclose(jax.jit(move)(*cut), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("violation", "phi", "error", "message"),
    [
        (jnp.ones(2), jnp.ones(3), TypeError, "updates must be Implicit violations"),
        (Implicit(linear, jnp.ones((2, 3)), jnp.ones(2)), None, ValueError, "params .* must be"),
        (
            Implicit(linear, jnp.ones((2, 3)), jnp.ones(4)), jnp.ones(3), ValueError,
            r"one number for each violation; it returned the shape \(2,\).* shape \(4,\)",
        ),
        (
            Implicit(lambda phi, z: 1, None, jnp.ones(2)), jnp.ones(3), TypeError,
            "model must return an array of floating-point numbers; got int",
        ),
        (
            Implicit(lambda phi, z: z, jnp.arange(2), jnp.ones(2)), jnp.ones(3), TypeError,
            "floating-point numbers; got an array of dtype int32",
        ),
        (
            {"a": Implicit(linear, jnp.ones((2, 3)), jnp.ones(2))}, {"b": jnp.ones(3)}, ValueError,
            "params must have the parameters of a model in the place of each Implicit",
        ),
    ],
)  # fmt: skip
def test_bad_input(violation, phi, error, message):
    dual = implicit_multipliers(optax.sgd(0.1))
    with pytest.raises(error, match=message):
        dual.update(violation, dual.init(jnp.ones(3)), phi)
