"""One budget for all kernels, divided by what the loss feels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.oneshot import (
    Calibration,
    KernelLayout,
    Method,
    admm,
    calibrate,
    magnitude,
    prune,
    prune_sequentially,
    squared_gradients,
)
from tests.oneshot.problems import calibration_of, dense_layout, inputs_of

RNG = np.random.default_rng(0)
LAYOUTS = {
    "a": dense_layout((16, 8)),
    "stacked": dense_layout((3, 16, 8)),
    "heads": KernelLayout((4, 6, 2, 5), (1,), (3, 0), (2,)),
}
PARAMS = {n: RNG.normal(size=one.shape).astype(np.float32) for n, one in LAYOUTS.items()}
XS = {
    name: np.stack([inputs_of(200, one.inputs, 10 * n + i) for i in range(one.batch)])
    for n, (name, one) in enumerate(LAYOUTS.items())
}
CALIBRATION = calibration_of(XS, LAYOUTS)
SQUARES = {
    name: np.exp(RNG.normal(size=leaf.shape) - 20).astype(np.float32)
    for name, leaf in PARAMS.items()
}
SIZE = sum(leaf.size for leaf in PARAMS.values())


def divided(params, calibration, squares, sparsity=0.6, method="magnitude", **options):
    return prune(
        params, calibration, sparsity, method, "global",
        comparison="loss", squared_gradients=squares, **options,
    )  # fmt: skip


def counts(params, layouts=LAYOUTS):
    """How many weights each matrix keeps."""
    return {
        name: np.count_nonzero(layouts[name].matrices(np.asarray(leaf)), axis=(1, 2)).tolist()
        for name, leaf in params.items()
    }


def test_the_division_is_that_of_a_sort():
    """In float64, by explicit inverses."""
    scores = {}
    for name, layout in LAYOUTS.items():
        matrices = layout.matrices(PARAMS[name].astype(np.float64))
        squares = layout.matrices(SQUARES[name].astype(np.float64))
        for n, x in enumerate(XS[name]):
            gram = x.T @ x / len(x)
            price = 1 / np.diag(np.linalg.inv(gram + 0.1 * np.diag(np.diag(gram))))
            felt = squares[n].sum(1) / np.trace(gram)
            scores[name, n] = felt[:, None] * matrices[n] ** 2 * price
    kept = SIZE - round(0.6 * SIZE)
    threshold = np.sort(np.concatenate([s.ravel() for s in scores.values()]))[-kept]
    found = counts(divided(PARAMS, CALIBRATION, SQUARES))
    for (name, n), score in scores.items():
        assert found[name][n] == (score >= threshold).sum()
    assert found != counts(prune(PARAMS, CALIBRATION, 0.6, "magnitude", "global"))


@pytest.mark.parametrize("method", ["wanda", "swaps", "sparsegpt", "admm"])
def test_the_count_is_exact_even_where_the_loss_feels_nothing(method):
    squares = SQUARES | {"a": 0 * SQUARES["a"]}
    with pytest.warns(UserWarning, match="squared gradients of a are 0"):
        found = counts(divided(PARAMS, CALIBRATION, squares, 0.37, method))
    assert sum(map(sum, found.values())) == SIZE - round(0.37 * SIZE)
    assert found["a"] == [0]
    ties = {name: jnp.zeros_like(leaf) for name, leaf in SQUARES.items()}
    ties["a"] = ties["a"].at[0, 0].set(1e-9)  # one output has scores, and all others are 0
    with pytest.warns(UserWarning, match="squared gradients of (stacked|heads) are 0") as warned:
        found = counts(divided(PARAMS, CALIBRATION, ties, 0.37, "magnitude"))
    assert len(warned) == 2
    assert sum(map(sum, found.values())) == SIZE - round(0.37 * SIZE)


@pytest.mark.parametrize("small", [0, 1e-39])
def test_a_layer_of_a_stack_that_the_loss_does_not_feel_is_named(small):
    stacked = SQUARES["stacked"].copy()
    stacked[1] *= small
    message = "squared gradients of 1 of the 3 matrices of stacked are 0.* Leave the kernel out"
    with pytest.warns(UserWarning, match=message) as warned:
        found = counts(divided(PARAMS, CALIBRATION, SQUARES | {"stacked": jnp.asarray(stacked)}))
    assert [warning.filename for warning in warned] == [__file__]
    assert found["stacked"][1] == 0 < min(found["a"] + found["stacked"][::2] + found["heads"])


def test_the_method_weighs_outputs_by_the_root_of_what_the_loss_feels():
    """By Wanda's masks in float64; the weights that are kept are the same to the bit."""
    found = divided(PARAMS, CALIBRATION, SQUARES, method="wanda")
    kept = counts(found)
    for name, layout in LAYOUTS.items():
        matrices, masks = layout.matrices(PARAMS[name]), layout.matrices(found[name] != 0)
        squares = layout.matrices(SQUARES[name].astype(np.float64))
        for n, x in enumerate(XS[name]):
            felt = squares[n].sum(1)[:, None] ** 0.25
            scores = felt * np.abs(matrices[n]) * np.linalg.norm(x, axis=0)
            np.testing.assert_array_equal(
                masks[n], scores >= np.sort(scores.ravel())[-kept[name][n]]
            )
        np.testing.assert_array_equal(found[name], np.where(found[name] != 0, PARAMS[name], 0))
    ignored = divided(PARAMS, CALIBRATION, SQUARES)["a"]
    largest = np.sort(np.abs(PARAMS["a"]).ravel())[-np.count_nonzero(ignored)]
    np.testing.assert_array_equal(ignored != 0, np.abs(PARAMS["a"]) >= largest)


