import hypothesis.extra.numpy as arrays_of
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from sparsejax.deploy.files._varint import decode, encode

numbers = st.one_of(st.integers(0, 300), st.integers(0, 2**62))


def one_by_one(values):
    """The definition, byte by byte."""
    code = bytearray()
    for value in map(int, values):
        while value >= 128:
            code.append(value % 128 + 128)
            value //= 128
        code.append(value)
    return bytes(code)


@given(arrays_of.arrays(np.int64, st.integers(0, 40), elements=numbers))
def test_codes_are_those_of_the_definition_and_are_decoded(values):
    code = encode(values)
    assert code == one_by_one(values)
    np.testing.assert_array_equal(decode(code), values)


@pytest.mark.parametrize("code", [b"\x80", b"\x01\xff", b"\xff\xff"])
def test_an_incomplete_number_is_refused(code):
    with pytest.raises(ValueError, match="incomplete"):
        decode(code)
