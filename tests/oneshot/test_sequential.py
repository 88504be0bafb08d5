"""Sequential pruning against one call of calibrate and prune for each kernel in turn."""

import functools
import shutil
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sparsejax._names import named_leaves
from sparsejax.oneshot import (
    _flows,
    calibrate,
    prune,
    prune_sequentially,
    sparsegpt,
    swaps,
    wanda,
)
from sparsejax.oneshot._segments import Programs
from tests.oneshot import functions
from tests.oneshot.functions import LAYERS, decoder, decoder_params, layer

ORDER = ["query", "key", "value", "out", "up", "down"]
"""The kernels of a layer, each after those that its inputs depend on."""


def kernels(path, leaf):
    return "kernel" in jax.tree_util.keystr(path)


def named(name):
    return lambda path, leaf: jax.tree_util.keystr(path, simple=True, separator="/") == name


def unstacked(params):
    """The decoder's parameters with a list of layers."""
    layers = [jax.tree.map(lambda w, i=i: w[i], params["layers"]) for i in range(LAYERS)]
    return params | {"layers": layers}


def listed(params, tokens):
    x = params["embed"]["embedding"][tokens]
    for one in params["layers"]:
        x = layer(x, one)
    return x @ params["head"]["kernel"]


def one_by_one(function, params, batches, order, *options):
    """Calibrate and prune one kernel after another; it is slow, and what is meant."""
    for name in order:
        found = calibrate(function, params, batches, named(name))
        params = prune(params, found, *options)
    return params


def check(found, expected):
    """Compare parameters; the first mask that rounding changes would change all after it."""
    pairs = zip(named_leaves(found), named_leaves(expected), strict=True)
    for (name, one), (_, other) in pairs:
        np.testing.assert_array_equal(one != 0, np.asarray(other) != 0, name)
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-5, err_msg=name)


BATCHES = [functions.tokens(seed, 4, 6) for seed in range(3)]
IN_ORDER = [f"layers/{i}/{name}/kernel" for i in range(LAYERS) for name in ORDER] + ["head/kernel"]


@pytest.mark.parametrize("options", [(0.6, "sparsegpt", "layer"), (None, "wanda", "2:4")])
def test_each_kernel_is_calibrated_behind_the_pruned_ones(options):
    params = unstacked(decoder_params())
    found = prune_sequentially(listed, params, BATCHES, *options, where=kernels)
    check(found, one_by_one(listed, params, BATCHES, IN_ORDER, *options))
    dense = calibrate(listed, params, BATCHES, kernels)
    at_once = prune(params, dense, *options)
    first, last = (np.asarray(tree["layers"][1]["down"]["kernel"]) for tree in (found, at_once))
    assert ((first != 0) != (last != 0)).any()


@pytest.fixture(scope="module")
def pruned_list():
    """The decoder with a list of layers, half of whose weights are gone."""
    params = unstacked(decoder_params())
    return prune_sequentially(listed, params, BATCHES, 0.5, "wanda", where=kernels)


@pytest.mark.parametrize("loop", ["scan", "fori", "python"])
def test_stacked_layers_are_pruned_one_by_one(loop, pruned_list):
    params = decoder_params()
    function = lambda p, b: decoder(p, b, loop)  # noqa: E731
    names = []
    found = prune_sequentially(
        function, params, BATCHES, 0.5, "wanda", where=kernels,
        on_layer=lambda name, error: names.append(name),
    )  # fmt: skip
    assert names[0] == "layers/key/kernel[0]"
    assert names[6:] == [
        "layers/key/kernel[1]", "layers/query/kernel[1]", "layers/value/kernel[1]",
        "layers/out/kernel[1]", "layers/up/kernel[1]", "layers/down/kernel[1]", "head/kernel",
    ]  # fmt: skip
    check(unstacked(found), pruned_list)
    for name, leaf in named_leaves(found):
        if "kernel" in name:
            assert np.count_nonzero(leaf) == leaf.size // 2, name


