"""The byte-level byte-pair tokenizer of a GGUF file."""

from __future__ import annotations

import os
from typing import Any

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

_SPLITS_DIGITS = {"smollm"}
"""The pre-tokenizers known: GPT-2's regular expression after splitting off each single digit."""


def read_tokenizer(path: str | os.PathLike[str] | GGUFReader) -> Tokenizer:
    """Build the tokenizer whose vocabulary and merges a GGUF file holds.

    Control tokens, such as ``<|endoftext|>``, are special: they are recognised in text and left
    out when decoding.

    Args:
      path: path of the file, or a reader that has opened it.

    Returns:
      A tokenizer of the package ``tokenizers``: ``encode(text).ids``, ``decode(ids)``.

    Raises:
      ValueError: the file's tokenizer is of a kind that is not known.
    """
    fields = (path if isinstance(path, GGUFReader) else GGUFReader(os.fspath(path))).fields

    def field(name: str) -> Any:
        full = f"tokenizer.ggml.{name}"
        return fields[full].contents() if full in fields else None

    if (kind := field("model")) != "gpt2" or field("pre") not in _SPLITS_DIGITS:
        raise ValueError(
            f"the GGUF file's tokenizer must be gpt2 with one of {sorted(_SPLITS_DIGITS)}; "
            f"it is {kind!r} with {field('pre')!r}"
        )
    tokens = field("tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in field("merges")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, field("token_type"), strict=True)
        if kind == TokenType.CONTROL
    ]
    tokenizer.add_special_tokens(special)
    return tokenizer
