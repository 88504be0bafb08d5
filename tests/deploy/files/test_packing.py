import numpy as np
import pytest

from sparsejax._codebooks import bits_for
from sparsejax.deploy.files._packing import pack, packed_bytes, unpack


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 7, 8, 9, 16, 17, 32])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 100])
def test_numbers_come_back_and_take_their_bits(bits, count):
    numbers = np.random.default_rng(bits).integers(0, 2**bits, count, dtype=np.uint32)
    data = pack(numbers, bits)
    assert len(data) == packed_bytes(count, bits) == -(-count * bits // 8)
    np.testing.assert_array_equal(unpack(np.frombuffer(data, np.uint8), count, bits), numbers)


def test_the_order_of_the_bits():
    assert pack(np.asarray([1, 2, 3, 0, 1], np.uint32), 2) == bytes([0b01101100, 0b01000000])


def test_bits_for():
    assert [bits_for(n) for n in (0, 1, 2, 3, 4, 5, 256, 257, 2**16)] == [
        0,
        0,
        1,
        2,
        2,
        3,
        8,
        9,
        16,
    ]
