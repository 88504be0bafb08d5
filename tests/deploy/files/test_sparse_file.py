import json
import sys
import tracemalloc

import hypothesis.extra.numpy as arrays_of
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open
from safetensors.numpy import save_file

from sparsejax.deploy import load_sparse, save_sparse
from sparsejax.deploy.files import _streams
from sparsejax.deploy.files._compression import compress
from sparsejax.deploy.files._container import write

DTYPES = [
    "float32", "float64", "float16", "bfloat16", "int8", "int32", "int64", "uint8", "bool",
    "complex64", "complex128", "float8_e4m3fn", "int4",
]  # fmt: skip


@st.composite
def leaves(draw):
    """Arrays of up to three dimensions, scalars and empty ones among them, at any density."""
    shape = draw(st.one_of(st.just((3000,)), arrays_of.array_shapes(min_dims=0, min_side=0)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    density = draw(st.sampled_from([0, 0.001, 0.03, 0.3, 0.9, 1]))
    values = rng.normal(size=shape) * 50 * (rng.random(shape) < density)
    return np.asarray(values).astype(jnp.dtype(draw(st.sampled_from(DTYPES))))


trees = st.one_of(
    leaves(),
    st.lists(leaves(), min_size=1, max_size=4),
    st.fixed_dictionaries({"conv": st.tuples(leaves(), leaves()), "ä/b": leaves()}),
)


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(trees)
def test_what_is_read_is_what_was_written(tmp_path, tree):
    path = tmp_path / "net.safetensors"
    written = save_sparse(path, tree)
    assert written == path.stat().st_size
    assert_equal(load_sparse(path, like=tree), tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"critic": {"value": np.eye(3, dtype=np.float32)}},
        {"heads": {"policy": np.ones(2), "value": np.zeros(3)}},
        {"value": {"value": {"value": np.ones(2)}}, "kernel": np.ones(1)},
        {"a/b": np.ones(2), "a": {"b": np.zeros(1)}, "/": np.ones(1), "": np.ones(3)},
        {"": {"": {"/": np.ones(2)}}, "//": np.ones(1)},
        {0: np.ones(1), 7: {-3: np.zeros(2)}},
        {"0": np.ones(1), "list": [np.ones(1), [np.ones(2), ()], {"x": (np.ones(1), None)}]},
        [{}, [], (), None, {"a": {}}, np.ones(1)],
        (np.float64(1.5), np.int32(3), True),
        np.ones((2, 0)),
    ],
)
def test_no_key_means_anything_and_containers_come_back(tmp_path, tree):
    path = tmp_path / "net"
    save_sparse(path, tree)
    for found in (load_sparse(path), load_sparse(path, like=tree)):
        assert_equal(found, jax.tree.map(np.asarray, tree))


def test_wrappers_count_as_their_arrays_and_other_nodes_as_dicts(tmp_path):
    path = tmp_path / "net"
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    state = nnx.state(model)
    plain = {"bias": np.asarray(model.bias[...]), "kernel": np.asarray(model.kernel[...])}
    save_sparse(path, {"layer": state, "moments": optax.ScaleByRmsState(nu=state)})
    assert_equal(load_sparse(path), {"layer": plain, "moments": {"nu": plain}})
    again = load_sparse(path, like={"layer": state, "moments": optax.ScaleByRmsState(nu=plain)})
    assert isinstance(again["moments"], optax.ScaleByRmsState)
    assert_equal(nnx.to_pure_dict(again["layer"]), plain)


@pytest.mark.parametrize("key", [True, 1.5, (1, 2), None])
def test_keys_that_no_file_can_give_back_are_named(tmp_path, key):
    with pytest.raises(ValueError, match=r"keys are strings or integers; .* in a/0 is none"):
        save_sparse(tmp_path / "net", {"a": [{key: np.ones(2)}]})
    assert not list(tmp_path.iterdir())


def lenet5(rng, weights):
    shapes = {
        "conv1": (5, 5, 1, 20),
        "conv2": (5, 5, 20, 50),
        "dense1": (800, 500),
        "dense2": (500, 10),
    }
    total = sum(np.prod(shape) for shape in shapes.values())
    chosen = np.zeros(total, np.float32)
    chosen[rng.choice(total, weights, replace=False)] = rng.normal(size=weights)
    params = {}
    for name, shape in shapes.items():
        kernel, chosen = chosen[: np.prod(shape)], chosen[np.prod(shape) :]
        params[name] = {"kernel": kernel.reshape(shape), "bias": np.zeros(shape[-1], np.float32)}
    return params


