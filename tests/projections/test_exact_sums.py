from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.projections._exact_sums import FixedPoint, fixed_point
from sparsejax.projections._keys import KeyFormat
from sparsejax.projections._shards import Layout

KEYS = KeyFormat(jnp.dtype(jnp.float32))


def value_of(sums, number):
    """What the digits stand for, in units of the power of two of the largest magnitude."""
    places = range(1 - sums.above, len(number) + 1 - sums.above)
    weights = [Fraction(2) ** (1 - sums.width * place) for place in places]
    return sum(int(digit) * weight for digit, weight in zip(number, weights, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("width", [3, 7, 12])
def test_sums_products_and_quotients_are_exact_whatever_the_width(width):
    rng = np.random.default_rng(width)
    leaves = [
        jnp.asarray(rng.normal(size=shape) * 2.0 ** rng.integers(-30, 1, shape), jnp.float32)
        for shape in ((4, 3, 5), (), (11,), (0, 2))
    ]
    layouts = [Layout(((),) * leaf.ndim) for leaf in leaves]
    entries = np.abs(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    least = np.median(entries)
    kept = [Fraction(float(x)) for x in entries if x >= least]
    unit = Fraction(2) ** int(np.floor(np.log2(entries.max())))

    @jax.jit
    def run(leaves, least):
        largest = jnp.max(jnp.stack([jnp.max(KEYS.keys(leaf), initial=0) for leaf in leaves]))
        sums = fixed_point(KEYS, leaves, layouts, largest)._replace(width=width)
        total, count = sums.sum_reaching(leaves, layouts, KEYS.keys(least))
        bound = sums.number(KEYS.keys(least))
        excess = sums.normalised(total - sums.times(bound, count))
        return total, count, bound, excess, sums.quotient(excess, count)

    total, count, bound, excess, quotient = run(leaves, jnp.asarray(least))
    sums = FixedPoint(KEYS, width, jnp.zeros((), jnp.int32))
    exact = sum(kept) - len(kept) * Fraction(float(least))
    assert int(count) == len(kept)
    assert value_of(sums, total) * unit == sum(kept)
    assert value_of(sums, bound) * unit == Fraction(float(least))
    assert value_of(sums, excess) * unit == exact
    assert ((excess[1:] >= 0) & (excess[1:] < 2**width)).all()
    np.testing.assert_allclose(quotient, float(exact / len(kept)), rtol=4e-7)


def test_long_axes_get_narrower_digits():
    for length, width in ((1000, 12), (2**19 - 1, 12), (2**20, 10), (2**27, 3), (2**31 - 1, 1)):
        leaf = jax.ShapeDtypeStruct((length, 2), jnp.float32)
        sums = fixed_point(KEYS, [leaf], [Layout(((), ()))], jnp.asarray(1, jnp.int32))
        assert sums.width == width
        assert length * (2**width - 1) < 2**31
