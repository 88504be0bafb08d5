"""Points of populations, and how methods compare."""

import numpy as np
import pytest

from experiments.common.report import summary
from experiments.tickets.points import (
    Comparison,
    Count,
    against,
    best,
    comparison,
    density,
    pareto_front,
    points,
    sparsest_matching,
    validation_differences,
)
from experiments.tickets.report import compared as compared_part
from experiments.tickets.report import overview


def text_of(row):
    """The part of the report that compares a row."""
    sentence, table = compared_part(row)
    return sentence + table.markdown()


def result(density, error, epochs=10, number=1, seeds=2):
    """Members of a round that differ in their seed alone."""
    return [
        {
            "round": number, "search_epochs": epochs, "fraction": 0.5, "seed": seed,
            "nonzeros": int(1000 * density), "density": density,
            "validation_error": error + 0.5 + seed, "test_error": error + seed,
        }
        for seed in range(seeds)
    ]  # fmt: skip


def test_points_are_compared_at_the_same_density():
    masks = {1: [np.array([[True, True, False], [True, False, True]])]}
    rival = [result(d, e, epochs, number) for d, e, epochs, number in (
        (1.0, 1.0, 0, 0), (0.04, 2.0, 10, 1), (0.01, 4.0, 20, 1), (0.0025, 9.0, 40, 1)
    )]  # fmt: skip
    rivals = [point for members in rival for point in points(members, masks.get)]
    assert [round(density(point), 4) for point in rivals] == [1.0, 0.04, 0.01, 0.0025]
    assert rivals[1]["mask_jaccard"] == pytest.approx(1 / 3)
    assert rivals[0]["mask_jaccard"] is None
    ours = [
        point
        for d, error in ((0.2, 0.9), (0.02, 2.5), (0.005, 7.0), (0.001, 9.0))
        for point in points(result(d, error), masks.get)
    ]
    compared = against(ours, rivals)  # 0.2 is dense, 0.001 outside of what the rival has
    assert [entry["density"] for entry in compared] == pytest.approx([0.005, 0.02])
    assert [entry["baseline_test_error"] for entry in compared] == pytest.approx([7.0, 3.5])
    assert [entry["baseline_search_epochs"] for entry in compared] == pytest.approx([30, 15])
    assert [entry["on_pareto_front"] for entry in compared] == [True, True]
    assert sparsest_matching(ours, rivals[0]) is ours[0]
    assert sparsest_matching(ours[1:], rivals[0]) is None
    assert best(ours) is ours[0]
    assert [density(point) for point in pareto_front(ours)] == pytest.approx(
        [0.001, 0.005, 0.02, 0.2]
    )


def of_density(density, error, epochs=10):
    return {
        "round": 1, "search_epochs": epochs, "hyperparameters": {"initial": density},
        "density": [density], "test_error": summary([error]), "validation_error": summary([error]),
    }  # fmt: skip


def test_a_tie_is_not_lower():
    # The same errors but for the rounding of a mean: 1.1 + 1.3 is not 1.2 + 1.2 in floating point.
    level, same = summary([1.1, 1.3, 0.1]), summary([0.1, 1.2, 1.2])
    rival = [of_density(0.04, 1.0), of_density(0.01, 1.0), of_density(0.001, 1.0)]
    for density_, found in ((0.04, 1.0), (0.02, 1.0), (0.02, 1.0 - 1e-13)):
        row = {"against_imp": against([of_density(density_, found)], rival)}
        assert comparison(row).all == Count(0, 1)
    row = {"against_imp": against([of_density(0.02, 0.99)], rival)}
    assert comparison(row).all == Count(1, 1)
    # At the threshold of "by more than two standard errors" neither is ahead.
    row["against_imp"][0]["difference"] = {
        "mean": -0.2,
        "std": 0.1414213562373095,
        "values": [1, 2],
    }
    assert comparison(row).significant == (0, 0)
    # "Not above" takes a tie, whatever the rounding.
    dense = of_density(1.0, 9) | {"validation_error": level}
    assert sparsest_matching([of_density(0.1, 9) | {"validation_error": same}], dense)
    dense, level = of_density(1.0, 9) | {"validation_error": same}, {"validation_error": level}
    assert sparsest_matching([of_density(0.1, 9) | level], dense)
    # "Lower than all sparser ones" does not; of the same density only the lower one can be.
    ties = [of_density(0.1, 2.0), of_density(0.1, 1.5), of_density(0.2, 1.5 - 1e-13)]
    assert pareto_front(ties) == pareto_front(ties[::-1]) == [ties[1]]
    # Of several with the lowest error the cheapest, then the sparsest.
    three = [of_density(0.3, 1.5), of_density(0.2, 1.5, 20), of_density(0.4, 1.5 - 1e-13)]
    assert best(three) is best(three[::-1]) is three[0]


