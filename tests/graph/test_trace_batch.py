import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.graph import trace_batch, trace_every_batch
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


def test_lengths_as_multiples_of_the_batch_size():
    def function(p, x, t):
        return (x @ p).reshape(-1), jnp.concatenate([x, x]), x @ p * t

    inputs = [example(4, 3), example(5)]
    traced, multiples = trace_every_batch(function, example(3, 5), inputs)
    assert traced.batched == (True, False)
    values = [*traced.graph.inputs, *traced.graph.leaves, *traced.graph.outputs]
    assert [multiples[value] for value in values] == [(1, 0), (0,), (0, 0), (5,), (2, 0), (1, 0)]
    _, fixed = trace_every_batch(function, example(3, 5), inputs, batched=False)
    assert not any(map(any, fixed))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda p, x: x * len(x), "computes with its number"),
        (lambda p, x: x[1:] * p, "has a dimension of length 11 for 12 and 17 for 18"),
        (lambda p, x: x[: len(x) // 2], "has a dimension of length 6 for 12 and 9 for 18"),
        (lambda p, x: x if len(x) < 3 else -x, "computes differently for another one"),
        (lambda p, x: x if len(x) < 5 else -x, "computes something else for another batch size"),
        (
            lambda p, x: jnp.pad(x, ((0, 24 - len(x)), (0, 0))),
            "has pad with another padding_config",
        ),
        (lambda p, x: x.reshape(4, 3) if len(x) == 4 else x[:, 0], "computes something else"),
    ],
)
def test_what_depends_on_the_batch_size_is_refused(function, reason):
    with pytest.raises(ValueError, match=f"same for every batch size; it {reason}"):
        trace_every_batch(function, example(3), [example(4, 3)])
