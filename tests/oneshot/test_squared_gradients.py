"""Mean squared gradients of a loss, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax._names import named_leaves
from sparsejax.oneshot import calibrate, squared_gradients
from sparsejax.oneshot._sensitivity import output_sensitivity
from tests.oneshot import functions
from tests.oneshot.test_sequential import listed, unstacked

RNG = np.random.default_rng(0)
PARAMS = {
    "a": RNG.normal(size=(8, 12)).astype(np.float32),
    "bias": RNG.normal(size=12).astype(np.float32),
    "b": RNG.normal(size=(12, 4)).astype(np.float32),
}
BATCHES = [RNG.normal(size=(rows, 8)).astype(np.float32) for rows in (6, 6, 5)]


def network(params, x):
    return jnp.tanh(x @ params["a"] + params["bias"]) @ params["b"]


def loss(params, x):
    return 0.5 * jnp.square(network(params, x)).sum(1).mean()


def by_hand(params, x):
    """The gradient by backpropagation in float64, and the inputs of both kernels."""
    p, x = jax.tree.map(lambda w: np.asarray(w, np.float64), (params, x))
    hidden = np.tanh(x @ p["a"] + p["bias"])
    outward = hidden @ p["b"] / len(x)
    inward = (outward @ p["b"].T) * (1 - hidden**2)
    gradient = {"a": x.T @ inward, "bias": inward.sum(0), "b": hidden.T @ outward}
    return gradient, {"a": x, "b": hidden}, {"a": inward, "b": outward}


def mean(squares):
    return sum(squares) / len(squares)


def test_the_mean_of_squares_and_the_sensitivity_of_outputs():
    found = squared_gradients(loss, PARAMS, iter(BATCHES))
    calibration = calibrate(network, PARAMS, BATCHES)
    each = [by_hand(PARAMS, x) for x in BATCHES]
    for name in PARAMS:
        expected = mean([gradient[name] ** 2 for gradient, _, _ in each])
        assert found[name].dtype == jnp.float32
        np.testing.assert_allclose(found[name], expected, rtol=2e-5)
    for name in ("a", "b"):
        x = np.concatenate([inputs[name] for _, inputs, _ in each])
        v = mean([gradient[name] ** 2 for gradient, _, _ in each])
        gram, rows = calibration.inputs[name]
        sensitivity = output_sensitivity(found[name].T, gram[0] / rows[0])
        np.testing.assert_allclose(sensitivity, v.sum(0) / (x**2).mean(0).sum(), rtol=3e-5)


def test_the_sensitivity_is_the_squared_gradient_of_outputs():
    """Exactly, of rows alone in their batches whose inputs have the same squares."""
    batches = [np.sign(x[:1]) for x in BATCHES]
    v = squared_gradients(loss, PARAMS, batches)["a"]
    expected = mean([by_hand(PARAMS, x)[2]["a"][0] ** 2 for x in batches])
    moments = jnp.asarray(mean([x.T @ x for x in batches]))
    np.testing.assert_allclose(output_sensitivity(v.T, moments), expected, rtol=3e-5)
    assert not output_sensitivity(v.T, 0 * moments).any()


def test_layers_under_scan_are_separate_layers():
    params, batches = functions.decoder_params(), [functions.tokens(seed) for seed in (0, 1)]
    stacked = squared_gradients(lambda p, b: functions.decoder(p, b).var(), params, batches)
    separate = squared_gradients(lambda p, b: listed(p, b).var(), unstacked(params), batches)
    pairs = zip(named_leaves(unstacked(stacked)), named_leaves(separate), strict=True)
    for (name, one), (_, other) in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * other.max(), err_msg=name)


def test_adam_has_such_a_mean():
    found = squared_gradients(loss, PARAMS, [BATCHES[0]] * 3)
    adam = optax.scale_by_adam(b2=0.5)
    state = adam.init(PARAMS)
    for _ in range(30):
        _, state = adam.update(jax.grad(loss)(PARAMS, BATCHES[0]), state)
    jax.tree.map(lambda one, nu: np.testing.assert_allclose(one, nu, rtol=1e-4), found, state.nu)


def test_dtypes_and_leaves_without_gradients():
    params = {"w": jnp.ones(3, jnp.bfloat16), "step": jnp.asarray(3)}
    found = squared_gradients(lambda p, x: (p["w"] * x * p["step"]).sum(), params, [2.0])
    assert found["step"] is None
    assert found["w"].dtype == jnp.float32
    np.testing.assert_array_equal(found["w"], 36)
    with jax.enable_x64(True):
        wide = squared_gradients(lambda w, x: (w * x).sum(), np.ones(3), [1e-30])
        assert wide.dtype == jnp.float64
        np.testing.assert_allclose(wide, 1e-60)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_shards(kind):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    split = lambda *spec: NamedSharding(mesh, PartitionSpec(*spec))  # noqa: E731
    specs = {"a": (None, "model"), "bias": ("model",), "b": ("model", None)}
    params = {name: jax.device_put(PARAMS[name], split(*spec)) for name, spec in specs.items()}
    rows = split("data", None) if kind is AxisType.Explicit else None

    def sharded_loss(p, x):
        hidden = jnp.tanh(x @ p["a"] + p["bias"])
        return 0.5 * jnp.square(jnp.matmul(hidden, p["b"], out_sharding=rows)).sum(1).mean()

    batches = [np.tile(x, (4, 1)) for x in BATCHES]
    given = [jax.device_put(x, split("data", None)) for x in batches]
    expected = squared_gradients(loss, PARAMS, batches)
    for some in (params, PARAMS) if kind is AxisType.Auto else (params,):
        found = squared_gradients(sharded_loss, some, given)
        for name, one in expected.items():
            np.testing.assert_allclose(found[name], one, rtol=1e-4, atol=1e-7)
            assert len(found[name].sharding.device_set) == 8
            if some is params:
                assert found[name].sharding.is_equivalent_to(params[name].sharding, one.ndim)


ERRORS = {
    "no batches": ({"batches": []}, "batches must hold at least one batch; there is none"),
    "outputs": ({"loss": network}, r"loss must return a .*scalar; it returns float32\[6, 4\]"),
    "a pair": ({"loss": lambda p, x: (loss(p, x), 0)}, "scalar; it returns .*tuple"),
    "an integer": ({"loss": lambda p, x: jnp.asarray(3)}, r"scalar; it returns int32\[\]"),
    "no parameters": ({"params": {"step": np.asarray(3)}}, "must have floating-point leaves"),
    "infinite": (
        {"loss": lambda p, x: loss(p, x) + jnp.log(jnp.abs(p["b"]) * 0).max()},
        "gradients must be finite; those of b are NaN",
    ),
    "too large": ({"loss": lambda p, x: loss(p, x) + 1e25 * p["a"].sum()}, "those of a are NaN"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    changed, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        squared_gradients(**({"loss": loss, "params": PARAMS, "batches": BATCHES} | changed))


def test_what_is_no_loss_and_no_batch():
    with pytest.raises(TypeError, match=r"loss must be a function \(params, batch\); got a dict"):
        squared_gradients(PARAMS, loss, BATCHES)
    with pytest.raises(TypeError, match=r"A single batch is passed as \[batch\]"):
        squared_gradients(loss, PARAMS, {"x": BATCHES[0]})
    with pytest.raises(TypeError, match="params must hold concrete arrays"):
        jax.jit(lambda p: squared_gradients(loss, p, BATCHES))(PARAMS)
