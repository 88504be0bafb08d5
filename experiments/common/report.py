"""The report of an experiment: rows, tables, report.json and report.md."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from sparsejax.training import write_json

Row = dict[str, Any]
Columns = Sequence[tuple[str, Callable[[Any], str]]]
"""The header of each column, and its cell as a function of a row."""

_NUMBER = re.compile(r"\W*\d|\(|$")
"""How a cell of a column of numbers begins; ``(none)`` and nothing are such cells, too."""

_PACKAGES = ("sparsejax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Table(NamedTuple):
    """A table of a report; the first column is text."""

    columns: Columns
    rows: Sequence[Any]
    on_screen: bool = True
    """Whether it is printed, too."""

    def cells(self) -> list[list[str]]:
        """The header and the lines below it."""
        header = [name for name, _ in self.columns]
        return [header, *([cell(row) for _, cell in self.columns] for row in self.rows)]

    def markdown(self) -> str:
        """The table as Markdown, with numbers to the right and text to the left."""
        header, *lines = self.cells()
        columns = list(zip(*lines, strict=True))[1:] or [()] * (len(header) - 1)
        rule = ["---", *("---:" if all(map(_NUMBER.match, c)) else "---" for c in columns)]
        return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *lines])

    def screen(self) -> str:
        """The table with aligned columns."""
        header, *lines = self.cells()
        widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
        rule = ["-" * width for width in widths]
        return "\n".join(
            "  ".join(
                text.rjust(width) if place else text.ljust(width)
                for place, (text, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in [header, rule, *lines]
        )


class FigureFile(NamedTuple):
    """A figure that a report shows."""

    caption: str
    name: str
    """The name of the file, which is beside the report."""

    def markdown(self) -> str:
        """The figure as Markdown."""
        return f"![{self.caption}]({self.name})"


class MadeBy:
    """The place of the sentences on what made the rows of a report, where and with what."""


Part = str | Table | FigureFile | MadeBy
Parts = Sequence[Part]
"""The paragraphs, tables and figures of a report."""


def error(found: Mapping[str, Any]) -> str:
    """Mean and sample standard deviation over seeds (see `summary`), in per cent."""
    return f"{found['mean']:.2f}{deviation(found)} %"


def deviation(found: Mapping[str, Any]) -> str:
    """Sample standard deviation, as it follows a mean; empty for a single seed."""
    return f" ± {found['std']:.2f}" if len(found["values"]) > 1 else ""


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (0 for a single value) and the values themselves."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": spread, "values": list(values)}


def aggregate(
    results: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    errors: Sequence[str] = ("test_error", "validation_error"),
) -> Row:
    """Fields of a row over the results of its seeds: summaries of the errors, lists of the rest."""
    summaries = {name: summary([result[name] for result in results]) for name in errors}
    return summaries | {name: [result[name] for result in results] for name in columns}


_TITLES = {
    "lenet300": "LeNet300", "lenet5": "LeNet5", "resnet20": "ResNet-20", "vgg16": "VGG-16",
    "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10",
}  # fmt: skip


def titled(model: str, dataset: str) -> str:
    """A network and its dataset as a reader knows them."""
    return f"{title_of(model)} on {title_of(dataset)}"


def title_of(name: str) -> str:
    """A network or a dataset as a reader knows it."""
    return _TITLES.get(name, name)


def seeds_of(rows: Iterable[Row]) -> list[int]:
    """The seeds of any of the rows."""
    return sorted({seed for row in rows for seed in row["seeds"]})


def seed_list(rows: Sequence[Row]) -> str:
    """The seeds of the rows as a text, with those of each row that lacks some, such as
    ``0, 1, 2 (lenet5: 0)``.
    """
    seeds = seeds_of(rows)
    fewer = [
        f"{row['name']}: {_listed(row['seeds'])}" for row in rows if {*row["seeds"]} != {*seeds}
    ]
    return _listed(seeds) + (f" ({'; '.join(fewer)})" if fewer else "")


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def difference(first: Row, second: Row) -> tuple[float, float]:
    """Mean test error of ``first`` less that of ``second``, and its standard error."""
    one, two = first["test_error"], second["test_error"]
    spread = math.hypot(*(found["std"] / len(found["values"]) ** 0.5 for found in (one, two)))
    return one["mean"] - two["mean"], spread


def row_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a row, from those of a run of it."""
    return {name: value for name, value in settings.items() if name not in ("seed", "row")}


def describe(config: Any, name: str, results: Sequence[Mapping[str, Any]], **more: Any) -> Row:
    """Fields of a row that say what it is; its settings are those of the first result."""
    settings = row_settings(results[0]["settings"])
    about = {"name": name, "model": results[0]["model"], "dataset": results[0]["dataset"]}
    seeds = list(dict.fromkeys(result["seed"] for result in results))
    return about | {"preset": config.preset, "seeds": seeds, "settings": settings} | more


def write_report(
    folder: Path, experiment: str, command: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write ``folder/report.json`` and return its content."""
    report = {"experiment": experiment, "command": command, **origin(), "rows": list(rows)}
    write_json(folder / "report.json", report)
    return report


def read_report(folder: Path) -> dict[str, Any]:
    """The content of ``folder/report.json``; where there is none, no rows."""
    path = folder / "report.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}
    return content


def write_markdown(folder: Path, report: Mapping[str, Any], parts: Parts) -> None:
    """Write ``folder/report.md``, without the figures that are not in the folder."""

    def text(part: Part) -> str:
        if isinstance(part, MadeBy):
            return _sources(report)
        return part if isinstance(part, str) else part.markdown()

    shown = [
        part for part in parts if not isinstance(part, FigureFile) or (folder / part.name).exists()
    ]
    (folder / "report.md").write_text("\n\n".join(map(text, shown)) + "\n")


def _sources(report: Mapping[str, Any]) -> str:
    """The sentences on what made the rows; of those that have none, that on the whole report."""
    own = [made_by(report)]
    of_rows = [source for row in report["rows"] for source in row.get("made_by", own)]
    return "\n\n".join(dict.fromkeys(of_rows or own))


def made_by(report: Mapping[str, Any]) -> str:
    """A sentence that says what made a report, where and with what."""
    host = report["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    cores = "core" if host["cores"] == 1 else "cores"
    kind = ", ".join(host["devices"])  # of a CPU JAX knows no more than that it is one
    return (
        f"Made by `{report['command']}` on {host['cores']} {cores} of {host['processor']} "
        f"({kind}), {packages}."
    )


def origin() -> dict[str, Any]:
    """Versions of the packages and a description of the machine, for every file of results."""
    versions = {"python": platform.python_version()}
    versions |= {package: _version(package) for package in _PACKAGES}
    return {"versions": versions, "machine": machine()}


def machine() -> dict[str, Any]:
    """A description of the machine."""
    return {
        "processor": _processor(),
        "cores": _cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "backend": jax.default_backend(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),  # threads change the last bits of a sum
        "system": f"{platform.system()} {platform.machine()}",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return "not installed"


def _cores() -> int | None:
    """The cores that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(usable(0)) if usable else os.cpu_count()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
