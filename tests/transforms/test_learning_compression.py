import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax import compression
from sparsejax.models import LeNet300
from sparsejax.transforms import LearningCompressionState, masked_params
from tests.reference import l1_ball, shard, top_kappa

TARGET = np.array([[3.0, -0.4, 1.5, 0.2], [-2.5, 0.9, -0.6, 0.1]], np.float32)
MU = optax.exponential_decay(0.05, 1, 1.15)


def train(compress, steps=40 * 60, loss=None, start=TARGET, multipliers=True, rate=0.1, mu=MU):
    """LC on a small loss; returns theta and w at the end."""
    loss = loss or (lambda w: 0.5 * ((w - TARGET) ** 2).sum())
    optimizer = optax.chain(
        sparsejax.learning_compression(compress, mu, 60, multipliers=multipliers), optax.sgd(rate)
    )
    params = jnp.asarray(start)

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = (params, optimizer.init(params))
        (params, state), _ = jax.lax.scan(step, carry, None, length=steps)
        return sparsejax.compressed_params(state, params), params

    return jax.tree.map(np.asarray, run(params))


@pytest.mark.long
@pytest.mark.parametrize("multipliers", [True, False])
@pytest.mark.parametrize(
    ("compress", "minimiser"),
    [
        (compression.l0_ball(3), top_kappa([TARGET], 3)),
        (compression.l0_ball_l2(3, 0.2), top_kappa([TARGET], 3) / 1.4),
        (compression.l1_ball(4.0), l1_ball([TARGET], 4.0)),
        (
            compression.l1_penalty(0.5),
            (np.sign(TARGET) * np.maximum(np.abs(TARGET) - 0.5, 0)).ravel(),
        ),
    ],
)
def test_converges_to_the_known_minimiser_of_a_quadratic(compress, minimiser, multipliers):
    """min 0.5 |w - target|^2 + P(w) has the C step's own closed form at mu = 1."""
    theta, w = train(compress, multipliers=multipliers)
    # The quadratic penalty meets the constraint only as mu grows; multipliers meet it exactly.
    tolerance = 1e-3 if multipliers else 0.2
    np.testing.assert_allclose(theta.ravel(), minimiser, atol=tolerance)
    np.testing.assert_allclose(w, theta, atol=2 * tolerance)


def test_the_l0_penalty_keeps_what_its_path_can_reach():
    """|w| > sqrt(2 alpha), the minimiser, with multipliers; |w| > sqrt(8 alpha) without.

    Without them w is held at target / (1 + mu) while theta is 0, so an entry comes in only if
    target^2 > 2 alpha (1 + mu)^2 / mu for some mu, and the best mu is 1.
    """
    for multipliers, bar in ((True, 1.0), (False, 2.0)):
        theta, _ = train(compression.l0_penalty(0.5), multipliers=multipliers)
        np.testing.assert_allclose(theta, np.where(np.abs(TARGET) > bar, TARGET, 0), atol=1e-3)


def test_version_2_of_l0_l2_converges_to_the_same_minimiser():
    """The decay on w in the L step, with a plain top-kappa C step."""
    decay = 0.2
    loss = lambda w: 0.5 * ((w - TARGET) ** 2).sum() + decay * (w**2).sum()  # noqa: E731
    theta, _ = train(compression.l0_ball(3), loss=loss)
    np.testing.assert_allclose(theta.ravel(), top_kappa([TARGET], 3) / (1 + 2 * decay), atol=1e-3)


def test_lasso_meets_its_optimality_conditions():
    """A quadratic that is not separable: minus the gradient is a subgradient of alpha |w|_1."""
    rng = np.random.default_rng(0)
    a, b, alpha = rng.normal(size=(12, 8)) / 3, rng.normal(size=(12, 1)), 0.3
    loss = lambda w: 0.5 * ((a @ w.reshape(8, 1) - b) ** 2).sum()  # noqa: E731
    theta, _ = train(compression.l1_penalty(alpha), 120 * 60, loss, TARGET, mu=1.0)
    slope = a.T @ (a @ theta.reshape(8, 1) - b)
    kept = theta.reshape(8, 1) != 0
    assert 0 < kept.sum() < 8
    np.testing.assert_allclose(slope[kept], -alpha * np.sign(theta.reshape(8, 1)[kept]), atol=2e-3)
    assert (np.abs(slope[~kept]) <= alpha + 2e-3).all()


