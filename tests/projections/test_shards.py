"""Leaves cut up over a mesh, under jit, shard_map and pmap: the same bits, and no weight moves."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sparsejax.compression import l0_ball, l0_ball_l2
from sparsejax.projections import project_l0_ball, project_units
from tests.projections.forms import sample_from
from tests.reference import as_float64, top_kappa

SHAPES = [(16, 24), (8, 4, 40), (64, 3), (6, 10), (16, 24)]
SPECS = {
    "data": [P("a"), P("a"), P("a"), P(), P("a")],
    "tensor": [P(None, "b"), P(None, "a", "b"), P("b"), P(None, "b"), P(None, "b")],
    "fully sharded": [
        P(("a", "b")),
        P(None, None, ("b", "a")),
        P(("b", "a"), None),
        P(),
        P(("a", "b")),
    ],
    "mixed": [P("b", "a"), P(), P(None, None), P("b"), P("a")],
}
KAPPAS = (0, 1, 100, 500, 1900)
everything = lambda path, leaf: True  # noqa: E731


def mesh(explicit=False):
    if explicit:
        return jax.make_mesh((4, 2), ("a", "b"))
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))


def tied_tree(dtype=jnp.float32):
    """Few different magnitudes, so that the cut always goes through ties."""
    return [
        jnp.round(2 * jax.random.normal(jax.random.key(i), shape)).astype(dtype)
        for i, shape in enumerate(SHAPES)
    ]


def put(tree, on, specs):
    return [jax.device_put(x, NamedSharding(on, s)) for x, s in zip(tree, specs, strict=True)]


@pytest.fixture(params=[False, True], ids=["unsampled", "sampled"])
def sampled(request, monkeypatch):
    sample_from(0 if request.param else 2**40, monkeypatch)


@pytest.mark.parametrize("explicit", [False, True], ids=["auto", "explicit"])
@pytest.mark.parametrize("kind", SPECS)
def test_under_jit_the_bits_are_those_of_one_device(kind, explicit, sampled):
    tree = tied_tree()
    sharded = put(tree, mesh(explicit), SPECS[kind])
    project = jax.jit(lambda tree, kappa: project_l0_ball(tree, kappa))  # not another's cache
    for kappa in KAPPAS:
        result = project(sharded, kappa)
        np.testing.assert_array_equal(as_float64(result), top_kappa(tree, kappa))
        for leaf, given in zip(result, sharded, strict=True):
            assert leaf.sharding.is_equivalent_to(given.sharding, leaf.ndim)


@pytest.mark.parametrize("explicit", [False, True], ids=["auto", "explicit"])
def test_outside_jit_too(explicit):
    tree = tied_tree(jnp.bfloat16)
    result = project_l0_ball(put(tree, mesh(explicit), SPECS["mixed"]), 300)
    np.testing.assert_array_equal(as_float64(result), top_kappa(tree, 300))
    tree[0] = tree[0].at[3, 5].set(jnp.nan)
    with pytest.raises(ValueError, match="it has NaN in 1 of the 384 entries"):
        project_l0_ball(put(tree, mesh(explicit), SPECS["mixed"]), 300)


@pytest.mark.parametrize("check", [False, True], ids=["unchecked", "checked"])
@pytest.mark.parametrize("kind", SPECS)
def test_inside_shard_map_specs_make_it_global(kind, check, sampled):
    tree, specs = tied_tree(), SPECS[kind]

    @jax.jit
    @jax.shard_map(mesh=mesh(), in_specs=(specs, P(), P()), out_specs=(specs, P()), check_vma=check)
    def project(tree, kappa, warm_start):
        return project_l0_ball(tree, kappa, specs=specs, warm_start=warm_start, with_threshold=True)

    for kappa in KAPPAS:
        for warm_start in (0.0, 1.5):
            result, threshold = project(tree, kappa, warm_start)
            np.testing.assert_array_equal(as_float64(result), top_kappa(tree, kappa))
            assert threshold.shape == ()


@pytest.mark.parametrize("check", [False, True], ids=["unchecked", "checked"])
def test_inside_shard_map_without_specs_each_device_projects_its_own(check):
    weights = tied_tree()[0]
    project = jax.shard_map(
        lambda piece: project_l0_ball(piece, 5, warm_start=1.0),
        mesh=mesh(), in_specs=P("a"), out_specs=P("a"), check_vma=check,
    )  # fmt: skip
    result = np.asarray(jax.jit(project)(weights)).reshape(4, 4, 24)
    for piece, projected in zip(np.asarray(weights).reshape(4, 4, 24), result, strict=True):
        np.testing.assert_array_equal(projected.ravel(), top_kappa([piece], 5))


def test_inside_pmap():
    """A leaf cut along its first dimension, and one that every device holds whole."""
    cut = jnp.round(2 * jax.random.normal(jax.random.key(0), (16, 30)))
    whole = jnp.round(2 * jax.random.normal(jax.random.key(1), (5, 40)))
    specs = {"cut": P("i"), "whole": P()}
    project = jax.pmap(
        lambda tree, kappa: project_l0_ball(tree, kappa, specs=specs),
        axis_name="i", in_axes=({"cut": 0, "whole": None}, None),
    )  # fmt: skip
    for kappa in (1, 200, 670):
        result = project({"cut": cut.reshape(8, 2, 30), "whole": whole}, kappa)
        both = [np.asarray(result["cut"]).reshape(16, 30), result["whole"][0]]
        np.testing.assert_array_equal(as_float64(both), top_kappa([cut, whole], kappa))
        for copy in result["whole"]:
            np.testing.assert_array_equal(copy, result["whole"][0])


def test_inside_pmap_replicated_leaves_need_nothing():
    whole = jnp.round(2 * jax.random.normal(jax.random.key(1), (5, 40)))
    result = jax.pmap(lambda leaf: project_l0_ball(leaf, 50), axis_name="i")(
        jnp.broadcast_to(whole, (8, *whole.shape))
    )
    for copy in result:
        np.testing.assert_array_equal(np.ravel(copy), top_kappa([whole], 50))


@pytest.mark.parametrize(
    "compression", [l0_ball, lambda k, specs: l0_ball_l2(k, 0.25, specs=specs)]
)
def test_a_c_step_inside_shard_map(compression):
    tree, specs = tied_tree(), SPECS["mixed"]

    def c_steps(tree):
        step = compression(300, specs=specs)
        theta, state = step.project(tree, 1.0, step.init(tree))
        return step.project(tree, 1.0, state)[0], theta

    mapped = jax.shard_map(c_steps, mesh=mesh(), in_specs=(specs,), out_specs=(specs, specs))
    again, theta = jax.jit(mapped)(tree)
    scale = 1.0 if compression is l0_ball else 1 / 1.5
    np.testing.assert_allclose(as_float64(theta), scale * top_kappa(tree, 300), rtol=1e-6)
    np.testing.assert_array_equal(as_float64(again)[:-60], as_float64(theta)[:-60])


def collectives(text):
    """Kind and number of elements of each collective in a compiled program."""
    kinds = (
        "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    )
    found = []
    for line in text.splitlines():
        match = re.search(rf"= (.*?) ({kinds})(-start)?\(", line)
        if match:
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
            found.append((match[2], sum(sizes)))
    return found


def test_the_reader_of_programs_sees_a_gather():
    leaf = put([jnp.zeros((16, 24))], mesh(), [P("a", "b")])[0]
    sort = jax.jit(lambda leaf: jnp.sort(leaf.ravel())).lower(leaf).compile()
    assert any(size >= leaf.size / 8 for _, size in collectives(sort.as_text()))


@pytest.mark.long
@pytest.mark.parametrize("explicit", [False, True], ids=["auto", "explicit"])
@pytest.mark.parametrize("kind", SPECS)
def test_devices_exchange_counts_alone(kind, explicit, sampled):
    """Leaves of awkward sizes among them; no collective is larger than a handful of counts."""
    shapes = [(16 * 49, 2400), (8, 12, 400), (6400, 3), (600, 10), (16 * 49, 2400)]
    tree = put([jnp.zeros(shape) for shape in shapes], mesh(explicit), SPECS[kind])
    compiled = jax.jit(lambda tree, kappa: project_l0_ball(tree, kappa)).lower(tree, 5).compile()
    found = collectives(compiled.as_text())
    assert found
    assert {name for name, _ in found} == {"all-reduce"}
    assert max(size for _, size in found) <= 7 * len(tree)
    assert compiled.memory_analysis().temp_size_in_bytes < 0.02 * 4 * 16 * 49 * 2400


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({"b": P()}, "specs must be a pytree of jax.sharding.PartitionSpec that is a prefix"),
        ({"a": "x"}, "specs must hold jax.sharding.PartitionSpec; got 'x'"),
        (P(None, None, "a"), "for a leaf of 2 dimensions"),
        (P("z"), "must name mesh axes that are bound; 'z' in"),
    ],
)
def test_bad_specs_are_named(specs, message):
    with pytest.raises(ValueError, match=message):
        project_l0_ball({"a": jnp.ones((2, 2))}, 1, specs=specs)


def test_devices_do_not_gather_the_partial_sums_of_units():
    """The bytes that are exchanged do not grow with the number of devices."""
    (w,) = put([jnp.ones((128, 24))], mesh(), [P(("a", "b"))])
    project = jax.jit(lambda w: project_units({"kernel": w}, 12, everything))
    program = project.lower(w).compile().as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program
