import dataclasses
import hashlib
import re

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from experiments.data import DataError, brown
from experiments.data.brown import BROWN, SPLITS, load_brown, split_texts, windows
from experiments.data.detokenize import detokenize
from experiments.data.gguf_tokenizer import read_tokenizer
from experiments.data.load import default_data_dir
from tests.experiments.data import tiny_gguf


@pytest.mark.parametrize(
    ("tagged", "text"),
    [
        ("\tThe/at jury/nn ,/, he/pps said/vbd ./.\nIt/pps was/bedz ./.",
         "The jury, he said. It was."),
        ("Why/wrb ?/. ?/. No/rb ;/. ;/.", "Why? No;"),
        ("``/`` Only/rb a/at few/ap ''/'' ,/, he/pps said/vbd ./.", '"Only a few," he said.'),
        ("``/`` What/wdt ''/'' ?/. ?/.", '"What?"'),
        ("``/`` A/at ''/'' ;/. ;/.", '"A";'),
        ("the/at ``/`` new/jj ''/'' plan/nn", 'the "new" plan'),
        ("(/( He/pps left/vbd ./.\n)/) She/pps", "(He left.) She"),
        ("``/`` '/' pro/jj '/' ,/, ''/'' a/at '/' con/jj '/' ''/'' ./.",
         "\"'pro,'\" a 'con.'\""),
        ("Ivan/np Allen/np Jr./np ./.", "Ivan Allen Jr."),
        ("came/vbd --/-- presto/uh --/-- up/rp", "came -- presto -- up"),
        ("1/2/cd and/or/cc 1/4''/nn", '1/2 and/or 1/4"'),
        ("\tEnd/nn ./.\n\n\nMerger/nn-hl proposed/vbn-hl\nHowever/wrb ./.\n\n\tNew/jj",
         "End.\n\nMerger proposed\n\nHowever.\n\nNew"),
        ("Austin/np-hl ,/,-hl Texas/np-hl\n--/-- A/at teacher/nn", "Austin, Texas -- A teacher"),
        ("\n\n", ""),
    ],
)  # fmt: skip
def test_detokenized_text_reads_as_print(tagged, text):
    assert detokenize(tagged) == text


def names(first=0):
    """Names with the genres' sizes of the corpus."""
    sizes = {"a": 44, "b": 27, "c": 17, "d": 17, "e": 36, "f": 48, "g": 75, "h": 30, "j": 80,
             "k": 29, "l": 24, "m": 6, "n": 29, "p": 29, "r": 9}  # fmt: skip
    return [f"c{genre}{i:02}" for genre, size in sizes.items() for i in range(first, size + first)]


def test_the_splits_are_disjoint_and_have_all_genres_in_proportion():
    found, again = split_texts(names()), split_texts(names())
    assert found == again
    assert [len(found[split]) for split in SPLITS] == [400, 50, 50]
    assert sorted(i for part in found.values() for i in part) == list(range(500))
    for split in ("validation", "test"):
        genres = [names()[i][1] for i in found[split]]
        assert abs(genres.count("j") - 8) <= 1
        assert abs(genres.count("a") - 4.4) <= 1
        assert len(set(genres[:12])) > 3  # a random order


def test_windows():
    tokens = np.arange(23)
    np.testing.assert_array_equal(windows(tokens, 5), np.arange(20).reshape(4, 5))
    np.testing.assert_array_equal(windows(tokens, 5, count=2), np.arange(10).reshape(2, 5))
    drawn = windows(tokens, 5, seed=3)
    assert sorted(drawn[:, 0].tolist()) == [0, 5, 10, 15]
    np.testing.assert_array_equal(windows(tokens, 5, 2, seed=3), drawn[:2])
    with pytest.raises(ValueError, match="length must be from 1 to 23; got 24"):
        windows(tokens, 24)
    with pytest.raises(ValueError, match="count must be from 1 to 4; got 5"):
        windows(tokens, 5, 5)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return read_tokenizer(tiny_gguf.write(path, tiny_gguf.random_params()))


@pytest.fixture
def small_corpus(tmp_path, monkeypatch):
    """A folder with a corpus of one sentence in each of 500 files, in the place of the real one."""
    folder = tmp_path / BROWN.name
    folder.mkdir()
    content = b""
    for i, name in enumerate(names()):
        sentence = f"\tThe/at {name}/nn woe/nn {i}/cd ./.\n".encode()
        (folder / name).write_bytes(sentence)
    for path in BROWN.find(folder):
        content += path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    small = dataclasses.replace(BROWN, bytes=len(content), sha256=digest, remote=())
    monkeypatch.setattr(brown, "BROWN", small)
    return tmp_path


def test_the_corpus_as_tokens_is_kept(small_corpus, tokenizer):
    found = load_brown(small_corpus, tokenizer)
    assert {split: array.dtype for split, array in found.items()} == dict.fromkeys(SPLITS, np.int32)
    assert [int((found[split] == 0).sum()) for split in SPLITS] == [400, 50, 50]
    order = split_texts(sorted(names()))["test"]
    first = sorted(names())[order[0]]
    text = tokenizer.decode(found["test"].tolist(), skip_special_tokens=False)
    assert text.startswith(f"<|endoftext|>The {first} woe {names().index(first)}.<|endoftext|>The")
    files = {path.stem: path for path in (small_corpus / BROWN.name).glob("tokens_*/*.npy")}
    assert files.keys() == set(SPLITS)
    np.save(files["test"], np.arange(3, dtype=np.int32))
    assert load_brown(small_corpus, tokenizer)["test"].tolist() == [0, 1, 2]  # they are read
    files["validation"].write_bytes(b"damaged")
    again = load_brown(small_corpus, tokenizer)
    for split in SPLITS:
        np.testing.assert_array_equal(again[split], found[split])


def test_a_tokenizer_without_the_separator_is_an_error(small_corpus):
    with pytest.raises(ValueError, match=r"the tokenizer must have the token <\|endoftext\|>"):
        load_brown(small_corpus, Tokenizer(models.BPE()))


def corpus_was_fetched():
    try:
        return bool(BROWN.check(default_data_dir() / BROWN.name))
    except DataError:
        return False


@pytest.mark.skipif(not corpus_was_fetched(), reason="the Brown corpus was not fetched")
def test_the_real_corpus_reads_as_print():
    paths = BROWN.find(default_data_dir() / BROWN.name)
    assert [path.name for path in paths] == sorted(names(first=1))
    for path in paths[::25]:
        text = detokenize(path.read_text(encoding="ascii"))
        assert 8000 < len(text) < 16000
        assert " the " in text
        assert not re.search(r"/(nn|at|in|vb)\b|``|''| [.,;?!](\s|$)|\( ", text), path.name
