"""Where the entries of a moved parameter are, against the parameter of its own indices."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax

from sparsejax.graph import RULES, MovedLeaf, scan_of, trace

SHAPE = (4, 6, 1, 10)
INDICES = np.arange(np.prod(SHAPE)).reshape(SHAPE)


def indices(moved):
    """The entries of a parameter that a moved one holds, by the definition of its pieces."""
    strides = np.cumprod([1, *moved.shape[:0:-1]])[::-1]
    left = [piece for dim in moved.dims for piece in dim]
    total = np.zeros([piece.length for piece in left], int)
    for place, piece in enumerate(left):
        along = [1] * len(left)
        along[place] = -1
        digits = np.arange(piece.length) * piece.stride * strides[piece.axis]
        total = total + digits.reshape(along)
    for piece, start, _ in moved.cut:
        total = total + start * piece.stride * strides[piece.axis]
    for piece, start, entry in moved.fixed:
        total = total + (start + entry) * piece.stride * strides[piece.axis]
    return total.reshape([int(np.prod([p.length for p in dim])) for dim in moved.dims])


def moved_by(function, shape=SHAPE):
    """The parameter after all equations of a function."""
    graph = trace(function, jax.ShapeDtypeStruct(shape, jnp.float32), [])
    values = {graph.leaves[0]: MovedLeaf.whole(0, shape)}
    for equation in graph.equations:
        rule = RULES[equation.name]
        leaf = values[equation.ins[0]]
        if rule.moved is not None:
            results = rule.moved(graph, equation, leaf) if leaf else [None] * len(equation.outs)
        else:
            results = [leaf and leaf.read(rule.indices(graph, equation, graph.literals))]
        values |= zip(equation.outs, results, strict=True)
    return [values[value] for value in graph.outputs]


FUNCTIONS = {
    "reshape": lambda w: w.reshape(2, 2, 60),
    "reshape to a finer shape": lambda w: w.reshape(2, 1, 2, 3, 2, 5, 2),
    "merge and split at other factors": lambda w: w.reshape(24, 10).reshape(8, 3, 10),
    "transpose": lambda w: w.transpose(3, 0, 2, 1),
    "transpose of a finer shape": lambda w: (
        w.reshape(4, 2, 3, 10).transpose(2, 0, 3, 1).reshape(12, 20)
    ),
    "squeeze": lambda w: jnp.squeeze(w, 2),
    "new axes": lambda w: w[:, None, :, :, 0, None],
    "broadcast": lambda w: lax.broadcast_in_dim(w, (1, 4, 6, 1, 10), (1, 2, 3, 4)),
    "slice": lambda w: w[:, 2:5],
    "slice of a slice": lambda w: w[:, 1:][:, 2:4],
    "index": lambda w: w[2],
    "index of a slice": lambda w: w[1:, 3:][1, 2],
    "index of a finer shape": lambda w: w.reshape(4, 3, 2, 10)[:, 1],
    "split": lambda w: jnp.split(w, 2, axis=3),
    "uneven split": lambda w: jnp.split(w, [1, 4], axis=1),
    "slice, then split": lambda w: w[:, 2:].reshape(4, 2, 2, 10).transpose(1, 0, 2, 3),
    "convert": lambda w: lax.stop_gradient(w.astype(jnp.bfloat16)).astype(jnp.float32),
    "gather": lambda w: w.at[np.int32(1)].get(mode="clip"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rules_move_as_the_primitives_do(name):
    function = FUNCTIONS[name]
    expected = function(jnp.asarray(INDICES, jnp.float32))
    expected = expected if isinstance(expected, list) else [expected]
    for moved, entries in zip(moved_by(function), expected, strict=True):
        precision = 8 if name == "convert" else 24  # bits of the numbers that stand for entries
        np.testing.assert_allclose(indices(moved), entries, rtol=2.0**-precision)


REFUSED = {
    "factors that do not divide": lambda w: w.reshape(3, 80),
    "reversed": lambda w: w[::-1],
    "strided": lambda w: w[::2],
    "larger broadcast": lambda w: jnp.broadcast_to(w, (4, 6, 5, 10)),
    "slice of merged axes": lambda w: w.transpose(1, 0, 2, 3).reshape(24, 10)[2:7],
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_moves_are_refused(name):
    assert moved_by(REFUSED[name]) == [None]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_moves_in_turn(data):
    """A refusal is allowed; a wrong answer is not."""
    moved, entries = MovedLeaf.whole(0, SHAPE), INDICES
    for _ in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(["reshape", "transpose", "at"]))
        if kind == "transpose":
            order = data.draw(st.permutations(range(entries.ndim)))
            moved, entries = moved.transposed(order), entries.transpose(order)
        elif kind == "at" and entries.ndim:
            axis = data.draw(st.integers(0, entries.ndim - 1))
            index = data.draw(st.integers(0, entries.shape[axis] - 1))
            if entries.shape[axis] == 1:
                continue
            moved, entries = moved.at(axis, index), np.take(entries, [index], axis)
        else:
            factors = [f for n in entries.shape for f in ([2, n // 2] if n % 2 == 0 else [n])]
            cuts = sorted(data.draw(st.sets(st.integers(0, len(factors)))) | {0, len(factors)})
            shape = [int(np.prod(factors[a:b])) for a, b in itertools.pairwise(cuts)]
            moved, entries = moved.reshaped(shape), entries.reshape(shape)
        if moved is None:
            return
        np.testing.assert_array_equal(indices(moved), entries)


def test_a_scan_says_what_its_operands_are():
    def function(w, x):
        def step(carry, sliced):
            i, held, y = carry
            return (i + 1, held, y @ sliced + held), y.sum()

        return lax.scan(step, (0, w[0, 0], x), w, reverse=True)

    w, x = jnp.ones((3, 4, 4)), jnp.ones((2, 4))
    graph = trace(function, w, [x])
    (equation,) = [one for one in graph.equations if one.name == "scan"]
    scan = scan_of(equation)
    assert (scan.num_consts, scan.num_carry, scan.length, scan.reverse) == (1, 2, 3, True)
    assert [scan.kept(place) for place in range(4)] == [True, False, False, False]
    assert [scan.sliced(place) for place in range(4)] == [False, False, False, True]
    assert [one.name for one in scan.body.equations].count("dot_general") == 1
