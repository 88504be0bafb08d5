from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.transforms import (
    all_together,
    erdos_renyi,
    kept_weights,
    project_sparsity,
    uniform,
)
from sparsejax.transforms._distributions import Layer
from sparsejax.transforms._sparse_method import Weights
from sparsejax.transforms._targets import count_rows, make_target

LENET300 = {"fc1": (784, 300), "fc2": (300, 100), "fc3": (100, 10)}
LENET5 = {"conv1": (5, 5, 1, 20), "conv2": (5, 5, 20, 50), "fc1": (800, 500), "fc2": (500, 10)}


def layers(shapes):
    return tuple(
        Layer((jax.tree_util.DictKey(name),), shape, int(np.prod(shape)))
        for name, shape in shapes.items()
    )


def table(shapes, sparsity, distribution, progresses=(1,)):
    fractions = tuple(map(Fraction, progresses))
    return count_rows(Fraction(sparsity), distribution, layers(shapes), fractions)


def half_even(n, percent):
    """n (100 - percent) / 100 in integers."""
    whole, rest = divmod(n * (100 - percent), 100)
    return max(1, whole + (rest > 50 or (rest == 50 and whole % 2 == 1)))


@pytest.mark.parametrize("percent", range(100))
def test_every_count_up_to_a_thousand(percent):
    s = percent / 100
    wanted = [half_even(n, percent) for n in range(1, 1001)]
    assert [kept_weights(n, s) for n in range(1, 1001)] == wanted


def test_traced_counts_are_the_same():
    percents = np.arange(100)
    for n in [*range(1, 1001, 37), 999, 1000, 266_200, 138_357_544, 2**31 - 1]:
        got = jax.jit(jax.vmap(lambda s, n=n: kept_weights(n, s)))(
            jnp.asarray(percents / 100, jnp.float32)
        )
        assert got.dtype == jnp.int32
        assert got.tolist() == [half_even(n, int(p)) for p in percents], n


def test_traced_counts_are_exact_to_a_millionth():
    rng = np.random.default_rng(0)
    sizes = [7, 1_000_003, 999_999_937, 2**31 - 1]
    millionths = [0, 1, 499_999, 500_000, 999_999, *rng.integers(0, 10**6, 30)]
    for n in sizes:
        got = jax.jit(jax.vmap(lambda s, n=n: kept_weights(n, s)))(
            jnp.asarray(np.asarray(millionths) / 1e6, jnp.float32)
        )
        wanted = [kept_weights(n, Fraction(int(m), 10**6)) for m in millionths]
        assert got.tolist() == wanted


@pytest.mark.parametrize(
    "sparsity",
    [0.98, np.float32(0.98), np.float64(0.98), jnp.float32(0.98), Decimal("0.98"),
     Fraction(98, 100)],
)  # fmt: skip
def test_a_known_sparsity_is_read_as_a_decimal(sparsity):
    assert kept_weights(138_357_544, sparsity) == 2_767_151


def test_no_sparsity_keeps_all_and_the_highest_keeps_one():
    assert kept_weights(2**31 - 1, 0) == 2**31 - 1
    assert kept_weights(10, 0.999) == 1
    assert kept_weights(0, 0.5) == 0


@pytest.mark.parametrize("sparsity", [1, 1.0, -0.1, np.nan, np.inf, 98.0, [0.1, 0.2], np.ones(1)])
def test_a_sparsity_out_of_range_is_named(sparsity):
    with pytest.raises((TypeError, ValueError), match=r"sparsity must be a number in \[0, 1\); go"):
        kept_weights(10, sparsity)


@pytest.mark.parametrize("sparsity", ["0.5", None, True, 0.5j])
def test_a_sparsity_that_is_no_number_is_named(sparsity):
    with pytest.raises(TypeError, match=r"sparsity must be a number in \[0, 1\); got"):
        kept_weights(10, sparsity)


@pytest.mark.parametrize(
    ("shapes", "sparsity", "distribution", "counts"),
    [
        # sums of shapes: 1084, 400, 110; epsilon = 5324 / 1594, nothing dense
        (LENET300, "0.98", erdos_renyi(), [3621, 1336, 367]),
        # fc3 is dense; epsilon = (26620 - 1000) / 1484
        (LENET300, "0.9", erdos_renyi(), [18714, 6906, 1000]),
        # fc3 is dense; epsilon = 132100 / 1484, and then epsilon 400 > 30000: fc2 is dense, too
        (LENET300, "0.5", erdos_renyi(), [102100, 30000, 1000]),
        # sums: 31, 80, 1300, 510; epsilon = 4305 / 1921
        (LENET5, "0.99", erdos_renyi(), [70, 179, 2913, 1143]),
        # conv1 and fc2 are dense; epsilon = 37550 / 1380
        (LENET5, "0.9", erdos_renyi(), [500, 2177, 35373, 5000]),
        # ER: conv1 has p = 21/20 and is dense; epsilon = 3805 / (1750 + 1300 + 510)
        (LENET5, "0.99", erdos_renyi(kernel=False), [500, 1870, 1390, 545]),
        # with the power 0 all have the same density
        (LENET300, "0.98", erdos_renyi(power=0), [4704, 600, 20]),
        (LENET300, "0.98", uniform(), [4704, 600, 20]),
        (LENET300, "0.98", all_together(), [5324]),
        (LENET300, "0", erdos_renyi(), [235200, 30000, 1000]),
    ],
)
def test_counts_computed_by_hand(shapes, sparsity, distribution, counts):
    assert table(shapes, sparsity, distribution) == [counts]