def by_hand(params, gradients, kappa, mus, first, per_l_step, rate):
    """The published alternation written out in float64: L steps of so many gradient steps, then a
    C step and a step of the multipliers. One entry for each gradient step."""
    w = np.asarray(params, np.float64)
    project = lambda v: top_kappa([v], kappa).reshape(v.shape)  # noqa: E731
    theta, lam, thetas, ws = project(w), np.zeros_like(w), [], []
    gradients = list(gradients)
    for n, mu in enumerate(mus):
        for _ in range(first if n == 0 else per_l_step):  # L step
            if not gradients:
                return thetas, ws
            w = w - rate * (gradients.pop(0) + mu * (w - theta) - lam)
            thetas.append(theta)
            ws.append(w)
        theta = project(w - lam / mu)  # C step
        lam = lam - mu * (w - theta)
    raise AssertionError("more gradients than L steps")


def test_follows_the_algorithm_step_by_step():
    rng = np.random.default_rng(1)
    params = rng.normal(size=(4, 5)).astype(np.float32)
    gradients = rng.normal(size=(14, 4, 5)).astype(np.float32)
    mus = [0.1 * 1.5**n for n in range(9)]
    thetas, ws = by_hand(params, gradients, 6, mus, first=5, per_l_step=3, rate=0.2)
    optimizer = optax.chain(
        sparsejax.learning_compression(
            compression.l0_ball(6), optax.exponential_decay(0.1, 1, 1.5), 3, steps_in_first_l_step=5
        ),
        optax.sgd(0.2),
    )
    w = jnp.asarray(params)
    state = optimizer.init(w)
    l_steps = []
    for gradient, theta, expected in zip(gradients, thetas, ws, strict=True):
        updates, state = jax.jit(optimizer.update)(jnp.asarray(gradient), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_allclose(sparsejax.compressed_params(state, w), theta, atol=1e-5)
        np.testing.assert_allclose(w, expected, atol=1e-5)
        l_steps.append(int(state[0].l_step))
    assert l_steps == [0] * 5 + [1] * 3 + [2] * 3 + [3] * 3


def test_by_default_c_steps_fall_on_the_last_update_of_an_l_step():
    """So training over whole L steps ends with as many C steps, theta up to date."""
    transform = sparsejax.learning_compression(compression.l0_ball(3), 1.0, 4)
    w = jnp.asarray(TARGET)
    state, l_steps = transform.init(w), []
    for _ in range(9):
        state = jax.jit(transform.update)(w, state, w)[1]
        l_steps.append(int(state.l_step))
    assert l_steps == [0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_direct_compression_comes_first():
    state = sparsejax.learning_compression(compression.l0_ball(3), 1.0, 5).init(jnp.asarray(TARGET))
    np.testing.assert_array_equal(state.theta.ravel(), top_kappa([TARGET], 3))


def linen_params():
    model = nn.Dense(6)
    return model.init(jax.random.key(0), jnp.ones((1, 5)))


def nnx_params():
    return nnx.split(LeNet300(rngs=nnx.Rngs(0)), nnx.Param, ...)[1]


def plain_params():
    return {"kernel": jnp.ones((5, 6)) * jnp.arange(6), "bias": jnp.ones(6)}


@pytest.mark.parametrize("make", [linen_params, nnx_params, plain_params])
@pytest.mark.parametrize("multipliers", [True, False])
def test_composes_on_any_container(make, multipliers):
    params = make()
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        sparsejax.learning_compression(compression.l0_ball(7), 0.1, 2, multipliers=multipliers),
        optax.adam(1e-2),
    )
    state = jax.jit(optimizer.init)(params)
    update = jax.jit(optimizer.update)
    for _ in range(5):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    compressed = sparsejax.compressed_params(state, params)
    assert jax.tree.structure(compressed) == jax.tree.structure(params)
    assert sparsejax.inspection.report(compressed).nonzeros == 7
    for new, old in zip(jax.tree.leaves(compressed), jax.tree.leaves(params), strict=True):
        if old.ndim < 2:
            np.testing.assert_array_equal(new, old)


def test_the_state_is_found_inside_other_wrappers_and_twice():
    params = {"a": jnp.asarray(TARGET), "b": jnp.asarray(TARGET), "c": jnp.ones(3)}
    optimizer = optax.MultiSteps(
        optax.chain(
            optax.multi_transform(
                {
                    "few": sparsejax.learning_compression(compression.l0_ball(1), 0.1, 2),
                    "more": sparsejax.learning_compression(compression.l0_ball(5), 0.1, 2),
                    "dense": optax.identity(),
                },
                {"a": "few", "b": "more", "c": "dense"},
            ),
            optax.sgd(0.1),
        ),
        every_k_schedule=2,
    )
    state = optimizer.init(params)
    for _ in range(6):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    compressed = sparsejax.compressed_params(state, params)
    assert [int((compressed[name] != 0).sum()) for name in "abc"] == [1, 5, 3]
    with pytest.raises(ValueError, match="opt_state must hold a state .*; it has none$"):
        sparsejax.compressed_params(optax.sgd(0.1).init(params), params)
    with pytest.raises(ValueError, match="the optimizer state is the first argument"):
        sparsejax.compressed_params(params, state)
    with pytest.raises(ValueError, match="as Orbax restores a checkpoint without a target"):
        sparsejax.compressed_params([{"theta": params}, []], params)
    held = sparsejax.hold_zeros(sparsejax.projections.top_k_mask(params, 9)).init(params)
    with pytest.raises(ValueError, match="With sparsify or hold_zeros the parameters are sparse"):
        sparsejax.compressed_params(held, params)
    with pytest.raises(ValueError, match="the optimizer state is the first argument"):
        masked_params(params, held)


def run_members(kappas, batched):
    """Several budgets at once (the state as a whole under vmap) or one after another."""
    optimizer = lambda kappa: optax.chain(  # noqa: E731
        sparsejax.learning_compression(compression.l0_ball(kappa), MU, 4, steps_in_first_l_step=3),
        optax.sgd(0.1, momentum=0.9),
    )
    params = jax.random.normal(jax.random.key(0), (10, 10))
    goal = jax.random.normal(jax.random.key(1), (10, 10))

    def one(kappa):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer(kappa).update(params - goal, state, params)
            return (optax.apply_updates(params, updates), state), None

        (last, state), _ = jax.lax.scan(
            step, (params, optimizer(kappa).init(params)), None, length=23
        )
        return sparsejax.compressed_params(state, last), last

    if batched:
        return jax.jit(jax.vmap(one))(kappas)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(jax.jit(one), kappas))


