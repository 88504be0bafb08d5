import dataclasses

import gguf
import numpy as np
import pytest

from experiments.data.gguf_decoder import make_decoder, read_decoder
from experiments.data.gguf_tokenizer import read_tokenizer
from tests.experiments.data import tiny_gguf
from tests.models import decoder_reference

NAMES = {
    "attn_q": "attention/query/kernel", "attn_k": "attention/key/kernel",
    "attn_v": "attention/value/kernel", "attn_output": "attention/output/kernel",
    "ffn_gate": "mlp/gate/kernel", "ffn_up": "mlp/up/kernel", "ffn_down": "mlp/down/kernel",
    "attn_norm": "attention_norm/scale", "ffn_norm": "mlp_norm/scale",
}  # fmt: skip


def ours(params):
    """The written arrays under the names and in the layout of a `Decoder`."""
    found = {}
    for name, array in params.items():
        parts = name.removesuffix(".weight").split(".")
        if parts[0] == "blk":
            leaf = f"layers/{parts[1]}/{NAMES[parts[2]]}"
        else:
            leaf = {"token_embd": "embedding/embedding", "output_norm": "norm/scale",
                    "output": "head/kernel"}[parts[0]]  # fmt: skip
        found[leaf] = array.T if leaf.endswith("kernel") else array
    return found


@pytest.mark.parametrize("tie", [True, False])
def test_what_was_written_is_read(tmp_path, tie):
    config = dataclasses.replace(tiny_gguf.CONFIG, tie_embedding=tie)
    params = tiny_gguf.random_params(config)
    found_config, found = read_decoder(tiny_gguf.write(tmp_path / "a.gguf", params, config))
    assert found_config == config
    expected = ours(params)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_model_computes_with_the_parameters_of_the_file(tmp_path, scan_layers):
    params = tiny_gguf.random_params()
    config, found = read_decoder(tiny_gguf.write(tmp_path / "a.gguf", params))
    model = make_decoder(config, found, scan_layers)
    tokens = np.random.default_rng(0).integers(0, config.vocabulary, 7)
    expected = decoder_reference.logits(ours(params), config, tokens)
    np.testing.assert_allclose(model(tokens[None])[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8), ("Q4_1", 4)])
def test_quantized_matrices_are_dequantized(tmp_path, kind, bits):
    params = tiny_gguf.random_params()
    quantized = gguf.GGMLQuantizationType[kind]
    _, found = read_decoder(tiny_gguf.write(tmp_path / "a.gguf", params, quantized=quantized))
    for name, expected in ours(params).items():
        error = np.abs(found[name] - expected).max()
        if expected.ndim == 1:
            assert error == 0
        else:  # half a step of codes over the range of a block, and the rounding of its scale
            assert 0 < error < 0.6 * np.ptp(expected) / (2**bits - 1), name


def test_files_of_another_kind_are_an_error(tmp_path):
    params = tiny_gguf.random_params()
    path = tiny_gguf.write(tmp_path / "a.gguf", params, architecture="gpt2")
    with pytest.raises(ValueError, match="must hold a llama architecture; it holds 'gpt2'"):
        read_decoder(path)
    path = tiny_gguf.write(tmp_path / "b.gguf", params, pre="qwen2")
    with pytest.raises(ValueError, match=r"one of \['smollm'\]; it is 'gpt2' with 'qwen2'"):
        read_tokenizer(path)
    params["blk.0.attn_q.bias"] = params.pop("blk.0.ffn_up.weight")[:, 0]
    params["blk.1.attn_v.weight"] = params["blk.1.attn_v.weight"][:-1]
    path = tiny_gguf.write(tmp_path / "c.gguf", params)
    with pytest.raises(ValueError, match="Llama-style decoder: ") as caught:
        read_decoder(path)
    assert "blk.0.ffn_up.weight is missing; blk.0.attn_q.bias is unknown" in str(caught.value)
    assert "blk.1.attn_v.weight has shape [31, 64], not [32, 64]" in str(caught.value)


def test_the_tokenizer_of_the_file(tmp_path):
    tokenizer = read_tokenizer(tiny_gguf.write(tmp_path / "a.gguf", tiny_gguf.random_params()))
    text = "the woe of the 12 cows<|endoftext|>the\nend"
    encoding = tokenizer.encode(text)
    assert encoding.tokens == [
        "the", "Ġwo", "e", "Ġ", "o", "f", "Ġthe", "Ġ", "1", "2", "Ġ", "c", "o", "w", "s",
        "<|endoftext|>", "the", "Ċ", "e", "n", "d",
    ]  # digits are never merged, though the merge is there  # fmt: skip
    assert tokenizer.decode(encoding.ids, skip_special_tokens=False) == text
    assert tokenizer.token_to_id("<|im_start|>") == 1