def test_the_total_is_exact_at_each_progress_and_no_layer_is_overfull():
    sizes = np.array([int(np.prod(shape)) for shape in LENET5.values()])
    progresses = [Fraction(i, 37) for i in range(38)]
    for sparsity in ("0.5", "0.9", "0.987", "0.9999"):
        for distribution in (erdos_renyi(), erdos_renyi(power=0.37), erdos_renyi(kernel=False)):
            rows = np.array(table(LENET5, sparsity, distribution, progresses))
            wanted = [kept_weights(sizes.sum(), Fraction(sparsity) * p) for p in progresses]
            assert rows.sum(1).tolist() == wanted
            assert ((rows >= 1) & (rows <= sizes)).all()
            assert (np.diff(rows, axis=0) <= 0).all()  # what has been pruned cannot come back


def test_a_gradual_schedule_ends_with_the_counts_of_one_shot():
    """And every layer shrinks all the way, also where remainders would give a weight back."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        shapes = {f"{n}": tuple(rng.integers(1, 40, 2)) for n in range(rng.integers(2, 6))}
        progresses = [Fraction(i, 20) for i in range(21)]
        for distribution in (erdos_renyi(), erdos_renyi(power=0.5)):
            rows = np.array(table(shapes, "0.83", distribution, progresses))
            assert rows[-1].tolist() == table(shapes, "0.83", distribution)[0]
            assert (np.diff(rows, axis=0) <= 0).all()
            size = sum(int(np.prod(shape)) for shape in shapes.values())
            assert rows.sum(1).tolist() == [
                kept_weights(size, Fraction("0.83") * p) for p in progresses
            ]


def named(name):
    return lambda path, leaf: name in str(path)


def test_custom_sparsities():
    assert table(LENET300, "0.9", uniform([(named("fc3"), 0), (named("fc"), 0.99)])) == [
        [2352, 300, 1000]
    ]
    # fc3 keeps 500, and the others share 26620 - 500 with epsilon = 26120 / 1484
    assert table(LENET300, "0.9", erdos_renyi(custom=[(named("fc3"), 0.5)])) == [[19080, 7040, 500]]
    wide = uniform([(lambda path, leaf: leaf.shape[0] > 500, 0.0)])
    assert table(LENET300, "0.9", wide) == [[235200, 3000, 100]]
    # fc1 and fc3 share 236200 (1 - 0.9), fc2 keeps half by itself
    assert table(LENET300, "0.9", all_together(custom=[(named("fc2"), 0.5)])) == [[23620, 15000]]
    assert table(LENET300, "0.9", all_together(custom=[(named("fc"), 0.5)])) == [
        [117600, 15000, 500]
    ]


def test_the_known_sparsity_of_a_layer_is_exact_beside_a_traced_one():
    paths = [(jax.tree_util.DictKey(name),) for name in ("head", "rest")]
    leaves = [jax.ShapeDtypeStruct((10_000, 1_000), jnp.float32)] * 2
    weights = Weights(None, paths, ["head", "rest"], leaves, [], None, jnp.int32(0), None)
    rules = [(named("head"), 0.98765432)]
    halves = (Fraction(1, 2), Fraction(1))

    def counts(make):
        budget = lambda s: make_target(s, make(custom=rules)).budget(weights, halves, 1)  # noqa: E731
        return jax.jit(budget)(0.5).tolist()

    assert counts(uniform) == [123_457, 5_000_000]
    assert counts(all_together) == [5_000_000, 123_457]


def test_rules_may_ask_for_the_dtype():
    params = {"a": jnp.ones((4, 4), jnp.bfloat16), "b": jnp.ones((4, 4))}
    dense = uniform([(lambda path, leaf: leaf.dtype == jnp.bfloat16, 0)])
    found = project_sparsity(params, 0.5, dense)
    assert [int((found[name] != 0).sum()) for name in "ab"] == [16, 8]


@pytest.mark.parametrize(
    ("sparsity", "distribution", "message"),
    [
        ("0.9", erdos_renyi(custom=[(named("fc1"), 0)]), "at most 26620 weights .* keep 235200"),
        ("0.1", erdos_renyi(custom=[(named("fc1"), 0.5)]), "must keep 239580 weights .* 148600 at"),
        (
            "0.9",
            uniform([(named("fc"), 0), (named("fc9"), 0.5)]),
            "rule 1, .* 0.5, chooses none of t",
        ),
        ("0.9", erdos_renyi(custom=[(named("fc9"), 0.5)]), "none of the 3 .*: .*fc1.*, .*fc2.*"),
        ("0.9", all_together(custom=[(named("fc9"), 0.5)]), "custom must hold rules that choose a"),
        ("0.999995", erdos_renyi(), "at least one weight of each layer; 1 are left for 3 layers"),
    ],
)
def test_a_distribution_that_cannot_be_met_is_refused(sparsity, distribution, message):
    with pytest.raises(ValueError, match=message):
        table(LENET300, sparsity, distribution)


@pytest.mark.parametrize("make", [uniform, erdos_renyi, all_together])
def test_bad_rules_are_named(make):
    with pytest.raises(ValueError, match=r"a sparsity of custom must be a number in \[0, 1\); got"):
        make(custom=[(named("a"), 1.5)])
    for custom in ([("a", 0.5)], 0.5, {"a": 0.5}):
        with pytest.raises(TypeError, match="custom must hold pairs of a callable"):
            make(custom=custom)
    with pytest.raises(ValueError, match="power must be a number >= 0; got -1"):
        erdos_renyi(power=-1)
