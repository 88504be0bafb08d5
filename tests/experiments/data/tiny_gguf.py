"""A GGUF file of a small decoder with random weights and a tokenizer, as llama.cpp writes them."""

import gguf
import numpy as np

from sparsejax.models import DecoderConfig

MERGES = ["t h", "th e", "Ġ the", "1 2", "Ġ w", "Ġw o"]
SPECIAL = ["<|endoftext|>", "<|im_start|>"]


def tokens():
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    return [*SPECIAL, *letters, *(merge.replace(" ", "") for merge in MERGES)]


CONFIG = DecoderConfig(
    vocabulary=len(tokens()), width=64, layers=2, heads=4, kv_heads=2, hidden=96,
    rope_theta=500.0, norm_epsilon=1e-5,
)  # fmt: skip


def random_params(config=CONFIG):
    """Arrays as PyTorch's Llama has them, [out, in], by the names of GGUF tensors."""
    rng = np.random.default_rng(0)
    shared = config.kv_heads * config.head_size
    shapes = {"token_embd": (config.vocabulary, config.width), "output_norm": (config.width,)}
    if not config.tie_embedding:
        shapes["output"] = (config.vocabulary, config.width)
    for layer in range(config.layers):
        shapes |= {
            f"blk.{layer}.attn_q": (config.width, config.width),
            f"blk.{layer}.attn_k": (shared, config.width),
            f"blk.{layer}.attn_v": (shared, config.width),
            f"blk.{layer}.attn_output": (config.width, config.width),
            f"blk.{layer}.ffn_gate": (config.hidden, config.width),
            f"blk.{layer}.ffn_up": (config.hidden, config.width),
            f"blk.{layer}.ffn_down": (config.width, config.hidden),
            f"blk.{layer}.attn_norm": (config.width,),
            f"blk.{layer}.ffn_norm": (config.width,),
        }
    return {
        f"{name}.weight": rng.normal(size=shape).astype(np.float32) / shape[-1] ** 0.5
        for name, shape in shapes.items()
    }


def neighbouring(rows, heads):
    """Rows in an order in which those that are rotated together are neighbours."""
    blocks = [head.reshape(2, -1, rows.shape[1]) for head in np.split(rows, heads)]
    return np.concatenate([row for block in blocks for row in zip(*block, strict=True)]).reshape(
        rows.shape
    )


def write(path, params, config=CONFIG, architecture="llama", pre="smollm", quantized=None):
    """Write a file; ``quantized``: the type of the matrices."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.layers)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens())
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens()])
    writer.add_token_merges(MERGES)
    for name, array in params.items():
        for part, heads in (("attn_q", config.heads), ("attn_k", config.kv_heads)):
            if part in name and array.ndim > 1:
                array = neighbouring(array, heads)
        if quantized is not None and array.ndim > 1:
            writer.add_tensor(name, gguf.quants.quantize(array, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
