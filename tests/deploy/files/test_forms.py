"""Compressed weights come back from a file in their forms, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsejax
from sparsejax import compression
from sparsejax.compression import (
    LowRankArray,
    QuantizedArray,
    RoundedArray,
    ScaledArray,
    SumArray,
    decode,
)
from sparsejax.deploy import load_sparse, save_sparse
from sparsejax.deploy.files._compression import compress, decompress
from sparsejax.deploy.files._container import read, write

FORMS = (QuantizedArray, LowRankArray, RoundedArray, ScaledArray, SumArray)


def is_form(node):
    return isinstance(node, FORMS)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@st.composite
def quantised(draw):
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from(["float32", "bfloat16", "float64", "float16"]))
    k = draw(st.sampled_from([1, 2, 3, 5, 16, 257, 300]))
    shape = draw(st.sampled_from([(), (0, 3), (7,), (30, 20), (3, 2, 4, 5)]))
    codes = rng.integers(0, k, shape) * (rng.random(shape) < draw(st.sampled_from([0.02, 0.5, 1])))
    code_dtype = draw(st.sampled_from(["uint8", "uint16", "int32"] if k <= 256 else ["uint16"]))
    codebook = np.sort(rng.normal(size=k)).astype(jnp.dtype(dtype))
    return QuantizedArray(codebook, np.asarray(codes).astype(code_dtype))


def rounded(seed):
    values = np.random.default_rng(seed).normal(size=(4, 6)).astype(jnp.bfloat16)
    return RoundedArray(values, jnp.dtype("float32"))


def scaled(values):
    """Two groups of neighbours along the last axis, or what has none."""
    if not values.shape or values.shape[-1] < 2:
        return values
    shape, size = values.shape, values.shape[-1] // 2 + values.shape[-1] % 2
    scales = np.random.default_rng(0).random((*shape[:-1], 2)).astype(jnp.bfloat16)
    return ScaledArray(values, scales, -1, size, jnp.dtype("float32"))


def low_rank(seed):
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(12, 2)), rng.normal(size=(2, 12))
    return LowRankArray(left, right.astype(left.dtype), (2, 3, 4, 6), "spatial")


plain = st.integers(0, 9).map(
    lambda seed: np.random.default_rng(seed).binomial(1, 0.1, (6, 5)) * 1.5
)
forms = st.recursive(
    st.one_of(
        quantised(),
        quantised().map(scaled),
        st.integers(0, 9).map(low_rank),
        st.integers(0, 9).map(rounded),
        plain,
    ),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: SumArray(tuple(parts))),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.fixed_dictionaries({"a": forms, "b": st.tuples(forms, plain)}))
def test_forms_come_back_to_the_bit(tmp_path, tree):
    path = tmp_path / "net"
    assert save_sparse(path, tree) == path.stat().st_size
    assert_same(load_sparse(path), tree)


def test_a_network_of_every_form(tmp_path):
    """As `compressed_forms` returns it, in Flax variables and with ``like``."""
    sizes = ((12, 12), (12, 8), (8, 8), (8, 8), (8, 4))
    model = nnx.Sequential(*(nnx.Linear(m, n, rngs=nnx.Rngs(0)) for m, n in sizes))
    params = nnx.state(model, nnx.Param)
    kinds = {
        "0": compression.quantize(3),
        "1": compression.low_rank(2),
        "2": compression.additive([compression.binary(scaled=True), compression.l0_ball(5)]),
        "3": compression.quantize([-1.0, 1.0], group_size=3),
        "4": compression.l0_ball(9, values="float16"),
    }
    label = lambda path, leaf: str(path[1].key)  # noqa: E731
    c_step = compression.partition(kinds, label)
    state = sparsejax.learning_compression(c_step, 0.1, 1).init(params)
    tree = sparsejax.compressed_forms(c_step, state, params)
    save_sparse(tmp_path / "net", tree)
    for like in (params, tree):
        found = load_sparse(tmp_path / "net", like)
        assert isinstance(found, nnx.State)
        assert_same(found, tree)
    assert_same(
        decode(load_sparse(tmp_path / "net", params)), decode(jax.tree.map(np.asarray, tree))
    )


def test_codes_take_their_bits_and_a_shared_codebook_is_written_once(tmp_path):
    rng = np.random.default_rng(0)
    book = np.sort(rng.normal(size=2000)).astype(np.float32)
    size = lambda tree: save_sparse(tmp_path / "net", tree)  # noqa: E731
    for k in (2, 16, 2000):
        codes = rng.integers(0, k, (300, 200)).astype(np.uint16)
        bits = (k - 1).bit_length()
        one = size([QuantizedArray(book[:k], codes)])
        assert one < codes.size * bits / 8 + 4 * k + 600
        two = size([QuantizedArray(book[:k], codes), QuantizedArray(book[:k] + 0, codes[::-1])])
        assert two < one + codes.size * bits / 8 + 100
        found = load_sparse(tmp_path / "net")
        assert found[0].codebook is found[1].codebook


def test_codes_that_are_mostly_one_take_less(tmp_path):
    rng = np.random.default_rng(0)
    codes = (rng.random((300, 200)) < 0.01) * rng.integers(0, 2, (300, 200)) * 2
    codes = np.where(rng.random(codes.shape) < 0.005, 0, codes + 1).astype(np.uint8)
    form = QuantizedArray(np.float32([-1, 0, 1, 2]), codes)
    rest = (codes != 1).sum()
    entropy = codes.size * sum(
        -p * np.log2(p) for p in np.bincount(codes.ravel()) / codes.size if p
    )
    size = save_sparse(tmp_path / "net", form)
    assert size < 1.25 * entropy / 8 + 500 < codes.size * 2 / 8 / 5
    assert rest < 0.02 * codes.size
    assert_same(load_sparse(tmp_path / "net"), form)


def test_dtype_rounds_codebooks_and_factors(tmp_path):
    tree = {"q": QuantizedArray(np.float32([1 / 3, 2 / 3]), np.uint8([0, 1, 1])), "l": low_rank(0)}
    save_sparse(tmp_path / "net", tree, dtype="float16")
    half = lambda x: x.astype(np.float16).astype(x.dtype) if x.dtype.kind == "f" else x  # noqa: E731
    assert_same(load_sparse(tmp_path / "net"), jax.tree.map(half, tree))


def test_signed_zeros_of_a_codebook_stay(tmp_path):
    form = QuantizedArray(np.float32([-0.0, 0.0, 1]), np.uint8([0, 1, 2, 0]))
    save_sparse(tmp_path / "net", form)
    assert_same(load_sparse(tmp_path / "net"), form)


def test_like_that_does_not_fit_names_the_form(tmp_path):
    save_sparse(tmp_path / "net", {"a": rounded(0)})
    with pytest.raises(ValueError, match=r"a is float32\[4, 6\], not float32\[6, 4\]"):
        load_sparse(tmp_path / "net", {"a": np.zeros((6, 4), np.float32)})
    found = load_sparse(tmp_path / "net", {"a": jax.ShapeDtypeStruct((4, 6), np.float32)})
    assert is_form(found["a"])


def test_codes_that_no_codebook_has_are_refused(tmp_path):
    for codes in (np.uint8([0, 2]), np.int32([-1, 0])):
        with pytest.raises(ValueError, match="size of their codebook, 2; a has codes from"):
            save_sparse(tmp_path / "net", {"a": QuantizedArray(np.ones(2, np.float32), codes)})
    assert not list(tmp_path.iterdir())


def test_damage_and_contents_that_save_sparse_does_not_write(tmp_path):
    path = tmp_path / "net"
    tree = [QuantizedArray(np.float32([1, 2, 3]), np.uint8([0, 1, 2, 2, 1])), low_rank(0)]
    save_sparse(path, tree)
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path}.*(damaged|has version)"):
            load_sparse(path)
    path.write_bytes(content)
    parts = {name: decompress(part) for name, part in read(path).items()}
    assert set(parts) == {"about", "zeros", "values", "codes"}
    wrong = [
        ("codes", b""),
        ("codes", b"\xff\xff"),  # a code of 3
        ("about", parts["about"].replace(b'"codes"', b'"code"')),
        ("about", parts["about"].replace(b'"uint8"', b'"no"')),
        ("about", parts["about"].replace(b'"scheme"', b'"skeme"')),
    ]
    for name, part in wrong:
        write(path, {key: compress(p) for key, p in (parts | {name: part}).items()})
        with pytest.raises(ValueError, match=f"{path} is not as save_sparse writes"):
            load_sparse(path)
