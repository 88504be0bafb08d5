"""How continuous sparsification is run where the paper, its code and earlier results differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Scale = Literal["outside", "folded"]
PenaltyOn = Literal["mask", "scaled_mask"]
Weights = Literal["rewound", "continued"]
Optimizer = Literal["renewed", "continued"]
Gates = Literal["closed", "reopened"]
Beta = Literal["smooth", "staircase"]
Statistics = Literal["initial", "rewound"]

DEFAULT: Mapping[str, str] = {
    "ticket_scale": "outside",
    "penalty_on": "mask",
    "search_weights": "rewound",
    "search_optimizer": "renewed",
    "search_gates": "closed",
    "beta": "smooth",
    "ticket_statistics": "initial",
}
"""What a run does unless it is told otherwise."""

PUBLISHED: Mapping[str, str] = {
    "ticket_scale": "outside",
    "penalty_on": "scaled_mask",
    "search_weights": "continued",
    "search_optimizer": "continued",
    "search_gates": "reopened",
    "beta": "staircase",
    "ticket_statistics": "rewound",
}
"""What the published code does."""

FORMER: Mapping[str, str] = {**DEFAULT, "ticket_scale": "folded"}
"""What every run did before there was a choice; what a file that does not say has."""

_SENTENCES: Mapping[str, Mapping[str, str]] = {
    "ticket_scale": {
        "outside": "tickets are trained with the scale 1/sigma(s0) of their mask outside of the "
        "weights, as published",
        "folded": "tickets are trained with the scale 1/sigma(s0) of their mask folded into the "
        "weights (published: outside)",
    },
    "penalty_on": {
        "mask": "the penalty is on sigma(beta s) (published code: on sigma(beta s)/sigma(s0))",
        "scaled_mask": "the penalty is on sigma(beta s)/sigma(s0), as in the published code",
    },
    "search_weights": {
        "rewound": "each round of a search starts from the rewound weights (published code: from "
        "the trained ones)",
        "continued": "each round of a search goes on with the trained weights, as in the "
        "published code",
    },
    "search_optimizer": {
        "renewed": "each round starts with a new optimizer (published code: with the momentum of "
        "the round before)",
        "continued": "each round goes on with the momentum of the round before, as in the "
        "published code",
    },
    "search_gates": {
        "closed": "gates restart at min(beta s, s0) with the last beta (published code: at "
        "min(s, s0))",
        "reopened": "gates restart at min(s, s0), as in the published code",
    },
    "beta": {
        "smooth": "beta rises at every step (published code: once an epoch)",
        "staircase": "beta rises once an epoch and is 200 in the last one, as in the published "
        "code",
    },
    "ticket_statistics": {
        "initial": "running statistics of a ticket start from the initial ones (published code: "
        "from the rewound ones)",
        "rewound": "running statistics of a ticket are rewound, as in the published code",
    },
}


def complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of continuous sparsification from a file that may be older than the choice."""
    return {**settings, **{name: settings.get(name, FORMER[name]) for name in FORMER}}


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what every run did before there was a choice.

    Folders of that time say nothing of it, and a run that does the same still is the same run.
    """
    return {
        name: value
        for name, value in settings.items()
        if name not in FORMER or value != FORMER[name]
    }


def title(settings: Mapping[str, Any]) -> str:
    """In short: where the scale of tickets is, and what is not as it is by default."""
    chosen = {name: complete(settings)[name] for name in DEFAULT}
    if chosen == PUBLISHED:
        return "as the published code"
    odd = [f"{name} {value}" for name, value in chosen.items() if value != DEFAULT[name]]
    odd = odd if chosen["ticket_scale"] == "folded" else ["ticket_scale outside", *odd]
    return ", ".join(odd).replace("_", " ")


def sentence(settings: Mapping[str, Any], statistics: bool) -> str:
    """For the report: what was done at each of these choices."""
    names = [name for name in _SENTENCES if statistics or name != "ticket_statistics"]
    return "; ".join(_SENTENCES[name][settings[name]] for name in names)