def test_one_budget_for_all_kernels():
    """Its division is that of the dense network; experts have counts of their own."""
    params = {"a": draw(3, 8, 6) * 4, "b": draw(3, 6, 8, seed=1), "c": draw(8, 8)}
    dense = calibrate(experts, params, [X], everything)
    counts = [np.count_nonzero(w, axis=(1, 2) if w.ndim == 3 else None)
              for w in prune(params, dense, 0.55, "wanda", "global").values()]  # fmt: skip
    names = []
    found = prune_sequentially(
        experts, params, [X], 0.55, "wanda", "global", everything,
        on_layer=lambda name, error: names.append(name),
    )  # fmt: skip
    assert names == ["a", "b", "c"]
    for kernel, expected in zip(found.values(), counts, strict=True):
        own = np.count_nonzero(kernel, axis=(1, 2) if kernel.ndim == 3 else None)
        np.testing.assert_array_equal(own, expected)
    assert sum(np.count_nonzero(w) for w in found.values()) == round(0.45 * 352)
    assert len({*map(int, counts[1])}) > 1


def test_batches_of_several_shapes():
    function, params, order = FUNCTIONS["convolutions"]
    batches, options = [X, X[:3], 2 * X], (0.5, "wanda")
    found = prune_sequentially(function, params, iter(batches), *options, where=everything)
    check(found, one_by_one(function, params, batches, order, *options))


def test_layers_that_compute_alike_share_programs(monkeypatch):
    """And between the stages only the values that are still needed are kept."""
    made = []

    class Counting(Programs):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(_flows, "Programs", Counting)
    counts = []
    for depth in (2, 3, 5):
        params = unstacked(decoder_params())
        params["layers"] = [params["layers"][0]] * depth
        params = jax.tree.map(jnp.array, params)
        prune_sequentially(listed, params, BATCHES[:1], 0.5, "magnitude", where=kernels)
        counts.append(len(made[-1]._cache))
    assert counts[0] == counts[1] == counts[2]


def test_the_values_between_stages_are_few():
    flow = _flows.Flow(
        listed, unstacked(decoder_params()), BATCHES[0],
        [bool(leaf.ndim > 1) for leaf in jax.tree.leaves(unstacked(decoder_params()))],
        [name for name, _ in named_leaves(unstacked(decoder_params()))], Programs(None),
    )  # fmt: skip
    kinds = [[part.leaf for part in stage.parts] for stage in flow.stages]
    assert [len(kind) for kind in kinds] == [3, 1, 1, 1] * LAYERS + [1]
    assert [len(alive) for alive in flow._alive] == [1, 2, 1, 2] * LAYERS + [1]


# --- functions of other kinds ------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(6, 5, 8)).astype(np.float32)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) / 3, jnp.float32)


def convolutions(p, x):
    numbers = ("NWC", "WIO", "NWC")
    for name in ("a", "b"):
        x = jax.nn.relu(
            lax.conv_general_dilated(x, p[name], (1,), "SAME", dimension_numbers=numbers)
        )
    return x.mean(1) @ p["c"]


def cross_attention(p, x):
    """Keys read the encoder's output; queries come first in the computation."""
    q = jnp.tanh(x) @ p["d"]
    memory = jnp.tanh(x @ p["a"]) @ p["b"]
    k = memory @ p["c"]
    return jnp.einsum("btd,bud->btu", q, k)


def experts(p, x):
    y = jnp.tanh(jnp.einsum("btd,edf->betf", x, p["a"]))
    return jnp.einsum("betf,efd->betd", y, p["b"]).sum(1) @ p["c"]


FUNCTIONS = {
    "convolutions": (
        convolutions, {"a": draw(3, 8, 8), "b": draw(3, 8, 4, seed=1), "c": draw(4, 4, seed=2)},
        "abc",
    ),
    "cross attention": (
        cross_attention, {name: draw(8, 8, seed=n) for n, name in enumerate("abcd")}, "adbc"
    ),
    "experts": (experts, {"a": draw(3, 8, 6), "b": draw(3, 6, 8, seed=1), "c": draw(8, 8)}, "abc"),
    "one kernel in two places": (
        lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["a"]) @ p["b"],
        {"a": draw(8, 8), "b": draw(8, 8, seed=1)}, "ab",
    ),
    "a layer between": (
        lambda p, x: jnp.tanh(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["a"]) @ p["c"],
        {"a": draw(8, 8), "b": draw(8, 8, seed=1), "c": draw(8, 8, seed=2)}, "abc",
    ),
    "a tuple": (
        lambda p, batch: jnp.tanh(batch[0] @ p["a"] + batch[1]) @ p["b"],
        {"a": draw(8, 8), "b": draw(8, 8, seed=1)}, "ab",
    ),
}  # fmt: skip


