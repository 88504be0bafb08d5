import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.constraints import (
    DescentAscentState,
    GateGroup,
    augmented_lagrangian,
    constrained_step,
    current_multipliers,
    density_violation,
    descent_ascent,
    dual_ascent,
    expected_density,
    lagrangian,
    nupi,
)
from sparsejax.training import (
    Batches,
    Checkpoints,
    MetricLog,
    TrainingDivergedError,
    fit,
    init_state,
    read_metrics,
    report,
)

A = jnp.array([2.0, 1.0])


def distance(params, batch, key):
    """min |x - A|^2 / 2  s.t.  x1 + x2 <= 1,  x1 <= 5:  x = (1, 0), lambda = (1, 0)."""
    return 0.5 * jnp.sum((params - A) ** 2), {}


def half_planes(params, batch, key):
    return {"active": params.sum() - 1, "slack": params[0] - 5}


ZEROS = {"active": 0.0, "slack": 0.0}


def run(step, state, steps, batch=None):
    """The state after so many steps, and the metrics of each."""
    return jax.jit(
        lambda state: jax.lax.scan(lambda s, _: step(s, batch), state, None, length=steps)
    )(state)


@pytest.mark.parametrize(
    ("dual", "form"),
    [
        (dual_ascent(0.1, restarts=False), lagrangian),
        (dual_ascent(0.01), lagrangian),  # overdamped: it comes from outside, nothing to restart
        (nupi(0.1, 0.5, 0.5), lagrangian),
        (nupi(0.2, 1.0, initial_average="zero"), lagrangian),
        (dual_ascent(0.1, restarts=False), functools.partial(augmented_lagrangian, penalty=3.0)),
        (dual_ascent(0.1, restarts=False), functools.partial(augmented_lagrangian, penalty=0.1)),
    ],
)
def test_every_method_reaches_the_known_saddle_point(dual, form):
    optimizer = descent_ascent(optax.sgd(0.1), dual, ZEROS)
    step = constrained_step(distance, half_planes, optimizer, form)
    state, metrics = run(step, init_state(jnp.zeros(2), optimizer, jax.random.key(0)), 2000)
    np.testing.assert_allclose(state.params, [1, 0], atol=1e-3)
    multipliers = current_multipliers(state.opt_state)
    np.testing.assert_allclose(multipliers["active"], 1, atol=2e-3)
    np.testing.assert_allclose(multipliers["slack"], 0)
    np.testing.assert_allclose(metrics["loss"][-1], 1.0, atol=1e-3)
    assert set(metrics) == {
        "loss", "lagrangian", "violation/active", "violation/slack", "multiplier/active",
        "multiplier/slack",
    }  # fmt: skip


def test_an_equality_finds_its_negative_multiplier():
    """min |x - A|^2 / 2  s.t.  x1 + x2 = 4:  x = A + 1/2, lambda = -1/2."""
    optimizer = descent_ascent(optax.sgd(0.1), dual_ascent(0.1, equality=True))
    step = constrained_step(distance, lambda x, batch, key: x.sum() - 4, optimizer)
    state, metrics = run(step, init_state(jnp.zeros(2), optimizer, jax.random.key(0)), 1000)
    np.testing.assert_allclose(state.params, A + 0.5, atol=1e-4)
    np.testing.assert_allclose(current_multipliers(state.opt_state), -0.5, atol=1e-4)
    assert {"violation", "multiplier"} < set(metrics)


def test_the_step_is_simultaneous():
    """Both sides move from one point: the gradient at the old multiplier, the old violation."""
    optimizer = descent_ascent(optax.sgd(0.1), dual_ascent(0.5), {"active": 0.25, "slack": 0})
    step = constrained_step(distance, half_planes, optimizer)
    state = init_state(jnp.array([3.0, 0.0]), optimizer, jax.random.key(0))
    for take in (step, jax.jit(step)):
        new, metrics = take(state, None)
        np.testing.assert_allclose(new.params, [3 - 0.1 * 1.25, 0 - 0.1 * -0.75], rtol=1e-6)
        np.testing.assert_allclose(current_multipliers(new.opt_state)["active"], 1.25)
        np.testing.assert_allclose(metrics["lagrangian"], 1 + 0.25 * 2)
        np.testing.assert_allclose(metrics["multiplier/active"], 0.25)
        np.testing.assert_allclose(metrics["violation/slack"], -2)
        assert int(new.step) == 1


