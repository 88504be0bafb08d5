"""What `shrink` finds depends neither on how a shape is changed nor on how long the example is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.deploy import Network, export_stablehlo, load_stablehlo, shrink

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def example(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def shapes(params):
    return jax.tree.map(lambda leaf: leaf.shape, params)


def assert_same(small, function, params, *inputs, atol=1e-5):
    expected = jax.jit(function)(params, *inputs)
    found = jax.jit(small.function)(small.params, *inputs)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5)


def shrunk_alike(function, params, *shape, batches=(1, 2, 3, 8), run=(1, 2, 5)):
    """What is left for examples of several lengths: the same, and it runs for others."""
    found = [shrink(Network(function, params), example(batch, *shape)) for batch in batches]
    for small in found:
        assert shapes(small.params) == shapes(found[0].params)
        for one, other in zip(small.kept.values(), found[0].kept.values(), strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
        for batch in run:
            assert_same(small, function, params, normal(batch, *shape))
    return found[0]


# Spellings: each takes [batch, 6, 8] to [batch, 8], step 2 of 6, but for the last ones.

SPELLINGS = {
    "slice and reshape": lambda h: h[:, 2:3].reshape(h.shape[0], 8),
    "index": lambda h: h[:, 2],
    "negative index": lambda h: h[:, -4],
    "index by an array": lambda h: h[:, jnp.asarray(2)],
    "index by a negative array": lambda h: h[:, jnp.asarray(-4)],
    "index by a NumPy number": lambda h: h[:, np.int32(2)],
    "list of one": lambda h: h[:, [2]][:, 0],
    "take": lambda h: jnp.take(h, 2, axis=1),
    "take, negative": lambda h: jnp.take(h, -4, axis=1),
    "take, clipped": lambda h: jnp.take(h[:, :3], 7, axis=1, mode="clip"),
    "at get": lambda h: h.at[:, 2].get(),
    "at get, clipped": lambda h: h.at[:, 2].get(mode="clip"),
    "index_in_dim": lambda h: lax.index_in_dim(h, 2, 1, keepdims=False),
    "dynamic_index_in_dim": lambda h: lax.dynamic_index_in_dim(h, 2, 1, keepdims=False),
    "dynamic_index_in_dim, negative": lambda h: lax.dynamic_index_in_dim(h, -4, 1, False),
    "dynamic_slice": lambda h: lax.dynamic_slice(h, (0, 2, 0), (h.shape[0], 1, 8)).squeeze(1),
    "dynamic_slice, clamped": lambda h: lax.dynamic_slice(
        h[:, :3], (7, 9, -3), (h.shape[0], 1, 8)
    )[:, 0],
    "squeeze": lambda h: jnp.squeeze(h[:, 2:3], 1),
    "squeeze all": lambda h: jnp.squeeze(h[:, 2:3][:, :, None]).reshape(-1, 8),
    "new axes": lambda h: h[:, None, 2, None][:, 0, 0],
    "expand_dims": lambda h: jnp.expand_dims(h, (0, 2))[0, :, 0, 2],
    "first axis": lambda h: h[None].swapaxes(1, 2)[0, 2],
    "flipped": lambda h: jnp.flip(h, 1)[:, 3],
    "flipped by a slice": lambda h: h[:, ::-1][:, 3],
    "flipped units": lambda h: h[:, 2, ::-1][:, ::-1],
    "unstacked": lambda h: list(h.swapaxes(0, 1))[2],
    "stacked": lambda h: jnp.stack([h[:, 5], h[:, 2]], 1)[:, 1],
    "tiled": lambda h: jnp.tile(h, (1, 2, 1))[:, 8],
    "rolled": lambda h: jnp.roll(h, 1, axis=1)[:, 3],
    "einsum": lambda h: jnp.einsum("bth->tbh", h)[2],
    "range": lambda h: h[:, jnp.arange(0, 6, 2)][:, 1],
    "vmap": lambda h: jax.vmap(lambda one: one[2])(h),
    "vmap of take": lambda h: jax.vmap(lambda one: jnp.take(one, 2, axis=0))(h),
    "vmap of dynamic_slice": lambda h: jax.vmap(
        lambda one: lax.dynamic_slice_in_dim(one, 2, 1, 0).squeeze(0)
    )(h),
    "under jit": lambda h: jax.jit(lambda h: h[:, 2])(h),
}  # fmt: skip


@pytest.fixture(scope="module")
def layers():
    w, o = normal(10, 8), normal(8, 3)
    w[:, 2] = 0
    o[5] = 0
    return {"w": w, "o": o}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_indexing_in_every_spelling(spelling, layers):
    def function(params, x):
        return SPELLINGS[spelling](jax.nn.relu(x @ params["w"])) @ params["o"]

    small = shrunk_alike(function, layers, 6, 10)
    assert shapes(small.params) == {"w": (10, 6), "o": (6, 3)}
    if not spelling.startswith(("tiled", "stacked", "rolled")):
        # Only one time step is read: the others are cut off before the first product.
        np.testing.assert_array_equal(small.kept_inputs["0"][1], [2])


def test_what_reads_single_units_keeps_these():
    """Indices of units, not of positions."""
    w = normal(4, 6)
    w[:, 3] = 0

    def function(params, x):
        h = jnp.tanh(x @ params["w"])
        taken = h[:, 1] + lax.dynamic_index_in_dim(h, 4, 1, keepdims=False) * jnp.take(h, 1, 1)
        return taken[:, None] * params["o"] + h[:, 3:4]

    params = {"w": w, "o": normal(1, 2)}
    small = shrunk_alike(function, params, 4)
    np.testing.assert_array_equal(small.kept["w"][1], [1, 3, 4])


def test_constants_go_through_every_spelling():
    """A unit that puts out tanh(bias) is folded into the bias above."""
    w, bias = normal(3, 4), normal(4)
    w[:, 1] = 0

    def function(params, x):
        h = jnp.tanh(x @ params["w"] + params["bias"])[:, ::-1]
        h = lax.dynamic_slice(jnp.squeeze(h[:, None, :, None], (1, 3)), (0, 1), (h.shape[0], 3))
        return h @ params["o"] + params["out"]

    params = {"w": w, "bias": bias, "o": normal(3, 2), "out": normal(2)}
    small = shrunk_alike(function, params, 3)
    assert small.params["w"].shape == (3, 2)
    np.testing.assert_array_equal(small.kept["o"][0], [0, 2])
    moved = params["out"] + np.tanh(bias[1]) * params["o"][1]
    np.testing.assert_allclose(small.params["out"], moved, rtol=1e-6)


def test_an_index_that_is_computed_keeps_what_it_may_read():
    def function(params, x):
        place = (x[0, 0] > 0).astype(jnp.int32)
        h, other = x @ params["w"], jnp.take(x @ params["v"], place, axis=1)
        outside = jnp.take(x @ params["w"], 9, axis=1, fill_value=1.0)
        return lax.dynamic_index_in_dim(h, place, 1) + other[:, None] + outside[:, None]

    params = {"v": normal(3, 5), "w": normal(3, 4)}
    small, x = shrink(Network(function, params), example(2, 3)), normal(2, 3)
    assert small.params["v"].shape == (3, 5)
    assert small.params["w"].shape == (3, 4)
    np.testing.assert_allclose(small(x), function(params, x), rtol=1e-6)


def test_convolutions_of_equinox():
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 3)
    net = {
        "first": eqx.nn.Conv2d(1, 6, 3, key=keys[0]),
        "second": eqx.nn.Conv2d(6, 5, 3, stride=2, key=keys[1]),
        "last": eqx.nn.Linear(5 * 3 * 3, 4, key=keys[2]),
    }
    params, static = eqx.partition(net, eqx.is_array)
    dead = jnp.asarray([True, False, True, True, False, True])
    first = params["first"]
    first = eqx.tree_at(lambda m: m.weight, first, first.weight * dead[:, None, None, None])
    params |= {"first": eqx.tree_at(lambda m: m.bias, first, first.bias * dead[:, None, None])}

    def function(params, images):
        net = eqx.combine(params, static)

        def one(image):
            h = jax.nn.relu(net["first"](image))
            return net["last"](jax.nn.relu(net["second"](h)).ravel())

        return jax.vmap(one)(images)

    small = shrunk_alike(function, params, 1, 10, 10, batches=(1, 4), run=(1, 3))
    assert small.params["first"].weight.shape == (4, 1, 3, 3)
    assert small.params["first"].bias.shape == (4, 1, 1)
    assert small.params["second"].weight.shape == (5, 4, 3, 3)


# Batches


def steps(params, x):
    """A dense layer at each of 4 time steps, then a head over all of them."""
    h = jax.nn.relu(x.reshape(-1, 10) @ params["w"])
    return h.reshape(x.shape[0], 24) @ params["o"]


def test_a_batch_that_is_joined_with_time_steps():
    params = {"w": normal(10, 6), "o": normal(24, 5)}
    params["o"][1] = 0
    small = shrunk_alike(steps, params, 4, 10)
    assert shapes(small.params) == {"w": (10, 6), "o": (23, 5)}
    params["w"][:, 3] = 0
    small = shrunk_alike(steps, params, 4, 10)
    assert shapes(small.params) == {"w": (10, 5), "o": (19, 5)}


@pytest.mark.parametrize("shape", [(3, 3, 3), (1, 3, 3), (3, 1, 1), (1, 1, 1), (2, 3, 1)])
def test_batches_that_are_as_long_as_something_else(shape):
    """As many examples as channels, rows or columns, and lengths of 1 all around."""
    height, width, channels = shape
    params = {
        "conv": normal(1, 1, channels, 3),
        "bias": normal(3),
        "dense": normal(height * width * 3, 2),
        "out": normal(2),
    }
    params["conv"][..., 1] = 0

    def function(params, x):
        h = x.reshape(-1, channels) @ params["conv"][0, 0] + params["bias"]
        h = jnp.tanh(h).reshape(-1, height, width, 3).transpose(0, 3, 1, 2)
        h = h.reshape(x.shape[0], 3 * height * width) @ params["dense"] + params["out"]
        return jnp.where(h > 0, h, h * 0.5)

    small = shrunk_alike(function, params, *shape, batches=(1, 2, 3), run=(1, 3, 4))
    assert small.params["conv"].shape == (1, 1, channels, 2)
    assert small.params["dense"].shape == (height * width * 2, 2)


@pytest.mark.parametrize("sizes", [(1, 5, 3), (4, 1, 3), (4, 5, 1), (1, 1, 1), (1, 2, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_one_unit(sizes, bias):
    first, hidden, last = sizes
    params = [{"kernel": normal(first, hidden)}, {"kernel": normal(hidden, last)}]
    if bias:
        params[0]["bias"], params[1]["bias"] = normal(hidden), normal(last)

    def function(params, x):
        for number, layer in enumerate(params):
            x = x @ layer["kernel"] + layer.get("bias", 0)
            x = jnp.tanh(x) if not number else x
        return x

    shrunk_alike(function, params, first)
    if hidden > 1:
        params[0]["kernel"][:, 0] = 0
        small = shrunk_alike(function, params, first)
        assert small.params[0]["kernel"].shape == (first, hidden - 1)


def test_what_depends_on_the_batch_is_not_taken_for_known():
    """Sums over the batch, its size as a number, and positions in it."""
    w = normal(3, 6)
    w[:, [1, 4]] = 0
    params = {"w": w, "bias": normal(6), "o": normal(6, 2), "out": normal(2)}

    def summed(params, x):
        h = jnp.tanh(x @ params["w"] + params["bias"])
        return x[:, :2] + (h.sum(0) @ params["o"] + params["out"])

    def mean(params, x):
        h = jnp.tanh(x @ params["w"] + params["bias"])
        return h @ params["o"] / x.shape[0] + params["out"]

    def divided(params, x):
        h = jnp.tanh(x @ params["w"] + params["bias"]) / x.shape[0]
        return h @ params["o"] + params["out"]

    def places(params, x):
        here = np.linspace(0, 1, x.shape[0], dtype=np.float32)[:, None]
        h = jnp.tanh(x @ params["w"] + params["bias"] * here)
        return h @ params["o"] + params["out"]

    def counted(params, x):
        few = 1.0 if x.shape[0] < 4 else 0.0
        return jnp.tanh(x @ params["w"] + params["bias"]) @ params["o"] * few + params["out"]

    for function in (summed, mean, divided, places):
        small = shrink(Network(function, params), example(2, 3))
        for batch in (1, 2, 7):
            assert_same(small, function, params, normal(batch, 3))
    small = shrink(Network(counted, params), example(6, 3))
    assert_same(small, counted, params, normal(5, 3))
    with pytest.raises(ValueError, match="make another computation"):
        small.function(small.params, normal(2, 3))


def test_a_part_of_the_batch_is_no_fixed_length():
    params = {"w": normal(4, 6), "o": normal(6, 2)}
    params["w"][:, 3] = 0

    def halves(params, x):
        h = jax.nn.relu(x @ params["w"]).reshape(x.shape[0] // 2, 2, 6)
        return (h[:, 0] + h[:, 1]) @ params["o"]

    small = shrunk_alike(halves, params, 4, batches=(2, 4, 8), run=(2, 4, 6))
    assert small.params["w"].shape == (4, 5)


def test_microbatches_of_the_examples():
    """Traced for multiples of the examples' batch where others do not divide."""
    params = {"w": normal(4, 6), "o": normal(6, 2)}
    params["w"][:, 3] = 0

    def function(params, x):
        h = jax.nn.relu(x @ params["w"])
        return jnp.concatenate([h.reshape(5, -1, 6)[i] @ params["o"] for i in range(5)])

    small = shrunk_alike(function, params, 4, batches=(5, 10), run=(5, 15))
    assert small.params["w"].shape == (4, 5)


