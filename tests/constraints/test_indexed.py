"""Constraints of which a batch shows some, and those with the gradient of a surrogate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax.constraints import (
    Indexed,
    anneal_bound,
    augmented_lagrangian,
    constrained_step,
    current_multipliers,
    descent_ascent,
    dual_ascent,
    indexed,
    lagrangian,
    nupi,
    update_penalty,
    with_surrogate,
)
from sparsejax.constraints._shown_terms import shown_terms
from sparsejax.training import init_state


@pytest.mark.parametrize(
    "dual",
    [
        dual_ascent(0.1),
        dual_ascent(0.1, restarts=False),
        nupi(0.1, 0.5, 0.5, initial_average="zero"),
        nupi(0.1, 0.5, 0.5),
        optax.partition({"only": nupi(0.1, 0.5, 0.5)}, "only"),
    ],
)
def test_each_multiplier_is_updated_when_it_is_shown(dual):
    """As if each had an optimizer of its own that sees its batches only."""
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.uniform(size=6), jnp.float32)
    together = indexed(dual)
    state, multipliers = together.init(start), start
    alone = [(m, dual.init(m)) for m in start]
    for _ in range(12):
        chosen = rng.permutation(6)[:3]
        values = jnp.asarray(rng.normal(size=3), jnp.float32)
        updates, state = jax.jit(together.update)(Indexed(chosen, values), state, multipliers)
        multipliers = optax.apply_updates(multipliers, updates)
        for i, g in zip(chosen, values, strict=True):
            m, own = alone[i]
            updates, own = dual.update(g, own, m)
            alone[i] = optax.apply_updates(m, updates), own
    np.testing.assert_allclose(multipliers, jnp.stack([m for m, _ in alone]), rtol=1e-5, atol=1e-6)


def test_trees_with_both_kinds_and_repeated_constraints():
    dual = indexed(dual_ascent(1.0, restarts=False))
    multipliers = {"all": jnp.ones(2), "some": jnp.zeros(3)}
    violation = {
        "all": jnp.asarray([1.0, -3.0]),
        "some": Indexed(jnp.asarray([2, 0, 2]), jnp.asarray([1.0, 0.5, 2.0])),
    }
    updates, _ = dual.update(violation, dual.init(multipliers), multipliers)
    new = optax.apply_updates(multipliers, updates)
    np.testing.assert_array_equal(new["all"], [2, 0])
    np.testing.assert_array_equal(new["some"], [0.5, 0, 1.5])


def test_optimizers_of_some_constraints_keep_what_they_know_of_those_not_shown():
    labels = {"a": "pi", "b": "ascent"}
    by_kind = {"pi": nupi(0.5, 2.0, 0.5), "ascent": dual_ascent(1.0, restarts=False)}
    shown = lambda index, value: Indexed(jnp.array([index]), jnp.array([value]))  # noqa: E731
    batches = [{"a": shown(n % 2, 1.0 + n), "b": shown(n % 3, 0.5 * n)} for n in range(6)]
    found = []
    for dual in (
        indexed(optax.partition(by_kind, labels)),
        optax.partition({kind: indexed(one) for kind, one in by_kind.items()}, labels),
    ):
        multipliers = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
        state = dual.init(multipliers)
        for violation in batches:
            updates, state = dual.update(violation, state, multipliers)
            multipliers = optax.apply_updates(multipliers, updates)
        found.append(multipliers)
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize("equality", [False, True])
def test_penalties_of_shown_constraints_are_their_own(equality):
    """In the Lagrangian, its gradient in x, and the growth of the coefficients."""
    multipliers, penalty = jnp.array([1.0, 0.0, 2.0, 0.5]), jnp.array([2.0, 4.0, 8.0, 16.0])
    rows = jnp.array([3, 0, 1, 2])  # as many as there are multipliers

    def shown(values):
        seen = Indexed(rows, values)
        return augmented_lagrangian(0.0, seen, multipliers, penalty, equality)

    def alone(values):
        terms = zip(values, multipliers[rows], penalty[rows], strict=True)
        return sum(augmented_lagrangian(0.0, *term, equality) for term in terms)

    values = jnp.array([0.5, -1.0, 1.0, -0.25])
    for found, expected in zip(
        *(jax.value_and_grad(one)(values) for one in (shown, alone)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    some = Indexed(jnp.array([2, 0]), jnp.array([1.0, -1.0]))
    got = update_penalty({"x": penalty}, {"x": some}, 3.0, restart=1.0)
    np.testing.assert_array_equal(got["x"], [1, 4, 24, 16])
    with pytest.raises(ValueError, match=r"penalty\['x'\] must be an array with a coefficient"):
        update_penalty(2.0, {"x": some}, 3.0)


def test_other_transformations_of_violations():
    """The bound may stand before it; what clips stands inside."""
    multipliers = jnp.zeros(4)
    seen = Indexed(jnp.array([3, 1]), jnp.array([1.0, 2.0]))
    ascent = dual_ascent(1.0, restarts=False)
    for dual, expected in (
        (optax.chain(anneal_bound(0.25), indexed(ascent)), [0, 1.75, 0, 0.75]),
        (indexed(optax.chain(optax.clip(1.5), ascent)), [0, 1.5, 0, 1]),
    ):
        updates, _ = dual.update(seen, dual.init(multipliers), multipliers)
        np.testing.assert_array_equal(updates, expected)


def test_an_index_out_of_range_belongs_to_no_constraint():
    multipliers = jnp.array([1.0, 5.0])
    seen = lambda rows: Indexed(rows, jnp.array([3.0, 1.0]))  # noqa: E731
    rows = jnp.array([9, 0])
    assert jax.jit(lambda rows: lagrangian(0.0, seen(rows), multipliers))(rows) == 1
    dual = indexed(dual_ascent(1.0, restarts=False))
    updates, _ = jax.jit(lambda r: dual.update(seen(r), dual.init(multipliers), multipliers))(rows)
    np.testing.assert_array_equal(updates, [1, 0])


@pytest.mark.parametrize("cut", ["multipliers", "batch", "both"])
def test_on_a_mesh_of_explicit_axes(cut):
    """The whole step, and the growth of penalties: as on one device."""
    optimizer = descent_ascent(optax.sgd(0.1), indexed(nupi(0.5, 0.5)), jnp.zeros(16))

    def constraint(x, batch, key):
        return Indexed(batch["rows"], x * batch["scale"] - 0.5)

    step = constrained_step(lambda x, batch, key: ((x - 2) ** 2, {}), constraint, optimizer)
    rows = np.random.default_rng(0).permutation(16)[:8]
    batch = {"rows": rows, "scale": np.linspace(0, 1, 8, dtype=np.float32)}
    coefficients = np.arange(1.0, 17, dtype=np.float32)

    def run(place_multipliers, place_batch):
        state = init_state(jnp.float32(1.0), optimizer, jax.random.key(0))
        at = jax.tree.map(place_batch, batch)
        like = lambda leaf: place_multipliers(leaf) if leaf.shape == (16,) else leaf  # noqa: E731
        state = state._replace(opt_state=jax.tree.map(like, state.opt_state))
        for _ in range(3):
            state, _ = jax.jit(step)(state, at)
        seen = Indexed(at["rows"], at["scale"])
        grown = update_penalty(place_multipliers(coefficients), seen, 2.0)
        return np.array(state.params), np.array(current_multipliers(state.opt_state)), grown

    expected = run(jnp.asarray, jnp.asarray)
    mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Explicit,))
    place = lambda leaf: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec("i")))  # noqa: E731
    whole = lambda leaf: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))  # noqa: E731
    with jax.set_mesh(mesh):
        found = run(place if cut != "batch" else whole, place if cut != "multipliers" else whole)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_one_constraint_for_each_example():
    """min sum (x - t)^2 / 2  s.t.  x_i <= c_i : the multiplier of i is max(0, t_i - c_i)."""
    rng = np.random.default_rng(1)
    target, bound = rng.normal(size=(2, 8))
    with jax.enable_x64(True):
        optimizer = descent_ascent(
            optax.sgd(0.2), indexed(dual_ascent(0.2, restarts=False)), jnp.zeros(8)
        )
        batches = jnp.asarray(np.stack([rng.permutation(8)[:4] for _ in range(4000)]))

        def loss(x, rows, key):
            return ((x - jnp.asarray(target))[rows] ** 2).sum() / 2, {}

        def constraint(x, rows, key):
            return Indexed(rows, (x - jnp.asarray(bound))[rows])

        step = constrained_step(loss, constraint, optimizer)
        state = init_state(jnp.zeros(8), optimizer, jax.random.key(0))
        state, metrics = jax.jit(lambda s: jax.lax.scan(step, s, batches))(state)
        np.testing.assert_allclose(state.params, np.minimum(target, bound), atol=1e-7)
        wanted = np.maximum(0, target - bound)
        np.testing.assert_allclose(current_multipliers(state.opt_state), wanted, atol=1e-7)
        assert metrics["violation"].shape == (4000,)


def test_values_of_the_violation_and_gradients_of_the_surrogate():
    """An error rate that a hinge stands in for: the multiplier grows by the rate."""
    x = jnp.asarray([0.5, -1.0, 2.0])

    def both(x):
        return with_surrogate((x < 0).mean(), jax.nn.relu(1 - x).mean())

    value, slope = jax.jit(jax.value_and_grad(both))(x)
    assert value == (x < 0).mean()
    np.testing.assert_allclose(slope, [-1 / 3, -1 / 3, 0])
    with pytest.raises(ValueError, match="violation must have the structure of the surrogates"):
        with_surrogate({"a": x}, x)


def test_a_count_has_the_gradient_of_its_surrogate():
    def both(x):
        return with_surrogate((x > 0).sum() - 1, jax.nn.sigmoid(x).sum() - 1)

    x = jnp.array([1.0, -2.0, 3.0])
    value, slope = jax.value_and_grad(both)(x)
    assert value == 1
    np.testing.assert_allclose(slope, jax.nn.sigmoid(x) * jax.nn.sigmoid(-x), rtol=1e-6)
    counted = with_surrogate(jnp.int32(257), jnp.asarray(1.0, jnp.bfloat16))
    assert (counted, counted.dtype) == (257, jnp.float32)
    assert jax.value_and_grad(lambda x: with_surrogate(1.0 * (x > 0), 1 / x))(0.0)[0] == 0
    with pytest.raises(TypeError, match="surrogate must be floating point; got int32"):
        with_surrogate(jnp.ones(2), jnp.ones(2, jnp.int32))


def test_indices_and_values_must_fit_the_multipliers():
    dual = indexed(dual_ascent(0.1))
    state = dual.init(jnp.zeros(3))
    with pytest.raises(ValueError, match="indices must be below 3.*got 1 to 3"):
        dual.update(Indexed(jnp.array([1, 3]), jnp.ones(2)), state, jnp.zeros(3))
    with pytest.raises(ValueError, match="one index and one value for each violation"):
        dual.update(Indexed(jnp.array([1, 2]), jnp.ones(1)), state, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"for multipliers of shape \(\)"):
        dual.update(Indexed(jnp.array([1]), jnp.ones(1)), dual.init(0.0), jnp.asarray(0.0))
    with pytest.raises(ValueError, match="indices must be below 3"):
        shown_terms(Indexed(jnp.array([5]), jnp.ones(1)), jnp.zeros(3))