@pytest.mark.long
def test_several_kappas_under_vmap_equal_one_at_a_time():
    kappas = jnp.array([1, 10, 50])
    together, alone = run_members(kappas, True), run_members(kappas, False)
    np.testing.assert_allclose(together[0], alone[0], atol=1e-5)
    np.testing.assert_allclose(together[1], alone[1], atol=1e-5)
    np.testing.assert_array_equal((together[0] != 0).sum((1, 2)), kappas)


def test_under_vmap_the_c_step_runs_only_when_it_is_due():
    """Counted on the host: the compression below calls back whenever it really runs."""
    runs = []

    def project(weights, mu, state):
        jax.debug.callback(lambda _: runs.append(1), mu)
        return weights, state

    transform = sparsejax.learning_compression(
        compression.Compression(lambda weights: (), project), 1.0, 4
    )
    params = jnp.ones((3, 2, 2))
    state = jax.vmap(transform.init)(params)
    jax.effects_barrier()
    runs.clear()
    update = jax.jit(jax.vmap(transform.update))
    for _ in range(8):
        _, state = update(params, state, params)
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert len(runs) in (2, 6)  # twice, reported once or once for each member


def test_scan_equals_a_call_per_step_and_compiles_once():
    optimizer = optax.chain(
        sparsejax.learning_compression(compression.l0_ball(20), MU, 5), optax.adam(1e-2)
    )
    params = jax.random.normal(jax.random.key(0), (12, 8))
    traces = []

    def step(carry, _):
        traces.append(1)
        params, state = carry
        updates, state = optimizer.update(jnp.sin(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    scanned, _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=17))(start)
    traces.clear()
    one, carry = jax.jit(step), start
    for _ in range(17):
        carry, _ = one(carry, None)
    assert len(traces) == 1  # neither mu nor the L step recompiles
    jax.tree.map(np.testing.assert_array_equal, carry, scanned)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_are_kept(dtype):
    params = {"kernel": jax.random.normal(jax.random.key(0), (8, 8), dtype), "bias": jnp.ones(8)}
    transform = sparsejax.learning_compression(compression.l0_ball(5), 0.1, 2)
    state = transform.init(params)
    for _ in range(3):
        updates, state = transform.update(params, state, params)
    assert updates["kernel"].dtype == state.theta["kernel"].dtype == dtype
    assert state.multipliers["kernel"].dtype == jnp.float32
    assert int((state.theta["kernel"] != 0).sum()) == 5
    np.testing.assert_array_equal(updates["bias"], params["bias"])


