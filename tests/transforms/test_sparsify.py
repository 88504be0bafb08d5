"""The engine: what a renewal does to weights, masks and moments, with any optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsejax.compression import l0_ball
from sparsejax.training import Batches, Checkpoints, fit, init_state, make_step
from sparsejax.transforms import (
    ac_dc,
    adam_fisher_pruning,
    all_together,
    erdos_renyi,
    global_magnitude,
    magnitude_pruning,
    masked_params,
    one_shot,
    polynomial,
    project_sparsity,
    random_pruning,
    rigl,
    saliency_pruning,
    sparsify,
    static_sparse,
)
from sparsejax.transforms import set as set_method
from tests.reference import shard
from tests.transforms.sparse_training import gradients, last, nonzeros, run, same, start, step

SCHEDULE = polynomial(2, 8, every=2)
METHODS = {
    "magnitude": magnitude_pruning(0.9, SCHEDULE),
    "magnitude erk": magnitude_pruning(0.9, SCHEDULE, erdos_renyi()),
    "global": global_magnitude(0.9, SCHEDULE),
    "global normalised": global_magnitude(0.9, SCHEDULE, normalise="rms"),
    "saliency": saliency_pruning(0.9, SCHEDULE, all_together("l2")),
    "random": random_pruning(0.9, SCHEDULE),
    "fisher": adam_fisher_pruning(0.9, SCHEDULE),
    "2:4": magnitude_pruning(0.5, SCHEDULE, pattern="2:4"),
    "4x2": magnitude_pruning(0.5, SCHEDULE, pattern="4x2"),
    "channels": magnitude_pruning(0.5, SCHEDULE, pattern="channels"),
    "static": static_sparse(0.9),
    "set": set_method(0.9, end=8, every=2, drop_fraction=0.5),
    "rigl": rigl(0.9, end=8, every=2, drop_fraction=0.5),
    "ac_dc": ac_dc(0.9, end=8, compressed_steps=2, decompressed_steps=1, warmup=1),
}
STEPS = 11


def _is_dict(node):
    return isinstance(node, dict)


def reference(optimizer, schedule, counts, steps):
    """Gradual magnitude pruning of each leaf by sorting, with the optimizer called from outside."""
    params, grads = start(), gradients(steps)
    masks = {name: np.ones(params[name].shape, bool) for name in ("a", "b")}
    inner = optimizer.init(params)
    first = inner
    for n in range(steps):
        g = {name: leaf[n] for name, leaf in grads.items()}
        if n in schedule.steps():
            number = schedule.steps().index(n)
            for name in masks:
                flat = np.where(masks[name], np.abs(params[name]), -1).ravel()
                new = np.zeros(flat.size, bool)
                new[np.argsort(-flat, kind="stable")[: counts[name][number]]] = True
                masks[name] = new.reshape(masks[name].shape)

            def reset(tree, initial):
                both = {name: masks.get(name, True) for name in tree}
                return {k: jnp.where(both[k], tree[k], initial[k]) for k in tree}

            inner = jax.tree.map(
                lambda t, i: reset(t, i) if _is_dict(t) else t, inner, first, is_leaf=_is_dict
            )
        seen = {**g, **{name: jnp.where(m, g[name], 0) for name, m in masks.items()}}
        updates, inner = optimizer.update(seen, inner, params)
        params = optax.apply_updates(params, updates)
        params = {k: jnp.where(masks.get(k, True), w, 0) for k, w in params.items()}
        yield params, masks, inner


@pytest.mark.long
@pytest.mark.parametrize(
    "optimizer",
    [optax.adam(0.1), optax.sgd(0.1, momentum=0.9), optax.adagrad(0.1),
     optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.1))],
    ids=["adam", "momentum", "adagrad", "clipped"],
)  # fmt: skip
def test_gradual_pruning_is_the_reference(optimizer):
    size = 384, 320
    progress = [0, 1 - (2 / 3) ** 3, 1 - (1 / 3) ** 3, 1]
    counts = {
        name: [round(n * (1 - 0.9 * p)) for p in progress]
        for name, n in zip("ab", size, strict=True)
    }
    ours = run(sparsify(optimizer, METHODS["magnitude"]), STEPS)
    theirs = reference(optimizer, SCHEDULE, counts, STEPS)
    for (params, state), (wanted, masks, inner) in zip(ours, theirs, strict=True):
        for name in ("a", "b"):
            np.testing.assert_array_equal(state.mask[name], masks[name])
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-6),
            (params, state.inner_state),
            (wanted, inner),
        )
    assert nonzeros(params) == {"a": 38, "b": 32}


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_weights_are_zero_outside_of_the_mask_and_so_are_their_moments(name):
    before = None
    for n, (params, state) in enumerate(run(sparsify(optax.adam(0.1), METHODS[name]), STEPS)):
        mask = jax.tree.map(np.asarray, state.mask)
        for leaf in ("a", "b"):
            assert not np.asarray(params[leaf])[~mask[leaf]].any()
            moments = state.inner_state[0]
            for tree in (moments.mu, moments.nu):
                assert not np.asarray(tree[leaf])[~mask[leaf]].any()
                if before is not None:  # what has just been grown has nothing either
                    assert not np.asarray(tree[leaf])[mask[leaf] & ~before[leaf]].any()
                    assert not np.asarray(params[leaf])[mask[leaf] & ~before[leaf]].any()
        before = mask
        assert isinstance(mask["bias"], optax.MaskedNode)
        assert int(state.step) == n + 1
    kept = sum(int(m.sum()) for m in jax.tree.leaves(mask))
    assert kept == (352 if name in ("2:4", "4x2", "channels") else 70)


@pytest.mark.long
@pytest.mark.parametrize("name", ["magnitude", "fisher", "set", "ac_dc"])
def test_a_scanned_run_is_a_stepped_run(name):
    optimizer = sparsify(optax.rmsprop(0.1, momentum=0.9), METHODS[name])
    params, state = last(optimizer, STEPS)
    first = start()
    opening = optimizer.init(first)
    carry = masked_params(opening, first), opening
    (got, got_state), _ = jax.jit(lambda c: jax.lax.scan(step(optimizer), c, gradients(STEPS)))(
        carry
    )
    same(got_state.mask, state.mask)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), got, params)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("global normalised", "packed"), ("rigl", "bool"), ("set", "packed")],
)
def test_eight_devices_find_the_same_bits(name, dtype):
    optimizer = sparsify(optax.adam(0.1), METHODS[name], mask_dtype=dtype)
    params, state = last(optimizer, STEPS)
    cut = start()
    cut = {"a": shard(cut["a"], "a", "b"), "b": shard(cut["b"], "b", "a"), "bias": cut["bias"]}
    got, got_state = last(optimizer, STEPS, params=cut)
    same(got, params)
    same(got_state.mask, state.mask)
    assert got["a"].sharding.is_equivalent_to(cut["a"].sharding, 2)


@pytest.mark.parametrize("name", ["global", "rigl"])
def test_packed_masks_change_nothing_else(name):
    params, state = last(sparsify(optax.adam(0.1), METHODS[name]), STEPS)
    got, packed = last(sparsify(optax.adam(0.1), METHODS[name], mask_dtype="packed"), STEPS)
    same(got, params)
    same(packed.inner_state, state.inner_state)
    assert packed.mask["a"].dtype == jnp.uint8
    assert packed.mask["a"].size == 384 // 8
    dense = jax.tree.map(jnp.ones_like, got)
    same(masked_params(packed, dense), masked_params(state, dense))


@pytest.mark.long
@pytest.mark.parametrize("name", ["set", "ac_dc"])
def test_members_of_a_population_are_single_runs(name):
    """With schedules of the same method, on gradients of their own."""
    optimizer = sparsify(optax.sgd(0.1, momentum=0.9), METHODS[name])
    grads = [gradients(STEPS, seed) for seed in range(3)]
    params = start()
    state = optimizer.init(params)
    carry = masked_params(state, params), state
    # Members that are at different steps: the first has made one more.
    ahead, _ = step(optimizer)(carry, jax.tree.map(lambda g: g[0], grads[0]))
    carries = jax.tree.map(lambda *x: jnp.stack(x), ahead, carry, carry)
    several = jax.tree.map(lambda *x: jnp.stack(x), *grads)
    scan = lambda c, g: jax.lax.scan(step(optimizer), c, g)[0]  # noqa: E731
    (got, states) = jax.jit(jax.vmap(scan))(carries, several)
    for n, one in enumerate((ahead, carry, carry)):
        wanted, single = jax.jit(scan)(one, grads[n])
        same(jax.tree.map(lambda x, n=n: x[n], states.mask), single.mask)
        jax.tree.map(
            lambda x, y, n=n: np.testing.assert_allclose(x[n], y, rtol=1e-4, atol=1e-6),
            got, wanted,
        )  # fmt: skip


def test_a_renewal_is_skipped_under_vmap_unless_a_member_is_due():
    """Whether the ranking is inside the loop and nothing of it outside."""
    optimizer = sparsify(optax.sgd(0.1), METHODS["global"])
    params = start()
    state = optimizer.init(params)
    double = lambda tree: jax.tree.map(lambda x: jnp.stack([x, x]), tree)  # noqa: E731
    jaxpr = jax.make_jaxpr(jax.vmap(optimizer.update))(*map(double, (params, state, params)))
    outer = [e.primitive.name for e in jaxpr.jaxpr.eqns]
    assert outer.count("while") == 1
    assert not {"cond", "sort", "top_k"} & {*outer}


def test_a_traced_sparsity_gives_the_same_counts_and_compiles_once():
    traces = []

    @jax.jit
    def pruned(sparsity):
        traces.append(sparsity)
        optimizer = sparsify(optax.sgd(0.1), magnitude_pruning(sparsity, SCHEDULE))
        params, grads = start(), gradients(STEPS)
        return jax.lax.scan(step(optimizer), (params, optimizer.init(params)), grads)[0][0]

    for sparsity in (0.9, 0.5, 0.25):
        params, _ = last(sparsify(optax.sgd(0.1), magnitude_pruning(sparsity, SCHEDULE)), STEPS)
        assert nonzeros(pruned(sparsity)) == nonzeros(params)
    assert len(traces) == 1


def test_injected_hyperparameters():
    @optax.inject_hyperparams
    def make(learning_rate, sparsity):
        return sparsify(optax.sgd(learning_rate), magnitude_pruning(sparsity, one_shot(1)))

    optimizer = make(learning_rate=optax.linear_schedule(0.1, 0.0, 10), sparsity=0.9)
    params = start()
    state = optimizer.init(params)
    state.hyperparams["sparsity"] = jnp.float32(0.75)
    for n in range(3):
        updates, state = jax.jit(optimizer.update)(start(seed=n), state, params)
        params = optax.apply_updates(params, updates)
    assert nonzeros(params) == {"a": 96, "b": 80}


def test_inside_multi_steps_the_averaged_gradient_counts():
    method = saliency_pruning(0.9, one_shot(0))
    optimizer = optax.MultiSteps(sparsify(optax.sgd(0.1), method), 2).gradient_transformation()
    params, grads = start(), gradients(2)
    state = optimizer.init(params)
    moved = params
    for n in range(2):
        updates, state = jax.jit(optimizer.update)(
            jax.tree.map(lambda g, n=n: g[n], grads), state, moved
        )
        moved = optax.apply_updates(moved, updates)
        if n == 0:
            same(moved, params)
    mean = jax.tree.map(lambda g: g.mean(0), grads)
    score = np.abs(np.asarray(params["a"]) * mean["a"]).ravel()
    kept = np.sort(np.argsort(-score)[:38])
    np.testing.assert_array_equal(np.flatnonzero(moved["a"]), kept)


def test_with_an_nnx_optimizer():
    model = nnx.Linear(16, 24, rngs=nnx.Rngs(0))
    method = rigl(0.9, end=8, every=2)
    optimizer = nnx.Optimizer(model, sparsify(optax.adam(0.1), method), wrt=nnx.Param)
    nnx.update(model, masked_params(optimizer.opt_state, nnx.state(model, nnx.Param)))
    assert int((model.kernel[...] != 0).sum()) == 38
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16)), jnp.float32)

    @nnx.jit
    def train(model, optimizer):
        grads = nnx.grad(lambda model: ((model(x) - 1) ** 2).mean())(model)
        optimizer.update(model, grads)

    for _ in range(6):
        train(model, optimizer)
        assert int((model.kernel[...] != 0).sum()) <= 38
    assert int((model.bias[...] != 0).sum()) == 24


@pytest.mark.parametrize("name", ["magnitude", "set"])
def test_states_are_donated_and_resumed_to_the_same_bits(name):
    optimizer = sparsify(optax.adam(0.1), METHODS[name], mask_dtype="packed")
    params, state = last(optimizer, STEPS)
    halfway, saved = last(optimizer, 5)
    leaves, structure = jax.tree.flatten((halfway, saved))
    stored = [np.asarray(leaf) for leaf in leaves]  # as a checkpoint would
    again, resumed = structure.unflatten(map(jnp.asarray, stored))
    got, got_state = last(optimizer, STEPS, params=again, state=resumed, first=5)
    same((got, got_state), (params, state))

    first = start()
    opening = optimizer.init(first)
    carry = masked_params(opening, first), opening
    take = jax.jit(step(optimizer), donate_argnums=0)
    for n in range(STEPS):
        carry, _ = take(carry, jax.tree.map(lambda g, n=n: g[n], gradients(STEPS)))
    same(carry, (params, state))


OPTIMIZERS = {
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=4, momentum=0.9),
    "rprop": optax.rprop(0.1),
    "muon": optax.contrib.muon(0.1),
    "amsgrad": optax.amsgrad(0.1),
    "masked": optax.masked(optax.adam(0.1), {"a": True, "b": True, "bias": False}),
    "partition": optax.partition(
        {"x": optax.adam(0.1), "y": optax.sgd(0.1, momentum=0.9)},
        {"a": "x", "b": "y", "bias": "y"},
    ),
    "schedule_free": optax.contrib.schedule_free(optax.adam(0.1, b1=0.0), 0.1),
    "mechanic": optax.contrib.mechanize(optax.adam(0.1)),
    "multi_steps": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "apply_if_finite": optax.apply_if_finite(optax.adam(0.1), 3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_around_any_optimizer(name):
    """RigL, which both prunes and grows."""
    for n, (params, state) in enumerate(run(sparsify(OPTIMIZERS[name], METHODS["rigl"]), 9)):
        for leaf in ("a", "b"):
            outside = ~np.asarray(state.mask[leaf])
            assert not np.asarray(params[leaf])[outside].any(), n
            if name == "schedule_free":
                assert not np.asarray(state.inner_state.z[leaf])[outside].any()
            if name == "adafactor":
                momentum = next(node.ema for node in state.inner_state if hasattr(node, "ema"))
                assert not np.asarray(momentum[leaf])[outside].any()
    for leaf in ("a", "b"):  # weights go on moving after they were grown
        assert (np.asarray(params[leaf])[np.asarray(state.mask[leaf])] != 0).mean() > 0.8


def test_shared_names_belong_to_the_longest_path():
    params = {"w": jnp.ones((4, 4)), "deep": {"w": jnp.ones((4, 4))}}
    optimizer = sparsify(
        optax.sgd(0.1, momentum=0.9), magnitude_pruning(0.5), where={"w": True, "deep": False}
    )
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    assert (state.inner_state[0].trace["deep"]["w"] == 1).all()
    assert int((state.inner_state[0].trace["w"] == 1).sum()) == 8


def test_an_exact_budget_even_with_undefined_gradients():
    optimizer = sparsify(optax.sgd(0.1), METHODS["rigl"])
    params = start()
    state = optimizer.init(params)
    params = masked_params(state, params)
    grads = jax.tree.map(lambda w: jnp.full_like(w, jnp.nan), params)
    for _ in range(4):
        _, state = jax.jit(optimizer.update)(grads, state, params)
    assert sum(int(m.sum()) for m in jax.tree.leaves(state.mask)) == 70


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        (jnp.bfloat16, ("global normalised", "saliency", "rigl", "4x2")),
        (jnp.float16, ("global normalised",)),
    ],
    ids=["bfloat16", "float16"],
)
def test_narrow_weights(dtype, names):
    for name in names:
        params = start(dtype)
        optimizer = sparsify(optax.sgd(0.1), METHODS[name])
        state = optimizer.init(params)
        for n in range(STEPS):
            updates, state = jax.jit(optimizer.update)(start(jnp.float32, n), state, params)
            params = optax.apply_updates(params, updates)
        assert params["a"].dtype == dtype
        for leaf in ("a", "b"):
            assert not np.asarray(params[leaf] != 0)[~np.asarray(state.mask[leaf])].any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: magnitude_pruning(1.0), ValueError, r"sparsity must be a number in \[0, 1\); got"),
        (lambda: rigl(-0.1, 500), ValueError, r"sparsity must be a number in \[0, 1\); got -0.1"),
        (lambda: rigl(0.9, 500, drop_fraction=1.0), ValueError, r"drop_fraction .* in \(0, 1\); g"),
        (lambda: set_method(0.9, 500, drop_fraction=0), ValueError, r"drop_fraction .* in \(0, 1"),
        (lambda: adam_fisher_pruning(0.5, one_shot(0)), ValueError, "schedule must prune after up"),
        (lambda: magnitude_pruning(0.6, pattern="2:4"), ValueError, "must be 0.5 for pattern '2:4"),
        (lambda: magnitude_pruning(0.5, pattern="4:2"), ValueError, "pattern must be None .* '4:2"),
        (
            lambda: magnitude_pruning(0.5, distribution="erk"),
            TypeError,
            "distribution must be m",
        ),
        (lambda: magnitude_pruning(0.5, schedule=10), TypeError, "schedule must be made by"),
        (lambda: magnitude_pruning(0.5, one_shot), TypeError, "schedule .* call it: one_shot"),
        (lambda: magnitude_pruning(0.5, None, erdos_renyi), TypeError, "call it: erdos_renyi"),
        (lambda: global_magnitude(0.5, normalise=True), ValueError, "'rms' or 'l2'; got True"),
        (lambda: sparsify(optax.sgd(0.1), rigl), TypeError, "method must .* call it: rigl"),
        (lambda: random_pruning(0.5, key="a"), TypeError, "key must be a key of jax.random or an"),
        (lambda: sparsify(optax.sgd(0.1), 0.9), TypeError, "method must be made by"),
        (
            lambda: sparsify(optax.sgd(0.1), static_sparse(0.5), mask_dtype="int8"),
            ValueError,
            "mask_dtype must be 'bool' or 'packed'; got 'int8'",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("optimizer", "method", "message"),
    [
        (optax.flatten(optax.adam(0.1)), METHODS["magnitude"], "in trees like the parameters"),
        (optax.sgd(0.1), METHODS["fisher"], "second moments in a field nu"),
        (optax.sgd(0.1), static_sparse(0.9999), "at least one weight of each layer"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_start(optimizer, method, message):
    with pytest.raises(ValueError, match=message):
        sparsify(optimizer, method).init(start())


def test_lookahead_inside_is_refused_and_params_are_needed():
    optimizer = sparsify(optax.lookahead(optax.sgd(0.1), 5, 0.5), METHODS["magnitude"])
    with pytest.raises(ValueError, match="must not be optax.lookahead"):
        optimizer.init(optax.LookaheadParams.init_synced(start()))
    with pytest.raises(ValueError, match="params must be passed to update"):
        sparsify(optax.sgd(0.1), METHODS["magnitude"]).update(start(), None)


def test_a_run_resumes_from_a_checkpoint_to_the_same_bits(tmp_path):
    optimizer = sparsify(
        optax.adam(0.05), set_method(0.5, end=8, every=2, key=5), mask_dtype="packed"
    )
    data = {"x": np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)}

    def loss(params, batch, key):
        del key
        return ((batch["x"] @ params["a"] + params["bias"] - 1) ** 2).mean(), {}

    def trained(steps, **options):
        params = {name: start()[name] for name in ("a", "bias")}
        state = init_state(params, optimizer, jax.random.key(0))
        return fit(take, state, Batches(data, 8), steps=steps, **options)

    take = make_step(loss, optimizer)
    whole = trained(9)
    folder = tmp_path / "checkpoints"
    trained(5, checkpoints=Checkpoints(folder, every=5))
    resumed = trained(9, checkpoints=Checkpoints(folder, every=9))
    same((resumed.params, resumed.opt_state), (whole.params, whole.opt_state))


def test_n_m_is_refused_in_init_where_the_inputs_are_no_multiple_of_m():
    params = {"b": {"kernel": jnp.ones((6, 4))}}
    optimizer = sparsify(optax.sgd(0.1), magnitude_pruning(0.5, pattern="2:4"))
    with pytest.raises(ValueError, match=r"multiple of 4 inputs.*\['b'\]\['kernel'\].*\(6, 4\)"):
        optimizer.init(params)


def test_seeds_and_numbers_of_values_may_be_numpy_integers():
    params = {"kernel": jnp.arange(1.0, 65.0).reshape(8, 8)}
    masks = [
        sparsify(optax.sgd(0.1), rigl(0.5, 200, key=key)).init(params).mask
        for key in (1, np.int64(1))
    ]
    np.testing.assert_array_equal(masks[0]["kernel"], masks[1]["kernel"])
    l0_ball(3, values=np.int64(2)).init(params)


@pytest.mark.parametrize("shape", [(3, 4), (100, 10), (8, 8), (5,), (1, 9), (0, 8), ()])
def test_packed_masks_of_a_population_are_those_of_its_members(shape):
    method = static_sparse(0.5, all_together())
    params = {"a": jnp.ones((8, *shape)), "b": jnp.ones((8, 16))}
    found = []
    for dtype in ("bool", "packed"):
        optimizer = sparsify(
            optax.sgd(0.1), method, where=lambda path, leaf: True, mask_dtype=dtype
        )
        found.append(masked_params(jax.vmap(optimizer.init)(params), params))
    same(*found)
    whole = sparsify(optax.sgd(0.1), static_sparse(0.5), mask_dtype="packed")
    with pytest.raises(ValueError, match=r"mask must be that of a leaf of shape \(7, 3\), packed"):
        masked_params(whole.init({"kernel": jnp.ones((40, 3))}), {"kernel": jnp.ones((7, 3))})


@pytest.mark.parametrize("pattern", ["channels", "8x1"])
def test_chance_does_not_favour_large_items(pattern):
    """Half of all items stay, of those with many entries and of those with few."""
    params = {"large": jnp.ones((400, 60)), "small": jnp.ones((4, 60))}
    if pattern == "8x1":
        params = {"both": jnp.ones((10, 400))}  # blocks of 8 rows, and of the 2 that are left
    method = random_pruning(0.5, distribution=all_together(), pattern=pattern, key=3)
    optimizer = sparsify(optax.sgd(0.0), method, where=lambda path, leaf: True)
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    left = optax.apply_updates(params, updates)
    if pattern == "8x1":
        shares = [left["both"][row].mean() for row in (0, 9)]
    else:
        shares = [left[name].mean() for name in ("large", "small")]
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    assert abs(shares[0] - 0.5) < 0.12  # four standard deviations


SCORES = {
    "magnitude": (magnitude_pruning, lambda w, g: np.abs(w)),
    "saliency": (saliency_pruning, lambda w, g: np.abs(w * g)),
}
SIZES = {None: lambda q: 1, "rms": lambda q: np.sqrt((q**2).mean()), "l2": np.linalg.norm}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("normalise", SIZES)
def test_layers_that_are_ranked_together_against_sorting(score, normalise):
    """Two are ranked together, by scores divided by their size, and one by itself."""
    rng = np.random.default_rng(5)
    shapes = {"a": (40, 5), "b": (10, 6), "own": (8, 5)}
    params = {k: rng.normal(size=shape, scale=n + 1) for n, (k, shape) in enumerate(shapes.items())}
    grads = {k: rng.normal(size=shape) for k, shape in shapes.items()}
    make, of = SCORES[score]
    distribution = all_together(normalise, custom=[(lambda path, leaf: "own" in str(path), 0.25)])
    optimizer = sparsify(optax.sgd(0.1), make(0.9, distribution=distribution))
    as_float32 = lambda tree: jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), tree)  # noqa: E731
    state = optimizer.init(as_float32(params))
    _, state = jax.jit(optimizer.update)(as_float32(grads), state, as_float32(params))

    scores = {k: of(params[k], grads[k]).ravel() for k in shapes}
    divided = np.concatenate([scores[k] / SIZES[normalise](scores[k]) for k in "ab"])
    wanted = divided >= np.sort(divided)[-26]  # 10 % of 260
    found = np.concatenate([np.ravel(state.mask[k]) for k in "ab"])
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(
        np.ravel(state.mask["own"]), scores["own"] >= np.sort(scores["own"])[-30]
    )


def test_chance_is_not_divided_by_the_size_of_a_layer():
    params = start()
    masks = [
        sparsify(optax.sgd(0.1), static_sparse(0.9, all_together(scale), key=2)).init(params).mask
        for scale in (None, "l2")
    ]
    same(*masks)
    grads = jax.tree.map(jnp.zeros_like, params)
    masks = []
    for scale in (None, "rms"):
        optimizer = sparsify(optax.sgd(0.1), random_pruning(0.9, distribution=all_together(scale)))
        masks.append(optimizer.update(grads, optimizer.init(params), params)[1].mask)
    same(*masks)


def test_float16_is_ranked_down_to_its_smallest_numbers():
    weights = jnp.array([[1e-5], [5e-5], [2e-5], [4e-5]], jnp.float16)
    found = project_sparsity({"kernel": weights}, 0.5, pattern="2:4")["kernel"]
    np.testing.assert_array_equal(found[:, 0] != 0, [False, True, False, True])


def test_shared_statistics_of_a_large_layer_do_not_matter_to_a_small_one():
    params = {"embed": jnp.ones((256, 8)), "head": jnp.ones((4, 4))}
    optimizer = sparsify(
        optax.adafactor(0.1, min_dim_size_to_factor=4),
        magnitude_pruning(0.5),
        where={"embed": False, "head": True},
    )
    assert optimizer.init(params).mask["head"].all()


def test_gradients_that_lack_a_leaf_are_named():
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    optimizer = sparsify(optax.sgd(0.1), magnitude_pruning(0.5))
    with pytest.raises(ValueError, match="updates must have a leaf for each of params; it"):
        optimizer.update({"a": None, "b": params["b"]}, optimizer.init(params), params)


def test_fisher_pruning_waits_for_second_moments():
    optimizer = sparsify(optax.MultiSteps(optax.adam(0.1), 4), adam_fisher_pruning(0.5))
    with pytest.raises(ValueError, match="optimizer must not be optax.MultiSteps for adam_fisher"):
        optimizer.init({"kernel": jnp.ones((4, 4))})
