import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax import compression
from sparsejax.compression import LowRankArray, QuantizedArray, RoundedArray, SumArray
from sparsejax.inspection import storage_bits


def written(values, width):
    """The entries (gap, value) of a vector with gaps of ``width`` bits, written one by one."""
    entries, gap = [], 0
    for value in values:
        if value or gap == 2**width - 1:
            entries.append((gap, value))
            gap = 0
        else:
            gap += 1
    while entries and not entries[-1][1]:
        entries.pop()
    return entries


def read(entries, size):
    """The vector of these entries."""
    values, position = [0] * size, -1
    for gap, value in entries:
        position += gap + 1
        values[position] = value
    return values


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 40).map(lambda n: max(n - 30, 0)), max_size=40),
    st.sampled_from([1, 2, 8, 32]),
)
def test_sparse_leaves_take_the_bits_of_the_best_code(values, value_bits):
    best = len(values) * value_bits
    for width in range(8):
        entries = written(values, width)
        assert read(entries, len(values)) == values
        assert all(gap < 2**width for gap, _ in entries)
        best = min(best, len(entries) * (width + value_bits))
    assert storage_bits(np.asarray(values, np.float32), value_bits=value_bits).total == best


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20).map(lambda n: max(n - 15, 0)), min_size=1, max_size=60))
def test_codes_of_few_values_are_sparse_where_that_is_less(values):
    codebook, codes = np.unique(np.asarray(values, np.float32), return_inverse=True)
    bits = lambda k: math.ceil(math.log2(k)) if k > 1 else 0  # noqa: E731
    best = len(values) * bits(codebook.size)
    if 0 in values:
        for width in range(8):
            entries = written(values, width)
            symbols = codebook.size if any(not value for _, value in entries) else codebook.size - 1
            best = min(best, len(entries) * (width + bits(symbols)))
    form = QuantizedArray(codebook, codes.astype(np.uint8))
    assert storage_bits(form).total == best + 32 * codebook.size


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 256, 257])
def test_quantised_leaves(k):
    codes = np.arange(600).reshape(30, 20) % k
    form = QuantizedArray(1 + jnp.arange(float(k)), jnp.asarray(codes, jnp.uint16))
    found = storage_bits({"w": form})
    assert found.codebooks == 32 * k
    assert found.leaves[0].bits == 600 * (k - 1).bit_length()
    assert found.total == found.codebooks + found.leaves[0].bits
    assert (found.uncompressed, found.leaves[0].form) == (600 * 32, "quantized")
    assert found.compression_ratio == 19200 / found.total


def test_equal_codebooks_count_once():
    book = jnp.asarray([-1.0, 1.0])
    codes = jnp.zeros((4, 4), jnp.uint8)
    one, same, other = (
        QuantizedArray(b, codes + n) for n, b in enumerate([book, book + 0, 2 * book])
    )
    assert storage_bits([one]).codebooks == storage_bits([one, same]).codebooks == 64
    assert storage_bits([one, same, other]).codebooks == 128
    half = QuantizedArray(book.astype(jnp.bfloat16), codes)
    assert storage_bits([one, half]).codebooks == 64 + 32
    nested = SumArray((one, SumArray((same, jnp.zeros((4, 4))))))
    assert storage_bits([nested, one]).codebooks == 64


def test_factors_sums_and_rounded_leaves():
    low = LowRankArray(jnp.ones((6, 2)), jnp.ones((2, 5)), (6, 5))
    assert storage_bits(low).total == 22 * 32
    half = RoundedArray(jnp.ones((6, 5), jnp.float16), jnp.float32)
    assert storage_bits(half).total == 30 * 16
    assert storage_bits(half, value_bits=8).total == 30 * 16
    sparse = jnp.zeros((6, 5)).at[0, 3].set(1.0)
    found = storage_bits(SumArray((low, sparse)))
    assert found.total == 22 * 32 + 32 + 2
    assert found.uncompressed == 30 * 32
    assert found.leaves[0].form == "rank 2 + sparse"


def test_dtypes_and_value_bits():
    tree = {
        "a": jnp.ones(3, jnp.bfloat16), "b": np.ones(3), "c": jnp.ones(3, jnp.int32),
        "d": np.ones(3, bool), "e": jnp.ones(0),
    }  # fmt: skip
    assert [leaf.bits for leaf in storage_bits(tree).leaves] == [48, 192, 96, 24, 0]
    assert [leaf.bits for leaf in storage_bits(tree, value_bits=5).leaves] == [15, 15, 96, 24, 0]
    assert storage_bits(tree, value_bits=5).uncompressed == 150


def test_the_ratio_of_nothing():
    assert storage_bits({}).compression_ratio == 1
    assert storage_bits(jnp.zeros(3)).compression_ratio == math.inf


def test_an_array_at_two_places_counts_once():
    leaf = jnp.ones((3, 3))
    form = QuantizedArray(jnp.ones(1), jnp.zeros(4, jnp.uint8))
    found = storage_bits({"a": leaf, "b": leaf, "c": form, "d": form})
    assert [row.path for row in found.leaves] == ["['a'] and ['b']", "['c'] and ['d']"]
    assert found.uncompressed == (9 + 4) * 32


def test_of_a_network_by_hand():
    """LeNet300 with a codebook of two values for each layer and dense biases."""
    sizes = [784, 300, 100, 10]
    w = {
        f"{n}": {"kernel": jax.random.normal(jax.random.key(n), (m, k)), "bias": jnp.ones(k)}
        for n, (m, k) in enumerate(itertools.pairwise(sizes))
    }
    kernels = {n: layer["kernel"] for n, layer in w.items()}
    c_step = compression.binary(scaled=True, per_leaf=True)
    theta, state = c_step.project(kernels, 1.0, c_step.init(kernels))
    forms = c_step.encode(theta, state)
    found = storage_bits({n: {"kernel": forms[n], "bias": w[n]["bias"]} for n in w})
    assert found.total == 266_200 + 3 * 2 * 32 + 410 * 32
    assert found.uncompressed == 266_610 * 32
    lines = str(found).splitlines()
    assert lines[-1] == f"compression ratio {found.compression_ratio:.2f}"
    assert lines[-2].split() == ["all", f"{266_610 * 32:,}", f"{found.total:,}"]
    assert lines[-3].split() == ["codebooks", "0", "192"]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: storage_bits(jnp.ones(3), value_bits=0), ValueError, "value_bits"),
        (lambda: storage_bits(jnp.ones(3), value_bits=2.0), TypeError, "value_bits"),
        (lambda: storage_bits({"a": "no"}), TypeError, "arrays of numbers"),
        (lambda: storage_bits({"a": jax.random.key(0)}), TypeError, r"\['a'\]"),
        (lambda: jax.jit(storage_bits)(jnp.ones(3)), TypeError, "concrete"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()
