"""The pretrained model, where its file was fetched."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.data import DataError
from experiments.data.load import default_data_dir
from experiments.data.smollm2 import SMOLLM2, load_smollm2
from sparsejax._names import leaves_by_name
from sparsejax.models import generate
from tests.models import decoder_reference


def model_was_fetched():
    try:
        return bool(SMOLLM2.check(default_data_dir() / SMOLLM2.name))
    except DataError:
        return False


pytestmark = pytest.mark.skipif(not model_was_fetched(), reason="SmolLM2 was not fetched")
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def pretrained():
    return load_smollm2(scan_layers=True)  # which compiles faster


def test_the_parameters_are_those_that_are_documented(pretrained):
    config, model, _ = pretrained
    params = leaves_by_name(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in params.values()) == 134_515_008
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}
    assert params["layers/attention/key/kernel"].shape == (30, 576, 192)
    assert (config.layers, config.heads, config.kv_heads, config.hidden) == (30, 9, 3, 1536)
    assert (config.rope_theta, config.norm_epsilon) == (100000.0, 1e-5)


def test_logits_are_those_of_the_equations_in_float64(pretrained):
    config, model, tokenizer = pretrained
    tokens = np.array(tokenizer.encode(PROMPT).ids)
    params = leaves_by_name(nnx.state(model, nnx.Param))
    for name in [name for name in params if name.startswith("layers/")]:
        stacked = params.pop(name)
        params |= {name.replace("/", f"/{i}/", 1): layer for i, layer in enumerate(stacked)}
    expected = decoder_reference.logits(params, config, tokens)
    np.testing.assert_allclose(model(tokens[None])[0], expected, rtol=0, atol=1e-3)


def test_it_knows_english_and_the_capital_of_france(pretrained):
    _, model, tokenizer = pretrained
    tokens = tokenizer.encode(PROMPT).ids
    continued = generate(model, np.array([tokens]), 2)[0].tolist()
    assert tokenizer.decode(continued) == f"{PROMPT} Paris."


def test_the_tokenizer_gives_back_what_it_was_given(pretrained):
    _, _, tokenizer = pretrained
    text = 'In 1961, the U.S. spent $1,234.50;\n\n  "odd" -- isn\'t it?\tcafé <|im_end|>'
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert ids[-1] == tokenizer.token_to_id("<|im_end|>") == 2
    assert tokenizer.encode("1961").tokens == ["1", "9", "6", "1"]
