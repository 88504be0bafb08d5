import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsejax.projections import project_codebook, project_k_means


def everything(path, leaf):
    return True


def best_error(values, k):
    """The least squared error over all ways to cut the sorted values into k runs."""
    values = np.sort(np.asarray(values, np.float64))
    n = values.size
    least = np.inf
    for cuts in itertools.combinations(range(1, n), min(k, n) - 1):
        bounds = [0, *cuts, n]
        runs = [values[a:b] for a, b in itertools.pairwise(bounds)]
        least = min(least, sum(((run - run.mean()) ** 2).sum() for run in runs))
    return least


def error(w, theta):
    return ((np.asarray(w, np.float64) - np.asarray(theta, np.float64)) ** 2).sum()


@pytest.mark.long
@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("n", [1, 5, 13])
def test_exact_is_the_best_of_all_partitions(n, k):
    for seed in range(4):
        w = jax.random.normal(jax.random.key(seed), (n,))
        if seed == 3:
            w = jnp.round(2 * w) / 2  # ties, and fewer distinct values than entries
        theta, codebook = project_k_means(w, k, everything, with_codebook=True)
        assert codebook.shape == (k,)
        assert (jnp.diff(codebook) >= 0).all()
        assert jnp.unique(theta).size <= k
        np.testing.assert_allclose(error(w, theta), best_error(w, k), rtol=1e-5, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("k", [2, 3, 8, 20])
def test_lloyd_never_beats_the_exact_optimum_and_comes_near(k):
    w = {
        "a": jax.random.normal(jax.random.key(0), (60, 50)),
        "b": jax.random.laplace(jax.random.key(1), (999,)),
    }
    exact, c = project_k_means(w, k, everything, with_codebook=True)
    found, d = project_k_means(w, k, everything, exact=False, with_codebook=True)
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    best, other = error(flat(w), flat(exact)), error(flat(w), flat(found))
    assert best <= other * (1 + 1e-5)
    assert other <= 1.02 * best
    again = project_k_means(w, k, everything, exact=False, warm_start=c)
    np.testing.assert_allclose(error(flat(w), flat(again)), best, rtol=1e-5)
    # Each value is about the mean of the entries that take it, and each entry takes the nearest.
    gap = (d[-1] - d[0]) / k
    for value in np.asarray(d):
        mine = flat(w)[flat(found) == value]
        if mine.size:
            np.testing.assert_allclose(mine.mean(), value, atol=1e-3 * gap)
    np.testing.assert_array_equal(flat(project_codebook(w, d, everything)), flat(found))


@pytest.mark.parametrize("exact", [True, False])
def test_invariances(exact):
    w = jax.random.normal(jax.random.key(2), (400,))
    quantise = lambda w: project_k_means(w, 4, everything, exact=exact)  # noqa: E731
    theta = quantise(w)
    order = jax.random.permutation(jax.random.key(3), 400)
    np.testing.assert_allclose(quantise(w[order]), theta[order], rtol=1e-5)
    np.testing.assert_allclose(quantise(4 * w), 4 * theta, rtol=1e-5)
    np.testing.assert_allclose(quantise(-w), -theta, rtol=1e-4, atol=1e-5)


def test_few_distinct_values_are_kept_bit_for_bit():
    w = jnp.asarray([0.1, 0.7, 0.1, -3.0, 0.7, 0.1])
    for k in (3, 4, 9):
        np.testing.assert_array_equal(project_k_means(w, k, everything), w)


def test_zeros_can_be_left_alone():
    w = jnp.asarray([0.0, 1.0, 0.0, 1.2, 3.0, -0.0, 3.2])
    for exact in (True, False):
        theta = project_k_means(w, 2, everything, zeros=False, exact=exact)
        np.testing.assert_allclose(theta, [0, 1.1, 0, 1.1, 3.1, 0, 3.1], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes_keep_their_dtype(dtype):
    w = jax.random.normal(jax.random.key(0), (300,), dtype)
    theta = project_k_means(w, 3, everything)
    assert theta.dtype == dtype
    assert jnp.unique(theta).size == 3


@pytest.mark.long
def test_under_jit_vmap_and_on_eight_devices():
    w = jax.random.normal(jax.random.key(5), (16, 24))
    batch, spec = jnp.stack([w, 2 * w, w - 1]), PartitionSpec("a", "b")
    for exact in (True, False):
        quantise = lambda w, exact=exact: project_k_means(w, 3, everything, exact=exact)  # noqa: E731
        alone = jnp.stack([quantise(w) for w in batch])
        np.testing.assert_allclose(jax.jit(jax.vmap(quantise))(batch), alone, rtol=1e-5)
        mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
        cut = jax.device_put(w, NamedSharding(mesh, spec))
        np.testing.assert_allclose(jax.jit(quantise)(cut), quantise(w), rtol=1e-5)

        explicit = jax.make_mesh((4, 2), ("a", "b"))
        with jax.set_mesh(explicit):
            found = jax.jit(quantise)(jax.device_put(w, NamedSharding(explicit, spec)))
        np.testing.assert_allclose(found, quantise(w), rtol=1e-5)

    def piece(w):
        return project_k_means(w, 3, everything, exact=False, specs=spec)

    mapped = jax.jit(jax.shard_map(piece, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(mapped(w), quantise(w), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"k": 0}, ValueError, "k must be an integer from 1 to 65536; got 0"),
        ({"k": 2**16 + 1}, ValueError, "got 65537"),
        ({"k": 2.0}, TypeError, "got 2.0"),
        ({"k": True}, TypeError, "got True"),
        ({"warm_start": jnp.zeros(2)}, ValueError, "warm_start is for exact=False"),
        ({"warm_start": jnp.zeros(3), "exact": False}, ValueError, r"shape \(2,\); got \(3,\)"),
    ],
)
def test_bad_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        project_k_means(jnp.ones(5), **{"k": 2, "where": everything, **arguments})


def test_integer_leaves_are_refused():
    with pytest.raises(TypeError, match="where must choose only floating-point leaves"):
        project_k_means(jnp.arange(5), 2, everything)


def test_codebooks_take_the_nearest_value_and_the_lower_of_two():
    w = jnp.asarray([-9.0, -0.5, 0.4, 0.5, 0.6, jnp.inf, 2.0])
    found = project_codebook(w, [1, -1, 0], everything)
    np.testing.assert_array_equal(found, [-1, -1, 0, 0, 1, 1, 1])
    many = np.linspace(-2, 2, 101)
    w = jax.random.normal(jax.random.key(0), (500,))
    expected = many[np.abs(np.asarray(w)[:, None] - many).argmin(1)]
    np.testing.assert_allclose(project_codebook(w, many, everything), expected, atol=1e-6)


@pytest.mark.parametrize("codebook", [[], 3.0, [[1.0]], [1.0, np.nan], [np.inf]])
def test_bad_codebooks_are_named(codebook):
    with pytest.raises(ValueError, match="codebook must be a vector of one or more finite values"):
        project_codebook(jnp.ones(3), codebook, everything)
