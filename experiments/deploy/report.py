"""The sizes and speeds of deployed networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.report import Columns, FigureFile, MadeBy, Part, Parts, Row, Table
from experiments.common.runner import Picture
from experiments.deploy.forms import DENSE

SPARSE = "sparse"
_TIMES = ("latency", "batch")
_DISPATCHES = ("asynchronous", "synchronous")
_PUBLISHED_BYTES = {"lenet5_mnist": 70_000, "lenet5_fashion_mnist": 100_000}
_COLORS = matplotlib.color_sequences["tab10"]


def rows(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    """The rows of the first dispatch, with the times of all.

    Args:
      measured: by dispatch, a row for each run.
    """
    first, *_ = measured.values()
    found = []
    for number, row in enumerate(first):
        forms = []
        for place, form in enumerate(row["forms"]):
            entry = {name: form[name] for name in ("form", "difference", "test_error")}
            entry["file_bytes"] = form.get("file_bytes")
            for dispatch, others in measured.items():
                other = others[number]["forms"][place]
                entry["difference"] = max(entry["difference"], other["difference"])
                entry[dispatch] = {n: value for n, value in other.items() if n.startswith(_TIMES)}
            forms.append(entry)
        published = {"file_bytes": _PUBLISHED_BYTES.get(row["name"])}
        new = dict(row) | {"forms": forms, "published": published}
        for dispatch in measured:
            # JAX's default has the plain names.
            suffix = "" if dispatch == "asynchronous" else f"_{dispatch}"
            new[f"latency_speedup{suffix}"] = speedup(new, SPARSE, dispatch, "latency")
            new[f"throughput_speedup{suffix}"] = speedup(new, SPARSE, dispatch, "batch")
        found.append(new)
    return found


def speedup(row: Row, form: str, dispatch: str, time: str) -> float:
    """Seconds of the dense network over those of a form, in the same process."""
    seconds = {f["form"]: f[dispatch][f"{time}_seconds"] for f in row["forms"]}
    return float(seconds[DENSE] / seconds[form])


_NETWORK: Columns = (
    ("network", lambda line: line[0]),
    ("parameters", lambda line: line[1]),
    ("multiply-accumulates", lambda line: line[2]),
)
_FILES: Columns = (
    ("file of the weights", lambda file: file["file"]),
    ("bytes", lambda file: f"{file['bytes']:,}"),
    ("test error", lambda file: f"{file['test_error']:.2f} %" if "test_error" in file else ""),
)


def parts(rows: Sequence[Row]) -> Parts:
    """The report."""
    found: list[Part] = [
        "# Deployed sparse networks",
        MadeBy(),
        "Times are medians of a call, with all forms interleaved in one process; the images are "
        "already where the form reads them. The dense network is the masked one, jitted, with its "
        "weights as constants of the program; ratios are to it. JAX calls CPU programs "
        "asynchronously by default, which dominates the latency of one image unless XLA takes the "
        "program for cheap. Synchronous is `jax_cpu_enable_async_dispatch` switched off. The "
        "difference is the largest of a logit over the largest logit.",
    ]
    for row in rows:
        published = row["published"]["file_bytes"]
        theirs = [{"file": "published, BZIP2", "bytes": published}] if published else []
        lines = [
            ("dense", f"{row['parameters']:,}", f"{row['macs']:,}"),
            ("non-zero", f"{row['nonzeros']:,} ({row['density']:.2%})", ""),
            ("shrunk", f"{row['shrunk_parameters']:,}", f"{row['shrunk_macs']:,}"),
        ]
        found += [f"## {row['name']}", Table(_NETWORK, lines, on_screen=False)]
        found += [Table(_FILES, [*row["files"], *theirs]), Table(_forms(row), row["forms"])]
        found += [_kinds(row), *(f"Missing: {line}." for line in row["missing"])]
        found += [FigureFile("Microseconds and bytes of each form", f"{row['name']}.png")]
    return found


def _dispatches(row: Row) -> list[str]:
    return [name for name in _DISPATCHES if name in row["forms"][0]]


def _forms(row: Row) -> Columns:
    def timed(dispatch: str, time: str) -> Callable[[Row], str]:
        def cell(form: Row) -> str:
            seconds = form[dispatch][f"{time}_seconds"]
            return f"{1e6 * seconds:,.1f} µs ({speedup(row, form['form'], dispatch, time):.2f}x)"

        return cell

    return [
        ("form", lambda form: form["form"]),
        ("file, bytes", lambda form: f"{form['file_bytes']:,}" if form["file_bytes"] else ""),
        ("test error", lambda form: f"{form['test_error']:.2f} %"),
        ("difference", lambda form: f"{form['difference']:.0e}"),
        *(
            (f"{images}, {dispatch}", timed(dispatch, time))
            for dispatch in _dispatches(row)
            for time, images in (("latency", "1 image"), ("batch", f"{row['batch_size']} images"))
        ),
    ]


def _kinds(row: Row) -> str:
    (form,) = (f for f in row["forms"] if f["form"] == SPARSE)
    found = []
    for dispatch in _dispatches(row):
        for time, images in (("latency", "1 image"), ("batch", f"{row['batch_size']} images")):
            kinds = form[dispatch][f"{time}_kinds"].items()
            said = ", ".join(f"{layer.rpartition('/')[0]} {kind}" for layer, kind in kinds)
            found.append(f"{images}, {dispatch}: {said}")
    return f"Kinds of products of the sparse form: {'; '.join(found)}."


def figures(rows: Sequence[Row], ended: Mapping[str, Sequence[Any]]) -> dict[str, Picture]:
    """A figure for each network."""
    del ended
    return {f"{row['name']}.png": forms(row) for row in rows}


def forms(row: Row) -> Figure:
    """Microseconds of an image alone and of one in a batch, and the bytes of the weights' files."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    latency, batch, files = figure.subplots(1, 3)
    dispatches = _dispatches(row)
    height = 0.8 / len(dispatches)
    names = ["sparse (chosen)" if f["form"] == SPARSE else f["form"] for f in row["forms"]]
    per_batch = f"µs an image, in a batch of {row['batch_size']}"
    for axis, time, images, label in (
        (latency, "latency", 1, "µs a call of one image"),
        (batch, "batch", row["batch_size"], per_batch),
    ):
        for number, dispatch in enumerate(dispatches):
            values = [1e6 * form[dispatch][f"{time}_seconds"] / images for form in row["forms"]]
            places = [place + number * height for place in range(len(names))]
            bars = axis.barh(
                places, values, height, color=_COLORS[number], label=f"{dispatch} dispatch"
            )
            axis.bar_label(bars, [f"{value:.3g}" for value in values], padding=2, fontsize=9)
        middle = [place + height * (len(dispatches) - 1) / 2 for place in range(len(names))]
        _finish(axis, middle, names, label)
    handles, labels = latency.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=11, ncols=2, loc="outside lower center")
    batch.set_yticklabels([])
    sizes = {file["file"]: file["bytes"] for file in row["files"]}
    if published := row["published"]["file_bytes"]:
        sizes["published, BZIP2"] = published
    bars = files.barh(range(len(sizes)), list(sizes.values()), 0.8, color=_COLORS[2])
    files.bar_label(bars, [f"{size:,}" for size in sizes.values()], padding=2, fontsize=9)
    files.set_xscale("log")
    _finish(files, list(range(len(sizes))), list(sizes), "bytes of the weights' file")
    figure.suptitle(
        f"{row['name']}: {row['nonzeros']:,} of {row['parameters']:,} parameters are not zero",
        fontsize=13,
    )
    return figure


def _finish(axis: Axes, places: Sequence[float], names: Sequence[str], label: str) -> None:
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.set_xlabel(label, fontsize=11)
    axis.margins(x=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=10)
