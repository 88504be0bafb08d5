import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.deploy import Network, export_onnx, shrink
from tests.graph.rules.brute_force import check_constants, check_live


@pytest.mark.parametrize("index", [jnp.argmax, jnp.argmin])
def test_positions_are_compared_and_units_leave(index):
    operation = lambda h: h + index(h, axis=1)[:, None]  # noqa: E731
    check_live(operation, (3, 6), 0, whole=(1,))
    check_constants(lambda h: index(h, axis=1).astype(h.dtype), (3, 6), 1)


@pytest.mark.parametrize("seed", range(2))
def test_classes_stay_whole_and_hidden_units_leave(seed):
    import onnxruntime

    rng = np.random.default_rng(seed)
    params = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 6), (6, 5))]
    params[0][:, 2] = params[1][4] = params[1][:, 3] = 0

    def function(params, x):
        logits = jnp.tanh(x @ params[0]) @ params[1]
        return {"class": logits.argmax(-1), "worst": jnp.argmin(logits, 1, keepdims=True)}

    x = rng.normal(size=(20, 4)).astype(np.float32)
    small = shrink(Network(function, params), x[:2])
    assert [array.shape for array in small.params] == [(4, 4), (4, 5)]
    expected = function(params, x)
    for name, found in small(x).items():
        np.testing.assert_array_equal(found, expected[name])
    session = onnxruntime.InferenceSession(
        export_onnx(small, x[:2]), providers=["CPUExecutionProvider"]
    )
    for found, name in zip(session.run(None, {"input0": x}), ("class", "worst"), strict=True):
        np.testing.assert_array_equal(found, expected[name])
        assert found.dtype == expected[name].dtype