def test_a_method_of_ones_own_that_ignores_the_inputs_is_not_scaled():
    run = magnitude().run
    expected = divided(PARAMS, CALIBRATION, SQUARES, method="magnitude")
    found = divided(PARAMS, CALIBRATION, SQUARES, method=Method("own", run, uses_inputs=False))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    scaled = divided(PARAMS, CALIBRATION, SQUARES, method=Method("magnitude", run))
    assert any((scaled[name] != expected[name]).any() for name in PARAMS)


def test_least_squares_weights_do_not_depend_on_the_scales():
    """Outputs are fitted one by one, so that weights under a mask stay those that fit best."""
    found = divided(PARAMS, CALIBRATION, SQUARES, method=admm(iterations=300))["a"].T
    x, dense = XS["a"][0].astype(np.float64), PARAMS["a"].T
    for row, own in zip(found, dense, strict=True):
        on = row != 0
        best = np.linalg.lstsq(x[:, on], x @ own, rcond=None)[0]
        np.testing.assert_allclose(row[on], best, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "swaps", "sparsegpt", "admm"])
def test_outputs_that_the_loss_does_not_feel_leave_weights_finite(method):
    squares = SQUARES["a"].copy()
    squares[:, :4] = 0
    found = divided(PARAMS, CALIBRATION, SQUARES | {"a": squares}, method=method)
    assert all(np.isfinite(leaf).all() for leaf in found.values())
    assert sum(map(sum, counts(found).values())) == SIZE - round(0.6 * SIZE)
    if method != "magnitude":
        assert np.count_nonzero(found["a"][:, :4]) < np.count_nonzero(found["a"][:, 4:]) / 4


def test_the_scale_of_the_loss_does_not_matter():
    expected = divided(PARAMS, CALIBRATION, SQUARES)
    for scale in (1e-10, 3.0, 1e30):
        scaled = {name: np.float32(scale) * leaf for name, leaf in SQUARES.items()}
        found = divided(PARAMS, CALIBRATION, scaled)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_stacked_layers_are_separate_layers():
    """And leaves that are not kernels of the calibration may be anything."""
    names = {f"layers/{n}": n for n in range(3)}
    layers = {"layers": [PARAMS["stacked"][n] for n in range(3)], "a": PARAMS["a"]}
    squares = {"layers": [SQUARES["stacked"][n] for n in range(3)], "a": SQUARES["a"]}
    calibration = calibration_of(
        {name: XS["stacked"][n] for name, n in names.items()} | {"a": XS["a"]},
        {name: dense_layout((16, 8)) for name in names} | {"a": LAYOUTS["a"]},
    )
    together = {name: PARAMS[name] for name in ("stacked", "a")}
    stacked = Calibration(
        {name: CALIBRATION.inputs[name] for name in together},
        {name: LAYOUTS[name] for name in together},
    )
    found = divided(layers | {"bias": np.ones(3)}, calibration, squares | {"bias": None})
    expected = divided(together, stacked, SQUARES | {"heads": "none", "other": np.nan})
    np.testing.assert_array_equal(np.stack(found["layers"]), expected["stacked"])
    np.testing.assert_array_equal(found["a"], expected["a"])


X = RNG.normal(size=(64, 12)).astype(np.float32)
BRANCHES = {name: RNG.normal(size=(12, 10)).astype(np.float32) for name in ("loud", "quiet")}
BATCHES = [X[n : n + 4] for n in range(0, 64, 4)]


def branches(params, x):
    return x @ params["loud"] + 1e-3 * (jnp.tanh(x) @ params["quiet"])


