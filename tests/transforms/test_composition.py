"""The transformations under the wrappers of optax and Flax, donated, and pruned on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax import compression
from sparsejax.compression import l0_ball
from sparsejax.constraints import (
    anneal_bound,
    current_multipliers,
    descent_ascent,
    dual_ascent,
    nupi,
)
from sparsejax.gates import clip_params
from sparsejax.projections import top_k_mask
from sparsejax.training import init_state
from sparsejax.transforms import (
    masked_params,
    prune_state,
    pruning_step,
    reset_decay_schedule,
    set_mask,
)

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (16, 8))
FREE = optax.MaskedNode()


def start():
    """New arrays at each call, since some tests donate them."""
    return {"kernel": jax.random.normal(KEY, (8, 6)), "bias": jnp.ones(6)}


def loss(params):
    return ((X @ params["kernel"] + params["bias"] - 1) ** 2).mean()


def nonzeros(tree):
    return int((tree["kernel"] != 0).sum())


# Inner optimizers that keep more than moments. Each is followed, or wrapped, as the docstring says.
def _followed(optimizer):
    return lambda mask: optax.chain(optimizer, sparsejax.hold_zeros(mask))


OPTIMIZERS = {
    "adamw": _followed(optax.adamw(0.05, weight_decay=0.1)),
    "nesterov": _followed(optax.sgd(0.05, momentum=0.9, nesterov=True)),
    "plateau": _followed(optax.chain(optax.adam(0.05), optax.contrib.reduce_on_plateau())),
    "flatten": _followed(optax.flatten(optax.adam(0.05))),
    "muon": _followed(optax.contrib.muon(0.05)),
    "prodigy": _followed(optax.contrib.prodigy(0.05)),
    "mechanic": _followed(optax.contrib.mechanize(optax.adam(0.05))),
    "sam": _followed(optax.contrib.sam(optax.sgd(0.05), optax.sgd(0.05), sync_period=2)),
    "multi_steps": lambda mask: optax.MultiSteps(
        optax.chain(optax.adam(0.05), sparsejax.hold_zeros(mask)), 2
    ).gradient_transformation(),
    "apply_if_finite": lambda mask: optax.apply_if_finite(
        optax.chain(optax.adam(0.05), sparsejax.hold_zeros(mask)), 3
    ),
    "masked": lambda mask: optax.masked(
        optax.chain(optax.adam(0.05), sparsejax.hold_zeros(mask)), {"kernel": True, "bias": False}
    ),
    "schedule_free": lambda mask: optax.contrib.schedule_free(
        optax.chain(optax.adam(0.05, b1=0.0), sparsejax.hold_zeros(mask)), 0.05
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_are_held_while_pruning_goes_on(name):
    pruner = sparsejax.prune_when_accurate(0.3, 0.0)
    params = start()
    params, pruning = jax.jit(pruner.update)(pruner.init(params), params, 1.0)
    optimizer = optax.with_extra_args_support(OPTIMIZERS[name](pruning.mask))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        extra = {} if name == "sam" else {"value": value}  # which takes none
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    update = jax.jit(pruner.update)
    for n in range(8):
        params, state = step(params, state)
        left = int(pruning.remaining)
        assert nonzeros(params) == left, n
        if name == "schedule_free":  # of which two numbers are evaluated, up to rounding of theirs
            average = optax.contrib.schedule_free_eval_params(state, params)
            assert nonzeros(average) == left
        assert nonzeros(masked_params(state, start())) == left  # any other average
        if n in (2, 5):
            params, pruning = update(pruning, params, 1.0)
            state = set_mask(state, pruning.mask)
    assert int(pruning.prunings) == 3


def test_lookahead_is_held_from_behind():
    pruner = sparsejax.prune_when_accurate(0.3, 0.0)
    pruning = pruner.init(start())
    optimizer = optax.chain(
        optax.lookahead(optax.adam(0.05), 3, 0.5), sparsejax.hold_zeros(pruning.mask)
    )
    params = optax.LookaheadParams.init_synced(start())
    state = optimizer.init(params)
    for n in range(9):
        updates, state = jax.jit(optimizer.update)(jax.grad(loss)(params.fast), state, params)
        params = optax.apply_updates(params, updates)
        assert nonzeros(params.fast) == nonzeros(params.slow) == int(pruning.remaining)
        if n % 4 == 1:
            fast, pruning = pruner.update(pruning, params.fast, 1.0)
            params, state = params._replace(fast=fast), set_mask(state, pruning.mask)


def _wrong_orders():
    mask = {"kernel": jnp.ones((8, 6), bool), "bias": FREE}
    hold, adam = sparsejax.hold_zeros(mask), optax.adam(0.1)
    free = lambda base: optax.contrib.schedule_free(base, 0.1)  # noqa: E731
    yield optax.chain(free(adam), hold), "must stand inside optax.contrib.schedule_free"
    yield optax.lookahead(optax.chain(adam, hold), 5, 0.5), "must stand behind optax.lookahead"
    yield optax.chain(hold, adam), "must be the last .* one with ScaleByAdamState"
    yield optax.contrib.mechanize(optax.chain(adam, hold)), "must stand behind the mechanic"
    sam = optax.contrib.sam(optax.chain(optax.sgd(0.1), hold), optax.sgd(0.1))
    yield sam, "must stand behind the sam wrapper"
    plateau = optax.contrib.reduce_on_plateau()
    yield optax.chain(optax.chain(adam, hold), plateau), "must be the last"


@pytest.mark.parametrize(("optimizer", "message"), list(_wrong_orders()))
def test_an_order_that_cannot_hold_is_refused(optimizer, message):
    params = start()
    if "lookahead" in message:
        params = optax.LookaheadParams.init_synced(params)
    with pytest.raises(ValueError, match=message):
        set_mask(optimizer.init(params), top_k_mask(start(), 5))


@pytest.mark.parametrize("gradient", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("parameter", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_held_weights_are_zero_after_one_step_in_any_dtypes(parameter, gradient):
    w = jax.random.normal(KEY, (20, 10)).astype(parameter)
    mask = top_k_mask(w, 50)
    optimizer = optax.chain(optax.sgd(0.1), sparsejax.hold_zeros(mask))
    state = optimizer.init(w)
    for _ in range(3):
        updates, state = optimizer.update(w.astype(gradient), state, w)
        w = optax.apply_updates(w, updates)
        np.testing.assert_array_equal(w != 0, mask)


def two_leaves():
    return {name: jax.random.normal(jax.random.key(n), (6, 5)) for n, name in enumerate("ab")}


def test_two_holds_keep_their_own_leaves():
    params = two_leaves()
    pruner = sparsejax.prune_when_accurate(0.2, 0.0, where={"a": True, "b": False})
    pruning = pruner.init(params)
    fixed = top_k_mask(params, 10, where={"a": False, "b": True})
    holds = [sparsejax.hold_zeros(pruning.mask), sparsejax.hold_zeros(fixed)]
    for order in (holds, holds[::-1]):
        optimizer = optax.chain(optax.adam(0.1), *order)
        p, state, now = params, optimizer.init(params), pruning
        for _ in range(3):
            updates, state = optimizer.update(jax.tree.map(jnp.ones_like, p), state, p)
            p = optax.apply_updates(p, updates)
            assert int((p["b"] != 0).sum()) == 10
            assert int((p["a"] != 0).sum()) == int(now.remaining)
            p, now = pruner.update(now, p, 1.0)
            state = set_mask(state, now.mask)
    with pytest.raises(ValueError, match=r"for \['a'\], \['b'\], and the hold_zeros .*: \['a'\]"):
        set_mask(optax.chain(*holds).init(params), top_k_mask(params, 5))
    twice = optax.chain(holds[0], sparsejax.hold_zeros(pruning.mask))
    with pytest.raises(ValueError, match=r"2 in opt_state have masks for \['a'\]"):
        set_mask(twice.init(params), pruning.mask)


C_STEPS = {
    "l0_ball": l0_ball(20),
    "l0_ball_l2": compression.l0_ball_l2(20, 1e-3),
    "l1_penalty": compression.l1_penalty(1e-4),
    "units": compression.units(3),
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "multipliers"), [("l0_ball", False), *((name, True) for name in C_STEPS)]
)
def test_a_pruned_weight_never_returns_beside_learning_compression(name, multipliers):
    """Whether it is pruned just before, just after or between C steps, in w and in theta."""
    lc = sparsejax.learning_compression(C_STEPS[name], 0.05, 3, multipliers=multipliers)
    pruner = sparsejax.prune_when_accurate(0.25, 0.0)
    params = start()
    pruning = pruner.init(params)
    optimizer = optax.chain(lc, optax.adam(0.05), sparsejax.hold_zeros(pruning.mask))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for n in range(12):
        params, state = step(params, state)
        gone = ~np.asarray(pruning.mask["kernel"])
        for kernel in (params["kernel"], sparsejax.compressed_params(state, params)["kernel"]):
            assert not np.asarray(kernel)[gone].any(), n
        if n in (1, 2, 6, 9):  # before and after the C step of update 3, and between two
            params, pruning = pruner.update(pruning, params, 1.0)
            state = set_mask(state, pruning.mask)
            theta = sparsejax.compressed_params(state, params)["kernel"]
            assert not np.asarray(theta)[~np.asarray(pruning.mask["kernel"])].any()
    if name == "l0_ball":  # the budget is not spent on what cannot come back
        assert nonzeros(sparsejax.compressed_params(state, params)) == min(
            20, int(pruning.remaining)
        )


def test_a_mask_from_the_start_is_kept_in_theta_and_in_w():
    """Also before the first C step, when theta was formed from weights not yet at zero."""
    params = start()
    mask = top_k_mask(params, 12)
    optimizer = optax.chain(
        sparsejax.learning_compression(l0_ball(30), 0.1, 2),
        optax.adam(0.05),
        sparsejax.hold_zeros(mask),
    )
    state = optimizer.init(params)
    for _ in range(7):
        theta = sparsejax.compressed_params(state, params)
        assert not np.asarray(theta["kernel"])[~np.asarray(mask["kernel"])].any()
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_array_equal(params["kernel"] != 0, mask["kernel"])


# What is injected, its first value and another one; the first must behave as if built with it.
MU = optax.exponential_decay(0.1, 1, 1.2)
INJECTED = {
    "l0_ball": (lambda v: sparsejax.learning_compression(l0_ball(v), MU, 2), 30, 8),
    "l0_ball_l2": (
        lambda v: sparsejax.learning_compression(compression.l0_ball_l2(9, v), MU, 2), 0.1, 0.9,
    ),
    "l1_ball": (
        lambda v: sparsejax.learning_compression(compression.l1_ball(v), MU, 2), 9.0, 2.0,
    ),
    "l0_penalty": (
        lambda v: sparsejax.learning_compression(compression.l0_penalty(v), MU, 2), 1e-3, 0.1,
    ),
    "l1_penalty": (
        lambda v: sparsejax.learning_compression(compression.l1_penalty(v), MU, 2), 1e-3, 0.1,
    ),
    "n_m": (lambda v: sparsejax.learning_compression(compression.n_m(v, 4), MU, 2), 3, 1),
    "units": (lambda v: sparsejax.learning_compression(compression.units(v), MU, 2), 5, 2),
    "blocks": (
        lambda v: sparsejax.learning_compression(compression.blocks(v, (2, 2)), MU, 2), 9, 3,
    ),
    "mu": (
        lambda v: sparsejax.learning_compression(l0_ball(9), lambda n: v * 1.1**n, 2), 0.1, 0.5,
    ),
    "steps_per_l_step": (lambda v: sparsejax.learning_compression(l0_ball(9), MU, v), 2, 3),
    "decay": (sparsejax.gated_weight_decay, 1e-2, 0.5),
    "bounds": (lambda v: clip_params(-v, v), 2.0, 0.1),
    "hold_zeros": (sparsejax.hold_zeros, None, None),
    "dual_ascent": (dual_ascent, 0.1, 0.9),
    "nupi": (lambda v: nupi(ki=v, kp=v), 0.1, 0.9),
    "anneal_bound": (anneal_bound, 0.1, 0.9),
}  # fmt: skip


def run_injected(optimizer, state, steps, params):
    """The parameters' trajectory on a fixed sequence of gradients."""
    found = []
    for n in range(steps):
        updates, state = optimizer.update(jnp.sin(params + n), state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: 0.1 * u, updates))
        found.append(params)
    return np.stack(found), state


