"""A table as Markdown and for the screen, and how a cell states an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first column is text."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return ["| " + " | ".join(line) + " |" for line in [header, rule, *cells]]


def error(found: Mapping[str, Any]) -> str:
    """Mean and sample standard deviation over seeds (see `results.summary`), in per cent."""
    return f"{found['mean']:.2f}{deviation(found)} %"


def deviation(found: Mapping[str, Any]) -> str:
    """What follows the mean; a single seed has no deviation to state."""
    return f" ± {found['std']:.2f}" if len(found["values"]) > 1 else ""


def screen(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """The same table with its columns aligned."""
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]

    def padded(line: Sequence[str]) -> str:
        return "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )

    return "\n".join(
        [padded(header), "  ".join("-" * width for width in widths), *map(padded, cells)]
    )
