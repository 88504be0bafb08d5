"""Networks with inputs of several kinds, trees of outputs and auxiliary heads."""

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.deploy import Network, expand, export_onnx, shrink


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def forward(params, image, other, scale):
    """An image, a tree of integers and booleans with the same batch, and a scalar."""
    h = jnp.tanh(image.reshape(len(image), -1) @ params["image"])
    code = jax.nn.one_hot(other["code"], 5) @ params["code"]
    h = h + jnp.where(other["known"][:, None], code, 0) * scale
    early = jnp.tanh(h @ params["hidden"])
    late = jnp.tanh(early @ params["deep"] + params["bias"])
    return {
        "class": (late @ params["late"]).argmax(-1),
        "heads": [late @ params["late"], early @ params["early"]],
        "known": other["known"],
        "steps": jnp.where(other["code"] > 2, other["code"], 7),
    }


def test_several_kinds_of_inputs_and_heads():
    import onnxruntime

    rng = np.random.default_rng(0)
    params = {
        "image": normal(rng, 12, 6), "code": normal(rng, 5, 6), "hidden": normal(rng, 6, 7),
        "deep": normal(rng, 7, 8), "bias": normal(rng, 8), "late": normal(rng, 8, 3),
        "early": normal(rng, 7, 2),
    }  # fmt: skip
    params["image"][:, [1, 2]] = params["code"][:, [2, 3]] = 0  # 2 is zero in both
    params["early"][[0, 1]] = params["deep"][[1, 4]] = 0  # 1 is read by neither head
    params["late"][5] = params["deep"][:, 6] = 0  # not read; constant, absorbed by no bias: stays
    inputs = (
        normal(rng, 4, 2, 3, 2),
        {"code": np.int32([4, 0, 2, 3]), "known": np.asarray([True, False, True, True])},
        np.full((), 2, np.float32),
    )
    small = shrink(Network(forward, params), *inputs)
    shapes = {name: array.shape for name, array in small.params.items()}
    assert shapes == {
        "image": (12, 5), "code": (5, 5), "hidden": (5, 6), "deep": (6, 7), "bias": (7,),
        "late": (7, 3), "early": (6, 2),
    }  # fmt: skip
    session = onnxruntime.InferenceSession(
        export_onnx(small, *inputs), providers=["CPUExecutionProvider"]
    )
    names = [f"input{path}" for path in ("0", "1/code", "1/known", "2")]
    for size in (4, 1):
        batch = jax.tree.map(lambda array, n=size: array[:n] if array.ndim else array, inputs)
        expected = jax.jit(forward)(params, *batch)
        by_runtime = session.run(None, dict(zip(names, jax.tree.leaves(batch), strict=True)))
        for found in (
            jax.jit(small)(*batch),
            expand(small)(*batch),
            jax.tree.unflatten(jax.tree.structure(expected), by_runtime),
        ):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
