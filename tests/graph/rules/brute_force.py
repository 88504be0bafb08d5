"""References for rules of primitives: a unit is alive if changing it changes an output.

An operation stands between two dense layers: h = tanh(x @ w + b) has the shape [batch, *shape], and
each result of the operation is flattened and read by a layer. That layer has zeros for some indices
of each dimension of the result.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.deploy import Network, export_onnx, shrink
from sparsejax.graph import find_constants, trace_batch

BATCH = 3


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def results(operation, h):
    """The results of an operation as arrays [batch, features]."""
    return [jnp.reshape(y, (len(y), -1)) for y in jax.tree.leaves(operation(h))]


def head(operation, params, h):
    first, *rest = [y @ o for y, o in zip(results(operation, h), params["o"], strict=True)]
    return sum(rest, first + params["c"])


def network(operation, params):
    return Network(
        lambda params, x: head(operation, params, jnp.tanh(x @ params["w"] + params["b"])), params
    )


def draw(rng, operation, shape, *, constants=False, share=0.6):
    """Parameters and an input; with ``constants``, some of the units of h read nothing."""
    params = {"w": normal(rng, 4, shape[-1]), "b": normal(rng, shape[-1]), "c": normal(rng, 2)}
    if constants:
        params["w"][:, rng.random(shape[-1]) < 0.5] = 0
        params["b"][rng.random(shape[-1]) < 0.3] = 0
    h = jax.ShapeDtypeStruct((BATCH, *shape), jnp.float32)
    params["o"] = []
    for y in jax.tree.leaves(jax.eval_shape(operation, h)):
        read = [rng.random(length) < share for length in y.shape[1:]]
        mask = functools.reduce(np.multiply.outer, read, np.ones((), bool)).reshape(-1, 1)
        params["o"].append(np.where(mask, normal(rng, len(mask), 2), np.float32(0)))
    return params, normal(rng, BATCH, *shape[:-1], 4)


def alive(rng, operation, params, shape):
    """For each dimension of h behind the batch, which of its units an output depends on."""
    h = rng.uniform(-1, 1, (BATCH, *shape)).astype(np.float32)
    before = head(operation, params, h)
    masks = []
    for axis, length in enumerate(shape, 1):
        mask = []
        for index in range(length):
            chosen = (slice(None),) * axis + (index,)
            changed = h.copy()
            changed[chosen] = rng.uniform(-1, 1, h[chosen].shape)
            mask.append(bool((head(operation, params, changed) != before).any()))
        masks.append(np.asarray(mask))
    return masks


def as_mask(indices, length):
    mask = np.zeros(length, bool)
    mask[np.arange(length) if indices is None else indices] = True
    return mask


def check_live(operation, shape, seed, whole=()):
    """Exactly the units that are alive are kept; those along ``whole`` axes all are.

    The shrunk network computes the same for another batch size. If nothing of h is read, the
    analysis may keep more: it knows which indices are read for each dimension by itself.
    """
    rng = np.random.default_rng(seed)
    params, x = draw(rng, operation, shape)
    small = shrink(network(operation, params), x[:2])
    kept = [*small.kept_inputs["0"][1:-1], small.kept["w"][1]]
    expected = alive(rng, operation, params, shape)
    for axis, (indices, mask) in enumerate(zip(kept, expected, strict=True), 1):
        found = as_mask(indices, len(mask))
        if axis in whole:
            assert found.all()
        elif expected[-1].any():
            np.testing.assert_array_equal(found, mask, err_msg=f"axis {axis} of h")
    np.testing.assert_allclose(small(x), network(operation, params)(x), rtol=1e-4, atol=1e-4)


def check_constants(operation, shape, seed, complete=True):
    """What is called constant is constant, for every value in the graph; nothing is missed.

    ``complete``: in the results of the operation, every unit that is constant is found, unless all
    units along a dimension are (as of a slice of constant units, along other dimensions).
    """
    rng = np.random.default_rng(seed)
    params, x = draw(rng, operation, shape, constants=True, share=1)
    small = shrink(network(operation, params), x[:2])
    np.testing.assert_allclose(small(x), network(operation, params)(x), rtol=1e-4, atol=1e-4)

    def only(params, x):
        return jax.tree.leaves(operation(jnp.tanh(x @ params["w"] + params["b"])))

    params = {name: params[name] for name in ("w", "b")}
    traced = trace_batch(only, params, [x])
    leaves = jax.tree.leaves(params)
    units = find_constants(traced.graph, leaves).units
    runs = [
        evaluated(traced.at([one], "a test"), leaves, [one])
        for one in (x, normal(rng, *x.shape), normal(rng, 5, *x.shape[1:]))
    ]
    for value, by_axis in units.items():
        if value not in runs[0]:
            continue  # in the body of a loop; it shows in the results
        for axis, (mask, numbers) in by_axis.items():
            for run in runs:
                there = np.moveaxis(np.asarray(run[value]), axis, 0)[mask]
                expected = numbers[mask].reshape(-1, *(1,) * (there.ndim - 1))
                np.testing.assert_allclose(
                    there, np.broadcast_to(expected, there.shape), 1e-6, 1e-7
                )
    for value in traced.graph.outputs:
        for axis in range(1, len(traced.graph.shapes[value])):
            rows = [np.moveaxis(np.asarray(run[value]), axis, 0) for run in runs]
            rows = np.concatenate([row.reshape(len(row), -1) for row in rows], axis=1)
            constant = (rows == rows[:, :1]).all(axis=1)
            if complete and constant.any() and not constant.all():
                np.testing.assert_array_equal(units[value][axis].mask, constant)


def evaluated(graph, leaves, inputs):
    """All values of a graph, computed without any rule."""
    values = graph.given(leaves, inputs)
    for equation in graph.equations:
        found = equation.apply([values[value] for value in equation.ins])
        values |= dict(zip(equation.outs, found, strict=True))
    return values


def check_onnx(operation, shape, seed):
    """The runtime computes the same, whole and shrunk, for other batch sizes."""
    import onnxruntime

    rng = np.random.default_rng(seed)
    params, x = draw(rng, operation, shape)
    small = shrink(network(operation, params), x)
    for written in (network(operation, params), small):
        session = onnxruntime.InferenceSession(
            export_onnx(written, x), providers=["CPUExecutionProvider"]
        )
        for size in (1, BATCH):
            (found,) = session.run(None, {"input0": x[:size]})
            expected = network(operation, params)(x[:size])
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def check(operation, shape, seed=0, whole=(), complete=True, onnx=True):
    """All of the above."""
    check_live(operation, shape, seed, whole)
    check_constants(operation, shape, seed, complete)
    if onnx:
        check_onnx(operation, shape, seed)
