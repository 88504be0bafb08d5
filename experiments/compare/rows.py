"""The rows of report.json: how settings were chosen, errors by budget, and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common.report import Row, aggregate, describe
from experiments.compare.config import TASKS, Config
from experiments.compare.methods import METHODS, PEERS, jaxpruner, names

_FIELDS = (
    "kept", "nonzeros", "nonzeros_after_search", "layer_nonzeros",
    "live_units", "losses", "epochs", "seconds",
)  # fmt: skip
_TIMES = ("milliseconds_a_step", "dense_milliseconds_a_step")
PER_SEED = (*_FIELDS, *_TIMES)
"""Fields of a row that are lists with a value for each seed, or each round of timing."""


def rows(config: Config, ended: Mapping[str, Sequence[Any]], command: str) -> list[Row]:
    """Return the rows of each method: its tuning, its budgets, and its times."""
    del command
    found = []
    for network in config.networks():
        for method in names():
            tuning = ended.get(f"{network}_{method}_tuning")
            if tuning:
                found.append(_tuning_row(config, network, method, tuning))
            for budget in ("100", *TASKS[network].budgets):
                name = f"{network}_{method}_{budget}"
                every = [run.result() for run in ended.get(name, ())]
                if every:
                    results = [result for result in every if "diverged" not in result]
                    about = {"network": network, "method": method, "kept_percent": budget}
                    checkout = config.jaxpruner if method in PEERS else None
                    if checkout and (commit := jaxpruner.commit(checkout)):
                        about["peer_commit"] = commit
                    row = describe(config, name, every, **about)
                    row["seeds"] = [result["seed"] for result in results]
                    if diverged := [result["seed"] for result in every if "diverged" in result]:
                        row["diverged_seeds"] = diverged
                    there = [name for name in _FIELDS if all(name in one for one in results)]
                    found.append(row | (aggregate(results, there) if results else {}))
            if timed := ended.get(f"{network}_{method}_timing"):
                found.append(_timing_row(config, network, method, timed))
    return found


def _timing_row(config: Config, network: str, method: str, runs: Sequence[Any]) -> Row:
    """The times of a method, and those of dense training beside it."""
    every = [run.result() for run in runs]
    row = describe(config, f"{network}_{method}_timing", every, network=network, method=method)
    ended = [one for one in every if "diverged" not in one]
    row["seeds"] = [one["seed"] for one in ended]
    if diverged := [one["seed"] for one in every if "diverged" in one]:
        row["diverged_seeds"] = diverged
    return row | {name: [one[name] for one in ended] for name in _TIMES}


def _tuning_row(config: Config, network: str, method: str, runs: Sequence[Any]) -> Row:
    results = [run.result() for run in runs]
    row = describe(config, f"{network}_{method}_tuning", results, network=network, method=method)
    tried = [
        {
            "settings": _varied(method, result["settings"]),
            "validation_error": result.get("validation_error"),
        }
        for result in results
    ]
    known = [one for one in tried if one["validation_error"] is not None]
    best: Row = min(known, key=lambda one: one["validation_error"], default={"settings": {}})
    del row["settings"]
    return row | {"tried": tried, "chosen": best["settings"]}


def _varied(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in which the candidates of a method differ."""
    return {name: settings[name] for name in METHODS[method].candidates[0]}
