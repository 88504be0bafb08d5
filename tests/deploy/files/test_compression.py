import numpy as np
import pytest

from sparsejax.deploy.files import _compression
from sparsejax.deploy.files._compression import compress, decompress


@pytest.mark.parametrize("size", [0, 1, 10, 5000])
@pytest.mark.parametrize("largest", [1, 4, 256])
@pytest.mark.parametrize("slow", [2**20, 100])  # bytes above which LZMA is not tried
def test_data_come_back_and_never_grow_by_more_than_a_byte(monkeypatch, size, largest, slow):
    monkeypatch.setattr(_compression, "_SLOW", slow)
    raw = np.random.default_rng(0).integers(0, largest, size, np.uint8).tobytes()
    data = compress(raw)
    assert decompress(data) == raw
    assert len(data) <= min(size, size * np.log2(largest) / 8 * 1.5 + 60) + 1


@pytest.mark.parametrize("size", [2**17, 2**20 + 1])
def test_run_lengths_of_a_random_mask_take_their_entropy(size):
    """Of half of the weights: one bit for each, which matches of a few bytes would exceed."""
    runs = np.random.default_rng(0).geometric(0.5, size) - 1
    data = compress(runs.astype(np.uint8).tobytes())
    assert len(data) < 1.01 * runs.size * 2 / 8


@pytest.mark.parametrize("data", [b"", b"\x07abc", b"\x01abc", b"\x02abc"])
def test_other_data_are_refused(data):
    with pytest.raises(ValueError, match="compressed data"):
        decompress(data)


def test_truncated_data_are_refused():
    for raw in (b"a" * 1000, bytes(range(256)) * 4):
        with pytest.raises(ValueError, match="compressed data"):
            decompress(compress(raw)[:-1])