def everything(path, leaf):
    return True


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    function, params, order = FUNCTIONS[name]
    batches = [X, 2 * X] if name != "a tuple" else [(X, 1.0), (2 * X, -1.0)]
    options = (0.5, "wanda", "row")
    found = prune_sequentially(function, params, batches, *options, where=everything)
    if name == "a layer between":
        # The first kernel's last inputs come through a kernel that is not pruned yet.
        assert all((np.asarray(w) == 0).mean() == 0.5 for w in found.values())
        return
    check(found, one_by_one(function, params, batches, order, *options))


def test_parameters_keep_what_they_are():
    params = {"a": draw(8, 8).astype(jnp.bfloat16), "b": np.asarray(draw(8, 8)), "bias": draw(8)}
    before = jax.tree.map(np.array, params)
    function = lambda p, x: jnp.tanh(x.astype(p["a"].dtype) @ p["a"] + p["bias"]) @ p["b"]  # noqa: E731
    found = prune_sequentially(function, params, [X], 0.5, "wanda")
    assert found["a"].dtype == jnp.bfloat16
    assert found["bias"] is params["bias"] or (found["bias"] == params["bias"]).all()
    for name in params:
        np.testing.assert_array_equal(params[name], before[name])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_several_devices(kind):
    params, batches = decoder_params(), [functions.tokens(seed, batch=8) for seed in range(2)]
    alone = prune_sequentially(decoder, params, batches, 0.5, "wanda", where=kernels)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    split = lambda *spec: NamedSharding(mesh, PartitionSpec(*spec))  # noqa: E731
    sharded = jax.tree_util.tree_map_with_path(
        lambda path, w: jax.device_put(
            w, split(None, "model") if "up" in str(path) and w.ndim == 3 else split()
        ),
        params,
    )
    spread = [jax.device_put(batch, split("data")) for batch in batches]
    found = prune_sequentially(decoder, sharded, spread, 0.5, "wanda", where=kernels)
    check(found, alone)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(sharded), strict=True):
        assert one.sharding == other.sharding


# --- interruptions -----------------------------------------------------------------------------


class InterruptedError(Exception):
    pass


@functools.cache
def whole_call(dtype):
    """The arguments of a call, and what it returns."""
    params = jax.tree.map(lambda w: jnp.asarray(w, dtype), decoder_params())
    arguments = (decoder, params, BATCHES, 0.5, "sparsegpt")
    return arguments, prune_sequentially(*arguments, where=kernels)