def loss(params, x):
    return jnp.square(branches(params, x)).sum(1).mean()


def everything(path, leaf):
    return True


def test_a_layer_that_the_loss_hardly_feels_keeps_few_weights():
    calibration = calibrate(branches, BRANCHES, BATCHES, everything)
    squares = squared_gradients(loss, BRANCHES, BATCHES)
    balanced = prune(BRANCHES, calibration, 0.5, "wanda", "global")
    found = divided(BRANCHES, calibration, squares, 0.5, "wanda")
    assert np.count_nonzero(balanced["quiet"]) > 50  # of 120
    assert np.count_nonzero(found["quiet"]) < 5
    assert sum(map(np.count_nonzero, found.values())) == 120


def test_layer_by_layer_the_division_is_the_same(tmp_path):
    squares = squared_gradients(loss, BRANCHES, BATCHES)
    calibration = calibrate(branches, BRANCHES, BATCHES, everything)
    expected = divided(BRANCHES, calibration, squares, 0.3, "wanda")
    call = (branches, BRANCHES, BATCHES, 0.3, "wanda", "global", everything)
    options = {"comparison": "loss", "squared_gradients": squares, "directory": tmp_path}
    for _ in range(2):  # the second time from the folder
        found = prune_sequentially(*call, **options)
        for name, leaf in expected.items():
            assert np.count_nonzero(found[name]) == np.count_nonzero(leaf)
    options["squared_gradients"] = squares | {"quiet": 2 * squares["quiet"]}
    with pytest.raises(ValueError, match="is of a call with others"):
        prune_sequentially(*call, **options)


def test_layer_by_layer_a_kernel_that_the_loss_does_not_feel_is_named():
    squares = {"loud": np.ones((12, 10), np.float32), "quiet": np.zeros((12, 10), np.float32)}
    options = {"comparison": "loss", "squared_gradients": squares}
    with pytest.warns(UserWarning, match="squared gradients of quiet are 0") as warned:
        found = prune_sequentially(
            branches, BRANCHES, BATCHES, 0.6, "wanda", "global", everything, **options
        )
    assert [warning.filename for warning in warned] == [__file__]
    assert (np.count_nonzero(found["loud"]), np.count_nonzero(found["quiet"])) == (96, 0)


SQUARE = np.ones((12, 10), np.float32)
BAD = {
    "none": (None, {}, "squared_gradients must be given for comparison='loss', .* got None"),
    "another comparison": (SQUARE, {"comparison": "relative"}, "comparison is 'relative'"),
    "another pattern": (SQUARE, {"pattern": "layer"}, "must be 'global'; got 'layer'"),
    "missing": (..., {}, "it has none for quiet, but loud"),
    "shape": (SQUARE.T, {}, r"quiet must have shape \(12, 10\); got \(10, 12\)"),
    "NaN": (SQUARE * np.nan, {}, "finite and at least 0; .* at quiet"),
    "infinite": (SQUARE * np.inf, {}, "finite and at least 0; .* at quiet"),
    "negative": (jnp.asarray(SQUARE).at[3, 3].set(-1e-9), {}, "finite and at least 0; .* at quiet"),
    "zeros": (0 * SQUARE, {}, "must be positive somewhere.* of loud, quiet is 0"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("function", [prune, prune_sequentially])
def test_bad_input(function, case):
    leaf, changed, message = BAD[case]
    squares = {"loud": 0 * SQUARE} | ({} if leaf is ... else {"quiet": leaf})
    options = {"budget": 0.5, "method": "wanda", "pattern": "global", "comparison": "loss"}
    options |= {"squared_gradients": None if leaf is None else squares, "where": everything}
    inputs = (branches, BRANCHES, BATCHES)
    if function is prune:
        inputs = (BRANCHES, calibrate(branches, BRANCHES, BATCHES, everything))
    with pytest.raises(ValueError, match=message):
        function(*inputs, **options | changed)


def test_squared_gradients_that_are_no_arrays():
    for leaf, what in (("none", "str"), (SQUARES["a"].astype(int), "int64")):
        with pytest.raises(TypeError, match=f"floating-point arrays; a is {what}"):
            divided(PARAMS, CALIBRATION, SQUARES | {"a": leaf})
    with pytest.raises(TypeError, match="squared_gradients must be a tree.*got <function"):
        divided(PARAMS, CALIBRATION, squared_gradients)
    with pytest.raises(TypeError, match="squared_gradients must hold concrete arrays"):
        jax.jit(lambda squares: divided(PARAMS, CALIBRATION, squares))(SQUARES)
