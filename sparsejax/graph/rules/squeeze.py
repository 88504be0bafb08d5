"""The rule of ``squeeze``: a reshape that drops dimensions of length 1."""

from __future__ import annotations

from sparsejax.graph.rules.reshape import RULES as _RESHAPE

RULES = {"squeeze": _RESHAPE["reshape"]}