@pytest.mark.parametrize("name", INJECTED)
def test_injected_hyperparameters_are_obeyed(name):
    make, first, second = INJECTED[name]
    w = jnp.abs(jax.random.normal(KEY, (8, 6)))
    if name == "hold_zeros":
        first, second = top_k_mask(w, 20), top_k_mask(w, 3)
    named = lambda value: make(value)  # noqa: E731  inject_hyperparams reads the signature
    optimizer = optax.inject_hyperparams(named)(value=first)
    optimizer = optimizer._replace(update=jax.jit(optimizer.update))
    plain = make(first)
    plain = plain._replace(update=jax.jit(plain.update))
    got, state = run_injected(optimizer, optimizer.init(w), 5, w)
    expected, _ = run_injected(plain, plain.init(w), 5, w)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    if name == "hold_zeros":
        return  # its mask is state: set_mask replaces it
    state.hyperparams["value"] = state.hyperparams["value"] * 0 + second  # of the same type
    other, changed = run_injected(optimizer, state, 5, w)
    same, _ = run_injected(plain, plain.init(w), 5, w)
    assert not np.allclose(other, same, atol=1e-4)
    assert optimizer.update._cache_size() == 1  # nothing was compiled anew
    if name == "l0_ball":
        assert int((sparsejax.compressed_params(changed, w) != 0).sum()) == second