def test_held_multipliers_are_the_penalised_form():
    """min |x - A|^2 / 2 + 0.3 (x1 + x2) has x = A - 0.3."""
    optimizer = descent_ascent(optax.sgd(0.1), optax.set_to_zero(), {"active": 0.3, "slack": 0.0})
    step = constrained_step(distance, half_planes, optimizer)
    state, _ = run(step, init_state(jnp.zeros(2), optimizer, jax.random.key(0)), 300)
    np.testing.assert_allclose(state.params, A - 0.3, atol=1e-4)
    assert float(current_multipliers(state.opt_state)["active"]) == np.float32(0.3)


def test_it_fits_into_chains_and_its_state_is_arrays_alone():
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        descent_ascent(optax.adam(0.01), optax.chain(optax.clip(1.0), nupi(0.1, 1.0)), ZEROS),
    )
    step = constrained_step(distance, half_planes, optimizer)
    start = init_state(jnp.zeros(2), optimizer, jax.random.key(0))
    assert isinstance(start.opt_state[1], DescentAscentState)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(start))
    state, _ = run(step, start, 1500)
    np.testing.assert_allclose(state.params, [1, 0], atol=1e-4)


@pytest.mark.parametrize(
    "primal",
    [
        optax.chain(optax.adam(0.02), optax.contrib.reduce_on_plateau(patience=100)),
        optax.chain(optax.sgd(0.2), optax.scale_by_backtracking_linesearch(10, store_grad=True)),
        optax.contrib.schedule_free_sgd(0.1, warmup_steps=5),
        optax.contrib.sam(optax.sgd(0.1), optax.sgd(1e-3), sync_period=2),
    ],
    ids=["plateau", "backtracking", "schedule_free", "sam"],
)
def test_the_primal_optimizer_may_be_any_of_optax(primal):
    optimizer = descent_ascent(primal, dual_ascent(0.1, restarts=False), ZEROS)
    step = constrained_step(distance, half_planes, optimizer)
    params = jnp.zeros(2)
    state = init_state(params, optimizer, jax.random.key(0))
    state, _ = jax.jit(step, donate_argnums=0)(state, None)
    state, metrics = run(step, state, 1500)
    assert abs(metrics["violation/active"][-1]) < 0.3  # it was 2 at the unconstrained solution
    assert metrics["loss"][-1] < 1.5
    assert not params.is_deleted()


def test_extra_arguments_speak_of_the_lagrangian():
    seen = {}

    def spy(name):
        def update(updates, state, params=None, **extra):
            seen[name] = extra
            return updates, state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    optimizer = optax.chain(
        spy("outside"),
        descent_ascent(optax.chain(spy("primal"), optax.sgd(0.1)), spy("dual"), {"a": 2.0}),
    )

    def loss(params, batch, key):
        return (params**2).sum() + jax.random.normal(key), {}

    def constraint(params, batch, key):
        return {"a": params.sum() * batch}

    step = constrained_step(loss, constraint, optimizer)
    state = init_state(jnp.array([1.0, 3.0]), optimizer, jax.random.key(4))
    _, metrics = step(state, 5.0)
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(4), 0))
    primal, dual = seen["primal"], seen["dual"]
    np.testing.assert_allclose(primal["value"], 10 + noise + 2 * 20, rtol=1e-6)
    assert primal["value"] == metrics["lagrangian"] == primal["value_fn"](state.params)
    np.testing.assert_allclose(primal["grad"], [2 + 10, 6 + 10])
    at = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(primal["value_fn"](at), 1 + noise + 2 * 5, rtol=1e-6)
    np.testing.assert_allclose(
        seen["outside"]["value_fn"](at, violation=None), primal["value_fn"](at)
    )
    assert set(primal) == {"value", "grad", "value_fn"}
    assert set(seen["outside"]) == {"value", "grad", "value_fn", "violation"}
    assert set(dual) == {"value", "grad"}
    assert dual["grad"] == {"a": 20.0}


