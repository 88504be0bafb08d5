"""Points: what the members of a population reached over seeds, and how methods compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from experiments.common.report import aggregate, summary
from sparsejax.tickets import jaccard

Point = dict[str, Any]
_ROUNDING = 1e-9  # per cent; two errors differ by a wrong image of a seed or not at all
_DENSEST_COMPARED = 0.05  # methods are compared beyond 95 % sparsity


def points(
    results: Sequence[Mapping[str, Any]], masks: Callable[[int], Sequence[np.ndarray]]
) -> list[Point]:
    """A point for each round and choice of hyperparameters, with a value for each seed.

    Args:
      results: the rows of a population (see `Population.result`).
      masks: ``round -> masks``, a leaf each, [members, ...]; the whole network has none.
    """
    by_round: dict[int, list[Mapping[str, Any]]] = {}
    for result in results:
        by_round.setdefault(result["round"], []).append(result)
    found = []
    for number, members in by_round.items():
        groups: dict[tuple[tuple[str, float], ...], list[int]] = {}
        for index, result in enumerate(members):
            key = tuple((n, result[n]) for n in ("initial", "penalty", "fraction") if n in result)
            groups.setdefault(key, []).append(index)
        leaves = masks(number) if number else []
        for key, indices in groups.items():
            same = [members[index] for index in indices]
            found.append(
                {
                    "round": number,
                    "search_epochs": same[0]["search_epochs"],
                    "hyperparameters": dict(key),
                    "mask_jaccard": _mean_jaccard(leaves, indices) if number else None,
                }
                | aggregate(same, ("nonzeros", "density"))
            )
    return found


def _mean_jaccard(leaves: Sequence[np.ndarray], indices: Sequence[int]) -> float | None:
    """Mean Jaccard index over pairs of seeds."""
    pairs = list(combinations(indices, 2))
    if not pairs:
        return None
    masks = {index: [leaf[index] for leaf in leaves] for index in indices}
    return float(np.mean([jaccard(masks[one], masks[other]) for one, other in pairs]))


def density(point: Mapping[str, Any]) -> float:
    """Mean density over the seeds."""
    return float(np.mean(point["density"]))


def lower(one: float, other: float) -> bool:
    """Whether an error in per cent is below another by more than the rounding of means."""
    return other - one > _ROUNDING


def _validation(point: Mapping[str, Any]) -> float:
    return float(point["validation_error"]["mean"])


def best(found: Sequence[Point]) -> Point | None:
    """The point of the lowest validation error; of several the cheapest, then the sparsest."""
    chosen = None
    for point in sorted(found, key=lambda point: (point["search_epochs"], density(point))):
        if chosen is None or lower(_validation(point), _validation(chosen)):
            chosen = point
    return chosen


def sparsest_matching(found: Sequence[Point], dense: Point | None) -> Point | None:
    """The sparsest point whose validation error is not above the dense network's."""
    if dense is None:
        return None
    matching = [point for point in found if not lower(_validation(dense), _validation(point))]
    return min(matching, key=density, default=None)


def pareto_front(found: Sequence[Point]) -> list[Point]:
    """The points of lower validation error than all sparser ones, from sparse to dense."""
    chosen: list[Point] = []
    for point in sorted(found, key=lambda point: (density(point), _validation(point))):
        if not chosen or lower(_validation(point), _validation(chosen[-1])):
            chosen.append(point)
    return chosen


def against(found: Sequence[Point], baseline: Sequence[Point]) -> list[dict[str, Any]]:
    """Each point beyond 95 % sparsity beside the baseline at the same density.

    The error of the baseline is interpolated between its rounds over the logarithm of the density,
    for each seed at its own; points outside its range (in the mean) are left out. ``difference`` is
    ours minus the baseline's, seed by seed: members of one seed start from the same weights.
    """
    front = pareto_front(found)
    theirs = sorted(baseline, key=density)
    places = np.log([density(point) for point in theirs])
    epochs = [point["search_epochs"] for point in theirs]
    compared = []
    for point in sorted(found, key=density):
        place = np.log(max(density(point), 1e-12))
        if density(point) < _DENSEST_COMPARED and places[0] <= place <= places[-1]:
            others = _errors_at(point["density"], theirs)
            ours = point["test_error"]["values"]
            compared.append(
                {
                    "density": density(point),
                    "hyperparameters": point["hyperparameters"],
                    "round": point["round"],
                    "on_pareto_front": any(point is chosen for chosen in front),
                    "test_error": point["test_error"]["mean"],
                    "baseline_test_error": float(np.mean(others)),
                    "difference": summary([a - b for a, b in zip(ours, others, strict=True)]),
                    "search_epochs": point["search_epochs"],
                    "baseline_search_epochs": float(np.interp(place, places, epochs)),
                }
            )
    return compared


def validation_differences(found: Sequence[Point], others: Sequence[Point]) -> list[float]:
    """Validation error of each point minus that of other searches at the same density.

    The latter is interpolated between their tickets over the logarithm of the density; points
    outside their range are left out. Both are means over the seeds.
    """
    theirs = sorted((point for point in others if point["round"]), key=density)
    places = np.log([max(density(point), 1e-12) for point in theirs])
    errors = [_validation(point) for point in theirs]
    differences = []
    for point in (point for point in found if point["round"]):
        place = np.log(max(density(point), 1e-12))
        if places[0] <= place <= places[-1]:
            differences.append(_validation(point) - float(np.interp(place, places, errors)))
    return differences


def _errors_at(densities: Sequence[float], baseline: Sequence[Point]) -> list[float]:
    """Test error of the baseline at a density for each seed; beyond its rounds that of the last."""
    places = np.log([point["density"] for point in baseline])
    errors = np.asarray([point["test_error"]["values"] for point in baseline])
    wanted = np.log(np.maximum(densities, 1e-12))
    return [float(np.interp(*each)) for each in zip(wanted, places.T, errors.T, strict=True)]


class Count(NamedTuple):
    """Tickets whose test error is below the baseline's, of those compared; a tie does not count."""

    lower: int
    compared: int

    def __str__(self) -> str:
        return f"{self.lower} of {self.compared}"


class Comparison(NamedTuple):
    """Win counts over the tickets that can be compared."""

    all: Count
    on_pareto_front: Count
    cheap: Count
    """Tickets that cost at most a fifth of the baseline's epochs."""
    significant: tuple[int, int] | None
    """Lower and higher by more than two standard errors; None for a single seed."""


def comparison(row: Mapping[str, Any]) -> Comparison | None:
    """The comparison of a row with its baseline; None where nothing has been compared."""
    compared = row.get("against_imp")
    if not compared:
        return None
    front = [point for point in compared if point["on_pareto_front"]]
    cheap = [
        point for point in compared if 5 * point["search_epochs"] <= point["baseline_search_epochs"]
    ]
    significant = None
    if len(compared[0]["difference"]["values"]) > 1:
        means = [
            point["difference"]["mean"]
            for point in compared
            if lower(2 * standard_error(point), abs(point["difference"]["mean"]))
        ]
        wins = sum(mean < 0 for mean in means)
        significant = wins, len(means) - wins
    return Comparison(_count(compared), _count(front), _count(cheap), significant)


def standard_error(point: Mapping[str, Any]) -> float:
    """Standard error of the mean difference, paired by seed."""
    difference = point["difference"]
    return float(difference["std"]) / math.sqrt(len(difference["values"]))


def _count(points: Sequence[Mapping[str, Any]]) -> Count:
    wins = sum(lower(point["test_error"], point["baseline_test_error"]) for point in points)
    return Count(wins, len(points))
