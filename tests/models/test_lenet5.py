import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsejax.inspection import live_units, report
from sparsejax.models import LENET5_LAYERS, LeNet5


class Natural(nnx.Module):
    """LeNet5 as one writes it down first."""

    def __init__(self, units, *, rngs):
        first, second, hidden = units
        self.conv1 = nnx.Conv(1, first, (5, 5), padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(first, second, (5, 5), padding="VALID", rngs=rngs)
        self.dense1 = nnx.Linear(16 * second, hidden, rngs=rngs)
        self.dense2 = nnx.Linear(hidden, 10, rngs=rngs)

    def __call__(self, images):
        hidden = images
        for conv in (self.conv1, self.conv2):
            hidden = nnx.max_pool(jax.nn.relu(conv(hidden)), (2, 2), strides=(2, 2))
        hidden = hidden.reshape(len(hidden), -1)
        return self.dense2(jax.nn.relu(self.dense1(hidden)))


def drawn(kind, *arguments, dtype=np.float32):
    """The network as a function, and parameters of it: the same ones for the same shapes."""
    rng = np.random.default_rng(0)
    abstract = nnx.eval_shape(lambda: kind(*arguments, rngs=nnx.Rngs(0)))
    graph, shapes = nnx.split(abstract, nnx.Param)

    def draw(leaf):
        inputs = leaf.size // leaf.shape[-1]
        return jnp.asarray(rng.normal(0, inputs**-0.5 / 2, leaf.shape), dtype)

    return lambda params, x: nnx.merge(graph, params)(x), jax.tree.map(draw, shapes)


def digits(count):
    """Strokes on a blank ground, whose equal entries meet every tie of the pool."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, 28, 28, 1))
    images[:, 6:22, 8:20] = rng.uniform(-1, 1, (count, 16, 12, 1)).clip(0)
    return images, rng.integers(0, 10, count)


def reference(params, images, kept=None):
    """Logits in float64, layer by layer."""
    leaf = lambda layer, name: np.asarray(params[layer][name][...], np.float64)  # noqa: E731
    hidden = images
    for layer in ("conv1", "conv2"):
        kernel = leaf(layer, "kernel")
        side = hidden.shape[1] - 4
        hidden = leaf(layer, "bias") + sum(
            hidden[:, i : i + side, j : j + side] @ kernel[i, j] for i in range(5) for j in range(5)
        )
        hidden = hidden.reshape(len(hidden), side // 2, 2, side // 2, 2, -1).max((2, 4)).clip(0)
    hidden = np.stack(
        [  # row by row, column by column, channel by channel
            hidden[:, row, column, channel]
            for row in range(4)
            for column in range(4)
            for channel in range(hidden.shape[3])
        ],
        axis=1,
    )
    hidden = hidden if kept is None else hidden[:, kept]
    hidden = (hidden @ leaf("dense1", "kernel") + leaf("dense1", "bias")).clip(0)
    return hidden @ leaf("dense2", "kernel") + leaf("dense2", "bias")


@pytest.mark.parametrize(("units", "kept"), [((20, 50, 500), None), ((1, 3, 1), (0, 3, 41, 47))])
def test_computes_what_its_weights_say(units, kept):
    apply, params = drawn(LeNet5, units, kept)
    images, _ = digits(3)
    x = jnp.asarray(images, jnp.float32)
    wanted = reference(params, images, kept)
    np.testing.assert_allclose(jax.jit(apply)(params, x.reshape(3, 784)), wanted, atol=2e-5)


def test_has_the_published_number_of_weights():
    _, params = drawn(LeNet5)
    assert report(params).size == 430_500
    assert report(params, lambda path, leaf: True).size == 431_080
    assert live_units(params, LENET5_LAYERS) == [1, 20, 50, 500, 10]


def test_trains_as_the_natural_version_does():
    with jax.enable_x64(True):
        images, labels = (jnp.asarray(a) for a in digits(8))
        optimizer = optax.adam(1e-2)

        def train(kind):
            apply, params = drawn(kind, (6, 9, 20), dtype=np.float64)

            def loss(params):
                logits = apply(params, images)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            @jax.jit
            def step(params, state):
                value, gradient = jax.value_and_grad(loss)(params)
                updates, state = optimizer.update(gradient, state, params)
                return optax.apply_updates(params, updates), state, value

            state = optimizer.init(params)
            losses = []
            for _ in range(5):
                params, state, value = step(params, state)
                losses.append(float(value))
            return losses, jax.tree.leaves(params)

        losses, ours = train(LeNet5)
        wanted, naturals = train(Natural)
        assert losses[-1] < losses[0]
        np.testing.assert_allclose(losses, wanted, rtol=1e-12)
        for got, want in zip(ours, naturals, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_reading_some_inputs_is_reading_all_with_zeros_at_the_others():
    kept = np.sort(np.random.default_rng(0).choice(64, 20, replace=False))
    apply, params = drawn(LeNet5, (3, 4, 5), kept)
    apply_all, params_all = drawn(LeNet5, (3, 4, 5))
    for layer in ("conv1", "conv2", "dense2"):
        params_all[layer] = params[layer]
    kernel = jnp.zeros((64, 5)).at[kept].set(params["dense1"]["kernel"][...])
    params_all["dense1"]["kernel"] = kernel
    x = jnp.asarray(digits(4)[0], jnp.float32)

    def run(apply, params):
        def loss(rows, bias):
            varied = jax.tree.map(lambda leaf: leaf, params)  # a copy of the containers
            varied["dense1"]["kernel"], varied["conv2"]["bias"] = rows, bias
            logits = apply(varied, x)
            return (logits**2).sum(), logits

        run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        return run(params["dense1"]["kernel"][...], params["conv2"]["bias"][...])

    grads, logits = run(apply, params)
    grads_all, logits_all = run(apply_all, params_all)
    np.testing.assert_allclose(logits, logits_all, atol=1e-6)
    np.testing.assert_allclose(grads[0], grads_all[0][kept], atol=1e-5)
    np.testing.assert_allclose(grads[1], grads_all[1], atol=1e-5)


@pytest.mark.parametrize("units", [(20, 50), (20, 0, 500), (20, 50, 500.0), 20, "abc"])
def test_bad_units_are_named(units):
    with pytest.raises(ValueError, match="units must be three integers >= 1; got"):
        LeNet5(units, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("kept", [(), (0, 64), (-1,), (3, 3)])
def test_kept_inputs_out_of_range_are_named(kept):
    with pytest.raises(ValueError, match="kept_inputs must be one or more different .* 0 to 63;"):
        LeNet5((3, 4, 5), kept, rngs=nnx.Rngs(0))


def test_kept_inputs_must_be_integers():
    with pytest.raises(ValueError, match="kept_inputs must be integers; got"):
        LeNet5((3, 4, 5), (0.5,), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 27, 28, 1), (2, 28, 28, 3), (784,)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match="images must have shape .* got"):
        LeNet5((1, 1, 1), rngs=nnx.Rngs(0))(jnp.zeros(shape))


def test_images_that_are_not_normalised_are_refused():
    with pytest.raises(ValueError, match="images must be floating point, normalised; got uint8"):
        LeNet5((1, 1, 1), rngs=nnx.Rngs(0))(jnp.zeros((2, 784), jnp.uint8))