def test_a_line_search_around_the_descent_ascent():
    optimizer = optax.chain(
        descent_ascent(optax.sgd(0.3), dual_ascent(0.1, restarts=False), ZEROS),
        optax.scale_by_backtracking_linesearch(10),
    )
    step = constrained_step(distance, half_planes, optimizer)
    state, _ = run(step, init_state(jnp.zeros(2), optimizer, jax.random.key(0)), 1000)
    np.testing.assert_allclose(state.params, [1, 0], atol=0.02)


def test_a_dual_optimizer_may_look_at_the_value():
    dual = optax.chain(optax.scale(0.1), optax.contrib.reduce_on_plateau(patience=500))
    optimizer = descent_ascent(optax.sgd(0.1), dual)
    step = constrained_step(distance, lambda x, batch, key: x.sum() - 1, optimizer)
    state, _ = run(step, init_state(jnp.zeros(2), optimizer, jax.random.key(0)), 500)
    np.testing.assert_allclose(state.params, [1, 0], atol=1e-3)


def test_a_state_can_be_donated_and_the_given_multipliers_stay():
    given = {"active": jnp.asarray(0.25), "slack": jnp.asarray(0.0)}
    dual = optax.chain(  # one that keeps the multipliers themselves
        optax.GradientTransformation(lambda m: m, lambda g, state, m: (g, state)),
        nupi(0.1, 0.5),
    )
    optimizer = descent_ascent(optax.sgd(0.1), dual, given)
    params = jnp.zeros(2)
    for _ in range(2):  # the second state is as good as the first
        opt_state = optimizer.init(params)
        update = jax.jit(
            lambda state: optimizer.update(jnp.ones(2), state, violation=ZEROS)[1],
            donate_argnums=0,
        )
        update(opt_state)
        state = init_state(params, optimizer, jax.random.key(0))
        step = jax.jit(constrained_step(distance, half_planes, optimizer), donate_argnums=0)
        for _ in range(3):
            state, _ = step(state, None)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((given, params)))


def test_members_of_a_vmap_have_their_own_targets_and_rates():
    def final(target, rate):
        optimizer = descent_ascent(optax.sgd(0.1), dual_ascent(rate, restarts=False))
        step = constrained_step(distance, lambda x, batch, key: x.sum() - target, optimizer)
        state = init_state(jnp.zeros(2), optimizer, jax.random.key(0))
        state, _ = jax.lax.scan(lambda s, _: step(s, None), state, None, length=600)
        return state.params.sum()

    targets = jnp.array([0.5, 1.0, 5.0])
    sums = jax.jit(jax.vmap(final))(targets, jnp.array([0.05, 0.1, 0.2]))
    np.testing.assert_allclose(sums, [0.5, 1.0, 3.0], atol=1e-3)  # 3 is where nothing holds it


def two_groups():
    """Labels that follow a feature, which is higher in one of the groups."""
    rng = np.random.default_rng(0)
    group = np.arange(600) % 2
    x = rng.normal(size=(600, 3)) + np.array([1.5, 0, 0]) * group[:, None]
    label = x @ np.array([2.0, 1.0, -1.0]) - 1.5 + rng.logistic(size=600) > 0
    x = np.concatenate([x, np.ones((600, 1))], axis=1)
    return {"x": x.astype(np.float32), "group": group, "label": label}


def logistic(params, batch, key):
    logits = batch["x"] @ params
    loss = optax.sigmoid_binary_cross_entropy(logits, batch["label"]).mean()
    return loss, {"error": 100 * jnp.mean((logits > 0) != batch["label"])}


def gap(values, batch):
    """Mean of ``values`` in one group less that in the other."""
    one = batch["group"] == 1
    return jnp.mean(values, where=one) - jnp.mean(values, where=~one)


def logit_gap(params, batch, key):
    """|mean logit of a group - that of the other| <= 0.2, as two constraints."""
    difference = gap(batch["x"] @ params, batch)
    return {"above": difference - 0.2, "below": -difference - 0.2}


