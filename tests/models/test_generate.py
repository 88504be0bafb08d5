import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.models import Decoder, DecoderConfig, generate

CONFIG = DecoderConfig(vocabulary=20, width=16, layers=2, heads=2, kv_heads=1, hidden=24)
TOKENS = np.random.default_rng(0).integers(0, 20, (3, 4))


@pytest.fixture(scope="module")
def model():
    return Decoder(CONFIG, rngs=nnx.Rngs(0))


def test_greedy_tokens_are_the_most_probable_ones(model):
    found = generate(model, TOKENS, 5)
    assert found.shape == (3, 9)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found[:, :4], TOKENS)
    best = model(found).argmax(axis=-1)
    np.testing.assert_array_equal(found[:, 4:], best[:, 3:-1])


def test_logits_of_all_positions_are_an_error(model):
    class All(nnx.Module):
        def __call__(self, tokens, position):
            return model(tokens)

    with pytest.raises(
        ValueError, match=r"logits \[batch, vocabulary\] of one position; got shape"
    ):
        generate(All(), TOKENS, 1)


def test_drawn_tokens_follow_the_softmax_of_the_logits(model):
    many = np.tile(TOKENS[:1], (4000, 1))
    drawn = generate(model, many, 1, jax.random.key(0), temperature=0.5)[:, -1]
    expected = jax.nn.softmax(2 * model(TOKENS[:1])[0, -1])
    found = np.bincount(drawn, minlength=20) / 4000
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / 4000))


def test_cold_draws_are_greedy_and_keys_matter(model):
    cold = generate(model, TOKENS, 5, jax.random.key(1), temperature=1e-4)
    np.testing.assert_array_equal(cold, generate(model, TOKENS, 5))
    one, same, two = (generate(model, TOKENS, 5, jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != two).any()


def test_no_steps_change_nothing(model):
    np.testing.assert_array_equal(generate(model, TOKENS, 0), TOKENS)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"steps": -1}, "steps must be an integer >= 0; got -1"),
        ({"tokens": TOKENS[0]}, r"tokens must be integers \[batch, length\]"),
        ({"tokens": TOKENS[:, :0]}, "with length >= 1; got shape"),
        ({"temperature": 0.0}, "temperature must be a positive number; got 0.0"),
    ],
)
def test_bad_arguments_are_an_error(model, kwargs, message):
    with pytest.raises(ValueError, match=message):
        generate(model, **{"tokens": TOKENS, "steps": 1, **kwargs})