def test_what_inject_hyperparams_takes_for_a_schedule_is_refused_or_works():
    w = jnp.ones((4, 4))
    injected = optax.inject_hyperparams(sparsejax.learning_compression)
    with pytest.raises(TypeError, match=r"mu_schedule must be .* static_args"):
        injected(l0_ball(3), MU, 2).init(w)
    static = optax.inject_hyperparams(sparsejax.learning_compression, static_args="mu_schedule")
    state = static(l0_ball(3), MU, 2).init(w)
    for _ in range(4):
        _, state = static(l0_ball(3), MU, 2).update(w, state, w)
    np.testing.assert_allclose(state.inner_state.mu, 0.1 * 1.2**2)  # two C steps, not four updates
    decay = optax.inject_hyperparams(sparsejax.gated_weight_decay)
    updates, _ = decay(decay=1e-3).update(w, decay(decay=1e-3).init(w), w)
    np.testing.assert_allclose(updates, 1 + 1e-3)
    with pytest.raises(TypeError, match=r"coefficient must be a function .*static_args"):
        decay(decay=1e-3, coefficient=jnp.ones_like).init(w)


def test_a_mu_schedule_written_per_update_is_noticed():
    with pytest.warns(UserWarning, match="it seems to be written for updates"):
        sparsejax.learning_compression(l0_ball(3), optax.exponential_decay(0.1, 10**5, 1.5), 1000)
    for mu in (0.1, MU, optax.constant_schedule(0.1)):  # these say nothing
        sparsejax.learning_compression(l0_ball(3), mu, 1000)


