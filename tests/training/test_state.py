"""`init_state` and `make_step`: donation, keys and the extra arguments of optax's protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import sparsejax
from sparsejax import compression
from sparsejax.training import Batches, fit, init_state, make_step

X = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
DATA = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5], np.float32)}
BATCH = jax.tree.map(jnp.asarray, DATA)


def loss(params, batch, key):
    noise = 0.01 * jax.random.normal(key, batch["y"].shape)
    return ((batch["x"] @ params["w"] + params["b"] - batch["y"] + noise) ** 2).mean(), {}


def start():
    return {"w": jnp.zeros(3), "b": jnp.zeros(())}


def kernels(path, leaf):
    return leaf.ndim == 1


OPTIMIZERS = {
    "plateau": lambda: optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
    "lbfgs": optax.lbfgs,
    "backtracking": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15, store_grad=True)
    ),
    "zoom": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)),
    "polyak": lambda: optax.polyak_sgd(1.0),
    "momo": lambda: optax.contrib.momo(0.1),
    "schedule_free": lambda: optax.contrib.schedule_free_sgd(0.1),
    "sam": lambda: optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01), sync_period=2),
    "lookahead": lambda: optax.chain(optax.adam(0.1), optax.ema(0.5)),
    "masked": lambda: optax.masked(optax.sgd(0.1, momentum=0.9), {"w": True, "b": True}),
    "learning_compression": lambda: optax.chain(
        sparsejax.learning_compression(compression.l0_ball(2), 0.1, 5, where=kernels),
        sparsejax.hold_zeros({"w": jnp.array([True, True, False]), "b": jnp.array(True)}),
        optax.sgd(0.1),
        optax.contrib.reduce_on_plateau(),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_trains_jitted_donated_and_scanned(name):
    optimizer = OPTIMIZERS[name]()
    step = make_step(loss, optimizer)
    params, key = start(), jax.random.key(0)
    before = float(loss(params, BATCH, key)[0])
    state = init_state(params, optimizer, key)
    for _ in range(2):
        state, _ = jax.jit(step, donate_argnums=0)(state, BATCH)
    state = fit(step, state, Batches(DATA, 32), steps=12, steps_per_call=10)
    assert int(state.step) == 12
    assert float(loss(state.params, BATCH, key)[0]) < before
    # What the caller gave is still there, and can start another run.
    jax.block_until_ready((params, key))
    init_state(params, optimizer, key)


def test_the_extra_arguments_are_those_of_this_batch_and_key():
    seen = {}

    def update(updates, state, params, *, value, grad, value_fn, **extra):
        at = jax.tree.map(lambda p: p + 0.5, params)
        seen.update(value=value, grad=grad, here=value_fn(params), there=value_fn(at), at=at)
        return updates, state

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    state = init_state(start(), spy, jax.random.key(3))._replace(step=jnp.asarray(7, jnp.int32))
    _, metrics = make_step(loss, spy)(state, BATCH)
    key = jax.random.fold_in(jax.random.key(3), 7)
    assert float(seen["value"]) == float(seen["here"]) == float(metrics["loss"])
    assert float(seen["there"]) == float(loss(seen["at"], BATCH, key)[0])
    expected = jax.grad(lambda p: loss(p, BATCH, key)[0])(start())
    jax.tree.map(np.testing.assert_array_equal, seen["grad"], expected)


def test_a_line_search_decides_alike_on_every_device():
    """Under pmap it sees the mean loss and the mean gradient of all devices."""

    def noiseless(params, batch, key):
        return ((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2).mean(), {}

    for name in ("lbfgs", "backtracking", "zoom"):
        optimizer = OPTIMIZERS[name]()
        state = init_state(start(), optimizer, jax.random.key(0))
        whole = jax.jit(make_step(noiseless, optimizer))
        mapped = jax.pmap(make_step(noiseless, optimizer, axis_name="i"), axis_name="i")
        copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *leaf.shape)), state)
        parts = jax.tree.map(lambda leaf: leaf.reshape(4, 8, *leaf.shape[1:]), BATCH)
        for _ in range(3):
            state, _ = whole(state, BATCH)
            copies, _ = mapped(copies, parts)
        for leaf, expected in zip(
            jax.tree.leaves(copies.params), jax.tree.leaves(state.params), strict=True
        ):
            np.testing.assert_allclose(leaf, np.stack([expected] * 4), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("on_mesh", [False, True])
def test_a_fresh_state_shares_no_buffer(on_mesh):
    """Not even where an optimizer keeps the parameters themselves, twice."""
    keeps = optax.GradientTransformation(
        lambda params: (params, params, DATA["x"]), lambda updates, state, params: (updates, state)
    )
    params, key = start(), jax.random.key(0)
    mesh = jax.make_mesh((8,), ("data",)) if on_mesh else None
    if on_mesh:
        params = init_state(params, optax.identity(), key, mesh).params
    state = init_state(params, keeps, key, mesh, None if mesh is None else P())
    leaves = jax.tree.leaves((state, params, key))
    bits = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in leaves
    ]
    pointers = [leaf.addressable_shards[0].data.unsafe_buffer_pointer() for leaf in bits]
    assert len(set(pointers)) == len(pointers)
    jax.jit(lambda state: jax.tree.map(jnp.copy, state), donate_argnums=0)(state)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, key)))


def test_raw_keys_work_and_anything_else_is_refused():
    optimizer = optax.sgd(0.1)
    typed = init_state(start(), optimizer, jax.random.key(5))
    raw = init_state(start(), optimizer, jax.random.PRNGKey(5))
    step, batches = make_step(loss, optimizer), Batches(DATA, 8)
    finals = [fit(step, state, batches, steps=5) for state in (typed, raw)]
    jax.tree.map(np.testing.assert_array_equal, finals[0].params, finals[1].params)
    for bad in (0, None, jnp.zeros(2), np.arange(2)):
        with pytest.raises(TypeError, match="key must be a PRNG key, such as jax.random.key"):
            init_state(start(), optimizer, bad)


def test_leaves_that_are_no_arrays_or_have_no_gradient_are_named():
    optimizer, key = optax.adam(0.1), jax.random.key(0)
    module = start() | {"activation": jax.nn.relu}
    for arguments in ({"params": module}, {"params": start(), "statistics": module}):
        with pytest.raises(TypeError, match=r"activation is .*equinox\.filter\(model"):
            init_state(optimizer=optimizer, key=key, **arguments)
    state = init_state(start() | {"table": jnp.arange(3)}, optimizer, key)
    with pytest.raises(TypeError, match="table is int32.*statistics of init_state"):
        make_step(loss, optimizer)(state, BATCH)


def test_a_teacher_among_the_statistics_is_no_constant_of_the_program():
    teacher = {"w": jnp.asarray(np.random.default_rng(1).normal(size=3), jnp.float32), "b": 1.0}

    def distil(params, teacher, batch, key):
        wanted = batch["x"] @ teacher["w"] + teacher["b"]
        return loss(params, {"x": batch["x"], "y": wanted}, key)[0], ({}, teacher)

    step = make_step(distil, optax.adam(0.1))
    state = init_state(start(), optax.adam(0.1), jax.random.key(0), statistics=teacher)
    assert not jax.make_jaxpr(step)(state, BATCH).consts
    state = fit(step, state, Batches(DATA, 32), steps=200)
    np.testing.assert_array_equal(state.statistics["w"], teacher["w"])
    np.testing.assert_allclose(state.params["w"], teacher["w"], atol=0.02)


def test_bad_arguments_of_a_step_are_named():
    with pytest.raises(TypeError, match="optimizer must be an optax transformation.*got <function"):
        make_step(optax.sgd(0.1), loss)
    with pytest.raises(TypeError, match=r"optimizer must be .*; call it: sgd\(\.\.\.\)"):
        make_step(loss, optax.sgd)
    state = init_state(start(), optax.sgd(0.1), jax.random.key(0), statistics=jnp.zeros(3))
    step = make_step(lambda params, statistics, *rest: loss(params, *rest), optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"loss must return \(loss, \(metrics, statistics\)\)"):
        step(state, BATCH)
