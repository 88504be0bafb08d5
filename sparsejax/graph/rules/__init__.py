"""The rules of all primitives: one file each, which lists its rules as ``RULES``.

Every file of this folder is imported, so adding a primitive is adding a file.
"""

from __future__ import annotations

import importlib
import pkgutil

from sparsejax.graph._rule import Rule

RULES: dict[str, Rule] = {}
"""The rules by the name of their primitive."""

for _file in pkgutil.iter_modules(__path__):
    _rules: dict[str, Rule] = importlib.import_module(f"{__name__}.{_file.name}").RULES
    assert not RULES.keys() & _rules.keys(), f"{_file.name} repeats the rule of another file"
    RULES |= _rules

__all__ = ["RULES"]
