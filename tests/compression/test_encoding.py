"""Every C step's forms give its weights back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax import compression
from sparsejax.compression import LowRankArray, QuantizedArray, RoundedArray, SumArray, decode


def weights(dtype=jnp.float32):
    return {
        "a": jax.random.normal(jax.random.key(0), (40, 15), dtype),
        "b": 5 + jax.random.normal(jax.random.key(1), (15, 20), dtype),
        "masked": optax.MaskedNode(),
    }


def run(c_step, w, mu=1.0):
    theta, state = jax.jit(c_step.project)(w, mu, c_step.init(w))
    return theta, c_step.encode(theta, state)


def same_bits(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def is_form(node):
    return isinstance(node, (QuantizedArray, LowRankArray, RoundedArray, SumArray))


QUANTISED = {
    "one value": lambda: compression.quantize(1),
    "jointly": lambda: compression.quantize(5),
    "by leaf": lambda: compression.quantize(2, per_leaf=True),
    "uint16": lambda: compression.quantize(300),
    "more values than weights": lambda: compression.quantize(1000),
    "given": lambda: compression.quantize([-1.0, 0.0, 1.0]),
    "given, by leaf": lambda: compression.quantize([-1.0, 0.0, 6.0, 7.0], per_leaf=True),
    "Lloyd": lambda: compression.quantize(4, exact=False),
    "binary": compression.binary,
    "binary, scaled by leaf": lambda: compression.binary(scaled=True, per_leaf=True),
    "ternary": lambda: compression.ternary(scaled=True),
    "kept values": lambda: compression.l0_ball(50, values=3),
}


NARROW = (
    "one value",
    "jointly",
    "by leaf",
    "given, by leaf",
    "Lloyd",
    "ternary",
    "kept values",
)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, jnp.float32) for name in QUANTISED] + [(name, jnp.bfloat16) for name in NARROW],
)
def test_quantised_weights_come_back_to_the_bit(name, dtype):
    theta, forms = run(QUANTISED[name](), weights(dtype))
    assert isinstance(forms["masked"], optax.MaskedNode)
    for key in ("a", "b"):
        form = forms[key]
        assert isinstance(form, QuantizedArray)
        same_bits(form.dense(), theta[key])
        values = np.unique(np.asarray(theta[key]))
        book = np.asarray(form.codebook)
        assert np.isin(values, book).all()
        assert (np.diff(book.astype(np.float64)) > 0).all()
        assert form.codes.dtype == (jnp.uint8 if book.size <= 256 else jnp.uint16)
    shared = forms["a"].codebook is forms["b"].codebook
    assert shared == ("by leaf" not in name)


def test_leaves_of_two_dtypes_have_codebooks_of_their_own():
    w = {"a": jnp.asarray([1.0, 2.0, 9.0]), "b": jnp.asarray([1.0, 9.0], jnp.bfloat16)}
    theta, forms = run(compression.quantize(2), w)
    for key in w:
        same_bits(forms[key].dense(), theta[key])


def test_tied_scalar_empty_and_signed_zeros():
    c_step = compression.quantize([-1.0, 1.0])
    leaf = jnp.asarray([[1.0, -1.0]])
    tied = c_step.encode({"a": leaf, "b": leaf}, ())
    assert tied["a"] is tied["b"]
    for array in (jnp.asarray(1.0), jnp.zeros((0, 3)), jnp.asarray([0.0, -0.0, 0.0])):
        same_bits(c_step.encode(array, ()).dense(), array)


def test_more_values_than_codes_stay_an_array():
    many = {"a": jnp.arange(2.0**16 + 1)}
    assert compression.quantize(2).encode(many, ())["a"] is many["a"]
    few = {"a": jnp.arange(2.0**16)}
    form = compression.quantize(2).encode(few, ())["a"]
    assert form.codes.dtype == jnp.uint16
    same_bits(form.dense(), few["a"])


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kernels_of_low_rank_become_factors(scheme, dtype):
    w = {
        "dense": jax.random.normal(jax.random.key(0), (12, 9), dtype),
        "convolution": jax.random.normal(jax.random.key(1), (3, 3, 4, 8), dtype),
    }
    theta, forms = run(compression.low_rank(3, scheme=scheme), w)
    for key in w:
        form = forms[key]
        assert isinstance(form, LowRankArray)
        assert form.rank == 3
        assert (form.shape, form.scheme, form.dtype) == (w[key].shape, scheme, dtype)
        atol = 0.1 if dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(
            np.float32(form.dense()), np.float32(theta[key]), rtol=0, atol=atol
        )
    left, right = (np.float64(x) for x in (forms["dense"].left, forms["dense"].right))
    tolerance = 1e-1 if dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(left.T @ left, right @ right.T, atol=tolerance * np.abs(left).max())


def test_factors_that_take_more_numbers_than_the_kernel_are_not_used():
    w = {"kernel": jax.random.normal(jax.random.key(0), (12, 6))}  # m n / (m + n) = 4
    for rank in (1, 4):
        assert isinstance(run(compression.low_rank(rank), w)[1]["kernel"], LowRankArray)
    theta, forms = run(compression.low_rank(5), w)
    assert forms["kernel"] is theta["kernel"]
    zero = run(compression.low_rank(0), w)[1]["kernel"]
    assert zero.rank == 0
    assert not zero.dense().any()


def test_rank_selection_keeps_its_ranks():
    w = {
        "low": jnp.diag(jnp.asarray([5.0, 4.0, 0.1, 0.1, 0.1, 0.1])),
        "full": 5 * jnp.eye(6),
        "none": 0.01 * jnp.eye(6),
    }
    theta, forms = run(compression.rank_selection(0.1), w)
    assert forms["low"].rank == 2
    assert forms["none"].rank == 0
    assert forms["full"] is theta["full"]
    np.testing.assert_allclose(forms["low"].dense(), theta["low"], atol=1e-5)


def test_stacked_layers_of_different_ranks():
    kernel = jnp.stack(
        [jnp.diag(jnp.asarray([5.0, 4.0] + [0.0] * 8)), jnp.diag(jnp.ones(10) * 0.1)]
    )
    theta, forms = run(compression.rank_selection(0.1, stacked=1), {"kernel": kernel})
    form = forms["kernel"]
    assert form.left.shape == (2, 10, 2)
    assert not form.left[1].any()
    np.testing.assert_allclose(form.dense(), theta["kernel"], atol=1e-5)


def test_a_kernel_that_is_no_longer_of_low_rank_stays_an_array():
    w = {"kernel": jax.random.normal(jax.random.key(0), (12, 9))}
    c_step = compression.low_rank(2)
    theta, _ = run(c_step, w)
    cut = {"kernel": theta["kernel"].at[0, 0].set(0.0)}
    assert c_step.encode(cut, ())["kernel"] is cut["kernel"]


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_rounded_values(name):
    theta, forms = run(compression.l0_ball(50, values=name), weights())
    form = forms["a"]
    assert isinstance(form, RoundedArray)
    assert form.values.dtype == name
    same_bits(form.dense(), theta["a"])
    theta, forms = run(compression.l0_ball(50, values=name), weights(jnp.bfloat16))
    assert forms["a"] is theta["a"]  # it takes no more bits than that already
    exact = {"a": jnp.asarray([1 / 3])}
    assert compression.l0_ball(1, values=name).encode(exact, ())["a"] is exact["a"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sums_of_exact_parts_come_back_to_the_bit(dtype):
    parts = [
        compression.quantize(2),
        compression.additive([compression.l0_ball(20), compression.binary(scaled=True)], sweeps=2),
    ]
    theta, forms = run(compression.additive(parts, sweeps=3), weights(dtype))
    for key in ("a", "b"):
        same_bits(forms[key].dense(), theta[key])
        first, second = forms[key].parts
        assert isinstance(first, QuantizedArray)
        assert isinstance(second, SumArray)
        assert not is_form(second.parts[0])
        assert isinstance(second.parts[1], QuantizedArray)
        if key == "a":
            shared = first.codebook
    assert first.codebook is shared


def test_sums_with_a_low_rank_part():
    c_step = compression.additive([compression.low_rank(2), compression.l0_ball(5)], sweeps=3)
    w = {"kernel": jax.random.normal(jax.random.key(0), (12, 9))}
    theta, state = jax.jit(c_step.project)(w, 1.0, c_step.init(w))
    form = c_step.encode(theta, state)["kernel"]
    assert isinstance(form.parts[0], LowRankArray)
    np.testing.assert_allclose(form.dense(), theta["kernel"], atol=1e-5)
    cut = {"kernel": theta["kernel"].at[0].set(0.0)}
    assert c_step.encode(cut, state)["kernel"] is cut["kernel"]


def test_partition_and_c_steps_without_forms():
    class Own:  # any pair of functions is a C step
        init = staticmethod(lambda weights: ())
        project = staticmethod(lambda weights, mu, state: (weights, state))

    c_step = compression.partition(
        {"q": compression.quantize(2), "own": Own(), "low": compression.low_rank(1)},
        {"a": "q", "b": "own", "c": {"d": "low", "e": "q"}},
    )
    w = {
        "a": jnp.arange(6.0), "b": jnp.arange(4.0),
        "c": {"d": jnp.ones((5, 6)), "e": jnp.arange(3.0)},
    }  # fmt: skip
    theta, forms = run(c_step, w)
    assert forms["b"] is theta["b"]
    assert isinstance(forms["c"]["d"], LowRankArray)
    assert forms["a"].codebook is forms["c"]["e"].codebook
    assert compression.l1_ball(1.0).encode is None
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), decode(forms), dict(theta)
    )


def test_forms_are_found_on_the_host():
    c_step = compression.quantize(2)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda w: c_step.encode(w, ()))(jnp.ones(3))