def test_lenet5_of_1077_weights_takes_less_than_8_kB(tmp_path):
    params = lenet5(np.random.default_rng(0), 1077)
    path = tmp_path / "lenet5.safetensors"
    exact = save_sparse(path, params)
    assert exact < 6500
    found = load_sparse(path)
    assert_equal(found, params)
    half = save_sparse(path, params, dtype="float16")
    assert half < exact - 1700
    kernel = params["dense1"]["kernel"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(load_sparse(path, params)["dense1"]["kernel"], kernel)


def test_whole_channels_that_are_missing_cost_little(tmp_path):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(200, 300)).astype(np.float32) * (rng.random(300) < 0.5)
    few = np.count_nonzero(kernel) * 4
    assert save_sparse(tmp_path / "net", {"kernel": kernel}) < few + 1000


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "complex64"])
@pytest.mark.parametrize("keep", [False, True])
def test_special_values_are_exact_to_the_bit(tmp_path, dtype, keep):
    """Numbers that are no zeros, and with keep_negative_zeros these, too."""
    values = np.float32([np.inf, -np.inf, 1e-45, -1e-45, 3e38, 0, -0.0, 1, np.nan])
    with np.errstate(over="ignore", under="ignore"):
        values = values.astype(jnp.dtype(dtype))
    raw = values.view(np.uint8).reshape(len(values), -1)
    raw[-1, 0] ^= 5  # another payload of the nan
    sparse = np.zeros(100, values.dtype)
    sparse[::12] = values
    for array in (values, sparse):
        save_sparse(tmp_path / "net", [array], keep_negative_zeros=keep)
        expected = array.copy()
        if not keep:
            expected[array == 0] = 0
        (found,) = load_sparse(tmp_path / "net", [array])
        assert found.dtype == array.dtype
        assert found.tobytes() == expected.tobytes()


def test_signs_of_masked_weights_take_no_space(tmp_path):
    rng = np.random.default_rng(0)
    weights, mask = rng.normal(size=(300, 100)).astype(np.float32), rng.random((300, 100)) < 0.02
    assert np.signbit(weights * mask).sum() > 10_000
    masked = save_sparse(tmp_path / "net", weights * mask)
    assert masked == save_sparse(tmp_path / "net", np.where(mask, weights, 0))
    assert save_sparse(tmp_path / "net", weights * mask, keep_negative_zeros=True) > masked + 3000


def test_a_random_mask_takes_little_more_than_its_entropy(tmp_path):
    rng = np.random.default_rng(0)
    for density in (0.001, 0.02, 0.2, 0.5):
        mask = rng.random((1000, 200)) < density
        entropy = -density * np.log2(density) - (1 - density) * np.log2(1 - density)
        assert save_sparse(tmp_path / "net", mask) < 1.2 * mask.size * entropy / 8 + 400


def test_the_same_tree_gives_the_same_bytes(tmp_path):
    tree = {"b": np.eye(3), "a": [np.ones(2, np.int8)]}
    files = []
    for name in "abcdef":
        save_sparse(tmp_path / name, tree)
        files.append((tmp_path / name).read_bytes())
    assert len(set(files)) == 1


def test_the_pieces_in_which_runs_are_encoded_leave_no_trace(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    tree = [np.where(rng.random(200) < density, 1, 0) for density in (0.5, 0.01, 0, 1, 0.05, 0)]
    files = []
    for piece in (2**20, 1, 7, 200):
        monkeypatch.setattr(_streams, "_PIECE", piece)
        save_sparse(tmp_path / "net", tree)
        files.append((tmp_path / "net").read_bytes())
        assert_equal(load_sparse(tmp_path / "net"), tree)
    assert len(set(files)) == 1


def test_writing_takes_a_few_times_the_memory_of_the_tree(tmp_path):
    tree = [np.ones((1024, 1024), np.float32) for _ in range(16)]
    tracemalloc.start()
    try:
        save_sparse(tmp_path / "net", tree)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**26
    finally:
        tracemalloc.stop()


def test_bfloat16_values_and_a_value_too_large_for_float16(tmp_path):
    tree = {"a": np.float32([1e5, 0, 1.001]), "b": np.arange(3), "c": np.float16([1, 2, 3])}
    with pytest.raises(ValueError, match="dtype 'float16' is too small for values of a"):
        save_sparse(tmp_path / "net", tree, dtype="float16")
    assert not list(tmp_path.iterdir())
    save_sparse(tmp_path / "net", tree, dtype="bfloat16")
    found = load_sparse(tmp_path / "net", tree)
    expected = tree["a"].astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found["a"], expected)
    np.testing.assert_array_equal(found["b"], tree["b"])
    np.testing.assert_array_equal(found["c"], tree["c"])


def test_the_file_is_a_safetensors_file(tmp_path):
    save_sparse(tmp_path / "net", lenet5(np.random.default_rng(0), 50))
    with safe_open(tmp_path / "net", framework="np") as file:
        assert set(file.keys()) == {"about", "zeros", "values"}
        assert json.loads(file.metadata()["sparsejax"])["version"] == 3


def test_no_byte_changes_unnoticed(tmp_path):
    path = tmp_path / "net"
    tree = {"a": np.float32([0] * 40 + [1.5, 0, 2]), "b": np.int32([1, 2])}
    save_sparse(path, tree)
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path}.*(damaged|has version)"):
            load_sparse(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"{path}.*truncated"):
            load_sparse(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match=f"{path}.*damaged"):
        load_sparse(path)
    path.write_bytes(content)
    assert_equal(load_sparse(path), tree)


