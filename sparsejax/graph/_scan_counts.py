"""The kinds of the operands of a ``scan``, which versions of JAX state in two ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of constants and of the carry, which are the first operands of a scan.

    Args:
      params: the parameters of an equation whose primitive is ``scan``. JAX before 0.12 has both
        numbers there; later versions have a tree of the operands, whose three branches are the
        constants, the carry and the slices.
    """
    if "num_consts" in params:
        return int(params["num_consts"]), int(params["num_carry"])
    constants, carry, _ = params["ft_in"].unpack()
    return len(constants), len(carry)