def test_a_function_for_one_batch_size_says_so():
    params = {"w": normal(4, 6), "o": normal(24, 2)}
    params["w"][:, 3] = 0

    def function(params, x):
        return jax.nn.relu(x @ params["w"]).reshape(1, 24) @ params["o"]

    small = shrink(Network(function, params), example(4, 4))
    assert small.params["w"].shape == (4, 5)
    assert small.params["o"].shape == (20, 2)
    assert_same(small, function, params, normal(4, 4))
    with pytest.raises(ValueError, match=r"because function cannot be traced for another batch"):
        small.function(small.params, normal(8, 4))

    def unrolled(params, x):
        return sum(row @ params["w"] for row in x)

    small = shrink(Network(unrolled, params), example(3, 4))
    assert_same(small, unrolled, params, normal(3, 4))
    with pytest.raises(ValueError, match="because function computes something else for"):
        small.function(small.params, normal(2, 4))


def test_inputs_without_a_batch():
    params = {"w": normal(4, 6), "o": normal(6, 2)}
    params["w"][:, 3] = 0

    def function(params, x, mask, scale):
        return (jax.nn.relu(x @ params["w"]) * mask) @ params["o"] / scale

    mask, scale = normal(6), np.float32(2)
    for batch in (1, 6):  # as long as the mask is, too
        small = shrink(Network(function, params), normal(batch, 4), mask, scale)
        assert shapes(small.params) == {"w": (4, 5), "o": (5, 2)}
        np.testing.assert_array_equal(small.kept_inputs["1"][0], [0, 1, 2, 4, 5])
        for size in (1, 5):
            assert_same(small, function, params, normal(size, 4), mask, scale)
    with pytest.raises(ValueError, match=r"the batch, .* \(without a batch: \[\(6,\), \(\)\]\)"):
        small.function(small.params, normal(2, 4), normal(5), scale)
    told = shrink(
        Network(function, params), normal(6, 4), mask, scale, batched=(True, False, False)
    )
    assert shapes(told.params) == shapes(small.params)
    with pytest.raises(ValueError, match="batched must be a bool, or a tuple"):
        shrink(Network(function, params), normal(6, 4), mask, scale, batched=(True, False))
    with pytest.raises(ValueError, match="input 2 has a batch; it is a scalar"):
        shrink(Network(function, params), normal(6, 4), mask, scale, batched=True)
    alone = shrink(Network(lambda p, x: x @ p["w"], params), normal(5, 4), batched=False)
    with pytest.raises(ValueError, match="because none of them has a batch"):
        alone.function(alone.params, normal(4, 4))


