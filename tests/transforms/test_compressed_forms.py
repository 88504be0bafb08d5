import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax import compressed_forms, compressed_params, compression, learning_compression
from sparsejax.compression import LowRankArray, QuantizedArray, decode
from tests.reference import shard


def params():
    return {
        "a": {"kernel": jax.random.normal(jax.random.key(0), (12, 8)), "bias": jnp.ones(8)},
        "b": {"kernel": jax.random.normal(jax.random.key(1), (8, 12)), "bias": jnp.zeros(12)},
    }


def trained(optimizer, w):
    state = optimizer.init(w)
    for _ in range(3):
        grads = jax.tree.map(lambda x: 0.1 * x, w)
        updates, state = jax.jit(optimizer.update)(grads, state, w)
        w = optax.apply_updates(w, updates)
    return w, state


def named(name):
    return lambda path, leaf: path[0].key == name and path[1].key == "kernel"


def test_forms_stand_where_theta_does():
    c_step = compression.quantize(3)
    w, state = trained(optax.chain(learning_compression(c_step, 0.1, 2), optax.adam(0.1)), params())
    forms = compressed_forms(c_step, state, w)
    assert isinstance(forms["a"]["kernel"], QuantizedArray)
    assert forms["a"]["bias"] is w["a"]["bias"]
    jax.tree.map(np.testing.assert_array_equal, decode(forms), compressed_params(state, w))


def test_several_c_steps_in_a_chain():
    steps = [compression.quantize(2), compression.low_rank(2)]
    chain = optax.chain(
        *(
            learning_compression(step, 0.1, 2, where=named(name))
            for step, name in zip(steps, "ab", strict=True)
        ),
        optax.sgd(0.1),
    )
    w, state = trained(chain, params())
    forms = compressed_forms(steps, state, w)
    assert isinstance(forms["a"]["kernel"], QuantizedArray)
    assert isinstance(forms["b"]["kernel"], LowRankArray)
    for wrong in (steps[0], steps[:1], [*steps, steps[0]]):
        with pytest.raises(ValueError, match="in the order of the chain; got . for 2"):
            compressed_forms(wrong, state, w)


def test_weights_that_are_held_at_zero_are_zero():
    w = params()
    mask = jax.tree.map(lambda x: jnp.abs(x) > 0.5, w)
    for c_step in (compression.quantize(2), compression.low_rank(2), compression.l0_ball(20)):
        chain = optax.chain(
            learning_compression(c_step, 0.1, 2), optax.sgd(0.1), sparsejax.hold_zeros(mask)
        )
        state = chain.init(w)
        forms = compressed_forms(c_step, state, w)
        theta = compressed_params(state, w)
        assert not np.asarray(theta["a"]["kernel"])[~np.asarray(mask["a"]["kernel"])].any()
        jax.tree.map(np.testing.assert_array_equal, decode(forms), theta)


def test_a_c_step_of_the_user_leaves_arrays():
    c_step = compression.Compression(lambda w: (), lambda w, mu, state: (w, state))
    state = learning_compression(c_step, 0.1, 2).init(params())
    jax.tree.map(np.testing.assert_array_equal, compressed_forms(c_step, state, params()), params())


@pytest.mark.parametrize(
    "c_step",
    [
        compression.quantize(2, per_leaf=True),
        compression.additive([compression.low_rank(1), compression.quantize(2)]),
        compression.partition({0: compression.rank_selection(0.1)}, 0),
    ],
)
def test_flax_variables_hold_forms(c_step):
    model = nnx.Linear(8, 6, rngs=nnx.Rngs(0))
    transform = optax.chain(learning_compression(c_step, 0.1, 2), optax.sgd(0.1))
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    optimizer.update(model, nnx.grad(lambda model: (model(jnp.ones((2, 8))) ** 2).mean())(model))
    w = nnx.state(model, nnx.Param)
    forms = compressed_forms(c_step, optimizer.opt_state, w)
    theta = compressed_params(optimizer.opt_state, w)
    assert isinstance(forms, nnx.State)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), decode(forms), theta)
    plain = compression.decode(forms)
    graph = nnx.graphdef(model)
    nnx.merge(graph, plain)(jnp.ones((2, 8)))


def test_sharded_weights_have_sharded_codes():
    w = {"kernel": shard(jax.random.normal(jax.random.key(0), (16, 8)), "a", "b")}
    c_step = compression.quantize(4, exact=False)
    state = learning_compression(c_step, 0.1, 2).init(w)
    form = compressed_forms(c_step, state, w)["kernel"]
    theta = compressed_params(state, w)["kernel"]
    np.testing.assert_array_equal(form.dense(), theta)
    assert form.codes.sharding.is_equivalent_to(theta.sharding, 2)


def test_needs_a_learning_compression():
    with pytest.raises(ValueError, match="must hold a state of sparsejax.learning_compression"):
        compressed_forms(compression.quantize(2), optax.sgd(0.1).init(params()), params())


@pytest.mark.parametrize(
    "c_step",
    [
        compression.low_rank(2),
        compression.additive([compression.low_rank(2), compression.l0_ball(10)]),
    ],
)
def test_what_is_held_at_zero_is_zero_in_every_form(c_step):
    mask = {"kernel": jnp.ones((80, 7), bool).at[:40].set(False)}
    w = {"kernel": jax.random.normal(jax.random.key(0), (80, 7)) * mask["kernel"]}
    optimizer = optax.chain(
        learning_compression(c_step, 1e-2, 5), optax.sgd(0.1), sparsejax.hold_zeros(mask)
    )
    form = compressed_forms(c_step, optimizer.init(w), w)["kernel"]
    assert not np.any(np.asarray(decode(form))[:40])
    if not isinstance(c_step.init(w), sparsejax.compression.AdditiveState):
        assert isinstance(form, LowRankArray)  # still two factors


def test_a_c_step_that_was_not_called_is_said_to_be_so():
    with pytest.raises(TypeError, match=r"compression must be a Compression; .*binary\(\.\.\.\)"):
        learning_compression(compression.binary, 0.1, 5)
    with pytest.raises(TypeError, match=r"compressions\['a'\] must be a Compression"):
        compression.partition({"a": compression.binary}, lambda path, leaf: "a")
    with pytest.raises(TypeError, match="compressions must be a sequence of C steps"):
        compression.additive(compression.l0_ball(3))


def test_labels_may_be_tuples():
    c_step = compression.partition({("x", 1): compression.binary()}, lambda path, leaf: ("x", 1))
    w = {"kernel": jnp.array([[0.5, -2.0]])}
    np.testing.assert_array_equal(c_step.project(w, 1.0, c_step.init(w))[0]["kernel"], [[1, -1]])


@pytest.mark.parametrize(
    "other", [compression.quantize(4), compression.low_rank(3), compression.binary(scaled=True)]
)
def test_the_state_of_another_c_step_is_refused(other):
    w = params()
    state = learning_compression(compression.quantize(2), 0.1, 5).init(w)
    with pytest.raises(ValueError, match="compression must be the C step that made the state"):
        compressed_forms(other, state, w)