def acceptance_gap(params, batch, key):
    """The same of the rates of positive answers, which have no gradient, through the sigmoid."""
    logits = batch["x"] @ params
    surrogate, rates = gap(jax.nn.sigmoid(logits), batch), gap(1.0 * (logits > 0), batch)
    difference = surrogate + jax.lax.stop_gradient(rates - surrogate)
    return {"above": difference - 0.05, "below": -difference - 0.05}


@pytest.mark.parametrize(("constraint", "tolerance"), [(logit_gap, 1e-3), (acceptance_gap, 0.011)])
def test_groups_are_treated_alike(constraint, tolerance):
    batch = jax.tree.map(jnp.asarray, two_groups())
    params = {}
    for dual in (nupi(0.02, 0.5), optax.set_to_zero()):
        optimizer = descent_ascent(optax.sgd(0.5), dual, {"above": 0.0, "below": 0.0})
        step = constrained_step(logistic, constraint, optimizer)
        state = init_state(jnp.zeros(4), optimizer, jax.random.key(0))
        state, metrics = run(step, state, 3000, batch)
        params[dual] = state.params, metrics, current_multipliers(state.opt_state)
    fair, free = params.values()
    assert constraint(free[0], batch, None)["above"] > 0.3
    assert constraint(fair[0], batch, None)["above"] < tolerance
    assert fair[2]["above"] > 0.01  # the price of the constraint that binds
    assert fair[2]["below"] == 0  # that of the other
    assert free[1]["error"][-1] < fair[1]["error"][-1] < 50


def test_a_budget_of_multiply_accumulates():
    """Units of two layers, each worth something and costing MACs: a knapsack.

    Its linear relaxation keeps the units that are worth more per MAC than the one that is kept in
    part, and what that one is worth per MAC is the multiplier.
    """
    macs = {"conv": 400, "dense": np.repeat([25, 50], 10)}
    rng = np.random.default_rng(0)
    worth = {"conv": rng.uniform(0.5, 4, 10), "dense": rng.uniform(0.05, 1, 20)}

    def activity(params):
        return {name: GateGroup(jax.nn.sigmoid(params[name]), macs[name]) for name in params}

    def loss(params, batch, key):
        lost = [worth[n] @ (1 - group.active_probability) for n, group in activity(params).items()]
        return sum(lost), {"macs": expected_density(activity(params))}

    def budget(params, batch, key):
        return density_violation(activity(params), 0.5)

    optimizer = descent_ascent(optax.adam(0.03), nupi(0.5, 50.0))
    step = constrained_step(loss, budget, optimizer)
    params = jax.tree.map(lambda w: jnp.full(w.shape, 2.0), worth)
    state, metrics = run(step, init_state(params, optimizer, jax.random.key(0)), 3000)
    np.testing.assert_allclose(metrics["macs"][-1], 0.5, atol=1e-4)
    p = np.concatenate([jax.nn.sigmoid(state.params[name]) for name in worth])
    rate = np.concatenate([worth[name] / macs[name] for name in worth])
    (partly,) = np.flatnonzero((p > 0.1) & (p < 0.9))
    others = np.arange(p.size) != partly
    np.testing.assert_array_equal(p[others] > 0.5, rate[others] > rate[partly])
    total = 10 * 400 + 10 * 25 + 10 * 50
    price = current_multipliers(state.opt_state) / total
    np.testing.assert_allclose(price, rate[partly], rtol=1e-3)


