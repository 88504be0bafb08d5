"""Gram matrices against float64 NumPy, for every way from a parameter to a product."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax.oneshot import KernelLayout, calibrate, prune_sequentially
from sparsejax.oneshot._calibrate import _compile
from tests.oneshot import functions
from tests.oneshot.functions import decoder, decoder_inputs, decoder_params, grams

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4, 10)).astype(np.float32)
"""Inputs [batch, positions, features] of the functions below."""


def everything(path, leaf):
    return True


def draw(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def check(found, name, rows, layout=None):
    """Compare with a list of rows for each matrix."""
    gram, counts = found.inputs[name]
    expected = grams([np.asarray(one, np.float64) for one in rows])
    np.testing.assert_allclose(gram, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())
    assert counts.tolist() == [len(one) for one in rows]
    if layout is not None:
        assert found.layouts[name][1:] == layout


def flat(x, inputs):
    return np.asarray(x, np.float64).reshape(-1, inputs)


# --- a decoder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["scan", "fori", "python"])
def test_a_decoder(loop):
    params = decoder_params()
    batches = [functions.tokens(seed) for seed in range(3)] + [functions.tokens(3, 2, 7)]
    found = calibrate(lambda p, b: decoder(p, b, loop), params, batches)
    per_batch = [decoder_inputs(params, batch) for batch in batches]
    for name in per_batch[0]:
        layers = zip(*(inputs[name] for inputs in per_batch), strict=True)
        check(found, name, [np.concatenate(layer) for layer in layers])
    assert found.layouts["layers/query/kernel"][1:] == ((0,), (2, 3), (1,))
    assert found.layouts["layers/out/kernel"][1:] == ((0,), (3,), (1, 2))
    assert found.layouts["head/kernel"][1:] == ((), (1,), (0,))
    assert list(found.skipped) == ["embed/embedding"]
    assert "gather" in found.skipped["embed/embedding"]
    shared = [found.inputs[f"layers/{name}/kernel"].gram for name in ("query", "key", "value")]
    assert shared[0] is shared[1] is shared[2]


def test_nothing_is_computed_that_no_gram_matrix_needs():
    """The logits and the last layer's perceptron, but for what its chosen kernels read."""
    params = decoder_params()
    batch = functions.tokens()

    def products(where):
        chosen = jax.tree.leaves(jax.tree_util.tree_map_with_path(where, params))
        one = _compile(lambda p, b: decoder(p, b, "python"), params, batch, chosen)
        text = one.run.lower(one.empty(), jax.tree.leaves(params), [batch]).compile().as_text()
        return text.count(" dot(") + text.count('custom_call_target="__onednn$matmul"')

    layers = products(lambda path, leaf: "kernel" in str(path) and "head" not in str(path))
    all_of_them = products(lambda path, leaf: "kernel" in str(path))
    queries = products(lambda path, leaf: "query" in str(path))
    per_layer = 8  # four projections, two products of attention, two of the perceptron
    gram = 4  # for q, k and v; the output projection; up; down
    assert layers == per_layer * 2 - 1 + gram * 2
    assert all_of_them == per_layer * 2 + gram * 2 + 1
    assert queries == per_layer + 2


# --- single products ---------------------------------------------------------------------------

