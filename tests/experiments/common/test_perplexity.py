import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.perplexity import next_token_losses, perplexity

WINDOWS = np.random.default_rng(0).integers(0, 7, (5, 6))
TABLE = np.random.default_rng(1).normal(size=(7, 7)).astype(np.float32)


def bigram(table, tokens):
    return table[tokens]


def reference(table, windows):
    table = table.astype(np.float64)
    losses = [
        np.log(np.exp(table[a]).sum()) - table[a, b]
        for row in windows
        for a, b in itertools.pairwise(row)
    ]
    return np.exp(np.mean(losses))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_perplexity_is_that_of_all_predicted_tokens(batch_size):
    found = perplexity(bigram, jnp.asarray(TABLE), WINDOWS, batch_size)
    np.testing.assert_allclose(found, reference(TABLE, WINDOWS), rtol=1e-5)


def test_a_model_that_knows_nothing_has_the_perplexity_of_the_vocabulary():
    found = perplexity(bigram, jnp.zeros((7, 7)), WINDOWS)
    np.testing.assert_allclose(found, 7, rtol=1e-6)


def test_losses_of_each_token():
    losses = next_token_losses(jnp.asarray(TABLE)[WINDOWS], jnp.asarray(WINDOWS))
    assert losses.shape == (5, 5)
    np.testing.assert_allclose(np.exp(losses.mean()), reference(TABLE, WINDOWS), rtol=1e-5)


@pytest.mark.parametrize("windows", [WINDOWS[:0], WINDOWS[:, :1]])
def test_no_predicted_tokens_are_an_error(windows):
    with pytest.raises(ValueError, match="windows must be one or more of two or more tokens"):
        perplexity(bigram, jnp.asarray(TABLE), windows)
