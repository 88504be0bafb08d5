import jax
import jax.numpy as jnp
import pytest

from sparsejax.graph import batched_inputs, trace_batch


def example(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


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