def nnx_optimizer(tx):
    model = nnx.Linear(8, 6, rngs=nnx.Rngs(0))
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


def nnx_step(model, optimizer, **extra):
    grads = nnx.grad(lambda model: (model(X) ** 2).mean())(model)
    optimizer.update(model, grads, **extra)


def test_nnx_optimizer_holds_zeros_and_compresses():
    mask = top_k_mask(nnx.state(nnx.Linear(8, 6, rngs=nnx.Rngs(0)), nnx.Param), 30)
    model, optimizer = nnx_optimizer(
        optax.chain(
            sparsejax.learning_compression(l0_ball(12), 1e-2, 2),
            optax.adam(1e-2),
            sparsejax.hold_zeros(mask),
        )
    )
    step = nnx.jit(nnx_step)
    for kept in (30, 20, 10):
        for _ in range(2):
            step(model, optimizer)
        assert int((model.kernel[...] != 0).sum()) == kept
        params = nnx.state(model, nnx.Param)
        sparse = sparsejax.compressed_params(optimizer.opt_state, params)
        assert jax.tree.structure(sparse) == jax.tree.structure(params)
        assert int((sparse["kernel"][...] != 0).sum()) == min(12, kept)
        np.testing.assert_array_equal(sparse["bias"][...], model.bias[...])
        structure = jax.tree.structure(optimizer.opt_state)
        smaller = top_k_mask(params, kept - 10, mask)
        optimizer.opt_state = set_mask(optimizer.opt_state, smaller)
        assert jax.tree.structure(optimizer.opt_state) == structure
        nnx.update(model, masked_params(optimizer.opt_state, params))
        mask = smaller


