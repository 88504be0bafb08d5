import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from tests.graph.rules.brute_force import check, check_constants, check_live

AMOUNT = st.integers(0, 2)


@given(AMOUNT, AMOUNT, AMOUNT, AMOUNT, st.sampled_from([0.0, -1.5]), st.integers(0, 2**16))
@settings(max_examples=6, deadline=None)
def test_random_amounts(a, b, c, d, number, seed):
    def operation(h):
        return lax.pad(h, number, ((0, 0, 0), (a, b, 0), (c, d, 0)))

    check_live(operation, (2, 5), seed)
    check_constants(operation, (2, 5), seed)


def test_in_a_file():
    check(lambda h: lax.pad(h, 2.0, ((0, 0, 0), (1, 0, 0), (0, 2, 0))), (2, 5))


@pytest.mark.parametrize("config", [(0, 0, 1), (-1, 0, 0)])
def test_between_entries_and_negative_amounts_keep_positions_and_units_leave(config):
    check_live(lambda h: lax.pad(h, 0.0, ((0, 0, 0), config, (0, 0, 0))), (3, 5), 0, whole=(1,))


def test_an_associative_scan_over_positions():
    check_live(lambda h: lax.associative_scan(jnp.maximum, h, axis=1), (5, 4), 0, whole=(1,))
