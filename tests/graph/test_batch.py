import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.graph import batched_inputs, trace_batch
from sparsejax.graph._batch import SIZES


def example(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_lengths_are_those_of_two_batch_sizes_whatever_the_example():
    function = lambda p, x: (x @ p).reshape(-1)  # noqa: E731
    found = [trace_batch(function, example(4, 5), [example(n, 4)]) for n in (1, 2, 5, 12)]
    for traced in found:
        (out,) = traced.graph.outputs
        assert traced.graph.lengths(out) == [(5 * SIZES[0], 5 * SIZES[1])]
        assert traced.graph.varying(traced.graph.leaves[0]) == []
        assert traced.graph.equations == found[0].graph.equations
        assert traced.at([np.ones((7, 4), np.float32)], "shrink").shapes[out] == (35,)


def test_numbers_that_depend_on_the_batch_are_marked():
    def function(p, x):
        places = np.linspace(0, 1, len(x), dtype=np.float32)[:, None]
        return x * p / len(x) + places + np.ones(3, np.float32)

    graph = trace_batch(function, example(3), [example(2, 3)]).graph
    unsure = [graph.literals[v] for v in graph.batch_dependent if v in graph.literals]
    assert unsure == [SIZES[0]]
    assert [graph.shapes[v] for v in graph.constants if v in graph.batch_dependent] == [
        (SIZES[0], 1)
    ]


@pytest.mark.parametrize(
    ("function", "shapes", "wanted"),
    [
        (lambda p, x: x @ p, [(2, 4)], [True]),
        (lambda p, x, y: x @ p + y, [(2, 4), (2, 5)], [True, True]),
        (lambda p, x, t: x @ p * t, [(2, 4), (5,)], [True, False]),
        (lambda p, x, t: x @ p * t, [(5, 4), (5,)], [True, False]),
        (lambda p, t, x, y: (x + y) @ p * t, [(5,), (5, 4), (5, 4)], [False, True, True]),
        (lambda p, x, t: x @ p * t, [(2, 4), ()], [True, False]),
        (lambda p, x: x["a"] @ p * x["b"], [{"a": (2, 4), "b": (5,)}], [True, False]),
    ],
)
def test_which_inputs_have_a_batch(function, shapes, wanted):
    inputs = jax.tree.map(
        lambda shape: example(*shape), shapes, is_leaf=lambda node: isinstance(node, tuple)
    )
    assert batched_inputs(function, example(4, 5), inputs) == wanted
    assert list(trace_batch(function, example(4, 5), inputs).batched) == wanted
    tree = jax.tree.unflatten(jax.tree.structure(inputs), wanted)
    assert batched_inputs(function, example(4, 5), inputs, tuple(tree)) == wanted


@pytest.mark.parametrize("batched", [(True,), (True, True, True), "yes", {"x": True}, (1, 0)])
def test_what_is_no_prefix_of_bools_is_named(batched):
    with pytest.raises(ValueError, match="batched must"):
        batched_inputs(lambda p, x, y: x + y, (), [example(2), example(2)], batched)
