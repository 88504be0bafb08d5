"""Networks whose weights are compressed forms are inspected as those of their arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.compression import LowRankArray, QuantizedArray, decode
from sparsejax.inspection import live_units, macs, report

CODES = QuantizedArray(
    jnp.asarray([-0.5, 0.0, 2.0]), jnp.asarray([[0, 1, 1], [2, 1, 1], [1, 1, 0]], jnp.uint8)
)
FACTORS = LowRankArray(jnp.ones((3, 1)), jnp.asarray([[1.0, 0.0]]), shape=(3, 2))
PARAMS = {"a": {"kernel": CODES}, "b": {"kernel": FACTORS}}


def network(params, x):
    return x @ params["a"]["kernel"] @ params["b"]["kernel"]


def test_they_count_as_their_arrays():
    plain = decode(PARAMS)
    assert report(PARAMS) == report(plain)
    assert [leaf.nonzeros for leaf in report(PARAMS).leaves] == [3, 3]
    assert live_units(PARAMS, ["a", "b"]) == live_units(plain, ["a", "b"]) == [3, 2, 2]
    images = jax.ShapeDtypeStruct((4, 3), np.float32)
    assert macs(network, PARAMS, images) == macs(network, plain, images) == 9 + 6


def test_a_form_at_two_places_is_one_array():
    tied = {"a": {"kernel": CODES}, "b": {"kernel": CODES}}
    assert report(tied).size == 9
    arrays = decode(tied)
    assert arrays["a"]["kernel"] is arrays["b"]["kernel"]