KERNEL = draw(10, 7)
ONE_DEVICE = jax.make_mesh((1,), ("x",), (AxisType.Auto,), devices=jax.devices()[:1])
ALONE = NamedSharding(ONE_DEVICE, PartitionSpec())
PLAIN = (((), (1,), (0,)), lambda x: flat(x, 10))
CASES = {
    "dense": (KERNEL, lambda w, x: x @ w, *PLAIN),
    "transposed": (KERNEL.T, lambda w, x: x @ w.T, ((), (0,), (1,)), PLAIN[1]),
    "kernel first": (KERNEL, lambda w, x: jnp.einsum("io,bti->obt", w, x), *PLAIN),
    "converted": (
        KERNEL.astype(jnp.bfloat16), lambda w, x: x @ lax.stop_gradient(w.astype(x.dtype)), *PLAIN
    ),
    "column": (draw(10, 1), lambda w, x: (x @ w)[..., 0], *PLAIN),
    "vector": (draw(10, 1), lambda w, x: x @ jnp.squeeze(w, 1), *PLAIN),
    "two input axes": (
        draw(4, 10, 3), lambda w, x: jnp.einsum("bti,tio->bo", x, w),
        ((), (2,), (0, 1)), lambda x: flat(x, 40),
    ),
    "input axes in the other order": (
        draw(10, 3, 4), lambda w, x: jnp.einsum("bti,iot->bo", x, w),
        ((), (1,), (0, 2)), lambda x: flat(x.swapaxes(1, 2), 40),
    ),
    "merged input axes": (
        draw(10, 4, 3), lambda w, x: x.swapaxes(1, 2).reshape(6, 40) @ w.reshape(40, 3),
        ((), (2,), (0, 1)), lambda x: flat(x.swapaxes(1, 2), 40),
    ),
    "split input axis": (
        draw(10, 3),
        lambda w, x: jnp.einsum("btkj,kjo->bto", x.reshape(6, 4, 2, 5), w.reshape(2, 5, 3)),
        *PLAIN,
    ),
    "split input axis, summed over in the other order": (
        draw(10, 3),
        lambda w, x: lax.dot_general(
            x.reshape(24, 5, 2), w.reshape(5, 2, 3).transpose(1, 2, 0), (((2, 1), (0, 2)), ((), ()))
        ),
        *PLAIN,
    ),
    "split output axis": (
        draw(10, 6), lambda w, x: jnp.einsum("bti,ihk->bthk", x, w.reshape(10, 2, 3)), *PLAIN
    ),
    "experts": (
        draw(4, 10, 3), lambda w, x: jnp.einsum("bti,tio->bto", x, w),
        ((0,), (2,), (1,)), lambda x: x.swapaxes(0, 1),
    ),
    "experts in the last axis": (
        draw(10, 3, 4), lambda w, x: jnp.einsum("bti,iot->bto", x, w),
        ((2,), (1,), (0,)), lambda x: x.swapaxes(0, 1),
    ),
    "experts of two axes": (
        draw(2, 2, 10, 3),
        lambda w, x: jnp.einsum("bsti,stio->bsto", x.reshape(6, 2, 2, 10), w),
        ((0, 1), (3,), (2,)), lambda x: x.swapaxes(0, 1),
    ),
    "vmapped": (draw(4, 10, 3), lambda w, x: jax.vmap(jnp.matmul, (1, 0))(x, w),
                ((0,), (2,), (1,)), lambda x: x.swapaxes(0, 1)),
    "vmapped examples": (KERNEL, lambda w, x: jax.vmap(jax.vmap(lambda y: w.T @ y))(x), *PLAIN),
    "one vector": (KERNEL, lambda w, x: x[0, 0] @ w, PLAIN[0], lambda x: x[:1, 0]),
    "output slices": (
        draw(10, 9), lambda w, x: [x @ one for one in jnp.split(w, 3, axis=1)], *PLAIN
    ),
    "output slices of a split axis": (
        draw(10, 9), lambda w, x: [x @ w.reshape(10, 3, 3)[:, i] for i in range(3)], *PLAIN
    ),
    "a pair of kernels": (
        draw(2, 10, 3), lambda w, x: jax.nn.silu(x @ w[0]) * (x @ w[1]), ((), (0, 2), (1,)),
        PLAIN[1]
    ),
    "some outputs alone": (draw(10, 9), lambda w, x: x @ w[:, 2:5], *PLAIN),
    "used twice": (
        draw(10, 10), lambda w, x: x @ w + jnp.tanh(x) @ w, ((), (1,), (0,)),
        lambda x: np.concatenate([flat(x, 10), np.tanh(flat(x, 10))]),
    ),
    "the same product twice": (KERNEL, lambda w, x: (x @ w) * (x @ w), *PLAIN),
    "by jit, remat and custom derivatives": (
        KERNEL, lambda w, x: jax.jit(jax.checkpoint(lambda y: jax.nn.relu(y @ w)))(x), *PLAIN
    ),
    "integers": (
        KERNEL, lambda w, x: jnp.einsum("bti,io->bto", (x > 0).astype(jnp.int32), w,
                                        preferred_element_type=jnp.float32),
        PLAIN[0], lambda x: flat(x > 0, 10),
    ),
    "sharding constraint": (
        KERNEL, lambda w, x: x @ lax.with_sharding_constraint(w, ALONE), *PLAIN
    ),
    "barrier": (KERNEL, lambda w, x: x @ lax.optimization_barrier((w, x))[0], *PLAIN),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_products(case):
    kernel, function, layout, rows = CASES[case]
    found = calibrate(lambda p, x: function(p["w"], x), {"w": kernel}, [X, 2 * X], everything)
    batches = [np.asarray(rows(x)) for x in (X, 2 * X)]
    expected = np.concatenate([one if layout[0] else one[None] for one in batches], axis=1)
    check(found, "w", expected, layout)


# --- loops -------------------------------------------------------------------------------------


def steps(w, x):
    """The values of x before each step."""
    found = []
    for one in np.asarray(w, np.float64):
        found.append(flat(x, 10))
        x = np.tanh(np.asarray(x, np.float64) @ one)
    return found


STACKED = draw(4, 10, 10) / 3


def scanned(w, x, **options):
    return lax.scan(lambda c, one: (jnp.tanh(c @ one), None), x, w, **options)[0]


LOOPS = {
    "scan": scanned,
    "unrolled": lambda w, x: scanned(w, x, unroll=2),
    "two scans": lambda w, x: scanned(w[2:], scanned(w[:2], x)),
    "nested": lambda w, x: lax.scan(
        lambda c, pair: (scanned(pair, c), None), x, w.reshape(2, 2, 10, 10)
    )[0],
    "stacked in the last axis": lambda w, x: scanned(jnp.moveaxis(w, 1, 0), x),
    "fori": lambda w, x: lax.fori_loop(0, 4, lambda i, c: jnp.tanh(c @ w[i]), x),
    "carried": lambda w, x: lax.fori_loop(
        0, 4, lambda i, pair: (jnp.tanh(pair[0] @ pair[1][i]), pair[1]), (x, w)
    )[0],
    "remat": lambda w, x: lax.scan(
        jax.checkpoint(lambda c, one: (jnp.tanh(c @ one), None)), x, w
    )[0],
    "one by one": lambda w, x: [x := jnp.tanh(x @ w[i]) for i in range(4)][-1],
    "scan of pairs": lambda w, x: lax.scan(
        lambda c, pair: (jnp.tanh(jnp.tanh(c @ pair[0]) @ pair[1]), None),
        x, w.reshape(2, 2, 10, 10)
    )[0],
}  # fmt: skip


@pytest.mark.parametrize("case", LOOPS)
def test_loops_over_layers(case):
    function, axis = LOOPS[case], 1 if "last" in case else 0
    kernel = jnp.moveaxis(STACKED, 0, axis)
    found = calibrate(lambda p, x: function(p["w"], x), {"w": kernel}, [X], everything)
    others = (0, 2) if axis else (1, 2)
    check(found, "w", steps(STACKED, X), ((axis,), (others[1],), (others[0],)))


def test_reversed_scan():
    found = calibrate(lambda w, x: scanned(w, x, reverse=True), STACKED, [X], everything)
    check(found, "", steps(STACKED[::-1], X)[::-1])


def test_the_kernel_of_all_steps_sums():
    kernel = STACKED[0]

    def function(p, x):
        return lax.scan(lambda c, _: (jnp.tanh(c @ p), None), x, None, 3)[0]

    found = calibrate(function, kernel, [X], everything)
    check(found, "", [np.concatenate(steps([kernel] * 3, X))], ((), (1,), (0,)))


def test_kernels_of_stacked_layers_read_in_slices():
    """As q, k and v from one kernel, in a scan and not."""
    kernel = draw(3, 10, 30) / 4

    def step(c, one):
        q, k, v = jnp.split(one, 3, axis=1)
        return jnp.tanh((c @ q) * (c @ k) + c @ v), None

    def rows(x):
        found = []
        for one in np.asarray(kernel, np.float64):
            found.append(flat(x, 10))
            q, k, v = np.split(one, 3, axis=1)
            x = np.tanh((x @ q) * (x @ k) + x @ v)
        return found

    def one_by_one(w, x):
        for i in range(3):
            x = step(x, w[i])[0]
        return x

    for function in (lambda w, x: lax.scan(step, x, w)[0], one_by_one):
        found = calibrate(function, kernel, [X], everything)
        check(found, "", rows(X.astype(np.float64)), ((0,), (2,), (1,)))


# --- convolutions ------------------------------------------------------------------------------

IMAGE = RNG.normal(size=(3, 9, 8, 2)).astype(np.float32)
CONVOLUTIONS = [
    {"window_strides": (1, 1), "padding": "SAME"},
    {"window_strides": (2, 1), "padding": ((1, 0), (2, 3))},
    {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (2, 3)},
    {"window_strides": (1, 1), "padding": ((2, 1), (0, 2)), "lhs_dilation": (2, 1)},
    {"window_strides": (1, 1), "padding": ((-1, 0), (1, -2))},
]


def patches(image, kernel, numbers, options):
    """The windows by lax, as rows in the order of the kernel's axes."""
    spec = lax.conv_dimension_numbers(image.shape, kernel.shape, numbers)
    window = [kernel.shape[axis] for axis in spec.rhs_spec[2:]]
    found = lax.conv_general_dilated_patches(
        jnp.asarray(image), window, dimension_numbers=numbers, **options
    )
    found = np.moveaxis(np.asarray(found), spec.out_spec[1], -1)
    channels = kernel.shape[spec.rhs_spec[1]]
    found = found.reshape(-1, channels, *window)
    axes = spec.rhs_spec[1:]
    order = sorted(range(len(axes)), key=lambda place: axes[place])
    return found.transpose(0, *(1 + place for place in order)).reshape(len(found), -1)


@pytest.mark.parametrize("options", CONVOLUTIONS)
@pytest.mark.parametrize("numbers", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")])
def test_convolutions(numbers, options):
    kernel = draw(3, 2, 2, 5) if numbers[1] == "HWIO" else draw(5, 2, 3, 2)
    image = IMAGE if numbers[0] == "NHWC" else IMAGE.transpose(0, 3, 1, 2)
    function = lambda w, x: lax.conv_general_dilated(  # noqa: E731
        x, w, dimension_numbers=numbers, **options
    )
    found = calibrate(function, kernel, [image], everything)
    output = numbers[1].index("O")
    inputs = tuple(axis for axis in range(4) if axis != output)
    check(found, "", [patches(image, kernel, numbers, options)], ((), (output,), inputs))
    layout = found.layouts[""]
    (matrix,) = layout.matrices(kernel)
    energy = np.square(np.asarray(function(kernel, image), np.float64)).sum()
    gram = np.asarray(found.inputs[""].gram[0], np.float64)
    np.testing.assert_allclose(np.einsum("oi,ij,oj", matrix, gram, matrix), energy, rtol=1e-4)


def test_one_dimensional_convolution():
    kernel, numbers = draw(3, 10, 7), ("NWC", "WIO", "NWC")
    function = lambda w, x: lax.conv_general_dilated(  # noqa: E731
        x, w, (1,), "SAME", dimension_numbers=numbers
    )
    found = calibrate(function, kernel, [X], everything)
    options = {"window_strides": (1,), "padding": "SAME"}
    check(found, "", [patches(X, kernel, numbers, options)], ((), (2,), (0, 1)))


# --- frameworks --------------------------------------------------------------------------------


def test_linen_layers_under_scan():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jnp.tanh(nn.Dense(10)(nn.LayerNorm()(x))), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            stacked = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            x, _ = nn.scan(Layer, length=2, **stacked)()(x, None)
            x = nn.MultiHeadDotProductAttention(2)(x, x)
            return nn.Conv(4, (3,))(x)

    net = Net()
    params = net.init(jax.random.key(0), jnp.asarray(X))
    found = calibrate(net.apply, params, [X])
    kernels = {name: found.layouts[name][1:] for name in found.layouts}
    scope = "params/MultiHeadDotProductAttention_0"
    assert kernels == {
        "params/Conv_0/kernel": ((), (2,), (0, 1)),
        f"{scope}/key/kernel": ((), (1, 2), (0,)),
        f"{scope}/out/kernel": ((), (2,), (0, 1)),
        f"{scope}/query/kernel": ((), (1, 2), (0,)),
        f"{scope}/value/kernel": ((), (1, 2), (0,)),
        "params/ScanLayer_0/Dense_0/kernel": ((0,), (2,), (1,)),
    }
    assert not found.skipped
    x = X.astype(np.float64)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    first = grams([flat(normal, 10)])[0]
    gram = found.inputs["params/ScanLayer_0/Dense_0/kernel"].gram
    np.testing.assert_allclose(gram[0], first, rtol=1e-4, atol=1e-3)


def test_nnx_through_split_and_merge():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(10, 8, rngs=rngs)
            self.conv = nnx.Conv(8, 5, (3,), rngs=rngs)
            self.general = nnx.LinearGeneral((4, 5), (2, 3), axis=(-2, -1), rngs=rngs)

        def __call__(self, x):
            return self.general(self.conv(jax.nn.relu(self.first(x))))

    graphdef, params = nnx.split(Net(nnx.Rngs(0)))
    found = calibrate(lambda p, x: nnx.merge(graphdef, p)(x), params, [X])
    assert {name: layout[1:] for name, layout in found.layouts.items()} == {
        "conv/kernel": ((), (2,), (0, 1)),
        "first/kernel": ((), (1,), (0,)),
        "general/kernel": ((), (2, 3), (0, 1)),
    }
    check(found, "first/kernel", [flat(X, 10)])
    assert found.inputs["general/kernel"].rows.tolist() == [6]


def test_equinox():
    eqx = pytest.importorskip("equinox")
    net = eqx.nn.MLP(10, 3, 8, 2, key=jax.random.key(0))
    params, static = eqx.partition(net, eqx.is_array)
    function = lambda p, x: jax.vmap(jax.vmap(eqx.combine(p, static)))(x)  # noqa: E731
    found = calibrate(function, params, [X])
    assert {layout[1:] for layout in found.layouts.values()} == {((), (0,), (1,))}
    assert len(found.layouts) == 3
    check(found, "layers/0/weight", [flat(X, 10)])


# --- several devices ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded_batches_and_parameters(kind):
    params, batches = decoder_params(), [functions.tokens(seed, batch=8) for seed in range(2)]
    alone = calibrate(decoder, params, batches)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    split = lambda spec: NamedSharding(mesh, PartitionSpec(*spec))  # noqa: E731
    sharded = jax.tree_util.tree_map_with_path(
        lambda path, w: jax.device_put(
            w, split((None, "model") if "up" in str(path) and w.ndim == 3 else ())
        ),
        params,
    )
    spread = [jax.device_put(batch, split(("data",))) for batch in batches]
    found = calibrate(decoder, sharded, spread)
    assert found.layouts == alone.layouts
    for name, (gram, rows) in found.inputs.items():
        assert gram.sharding.is_fully_replicated
        assert len(gram.sharding.device_set) == 8
        expected = alone.inputs[name].gram
        np.testing.assert_allclose(gram, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_array_equal(rows, alone.inputs[name].rows)


# --- which parameters, and which not -----------------------------------------------------------

W = draw(10, 10)


def test_tied_parameters_are_one_kernel_that_is_chosen_once():
    params = {"in": {"kernel": W}, "out": {"kernel": W}}
    function = lambda p, x: jnp.tanh(x @ p["in"]["kernel"]) @ p["out"]["kernel"]  # noqa: E731
    with pytest.raises(ValueError, match=r"one array at \['in'\]\['kernel'\] and \['out'\]"):
        calibrate(function, params, [X])
    x = flat(X, 10)
    for name in ("in", "out"):
        found = calibrate(function, params, [X], {"in": name == "in", "out": name == "out"})
        rows = np.concatenate([x, np.tanh(x @ np.asarray(W, np.float64))])
        check(found, f"{name}/kernel", [rows])


def test_an_embedding_that_also_writes_the_logits_is_calibrated_by_these():
    params = {"embedding": draw(17, 10)}
    tokens = functions.tokens()
    function = lambda p, t: jnp.tanh(p["embedding"][t]) @ p["embedding"].T  # noqa: E731
    found = calibrate(function, params, [tokens])
    rows = np.tanh(np.asarray(params["embedding"], np.float64)[tokens])
    check(found, "embedding", [flat(rows, 10)], ((), (0,), (1,)))


def halves(w, x):
    return x[..., :5] @ w[:5] + x[..., 5:] @ w[5:]


SKIPPED = {
    "gather": (lambda p, x: p[(x[..., 0] > 0).astype(int)] + x @ W, "but gather"),
    "mul": (lambda p, x: x @ (p * 2), "but mul"),
    "two kernels": (lambda p, x: x @ (p @ W), "values that do not depend on the batch"),
    "unread": (lambda p, x: x, "does not multiply by it"),
    "parts of the inputs": (halves, "only a part of its input axis 0"),
    "other inputs for parts": (
        lambda p, x: x @ p[:, :5] + jnp.tanh(x) @ p[:, 5:], "multiplied by different inputs"
    ),
    "other layouts": (lambda p, x: x @ p + jnp.tanh(x) @ p.T, "in different layouts"),
    "branch": (lambda p, x: lax.cond(x.sum() > 0, lambda: x @ p, lambda: x), "but cond"),
    "while": (
        lambda p, x: lax.while_loop(lambda c: c.sum() > 1e9, lambda c: c @ p, x), "but while"
    ),
    "changed in a loop": (
        lambda p, x: lax.fori_loop(0, 2, lambda i, c: (c[0] @ c[1], c[1] * 2), (x, p)), "but scan"
    ),
    "reversed": (lambda p, x: x @ p[::-1], "but rev"),
}  # fmt: skip


@pytest.mark.parametrize("case", SKIPPED)
def test_skipped(case):
    function, why = SKIPPED[case]
    params = {"other": W, "w": W + 1}
    found = calibrate(lambda p, x: (function(p["w"], x), x @ p["other"]), params, [X], everything)
    assert list(found.inputs) == ["other"]
    assert why in found.skipped["w"]
    assert why in str(found)


def test_grouped_convolutions_are_skipped():
    params = {"w": draw(3, 1, 10), "other": W}

    def function(p, x):
        return (
            lax.conv_general_dilated(
                x,
                p["w"],
                (1,),
                "SAME",
                dimension_numbers=("NWC", "WIO", "NWC"),
                feature_group_count=10,
            )
            @ p["other"]
        )

    found = calibrate(function, params, [X], everything)
    assert found.skipped == {"w": "a convolution in groups reads it"}


def test_stacked_layers_that_are_not_all_multiplied_are_skipped():
    params = {"w": draw(4, 10, 10), "other": W}
    function = lambda p, x: jnp.tanh(x @ p["w"][0]) @ p["w"][2] @ p["other"]  # noqa: E731
    found = calibrate(function, params, [X], everything)
    assert found.skipped == {"w": "2 of its 4 matrices are never multiplied"}


def test_where_chooses():
    params = decoder_params()
    found = calibrate(decoder, params, [functions.tokens()], lambda path, leaf: "up" in str(path)
                      and leaf.ndim == 3)  # fmt: skip
    assert list(found.inputs) == ["layers/up/kernel"]
    assert not found.skipped


def test_dtypes():
    half = calibrate(lambda w, x: x @ w, W.astype(jnp.bfloat16), [X.astype(jnp.bfloat16)])
    assert half.inputs[""].gram.dtype == jnp.float32
    rounded = flat(jnp.asarray(X).astype(jnp.bfloat16), 10)
    check(half, "", [rounded])
    with jax.enable_x64(True):
        double = calibrate(lambda w, x: x @ w, jnp.asarray(W, jnp.float64), [X.astype(np.float64)])
        assert double.inputs[""].gram.dtype == jnp.float64
        np.testing.assert_allclose(double.inputs[""].gram[0], flat(X, 10).T @ flat(X, 10), 1e-13)
        assert double.inputs[""].rows.dtype == jnp.float64


def test_many_inputs_are_symmetric():
    """Only the upper triangle is computed, in strips."""
    x = RNG.normal(size=(40, 523)).astype(np.float32)
    found = calibrate(lambda w, x: x @ w, draw(523, 2), [x])
    gram = np.asarray(found.inputs[""].gram[0])
    np.testing.assert_array_equal(gram, gram.T)
    check(found, "", [x])
    layout = KernelLayout((523, 2), (), (1,), (0,))
    assert found.layouts == {"": layout}


def test_batches_are_trees():
    batch = {"x": X, "scale": np.float32(3.0)}
    found = calibrate(lambda w, b: (b["x"] * b["scale"]) @ w, W, [batch, batch])
    check(found, "", [np.concatenate([3 * flat(X, 10)] * 2)])
    found = calibrate(lambda w, b: b[0] @ w + b[1], W, iter([(X, 1.0)]))
    check(found, "", [flat(X, 10)])


# --- errors ------------------------------------------------------------------------------------


def dense(w, x):
    return x @ w


ERRORS = {
    "no batches": (dense, W, [], "batches must hold at least one batch; there is none"),
    "empty batch": (dense, W, [X, X[:0]], "each batch must have rows; batch 1 has none"),
    "no kernel": (lambda w, x: x, W, [X], "must multiply values that depend on the batch"),
    "tied and transposed": (
        lambda w, x: jnp.tanh(x @ w) @ w.T, W, [X],
        r"a way that can be calibrated; .* different layouts, such as x @ kernel and h @ kernel.T"
    ),
    "only gathered": (lambda w, x: w[x.astype(int)], W, [X], "but gather"),
    "not traceable": (
        lambda w, x: x @ w if x.sum() > 0 else x, W, [X], "that JAX can trace for the batches"
    ),
    "wrong shape": (dense, W, [X[..., :3]], "that JAX can trace for the batches"),
    "other computation": (
        lambda w, x: x @ w if x.shape[0] == 6 else (x @ w[0])[..., None] * (x @ w[1])[..., None],
        draw(10, 10), [X, X[:2]], "must give the same kernels inputs; batch 1, of shapes"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    function, params, batches, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        calibrate(function, params, batches, everything)


@pytest.mark.parametrize(
    ("function", "batches", "message"),
    [
        (dense, {"x": X}, r"such as a list; got a dict. A single batch is passed as \[batch\]"),
        (dense, None, "such as a list; got a NoneType"),
        (dense, "text", "such as a list; got a str"),
        (dense, X, r"got an array of shape \(.*\). A single batch is passed as \[batch\]"),
        (dense, np.asarray(X), "and batches that are stacked as list"),
        (dense, [{"x": "text"}], r"leaf x of batch 0 is 'text' \(str\)"),
        (W, [X], "function must be a function"),
    ],
)
def test_what_is_no_function_or_no_batch(function, batches, message):
    for call in (calibrate, lambda *args: prune_sequentially(*args, 0.5)):
        with pytest.raises(TypeError, match=message):
            call(function, W, batches)


def test_traced_arrays():
    with pytest.raises(TypeError, match="params must hold concrete arrays"):
        jax.jit(lambda w: calibrate(dense, w, [X]))(W)
    with pytest.raises(TypeError, match="batch 0 is traced"):
        jax.jit(lambda x: calibrate(dense, W, [x], everything).inputs[""].gram)(X)


@pytest.mark.parametrize("loop", ["scan", "python"])
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30])
def test_the_first_kernel_with_inputs_that_are_not_finite_is_named(loop, number):
    params = decoder_params()
    params["layers"]["up"]["bias"][1, 3] = number
    function = lambda p, t: decoder(p, t, loop)  # noqa: E731
    if number == 1e30:  # whose square overflows; tanh would hide it
        params["layers"]["up"]["bias"][1, 3] = 0
        params["layers"]["down"]["kernel"][0] = 1e30
        name = "layers/key/kernel and layers/query/kernel and layers/value/kernel, of matrix 1,"
    elif np.isinf(number):
        params["layers"]["down"]["kernel"][0, 3, 3] = number
        name = "layers/key/kernel and layers/query/kernel and layers/value/kernel, of matrix 1,"
    else:
        name = "layers/down/kernel, of matrix 1,"
    with pytest.raises(ValueError, match=f"activations must be finite; the inputs of {name}"):
        calibrate(function, params, [functions.tokens()])
