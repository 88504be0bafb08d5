"""Operations on the factors of an array give the factors of the result."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from sparsejax.graph import Factored, evaluate_factored, find_factored, trace
from sparsejax.graph._factored import NotFactoredError


def factored(shape, sides, rank=2, seed=0):
    rng = np.random.default_rng(seed)
    left = [n for n, side in zip(shape, sides, strict=True) if not side]
    right = [n for n, side in zip(shape, sides, strict=True) if side]
    draw = lambda *shape: rng.integers(-3, 4, shape).astype(np.float32)  # noqa: E731
    return Factored(draw(*left, rank), draw(rank, *right), tuple(sides))


def whole(value):
    """The product by einsum, dimension by dimension."""
    letters = "abcdefgh"[: len(value.sides)]
    left = "".join(c for c, side in zip(letters, value.sides, strict=True) if not side)
    right = "".join(c for c, side in zip(letters, value.sides, strict=True) if side)
    return np.einsum(f"{left}z,z{right}->{letters}", value.left, value.right)


SIDES = [sides for n in range(1, 5) for sides in itertools.product([False, True], repeat=n)]


@pytest.mark.parametrize("sides", SIDES)
def test_whole_shape_and_transposed(sides):
    value = factored((2, 3, 4, 5)[: len(sides)], sides)
    assert value.shape == (2, 3, 4, 5)[: len(sides)]
    np.testing.assert_array_equal(value.whole(), whole(value))
    for order in itertools.permutations(range(len(sides))):
        moved = value.transposed(order)
        np.testing.assert_array_equal(whole(moved), whole(value).transpose(order))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_reshaped(data):
    """It succeeds wherever no dimension of the result mixes both sides."""
    atoms = data.draw(st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.booleans()), max_size=6))

    def merged(same_side):
        shape, sides = [], []
        for length, side in atoms:
            joins = shape and data.draw(st.booleans()) and (not same_side or side == sides[-1])
            if joins:
                shape[-1] *= length
            else:
                shape.append(length)
                sides.append(side)
        return shape, sides

    shape, sides = merged(True)
    value = factored(shape, sides)
    same_side = data.draw(st.booleans())
    target, _ = merged(same_side)
    try:
        found = value.reshaped(target)
    except NotFactoredError:
        assert not same_side
        return
    assert found.shape == tuple(target)
    np.testing.assert_array_equal(whole(found), whole(value).reshape(target))


def test_reshaped_refuses_what_mixes_the_sides():
    value = factored((2, 3, 4), (False, True, False))
    assert value.reshaped((2, 1, 3, 2, 2)).sides[0] is False
    for shape in ((6, 4), (2, 12), (24,), (3, 2, 4)):
        with pytest.raises(NotFactoredError):
            value.reshaped(shape)
    with pytest.raises(NotFactoredError):
        factored((0, 3), (False, True)).reshaped((3, 0))


def check(function, value, x, is_kept=True):
    """A function of a factored parameter and an input, computed with the factors or not."""
    structs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), value)
    dense = jax.ShapeDtypeStruct(value.shape, jnp.float32)
    graph = trace(function, dense, (x,))
    (leaf,) = graph.leaves
    assert find_factored(graph, {leaf: structs}) == ({leaf} if is_kept else set())
    found = evaluate_factored(graph, graph.given([value], [x]))
    expected = function(jnp.asarray(whole(value)), x)
    for one, other in zip(found, jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def draw(*shape):
    return jnp.asarray(np.random.default_rng(9).integers(-3, 4, shape), jnp.float32)


@pytest.mark.parametrize("lhs", [False, True])
@pytest.mark.parametrize("sides", [s for s in SIDES if len(s) == 3])
@pytest.mark.parametrize("summed", [(0,), (1,), (2,), (0, 1), (2, 1), (2, 0)])
def test_dot_general(sides, summed, lhs):
    value = factored((9, 10, 11), sides, rank=1)
    x = draw(4, *(value.shape[axis] for axis in summed), 5)
    axes = tuple(range(1, 1 + len(summed)))

    def function(w, x):
        if lhs:
            return lax.dot_general(w, x, ((summed, axes), ((), ())))
        return lax.dot_general(x, w, ((axes, summed), ((), ())))

    one_side = len({sides[axis] for axis in summed}) == 1
    both = len(set(sides)) == 2
    check(function, value, x, is_kept=one_side and both)


@pytest.mark.parametrize("sides", [s for s in SIDES if len(s) == 4])
def test_convolutions_of_any_layout(sides):
    numbers = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NHWC"), ("NHWC", "HOIW", "CNHW")]
    for lhs, rhs, out in numbers:
        lengths = {"H": 3, "W": 4, "I": 8, "O": 9}
        value = factored([lengths[c] for c in rhs], sides, rank=1)
        image = {"N": 2, "H": 12, "W": 11, "C": 8}
        x = draw(*(image[c] for c in lhs))

        def function(w, x, numbers=(lhs, rhs, out)):
            return lax.conv_general_dilated(
                x, w, (2, 1), ((1, 2), (0, 3)), (1, 2), (1, 2), dimension_numbers=numbers
            )

        kept = sides[rhs.index("I")] != sides[rhs.index("O")]
        check(function, value, x, is_kept=kept)


LEFT_RIGHT = factored((12, 10), (False, True), rank=2)
USES = {
    "transposed": lambda w, x: x[:, :10] @ w.T,
    "twice": lambda w, x: jnp.tanh(x @ w) @ w.T,
    "reshaped": lambda w, x: jnp.einsum("bi,ijk->bjk", x, w.reshape(12, 2, 5)),
    "merged": lambda w, x: jnp.tensordot(x.reshape(-1, 3, 4), w.reshape(3, 4, 10), 2),
    "converted": lambda w, x: x.astype(jnp.bfloat16).astype(jnp.float32) @ w.astype(jnp.float32),
    "squeezed": lambda w, x: x @ w[None, :, None].squeeze((0, 2)),
    "jit": lambda w, x: jax.jit(lambda w: x @ w)(w),
    "as the first operand": lambda w, x: w.T @ x.T,
}


@pytest.mark.parametrize("name", USES)
def test_uses_of_the_factors(name):
    check(USES[name], LEFT_RIGHT, draw(4, 12))


OTHER_USES = {
    "gather": lambda w, x: w[jnp.asarray([1, 0])],
    "an output": lambda w, x: (x @ w, w),
    "not read": lambda w, x: x,
    "elementwise": lambda w, x: x @ jnp.abs(w),
    "one of two": lambda w, x: (x @ w) + (x @ jnp.sin(w)),
    "broadcast": lambda w, x: x @ jnp.broadcast_to(w, (3, 12, 10)),
    "in batches": lambda w, x: jnp.einsum("bi,ij->ib", x, w),
    "with itself": lambda w, x: w.T @ w,
    "reshaped across": lambda w, x: x @ w.reshape(10, 12).reshape(12, 10),
    "an outer product": lambda w, x: jnp.tensordot(x[:2, :2], w, 0),
}


@pytest.mark.parametrize("name", OTHER_USES)
def test_other_uses_multiply_the_factors(name):
    check(OTHER_USES[name], LEFT_RIGHT, draw(4, 12), is_kept=False)


@pytest.mark.parametrize("rank", [1, 5, 6, 12])
def test_factors_are_used_where_they_save_products(rank):
    value = factored((12, 10), (False, True), rank=rank)  # m n / (m + n) is 5.45
    check(lambda w, x: x @ w, value, draw(4, 12), is_kept=rank <= 5)
