import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sparsejax
from sparsejax._names import leaves_by_name
from sparsejax.models import Decoder, DecoderConfig
from sparsejax.models._rotary import rotate
from tests.models import decoder_reference

CONFIG = DecoderConfig(
    vocabulary=50, width=32, layers=2, heads=4, kv_heads=2, hidden=48, rope_theta=100.0
)
TOKENS = np.random.default_rng(0).integers(0, 50, (2, 9))


def randomized(model, seed=1):
    """The model with random scales too, which are ones at first."""
    graph, params = nnx.split(model)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(tree, moved))


def decoder(config=CONFIG, scan_layers=False, **kwargs):
    return Decoder(config, scan_layers, rngs=nnx.Rngs(0), **kwargs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kv_heads": 1},
        {"kv_heads": 4, "tie_embedding": False},
        {"heads": 1, "kv_heads": 1, "norm_epsilon": 0.1},
    ],
)
def test_logits_are_those_of_the_equations_in_float64(changes):
    config = dataclasses.replace(CONFIG, **changes)
    model = randomized(decoder(config))
    params = leaves_by_name(nnx.state(model, nnx.Param))
    found = model(TOKENS)
    assert found.dtype == jnp.float32
    for row, tokens in zip(found, TOKENS, strict=True):
        expected = decoder_reference.logits(params, config, tokens)
        np.testing.assert_allclose(row, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


def test_stacked_layers_are_the_same_model():
    plain, stacked = decoder(), decoder(scan_layers=True)
    leaves = leaves_by_name(nnx.state(plain, nnx.Param))
    for name, leaf in leaves_by_name(nnx.state(stacked, nnx.Param)).items():
        if name.startswith("layers/"):
            parts = [leaves[name.replace("layers/", f"layers/{i}/")] for i in range(2)]
            np.testing.assert_array_equal(leaf, np.stack(parts))
        else:
            np.testing.assert_array_equal(leaf, leaves[name])
    np.testing.assert_allclose(stacked(TOKENS), plain(TOKENS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_gradients_reach_all_parameters_and_agree_with_differences(scan_layers):
    graph, params = nnx.split(randomized(decoder(scan_layers=scan_layers)))

    def loss(params):
        return jnp.mean(jax.nn.logsumexp(nnx.merge(graph, params)(TOKENS), axis=-1))

    gradient = jax.jit(jax.grad(loss))(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(gradient))
    length = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
    step = jax.tree.map(lambda g: 1e-2 / length * g, gradient)
    up, down = (loss(jax.tree.map(op, params, step)) for op in (jnp.add, jnp.subtract))
    np.testing.assert_allclose((up - down) / 2, 1e-2 * length, rtol=1e-2)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_position_sees_only_the_tokens_up_to_it(scan_layers):
    model = randomized(decoder(scan_layers=scan_layers))
    changed = TOKENS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 50
    before, after = model(TOKENS), model(changed)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (jnp.abs(before - after).max(axis=-1)[:, 5:] > 0).all()


@pytest.mark.parametrize("scan_layers", [False, True])
def test_logits_of_one_position_are_those_among_all(scan_layers):
    model = randomized(decoder(scan_layers=scan_layers))
    logits = model(TOKENS)
    at = jax.jit(model)
    for position in (0, 3, -1, np.int32(TOKENS.shape[1] - 1)):
        found = at(TOKENS, position)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, logits[:, position], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "position", [TOKENS.shape[1], -TOKENS.shape[1] - 1, 1.0, np.array([0]), True]
)
def test_a_position_that_is_not_there_is_an_error(position):
    with pytest.raises(ValueError, match=r"position must be (an|one) integer"):
        decoder()(TOKENS, position)


def test_rotary_scores_depend_on_the_distance_alone():
    query, key = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    rows = [jnp.tile(jnp.asarray(v), (1, 12, 1, 1)) for v in (query, key)]
    turned_query, turned_key = (np.asarray(rotate(r, 100.0))[0, :, 0] for r in rows)
    scores = turned_query @ turned_key.T
    for distance in range(1, 12):
        diagonal = np.diagonal(scores, -distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-4)
    assert np.ptp(scores[:, 0]) > 0.1
    np.testing.assert_allclose(scores[0, 0], query @ key, rtol=1e-5)


def test_the_default_rule_chooses_kernels_and_the_embedding():
    for scan_layers in (False, True):
        params = nnx.state(decoder(scan_layers=scan_layers), nnx.Param)
        choice = sparsejax.chosen(params)
        assert choice.size == 50 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
        assert all(re.search("kernel|embedding", x.path) for x in choice.leaves if x.chosen)


def test_bfloat16_computes_near_float32_with_float32_parameters_and_logits():
    exact, rough = decoder(), decoder(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(rough))} == {jnp.dtype("float32")}
    found, expected = rough(TOKENS), exact(TOKENS)
    assert found.dtype == jnp.float32
    assert 1e-4 < float(jnp.abs(found - expected).max()) < 0.1


def test_float64():
    with jax.enable_x64(True):
        model = decoder(dtype=jnp.float64)
        params = leaves_by_name(nnx.state(model, nnx.Param))
        found = model(TOKENS)
        assert found.dtype == jnp.float64
        expected = decoder_reference.logits(params, CONFIG, TOKENS[0])
        np.testing.assert_allclose(found[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tokens", [TOKENS[0], TOKENS[..., None], TOKENS.astype(np.float32)])
def test_tokens_of_another_form_are_an_error(tokens):
    with pytest.raises(ValueError, match=r"tokens must be integers \[batch, length\]; got"):
        decoder()(tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers must be an integer >= 1; got 0"),
        ({"width": 30}, "width must be an even multiple of heads.* got width 30 and heads 4"),
        ({"width": 36}, "width must be an even multiple of heads.* got width 36 and heads 4"),
        ({"kv_heads": 3}, "heads must be a multiple of kv_heads; got heads 4 and kv_heads 3"),
        ({"rope_theta": 0.0}, "rope_theta must be a positive number; got 0.0"),
        ({"norm_epsilon": float("nan")}, "norm_epsilon must be a positive number; got nan"),
    ],
)
def test_sizes_that_do_not_fit_are_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_a_size_that_is_no_integer_is_an_error():
    with pytest.raises(TypeError, match=r"hidden must be an integer >= 1; got 48\.0"):
        dataclasses.replace(CONFIG, hidden=48.0)