def seeds_of(number, densities, errors):
    """A point with a value for each seed."""
    return {
        "round": number, "search_epochs": 10 * number, "hyperparameters": {}, "density": densities,
        "test_error": summary(errors), "validation_error": summary(errors),
    }  # fmt: skip


def test_differences_are_paired_by_seed():
    rival = [seeds_of(1, [0.04, 0.04], [1.0, 3.0]), seeds_of(2, [0.01, 0.01], [2.0, 5.0])]
    ours = [seeds_of(1, [0.02, 0.01], [1.2, 4.9]), seeds_of(1, [0.04, 0.005], [0.5, 5.5])]
    apart, clear = against(ours, rival)  # sorted by density: 0.015, 0.0225
    assert apart["baseline_test_error"] == pytest.approx((1.5 + 5) / 2)
    assert apart["difference"]["values"] == pytest.approx([-0.3, -0.1])
    # Beyond the rival's rounds its last one counts.
    assert clear["difference"]["values"] == pytest.approx([-0.5, 0.5])
    worse = seeds_of(1, [0.03, 0.03], [9.0, 9.0])  # than one that is sparser
    assert [e["on_pareto_front"] for e in against([*ours, worse], rival)] == [True, True, False]
    row = {
        "against_imp": [apart, clear], "model": "lenet5", "dataset": "mnist",
        "dense": {"test_error": summary([1.0, 1.2])},
    }  # fmt: skip
    assert comparison(row) == Comparison(
        Count(1, 2), Count(1, 2), Count(0, 0), significant=(0, 0)
    )  # one is level
    apart["difference"], apart["search_epochs"] = summary([-0.3, -0.29]), 3
    clear["difference"], clear["on_pareto_front"] = summary([0.3, 0.29]), False
    assert comparison(row) == Comparison(Count(1, 2), Count(1, 1), Count(1, 1), significant=(1, 1))
    assert "lower at 1 and higher at 1" in compared_part(row)[0]
    line = "| LeNet5 on MNIST | 1.10 ± 0.14 % | 1 of 2 | 1 of 1 | 1 of 1 | 1 | 1 |"
    assert line in overview([row])[1].markdown()
    apart["difference"] = clear["difference"] = summary([-0.3])
    assert comparison(row).significant is None
    assert "standard errors" not in compared_part(row)[0]
    assert "±" not in text_of(row)
    assert comparison({}) is None


def test_validation_errors_of_other_options_are_compared_at_the_same_density():
    """By hand: halfway between two tickets on a logarithmic axis, and outside of all of them."""
    others = [valued(0.01, 3.0), valued(0.1, 2.0), valued(1.0, 9.0, number=0)]
    found = [
        valued(0.01 * 10**0.5, 2.3), valued(0.1, 2.5), valued(0.005, 1.0), valued(0.2, 1.0),
        valued(0.05, 9.0, number=0),
    ]  # fmt: skip
    np.testing.assert_allclose(validation_differences(found, others), [-0.2, 0.5])


def valued(density, error, number=1):
    """A point of one seed with a validation error."""
    return {"round": number, "density": [density], "validation_error": {"mean": error}}