def test_foreign_files_and_other_versions(tmp_path):
    path = tmp_path / "net"
    foreign = [None, {}, {"format": "pt"}, {"sparsejax": "x"}, {"sparsejax": "[]"}]
    for metadata in [*foreign, {"sparsejax": '{"version": 3}'}]:
        save_file({"a": np.ones(2)}, path, metadata)
        with pytest.raises(ValueError, match=f"must be a file of save_sparse; {path} is another"):
            load_sparse(path)
    path.write_text("no such format")
    with pytest.raises(ValueError, match="must be a file of save_sparse"):
        load_sparse(path)
    save_file({"a": np.ones(2)}, path, {"sparsejax": '{"version": 4, "sha256": ""}'})
    with pytest.raises(ValueError, match=f"{path} has version 4; this library reads version 3"):
        load_sparse(path)
    with pytest.raises(FileNotFoundError):
        load_sparse(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=f"there is no {tmp_path / 'nothing'}$"):
        save_sparse(tmp_path / "nothing" / "net", {"a": np.ones(2)})


def test_contents_that_save_sparse_does_not_write_are_refused(tmp_path):
    """With a right checksum: of a program that writes the format in a wrong way."""
    path = tmp_path / "net"
    about = {"tree": ["list", [0, 0]], "leaves": [["float32", [3], "float32"]] * 2}
    good = {"about": json.dumps(about).encode(), "zeros": b"\0\1", "values": b"12345678"}
    write(path, {name: compress(part) for name, part in good.items()})
    assert load_sparse(path)[0].tobytes() == b"1357" + b"\0" * 4 + b"2468"
    for name, part in (
        ("about", b"{}"), ("about", b"text"), ("zeros", b"\x80"), ("zeros", b"\0\0\0\0\0\0\0"),
        ("values", b"1234"),
    ):  # fmt: skip
        write(path, {key: compress(p) for key, p in (good | {name: part}).items()})
        with pytest.raises(ValueError, match=f"{path} is not as save_sparse writes"):
            load_sparse(path)
    write(path, dict.fromkeys(good, b"\x07"))
    with pytest.raises(ValueError, match=f"{path} is not as save_sparse writes"):
        load_sparse(path)


def test_a_tree_that_does_not_fit_is_told_all_that_is_wrong(tmp_path):
    save_sparse(tmp_path / "net", {"a": np.float32([1, 2]), "b": np.float32([1])})
    like = {"a": np.float32([[1, 2]]), "c": np.float32([1])}
    message = r"c is missing; b is unknown; a is float32\[2\], not float32\[1, 2\]"
    with pytest.raises(ValueError, match=message):
        load_sparse(tmp_path / "net", like)


def test_a_module_with_other_leaves_than_arrays_is_told_to_leave_them_out(tmp_path):
    module = {"weight": np.ones(2), "rate": 0.0, "activation": jax.nn.relu}
    with pytest.raises(TypeError, match=r"activation is .*equinox\.filter\(model"):
        save_sparse(tmp_path / "net", module)
    save_sparse(tmp_path / "net", {"weight": module["weight"]})
    for name in ("activation", "rate"):
        like = {key: module[key] for key in ("weight", name)}
        with pytest.raises(
            ValueError, match=rf"{name} is missing\. Pass the arrays .*filter\(like"
        ):
            load_sparse(tmp_path / "net", like)
    with pytest.raises(ValueError, match="bias is missing$"):
        load_sparse(tmp_path / "net", {"weight": np.ones(2), "bias": np.ones(2)})


def test_bad_arguments_are_named(tmp_path):
    path = tmp_path / "net"
    with pytest.raises(ValueError, match="dtype must be one of"):
        save_sparse(path, {"a": np.ones(2)}, dtype="int8")
    with pytest.raises(TypeError, match="must be arrays; a is 'text'"):
        save_sparse(path, {"a": "text"})
    with pytest.raises(TypeError, match="arrays of numbers; a is <U"):
        save_sparse(path, {"a": np.array("text")})
    with pytest.raises(TypeError, match="arrays of numbers; a is key"):
        save_sparse(path, {"a": jax.random.key(0)})
    with pytest.raises(TypeError, match="concrete arrays; a is traced"):
        jax.jit(lambda x: save_sparse(path, {"a": x}))(1.0)
    for empty in ((), {"a": None}, [{}, []]):
        with pytest.raises(ValueError, match="at least one array; .* of compile_sparse"):
            save_sparse(path, empty)
    with pytest.raises(ValueError, match=r"keys are strings or integers; 1.5 \(float\) in a/0 is"):
        save_sparse(path, {"a": [{1.5: np.ones(2)}]})
    assert not path.exists()


@pytest.mark.parametrize("call", [lambda path: save_sparse(path, np.ones(2)), load_sparse])
def test_a_missing_package_is_named(tmp_path, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"safetensors: pip install 'sparsejax\[deploy\]'"):
        call(tmp_path / "net")