@pytest.mark.parametrize(
    ("last", "left", "dtype"),
    [(1, 13, jnp.float32), (4, 10, jnp.bfloat16), (9, 7, jnp.float32)],
)
def test_an_interrupted_call_goes_on(tmp_path, last, left, dtype):
    arguments, whole = whole_call(dtype)
    done = []

    def interrupt(name, error):
        done.append(name)
        if len(done) == last:
            raise InterruptedError

    folder = tmp_path / "pruned"
    with pytest.raises(InterruptedError):
        prune_sequentially(*arguments, where=kernels, on_layer=interrupt, directory=folder)
    later = []
    found = prune_sequentially(
        *arguments, where=kernels, directory=folder, on_layer=lambda name, _: later.append(name)
    )
    assert len(later) == left  # a stage, such as queries, keys and values, is done or it is not
    assert later[-1] == "head/kernel"
    again = prune_sequentially(*arguments, where=kernels, directory=folder, on_layer=interrupt)
    for tree in (found, again):
        for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(whole), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of a call, and its arguments."""
    params = {"a": draw(8, 8), "b": draw(8, 8)}
    method = swaps(sparsegpt(damping=0.1), rounds=1)
    call = {"params": params, "batches": [X], "budget": 0.5, "method": method, "where": everything}
    call["function"] = two
    folder = tmp_path_factory.mktemp("ended")
    prune_sequentially(directory=folder, **call)
    return folder, call


@pytest.mark.parametrize(
    "change", ["budget", "method", "start", "params", "batches", "where", "function"]
)
def test_a_folder_of_another_call_is_refused(tmp_path, ended, change):
    folder, call = ended[0], dict(ended[1])
    params = call["params"]
    call["method" if change == "start" else change] = {
        "start": swaps(sparsegpt(damping=0.2), rounds=1),
        "budget": 0.6, "method": "magnitude", "params": params | {"a": draw(8, 8, seed=3)},
        "batches": [X[:3]], "where": named("a"),
        "function": lambda p, x: two(p, 2 * x),
    }[change]  # fmt: skip
    folder = shutil.copytree(folder, tmp_path / "run")
    with pytest.raises(ValueError, match="directory must be new, or that of an interrupted call"):
        prune_sequentially(directory=folder, **call)


def test_a_folder_knows_equal_arguments_and_damaged_files(tmp_path):
    params = {"a": draw(8, 8), "b": draw(8, 8)}
    call = (two, params, [X])
    options = {"where": everything, "directory": tmp_path}
    found = prune_sequentially(*call, 0.5, "wanda", **options)
    again = prune_sequentially(*call, Fraction(1, 2), wanda(), **options)
    np.testing.assert_array_equal(found["b"], again["b"])
    damaged = tmp_path / "stage_0001.npz"
    damaged.write_bytes(b"{")
    with pytest.raises(ValueError, match=f"directory holds a damaged file, {damaged}; delete"):
        prune_sequentially(*call, 0.5, "wanda", **options)
    with pytest.raises(ValueError, match="directory must be a folder"):
        prune_sequentially(*call, 0.5, where=everything, directory=damaged)
    for folder in (3, b"folder"):
        with pytest.raises(TypeError, match="directory must be a path"):
            prune_sequentially(*call, 0.5, where=everything, directory=folder)


def test_no_file_of_a_folder_can_be_deleted_so_that_another_call_takes_it_over(tmp_path):
    call = (two, {"a": draw(8, 8), "b": draw(8, 8)}, [X])
    options = {"where": everything, "directory": tmp_path}
    prune_sequentially(*call, 0.5, "wanda", **options)
    saved = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for name in saved:
        (tmp_path / name).unlink()
        with pytest.raises(ValueError, match="directory must be new, .* Only vmap_size, on_layer"):
            prune_sequentially(*call, 0.75, "wanda", **options)
        (tmp_path / name).write_bytes(saved[name])
    found = prune_sequentially(*call, 0.5, "wanda", vmap_size=2, **options)
    assert [np.count_nonzero(kernel) for kernel in found.values()] == [32, 32]


# --- errors ------------------------------------------------------------------------------------


def two(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


PARAMS = {"a": draw(8, 8), "b": draw(8, 6)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"comparison": "best"}, "comparison must be one of"),
        ({"pattern": "diagonal"}, "pattern must be"),
        ({"budget": 1.5}, "budget must be"),
        ({"method": "best"}, "method must be"),
        ({"pattern": "3:5", "budget": None}, "a has"),
        ({"batches": []}, "batches must hold at least one batch; there is none"),
        ({"batches": [X, X[:0]]}, "each batch must have rows; batch 1 has none for a"),
        ({"function": lambda p, x: x}, "function must multiply values that depend on the batch"),
        (
            {"function": lambda p, x: two({"a": p["a"] * 2, "b": p["b"]}, x), "where": everything},
            "where must choose kernels that activations are multiplied with; a is none, since",
        ),
    ],
)
def test_errors(changed, message):
    call = {"function": two, "params": PARAMS, "batches": [X], "budget": 0.5, "method": "wanda"}
    with pytest.raises(ValueError, match=message):
        prune_sequentially(**(call | changed))


def test_activations_that_are_not_finite_are_named():
    params = decoder_params()
    params["layers"]["up"]["bias"][1, 3] = np.nan
    message = r"the inputs of layers/down/kernel\[1\] are NaN or infinite"
    with pytest.raises(ValueError, match=message):
        prune_sequentially(decoder, params, BATCHES, 0.5, "wanda", where=kernels)


def test_what_is_not_chosen_stays():
    found = prune_sequentially(two, PARAMS, [X], 0.5, "wanda", where=named("b"))
    assert found["a"] is PARAMS["a"] or (found["a"] == PARAMS["a"]).all()
    assert np.count_nonzero(found["b"]) == 24


def test_lines(capsys):
    prune_sequentially(two, PARAMS, [X], 0.5, "wanda", progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["1/2 a", "2/2 b"]
