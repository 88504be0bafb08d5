import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.projections import project_k_means, project_n_m, project_ternary
from sparsejax.transforms import (
    erdos_renyi,
    polynomial,
    project_sparsity,
    straight_through,
    straight_through_decay,
)

RNG = np.random.default_rng(0)
PARAMS = {
    "kernel": jnp.asarray(RNG.normal(size=(16, 8)), jnp.float32),
    "bias": jnp.asarray(RNG.normal(size=8), jnp.float32),
}
X = jnp.asarray(RNG.normal(size=(32, 16)), jnp.float32)
PROJECTIONS = {
    "2:4": lambda params: project_n_m(params, 2, 4),
    "k-means": lambda params: project_k_means(params, 4),
    "ternary": lambda params: project_ternary(params, scaled=True),
    "sparsity": lambda params: project_sparsity(params, 0.75, erdos_renyi()),
}


def loss(params):
    return ((jnp.tanh(X @ params["kernel"] + params["bias"]) - 1) ** 2).mean()


@pytest.mark.long
@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("jit", [False, True])
def test_forward_with_the_projection_and_backward_past_it(name, jit):
    project = PROJECTIONS[name]
    forward = straight_through(project)
    function = jax.value_and_grad(lambda params: loss(forward(params)))
    value, grads = (jax.jit(function) if jit else function)(PARAMS)
    projected = jax.jit(project)(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(forward)(PARAMS), projected)
    wanted, at_projection = jax.value_and_grad(loss)(projected)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7)
    jax.tree.map(close, grads, at_projection)
    assert (np.asarray(grads["kernel"]) != 0).all()
    tangents = jax.tree.map(jnp.ones_like, PARAMS)
    _, pushed = jax.jvp(forward, (PARAMS,), (tangents,))
    jax.tree.map(np.testing.assert_array_equal, pushed, tangents)


@pytest.mark.parametrize(
    ("projection", "error", "message"),
    [
        (lambda p: {"kernel": p["kernel"]}, ValueError, r"structure .* it lacks \['bias'\]"),
        (lambda p: p | {"bias": p["bias"][:2]}, ValueError, r"shapes .*'bias'.*\(8,\), it returns"),
        (
            lambda p: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p),
            TypeError,
            r"dtypes .*'bias'.* has dtype float32, it returns bfloat16",
        ),
    ],
)
def test_a_projection_that_changes_what_parameters_are_is_named(projection, error, message):
    with pytest.raises(error, match=message):
        jax.grad(lambda params: loss(straight_through(projection)(params)))(PARAMS)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_the_decay_pulls_towards_the_projection(name):
    project = PROJECTIONS[name]
    transform = straight_through_decay(project, 0.25)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    got, _ = transform.update(zeros, transform.init(PARAMS), PARAMS)
    theta = project(PARAMS)
    np.testing.assert_allclose(
        got["kernel"], 0.25 * (PARAMS["kernel"] - theta["kernel"]), rtol=1e-6
    )
    np.testing.assert_array_equal(got["bias"], 0)
    if name == "2:4":  # SR-STE: weight decay of what the mask leaves out
        out = np.asarray(theta["kernel"]) == 0
        np.testing.assert_allclose(got["kernel"], np.where(out, 0.25 * PARAMS["kernel"], 0))


def test_training_towards_two_of_four():
    forward = straight_through(PROJECTIONS["2:4"])
    optimizer = optax.chain(straight_through_decay(PROJECTIONS["2:4"], 2e-4), optax.adam(0.05))

    @jax.jit
    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(lambda params: loss(forward(params)))(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), values = jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), None, length=200)
    assert values[-1] < 0.2 * values[0]
    assert loss(forward(params)) < 1.01 * values[-1]
    groups = np.asarray(forward(params)["kernel"]).reshape(4, 4, 8)
    assert ((groups != 0).sum(1) == 2).all()
    assert (np.asarray(params["kernel"]) != 0).all()


def test_a_sparsity_from_a_schedule():
    schedule = polynomial(2, 8, every=3)
    nonzeros = jax.jit(
        lambda step: (project_sparsity(PARAMS, 0.75 * schedule.progress(step))["kernel"] != 0).sum()
    )
    assert [int(nonzeros(step)) for step in range(10)] == [128] * 5 + [44] * 3 + [32] * 2


@pytest.mark.parametrize(
    ("sparsity", "pattern", "nonzeros"),
    [(0.75, None, 32), (0.5, "2:4", 64), (0.75, "4x2", 32), (0.75, "channels", 32)],
)
def test_patterns(sparsity, pattern, nonzeros):
    kernel = np.asarray(project_sparsity(PARAMS, sparsity, None, pattern)["kernel"])
    assert (kernel != 0).sum() == nonzeros
    if pattern == "4x2":
        norms = np.linalg.norm(np.asarray(PARAMS["kernel"]).reshape(4, 4, 4, 2), axis=(1, 3))
        kept = (kernel.reshape(4, 4, 4, 2) != 0).all((1, 3))
        assert norms[kept].min() >= norms[~kept].max()
    if pattern == "channels":
        norms = np.linalg.norm(PARAMS["kernel"], axis=0)
        kept = (kernel != 0).all(0)
        assert kept.sum() == 2
        assert norms[kept].min() >= norms[~kept].max()


@pytest.mark.long
def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="projection must be a function of the parameters"):
        straight_through(3)
    with pytest.raises(TypeError, match="projection must be a function of the parameters"):
        straight_through_decay(3, 0.1)
    with pytest.raises(ValueError, match="decay must be a number >= 0; got -1"):
        straight_through_decay(lambda params: params, -1)
    transform = straight_through_decay(lambda params: params, 0.1)
    with pytest.raises(ValueError, match="params must be passed to update"):
        transform.update(PARAMS, transform.init(PARAMS))
    with pytest.raises(ValueError, match="where must choose leaves of 2 or more dimensions"):
        project_sparsity(PARAMS, 0.5, pattern="2x2", where=lambda path, leaf: True)