def test_nnx_optimizer_restarts_decay_and_keeps_multipliers():
    model, optimizer = nnx_optimizer(
        optax.chain(sparsejax.gated_weight_decay(optax.linear_schedule(1, 0, 5)), optax.sgd(1e-2))
    )
    for _ in range(3):
        nnx_step(model, optimizer)
    assert int(optimizer.opt_state[0].step[...]) == 3
    optimizer.opt_state = reset_decay_schedule(optimizer.opt_state)
    assert int(optimizer.opt_state[0].step[...]) == 0
    nnx_step(model, optimizer)
    model, optimizer = nnx_optimizer(descent_ascent(optax.adam(1e-2), dual_ascent(0.5)))
    nnx_step(model, optimizer, violation=jnp.asarray(0.5))
    multiplier = current_multipliers(optimizer.opt_state)
    assert isinstance(multiplier, jax.Array)
    np.testing.assert_allclose(multiplier, 0.25)


def adapters():
    return {
        "base": {"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(4)},
        "lora": {"a": jnp.ones((20, 4)), "c": jnp.ones((4, 30))},
    }


@pytest.mark.parametrize("wrap", ["masked", "partition"])
def test_prefix_masks_and_labels(wrap):
    held = {"base": FREE, "lora": {"a": jnp.ones((20, 4), bool).at[0].set(False), "c": FREE}}
    train = optax.chain(
        sparsejax.learning_compression(l0_ball(40), 1e-2, 2),
        optax.adam(1e-2),
        sparsejax.hold_zeros(held),
    )
    if wrap == "masked":
        optimizer = optax.masked(train, {"base": False, "lora": True})
    else:
        labels = {"base": "frozen", "lora": "trained"}
        optimizer = optax.partition({"frozen": optax.set_to_zero(), "trained": train}, labels)
    params = adapters()
    state = optimizer.init(params)
    for _ in range(4):
        updates, state = jax.jit(optimizer.update)(params, state, params)
        params = params | {"lora": optax.apply_updates(params["lora"], updates["lora"])}
    sparse = sparsejax.compressed_params(state, params)
    jax.tree.map(np.testing.assert_array_equal, sparse["base"], params["base"])
    assert sum(int((leaf != 0).sum()) for leaf in sparse["lora"].values()) <= 40
    assert not params["lora"]["a"][0].any()
    fewer = held | {"lora": held["lora"] | {"a": held["lora"]["a"].at[1].set(False)}}
    params = masked_params(set_mask(state, fewer), params)
    assert not params["lora"]["a"][:2].any()


def test_two_compressions_of_one_leaf_are_refused():
    twice = optax.chain(
        sparsejax.learning_compression(l0_ball(4), 0.1, 2),
        sparsejax.learning_compression(compression.l1_ball(1.0), 0.1, 2),
    )
    with pytest.raises(ValueError, match=r"it has two for \['kernel'\]"):
        sparsejax.compressed_params(twice.init(start()), start())
    with pytest.raises(ValueError, match=r"it has no leaf \['kernel'\]"):
        sparsejax.compressed_params(
            sparsejax.learning_compression(l0_ball(4), 0.1, 2).init(start()), {"bias": jnp.ones(3)}
        )


def test_tied_weights_are_refused_where_training_would_untie_them():
    w = jax.random.normal(KEY, (6, 5))
    tied = {"embedding": w, "head": {"kernel": w}}
    message = r"one array at \['embedding'\] and \['head'\]\['kernel'\]"
    with pytest.raises(ValueError, match=message):
        sparsejax.learning_compression(l0_ball(4), 0.1, 2).init(tied)
    with pytest.raises(ValueError, match=message):
        sparsejax.prune_when_accurate(0.2, 0.0).init(tied)


MASK = top_k_mask(start(), 12)
CONSTANT_MU = jnp.asarray(0.1)  # an array of the caller's, which no state may keep
DONATED = {
    "learning_compression": lambda: sparsejax.learning_compression(
        l0_ball(9), lambda n: CONSTANT_MU, 2
    ),
    "identity C step": lambda: sparsejax.learning_compression(
        compression.Compression(lambda w: w, lambda w, mu, state: (w, state)), 0.1, 2
    ),
    "l0_ball_l2": lambda: sparsejax.learning_compression(compression.l0_ball_l2(9, 0.1), 0.1, 2),
    "hold_zeros": lambda: sparsejax.hold_zeros(MASK),
    "gated_weight_decay": lambda: sparsejax.gated_weight_decay(1e-3),
    "dual": lambda: descent_ascent(optax.sgd(0.1), optax.chain(anneal_bound(0.1), nupi(0.1, 1.0))),
}


@pytest.mark.parametrize("name", DONATED)
def test_states_can_be_donated_again_and_again(name):
    """No state holds a buffer twice, or one of the parameters, of its arguments or of a closure."""
    optimizer = optax.with_extra_args_support(DONATED[name]())

    def step(params, state, mask):
        updates, state = optimizer.update(
            jax.grad(loss)(params), state, params, violation=jnp.asarray(0.1)
        )
        if name == "hold_zeros":
            state = set_mask(state, mask)
        return optax.apply_updates(params, updates), state

    for run in (jax.jit(step, donate_argnums=(0, 1)), step):
        params = start()
        state = optimizer.init(params)
        for _ in range(3):
            params, state = run(params, state, MASK)
            params, state = jax.jit(step, donate_argnums=(0, 1))(params, state, MASK)
        assert jax.tree.leaves((params, MASK, CONSTANT_MU))[0] is not None
        jax.block_until_ready((params, state, MASK, CONSTANT_MU))


def test_pruning_states_can_be_donated():
    pruner = sparsejax.prune_when_accurate(0.2, 0.0)
    optimizer = optax.chain(
        sparsejax.gated_weight_decay(1e-3), optax.adam(1e-2), sparsejax.hold_zeros(MASK)
    )

    def step(state, _):
        updates, opt_state = optimizer.update(
            jax.grad(loss)(state.params), state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state), {}

    params = start()
    state = init_state(params, optimizer, jax.random.key(0))._replace(pruning=pruner.init(params))
    donating = jax.jit(
        pruning_step(step, pruner, lambda params: jnp.asarray(1.0), 2), donate_argnums=0
    )
    for _ in range(5):
        state, _ = donating(state, None)
    state = jax.jit(lambda s: prune_state(s, pruner, 1.0), donate_argnums=0)(state)
    state = prune_state(state, pruner, 1.0)  # outside of jit it must not alias either
    state, _ = donating(state, None)
    assert int(state.pruning.prunings) == 2 + 2 + 1
    jax.block_until_ready((state, MASK))
