import pathlib

import jax
import numpy as np
import pytest
from jax import lax

import sparsejax
from sparsejax.deploy import Network, export_onnx, shrink
from sparsejax.graph import RULES

ROOT = pathlib.Path(sparsejax.__file__).parents[1]


def test_each_file_of_rules_has_tests():
    """Those of single elementwise primitives are tested in one table."""
    tested = {file.stem.removeprefix("test_") for file in pathlib.Path(__file__).parent.iterdir()}
    for file in (ROOT / "sparsejax" / "graph" / "rules").glob("*.py"):
        if file.stem not in ("__init__", "mul", "div", "max", "select_n"):
            assert file.stem in tested


def test_each_rule_is_of_a_primitive():
    values = [*vars(lax).values(), *vars(lax.linalg).values()]
    public = {p.name for p in values if isinstance(p, jax.extend.core.Primitive)}
    assert len(public) > 100
    names = {name.removesuffix("_p") for name in RULES}
    assert names - {name.removesuffix("_p") for name in public} <= {
        "add_any", "copy", "stop_gradient", "optimization_barrier", "nextafter", "square", "split",
        "clamp", "exp2", "tan",
    }  # fmt: skip


def test_without_a_rule_all_units_are_kept_and_nothing_is_written():
    """As for ``igamma``; the name of the primitive stands in the error."""
    params = {"w": np.eye(4, 6, dtype=np.float32), "o": np.ones((6, 2), np.float32)}
    network = Network(lambda p, x: lax.igamma(abs(x @ p["w"]), 2.0) @ p["o"], params)
    x = np.ones((2, 4), np.float32)
    assert "igamma" not in RULES
    with pytest.raises(ValueError, match=r"igamma \(over 6 units after w\)"):
        shrink(network, x)
    small = shrink(network, x, keep_unsupported=True)
    assert small.unsupported == {"igamma": 6 + 6}
    with pytest.raises(ValueError, match="the operation igamma, which"):
        export_onnx(network, x)