def test_training_fit_takes_it_as_it_is(tmp_path):
    data = two_groups()
    optimizer = descent_ascent(optax.adam(0.05), nupi(0.05, 0.5), {"above": 0.0, "below": 0.0})
    step = constrained_step(logistic, logit_gap, optimizer)
    state = init_state(jnp.zeros(4), optimizer, jax.random.key(0))
    batches = Batches(data, 200, seed=1)
    arguments = {
        "callbacks": [report(MetricLog(tmp_path))], "checkpoints": Checkpoints(tmp_path)
    }  # fmt: skip
    whole = fit(step, state, batches, steps=60)
    fit(step, state, batches, steps=30, **arguments)
    resumed = fit(step, state, batches, steps=60, **arguments)
    for one, other in zip(
        jax.tree.leaves((whole.params, whole.opt_state)),
        jax.tree.leaves((resumed.params, resumed.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    row = read_metrics(tmp_path)[-1]
    assert {"loss", "error", "violation/above", "multiplier/above"} < set(row)
    assert row["multiplier/above"] > 0


def test_a_violation_that_is_not_finite_stops_fit():
    optimizer = descent_ascent(optax.sgd(0.1), dual_ascent(0.1), {"a": 0.0})
    broken = lambda params, batch, key: {"a": params.sum() * jnp.nan}  # noqa: E731
    step = constrained_step(distance, broken, optimizer)
    state = init_state(jnp.zeros(2), optimizer, jax.random.key(0))
    with pytest.raises(TrainingDivergedError):
        fit(step, state, Batches(two_groups(), 200), steps=9)
    with pytest.raises(ValueError, match=r"violation must be finite; \['a'\] holds nan"):
        step(state, None)


def test_what_is_missing_is_named():
    optimizer = descent_ascent(optax.sgd(0.1), dual_ascent(0.1))
    with pytest.raises(ValueError, match="violation must be passed to update"):
        optimizer.update(jnp.zeros(2), optimizer.init(jnp.zeros(2)), jnp.zeros(2))
    with pytest.raises(ValueError, match="must hold one state of .*descent_ascent; it holds 0"):
        current_multipliers(optax.sgd(0.1).init(jnp.zeros(2)))
    with pytest.raises(ValueError, match=r"multipliers must be finite and >= 0 .* holds -1"):
        descent_ascent(optax.sgd(0.1), dual_ascent(0.1), -1.0).init(jnp.zeros(2))
    step = constrained_step(distance, half_planes, optimizer)
    with pytest.raises(ValueError, match="violation must have the structure of the multipliers"):
        step(init_state(jnp.zeros(2), optimizer, jax.random.key(0)), None)


def test_gradients_are_accumulated_over_calls_by_multi_steps():
    """``optax.MultiSteps`` takes extra arguments although it is not declared to."""
    optimizer = optax.MultiSteps(descent_ascent(optax.sgd(0.1), dual_ascent(0.1)), 2)
    step = jax.jit(
        constrained_step(
            lambda x, batch, key: ((x - 2) ** 2, {}), lambda x, batch, key: x - 1, optimizer
        )
    )
    state = init_state(jnp.asarray(0.0), optimizer, jax.random.key(0))
    params = []
    for _ in range(400):
        state, _ = step(state, None)
        params.append(float(state.params))
    assert params[0] == 0.0
    assert params[1] == pytest.approx(0.4)
    assert params[-1] == pytest.approx(1.0, abs=1e-3)


def test_both_sides_accumulate_inside_of_descent_ascent():
    """The multiplier moves by the mean violation of two micro-batches, not by the last one."""
    each = [optax.MultiSteps(one, 2) for one in (optax.sgd(0.0), dual_ascent(1.0))]
    optimizer = descent_ascent(*each)
    step = constrained_step(lambda x, b, k: (x, {}), lambda x, b, k: x + b, optimizer)
    state = init_state(jnp.asarray(0.0), optimizer, jax.random.key(0))
    found = []
    for violation in (1.0, 3.0, 2.0, 0.5):
        state, _ = step(state, violation)
        found.append(float(current_multipliers(state.opt_state)))
    assert found == [0, 2, 2, 3.25]


@pytest.mark.parametrize("start", [jnp.array([1, 2]), np.array(True), True, 1j])
def test_multipliers_that_are_no_floats_are_named(start):
    optimizer = descent_ascent(optax.sgd(0.1), optax.set_to_zero(), {"a": start})
    with pytest.raises(TypeError, match="multipliers must be floating point; got"):
        optimizer.init(jnp.zeros(1))


def test_a_loss_that_returns_a_bare_scalar_is_told_what_to_return():
    optimizer = descent_ascent(optax.sgd(0.1), dual_ascent(0.1))
    step = constrained_step(lambda x, b, k: x**2, lambda x, b, k: x - 1, optimizer)
    with pytest.raises(TypeError, match=r"loss must return \(loss, metrics\)"):
        step(init_state(jnp.asarray(0.0), optimizer, jax.random.key(0)), None)
