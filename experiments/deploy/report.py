"""What the networks weigh and how fast they are: report.json, report.md and the screen's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common.results import made_by, write_report
from experiments.common.tables import markdown, screen
from experiments.deploy.forms import DENSE

EXPERIMENT = "deploy"
SPARSE = "sparse"
_TIMES = ("latency", "batch")
PUBLISHED_BYTES = {"lenet5_mnist": 70_000, "lenet5_fashion_mnist": 100_000}


def table_rows(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of report.json: those of the first way of calling, with the times of all.

    Args:
      measured: by dispatch, a row for each run.
    """
    first, *_ = measured.values()
    rows = []
    for number, row in enumerate(first):
        forms = []
        for place, form in enumerate(row["forms"]):
            entry = {name: form[name] for name in ("form", "difference", "test_error")}
            entry["file_bytes"] = form.get("file_bytes")
            for dispatch, others in measured.items():
                other = others[number]["forms"][place]
                entry["difference"] = max(entry["difference"], other["difference"])
                entry[dispatch] = {
                    name: value for name, value in other.items() if name.startswith(_TIMES)
                }
            forms.append(entry)
        published = PUBLISHED_BYTES.get(row["name"])
        found = dict(row) | {"forms": forms, "published": {"file_bytes": published}}
        for dispatch in measured:
            # JAX's default has the plain names.
            end = "" if dispatch == "asynchronous" else f"_{dispatch}"
            found[f"latency_speedup{end}"] = speedup(found, SPARSE, dispatch, "latency")
            found[f"throughput_speedup{end}"] = speedup(found, SPARSE, dispatch, "batch")
        rows.append(found)
    return rows


def speedup(row: Mapping[str, Any], form: str, dispatch: str, time: str) -> float:
    """How many times as fast as the dense network, in the same run."""
    seconds = {f["form"]: f[dispatch][f"{time}_seconds"] for f in row["forms"]}
    return seconds[DENSE] / seconds[form]


def write(folder: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write report.json and report.md into ``folder``; return the table for the screen."""
    write_report(folder, EXPERIMENT, command, rows)
    lines = ["# Sparse networks as they leave", "", made_by(command), "", *_explanation()]
    for row in rows:
        lines += [f"## {row['name']}", "", *markdown(*_network(row)), ""]
        lines += [*markdown(*_files(row)), "", *markdown(*_forms(row)), ""]
        lines += [_kinds(row), ""]
        lines += [f"Missing: {line}." for line in row["missing"]]
    (folder / "report.md").write_text("\n".join(lines).rstrip() + "\n")
    return "\n\n".join(
        f"{row['name']}\n{screen(*_files(row))}\n\n{screen(*_forms(row))}" for row in rows
    )


def _explanation() -> list[str]:
    return [
        "Times are medians of a call, all forms timed by turns in one process; the images are",
        "already where the form reads them. The dense network is the masked one, jitted, its",
        "weights constants of the program; ratios are to it. JAX calls a CPU program",
        "asynchronously by default: unless XLA takes it for cheap, another thread is woken for",
        "each call. Synchronous is `jax_cpu_enable_async_dispatch` switched off. The difference is",
        "the largest of a logit, over the largest logit.",
        "",
    ]


def _network(row: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["network", "parameters", "multiply-accumulates"]
    cells = [
        ["dense", f"{row['parameters']:,}", f"{row['macs']:,}"],
        ["not zero", f"{row['nonzeros']:,} ({row['density']:.2%})", ""],
        ["shrunk", f"{row['shrunk_parameters']:,}", f"{row['shrunk_macs']:,}"],
    ]
    return header, cells


def _files(row: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    cells = [[f["file"], f"{f['bytes']:,}", f"{f['test_error']:.2f} %"] for f in row["files"]]
    published = row["published"]["file_bytes"]
    if published:
        cells.append(["published, BZIP2", f"{published:,}", ""])
    return ["weights' file", "bytes", "test error"], cells


def _forms(row: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    batch = row["batch_size"]
    dispatches = [name for name in ("asynchronous", "synchronous") if name in row["forms"][0]]
    header = ["form", "file, bytes", "test error", "difference"]
    for dispatch in dispatches:
        header += [f"1 image, {dispatch}", f"{batch} images, {dispatch}"]
    cells = []
    for form in row["forms"]:
        size = f"{form['file_bytes']:,}" if form["file_bytes"] else ""
        line = [form["form"], size, f"{form['test_error']:.2f} %", f"{form['difference']:.0e}"]
        for dispatch in dispatches:
            for time in _TIMES:
                seconds = form[dispatch][f"{time}_seconds"]
                ratio = speedup(row, form["form"], dispatch, time)
                line.append(f"{1e6 * seconds:,.1f} µs ({ratio:.2f}x)")
        cells.append(line)
    return header, cells


def _kinds(row: Mapping[str, Any]) -> str:
    (form,) = (f for f in row["forms"] if f["form"] == SPARSE)
    parts = []
    for dispatch in ("asynchronous", "synchronous"):
        for time, images in (("latency", "1 image"), ("batch", f"{row['batch_size']} images")):
            if dispatch in form:
                kinds = ", ".join(
                    f"{layer.rpartition('/')[0]} {kind}"
                    for layer, kind in form[dispatch][f"{time}_kinds"].items()
                )
                parts.append(f"{images}, {dispatch}: {kinds}")
    return "How the sparse form computes its layers: " + "; ".join(parts) + "."