def test_sharded_parameters_give_the_same_answer_and_keep_their_sharding():
    params = jax.random.normal(jax.random.key(0), (16, 8))
    sharded = shard(params, "a", "b")
    optimizer = optax.chain(
        sparsejax.learning_compression(compression.l0_ball(20), MU, 3), optax.sgd(0.1)
    )
    results = []
    for start in (params, sharded):
        weights, state = start, jax.jit(optimizer.init)(start)
        for _ in range(7):
            updates, state = jax.jit(optimizer.update)(jnp.sin(weights), state, weights)
            weights = optax.apply_updates(weights, updates)
        results.append((weights, sparsejax.compressed_params(state, weights)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *results)
    assert results[1][1].sharding.is_equivalent_to(sharded.sharding, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mu_schedule": lambda n: 1.0 - 0.1 * n}, "it is 0.9 at L step 1 after 1.0"),
        ({"mu_schedule": 0.0}, "positive and non-decreasing over the L steps; it is 0.0"),
        ({"mu_schedule": lambda n: jnp.nan}, "it is nan at L step 0"),
        ({"steps_per_l_step": 0}, "steps_per_l_step must be an integer >= 1; got 0"),
        ({"steps_per_l_step": 2.5}, r"steps_per_l_step must be an integer >= 1; got 2\.5"),
        ({"steps_in_first_l_step": -3}, "steps_in_first_l_step must be an integer >= 0; got -3"),
        (
            {"steps_in_first_l_step": 1.5},
            r"steps_in_first_l_step must be an integer >= 0; got 1\.5",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    defaults = {"mu_schedule": 1.0, "steps_per_l_step": 3}
    with pytest.raises(ValueError, match=message):
        sparsejax.learning_compression(compression.l0_ball(3), **(defaults | arguments))


@pytest.mark.parametrize("mu", [None, "0.1", [1e-3, 1e-2]])
def test_a_mu_that_is_no_number_is_named(mu):
    with pytest.raises(TypeError, match="mu_schedule must be a number or a function .*; got"):
        sparsejax.learning_compression(compression.l0_ball(3), mu, 5)


@pytest.mark.parametrize(
    ("params", "kappa", "where", "error", "message"),
    [
        ({"kernel": jnp.full((2, 2), jnp.nan)}, 1, None, ValueError, "it has NaN in 4"),
        ({"kernel": jnp.ones((2, 2))}, 5, None, ValueError, "kappa must be .* to 4; got 5"),
        ({"bias": jnp.ones(2)}, 1, None, ValueError, "chooses none of the tree's 1 leaves"),
        (
            {"n": jnp.ones((2, 2), jnp.int32)},
            1,
            lambda path, leaf: True,
            TypeError,
            "only floating-point leaves",
        ),
    ],
)
def test_bad_parameters_are_named_in_init(params, kappa, where, error, message):
    transform = sparsejax.learning_compression(compression.l0_ball(kappa), 1.0, 2, where=where)
    with pytest.raises(error, match=message):
        transform.init(params)


def test_update_needs_params():
    transform = sparsejax.learning_compression(compression.l0_ball(1), 1.0, 2)
    params = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="params must be passed"):
        transform.update(params, transform.init(params))


def test_the_state_is_a_tree_of_arrays():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    state = sparsejax.learning_compression(compression.l0_ball_l2(1, 0.1), 1.0, 2).init(params)
    assert isinstance(state, LearningCompressionState)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert isinstance(state.theta["bias"], optax.MaskedNode)


def test_schedules_are_checked_in_one_program_and_may_decide_in_python():
    traced = []

    def schedule(n):
        traced.append(n)
        return 1e-3 * 1.1 ** jnp.minimum(n, 30)

    sparsejax.learning_compression(compression.l0_ball(3), schedule, 3)
    assert len(traced) == 1
    in_python = lambda n: 1.0 if n < 5 else 2.0  # noqa: E731
    sparsejax.learning_compression(compression.l0_ball(3), in_python, 3)
    with pytest.raises(ValueError, match="it is 1.0 at L step 5 after 2.0"):
        sparsejax.learning_compression(compression.l0_ball(3), lambda n: 2.0 if n < 5 else 1.0, 3)
