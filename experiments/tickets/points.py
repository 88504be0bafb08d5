"""What the members of a population reached, gathered over seeds, and which points count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from experiments.common.results import summary
from sparsejax.tickets import jaccard

Point = dict[str, Any]
_ROUNDING = 1e-9  # per cent; two errors differ by a wrong image of a seed or not at all
_BEYOND = 0.05  # density below which the methods are compared: 95 % sparsity


def points(
    results: Sequence[Mapping[str, Any]], masks: Callable[[int], Mapping[str, np.ndarray]]
) -> list[Point]:
    """A point for each round and place in the grid, with a value for each seed.

    Args:
      results: of the members and rounds of one population, as ``Population.ensure`` gives them.
      masks: ``round -> masks`` of the population by leaf, [members, ...]; the whole network has
        none.
    """
    by_round: dict[int, list[Mapping[str, Any]]] = {}
    for result in results:
        by_round.setdefault(result["round"], []).append(result)
    found = []
    for number, members in by_round.items():
        places: dict[tuple[tuple[str, float], ...], list[int]] = {}
        for index, result in enumerate(members):
            place = tuple((n, result[n]) for n in ("initial", "penalty", "fraction") if n in result)
            places.setdefault(place, []).append(index)
        leaves = list(masks(number).values()) if number else []
        for place, indices in places.items():
            same = [members[index] for index in indices]
            point: Point = {
                "round": number,
                "search_epochs": same[0]["search_epochs"],
                "hyperparameters": dict(place),
                "nonzeros": [result["nonzeros"] for result in same],
                "density": [result["density"] for result in same],
                "overlap": _overlap(leaves, indices) if number else None,
            }
            for key in ("test_error", "validation_error"):
                point[key] = summary([result[key] for result in same])
            found.append(point)
    return found


def density(point: Mapping[str, Any]) -> float:
    """Mean over the seeds."""
    return float(np.mean(point["density"]))


def lower(one: float, other: float) -> bool:
    """Whether an error in per cent is strictly below another: by more than means are rounded."""
    return other - one > _ROUNDING


def best(found: Sequence[Point]) -> Point | None:
    """That of the lowest validation error; of several the cheapest, and of these the sparsest."""
    chosen = None
    for point in sorted(found, key=lambda point: (point["search_epochs"], density(point))):
        if chosen is None or lower(_validation(point), _validation(chosen)):
            chosen = point
    return chosen


def sparsest_matching(found: Sequence[Point], dense: Point | None) -> Point | None:
    """The sparsest whose validation error is not above the dense network's."""
    if dense is None:
        return None
    matching = [point for point in found if not lower(_validation(dense), _validation(point))]
    return min(matching, key=density, default=None)


def envelope(found: Sequence[Point]) -> list[Point]:
    """From sparse to dense, each that has a lower validation error than all sparser ones.

    Of several of the same density only that of the lowest validation error can be one.
    """
    chosen: list[Point] = []
    for point in sorted(found, key=lambda point: (density(point), _validation(point))):
        if not chosen or lower(_validation(point), _validation(chosen[-1])):
            chosen.append(point)
    return chosen


def _validation(point: Mapping[str, Any]) -> float:
    return point["validation_error"]["mean"]


def against(found: Sequence[Point], rival: Sequence[Point]) -> list[dict[str, Any]]:
    """Each point beyond 95 % sparsity beside what the rival has at the same density.

    The rival's error is interpolated between its rounds over the logarithm of the density, for
    each seed at its own; points outside its range (in the mean) are left out. ``difference`` is
    ours less the rival's, seed by seed: members of one seed start from the same weights.
    """
    line = envelope(found)
    theirs = sorted(rival, key=density)
    places = np.log([density(point) for point in theirs])
    epochs = [point["search_epochs"] for point in theirs]
    compared = []
    for point in sorted(found, key=density):
        place = np.log(max(density(point), 1e-12))
        if density(point) < _BEYOND and places[0] <= place <= places[-1]:
            rivals = _errors_at(point["density"], theirs)
            ours = point["test_error"]["values"]
            compared.append(
                {
                    "density": density(point),
                    "hyperparameters": point["hyperparameters"],
                    "round": point["round"],
                    "on_envelope": any(point is chosen for chosen in line),
                    "test_error": point["test_error"]["mean"],
                    "rival_test_error": float(np.mean(rivals)),
                    "difference": summary([a - b for a, b in zip(ours, rivals, strict=True)]),
                    "search_epochs": point["search_epochs"],
                    "rival_search_epochs": float(np.interp(place, places, epochs)),
                }
            )
    return compared


def _errors_at(densities: Sequence[float], rival: Sequence[Point]) -> list[float]:
    """The rival's test error at a density for each seed; beyond its rounds that of the last."""
    places = np.log([point["density"] for point in rival])
    errors = np.asarray([point["test_error"]["values"] for point in rival])
    wanted = np.log(np.maximum(densities, 1e-12))
    return [float(np.interp(*each)) for each in zip(wanted, places.T, errors.T, strict=True)]


def _overlap(leaves: Sequence[np.ndarray], indices: Sequence[int]) -> float | None:
    """Mean over pairs of seeds."""
    pairs = list(combinations(indices, 2))
    if not pairs:
        return None
    masks = {index: [leaf[index] for leaf in leaves] for index in indices}
    return float(np.mean([jaccard(masks[one], masks[other]) for one, other in pairs]))
