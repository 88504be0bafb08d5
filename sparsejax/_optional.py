"""Packages that only an extra installs."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str, package: str, extra: str, user: str) -> Any:
    """Return a module of a package that is optional.

    Args:
      module: the module, with dots.
      package: the package, as pip names it.
      extra: the extra of this library that installs it.
      user: what needs it, with the verb, such as "save_sparse needs".

    Raises:
      ImportError: the package is missing; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{user} the package {package}: pip install 'sparsejax[{extra}]'"
        ) from error