@pytest.mark.parametrize("spelling", ["index", "take", "flipped", "range", "dynamic_slice"])
def test_one_exported_program_for_all_batch_sizes(spelling, layers):
    """For a symbolic batch, JAX makes gathers of slices."""

    def function(params, x):
        return SPELLINGS[spelling](jax.nn.relu(x @ params["w"]))[..., 1:] @ params["o"][1:]

    small = shrink(Network(function, layers), example(2, 6, 10))
    again = load_stablehlo(export_stablehlo(small, example(2, 6, 10), platforms=("cpu",)))
    for batch in (1, 5):
        x = normal(batch, 6, 10)
        np.testing.assert_allclose(again(x), function(layers, x), atol=1e-5)


# Refusals


def test_a_refusal_names_each_operation_once_and_where_it_is():
    params = {f"block{i}": {"w": normal(8, 8)} for i in range(6)}

    def function(params, x):
        for i in range(6):
            x = jax.nn.relu(x @ params[f"block{i}"]["w"])
            x = jnp.cumsum(x, -1) if i in (1, 3) else x
        return jnp.sort(x)[:, 0]

    with pytest.raises(ValueError, match="cumsum") as caught:
        shrink(Network(function, params), example(2, 8))
    assert str(caught.value).split("understand: ")[1].split("; keep")[0] == (
        "cumsum (over 8 units after block1/w; over 8 units after block3/w), "
        "sort (over 8 units after block5/w)"
    )


def test_a_refusal_before_the_first_parameter():
    params = {"w": normal(4, 3)}
    with pytest.raises(ValueError, match=r"cumsum \(over 4 units before w\)"):
        shrink(Network(lambda p, x: lax.cumsum(x, 1) @ p["w"], params), example(2, 4))
