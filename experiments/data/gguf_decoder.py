"""A Llama-style decoder from a GGUF file, the format of llama.cpp, as float32 arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from gguf import GGUFReader
from gguf.quants import dequantize
from jax.typing import DTypeLike

from sparsejax.models import Decoder, DecoderConfig

_DENSE = {
    "attention/query": "attn_q",
    "attention/key": "attn_k",
    "attention/value": "attn_v",
    "attention/output": "attn_output",
    "mlp/gate": "ffn_gate",
    "mlp/up": "ffn_up",
    "mlp/down": "ffn_down",
}
_NORMS = {"attention_norm": "attn_norm", "mlp_norm": "ffn_norm"}


def read_decoder(
    path: str | os.PathLike[str] | GGUFReader,
) -> tuple[DecoderConfig, dict[str, np.ndarray]]:
    """Read the sizes and the parameters of a Llama-style decoder from a GGUF file.

    Quantised tensors are dequantised. Kernels [out, in] of the file become [in, out]. The file
    holds the rows of queries and keys in the order in which neighbouring units of a head are
    rotated together; here they come in the order of `Decoder`, which rotates units i and
    i + size/2 together.

    Args:
      path: path of the file, or a reader that has opened it.

    Returns:
      The sizes, and the parameters as float32 arrays by the names of the parameters of a `Decoder`
      whose layers are a list, such as ``layers/0/attention/query/kernel``.

    Raises:
      ValueError: the file is of another architecture, or tensors are missing, unknown or of a
        wrong shape (the message names them).
    """
    reader = path if isinstance(path, GGUFReader) else GGUFReader(os.fspath(path))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(reader, tied="output.weight" not in tensors)
    sources = _sources(config)
    wrong = [f"{name} is missing" for name in sorted(sources.keys() - tensors.keys())]
    wrong += [f"{name} is unknown" for name in sorted(tensors.keys() - sources.keys())]
    params = {}
    for name, (leaf, shape) in sources.items():
        if name not in tensors:
            continue
        found = tuple(int(n) for n in reversed(tensors[name].shape))  # the file has them reversed
        if found != shape:
            wrong.append(f"{name} has shape {list(found)}, not {list(shape)}")
        elif not wrong:
            params[leaf] = _load(tensors[name], leaf, config)
    if wrong:
        raise ValueError(f"the GGUF file does not hold a Llama-style decoder: {'; '.join(wrong)}")
    return config, params


def make_decoder(
    config: DecoderConfig,
    arrays: Mapping[str, np.ndarray],
    scan_layers: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Decoder:
    """Build a `Decoder` with the parameters that `read_decoder` returns.

    Args:
      config: the sizes.
      arrays: the parameters by their names.
      scan_layers: whether the layers are stacked and run under ``lax.scan``.
      dtype: dtype of the computation.

    Returns:
      The model.
    """
    graph, params = nnx.split(
        nnx.eval_shape(lambda: Decoder(config, scan_layers, dtype, rngs=nnx.Rngs(0)))
    )
    flat = nnx.to_flat_state(params)
    for path, variable in flat:
        names = ["/".join(map(str, path))]
        stacked = scan_layers and path[0] == "layers"
        if stacked:
            below = "/".join(map(str, path[1:]))
            names = [f"layers/{layer}/{below}" for layer in range(config.layers)]
        values = [arrays[name] for name in names]
        variable.set_value(jnp.asarray(np.stack(values) if stacked else values[0]))
    return nnx.merge(graph, params)


def _config(reader: GGUFReader, tied: bool) -> DecoderConfig:
    fields = reader.fields
    architecture = _field(fields, "general.architecture")
    if architecture != "llama":
        raise ValueError(f"the GGUF file must hold a llama architecture; it holds {architecture!r}")
    heads = _field(fields, "llama.attention.head_count")
    width = _field(fields, "llama.embedding_length")
    rotated = _field(fields, "llama.rope.dimension_count", width // heads)
    if rotated != width // heads:
        raise ValueError(
            f"the rotary embedding must rotate all {width // heads} units of a head; "
            f"the GGUF file says {rotated}"
        )
    epsilon = _field(fields, "llama.attention.layer_norm_rms_epsilon")
    return DecoderConfig(
        vocabulary=len(fields["tokenizer.ggml.tokens"].data),
        width=width,
        layers=_field(fields, "llama.block_count"),
        heads=heads,
        kv_heads=_field(fields, "llama.attention.head_count_kv", heads),
        hidden=_field(fields, "llama.feed_forward_length"),
        rope_theta=float(_field(fields, "llama.rope.freq_base", 10000.0)),
        # The file has float32; the published number is the decimal that rounds to it.
        norm_epsilon=float(str(np.float32(epsilon))),
        tie_embedding=tied,
    )


def _field(fields: Mapping[str, Any], name: str, default: Any = None) -> Any:
    if name in fields:
        return fields[name].contents()
    if default is None:
        raise ValueError(f"the GGUF file has no {name}")
    return default


def _sources(config: DecoderConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The parameter and the shape in the file of each tensor, by the name of the tensor."""
    width, shared = config.width, config.kv_heads * config.head_size
    shapes = {
        "attn_q": (width, width),
        "attn_k": (shared, width),
        "attn_v": (shared, width),
        "attn_output": (width, width),
        "ffn_gate": (config.hidden, width),
        "ffn_up": (config.hidden, width),
        "ffn_down": (width, config.hidden),
    }
    sources: dict[str, tuple[str, tuple[int, ...]]] = {
        "token_embd.weight": ("embedding/embedding", (config.vocabulary, width)),
        "output_norm.weight": ("norm/scale", (width,)),
    }
    if not config.tie_embedding:
        sources["output.weight"] = ("head/kernel", (config.vocabulary, width))
    for layer in range(config.layers):
        for ours, theirs in _DENSE.items():
            leaf = f"layers/{layer}/{ours}/kernel"
            sources[f"blk.{layer}.{theirs}.weight"] = (leaf, shapes[theirs])
        for ours, theirs in _NORMS.items():
            sources[f"blk.{layer}.{theirs}.weight"] = (f"layers/{layer}/{ours}/scale", (width,))
    return sources


def _load(tensor: Any, leaf: str, config: DecoderConfig) -> np.ndarray:
    values = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    if leaf.endswith(("query/kernel", "key/kernel")):
        pairs = values.reshape(-1, config.head_size // 2, 2, values.shape[1])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    return np.ascontiguousarray(values.T if leaf.endswith("kernel") else values)
