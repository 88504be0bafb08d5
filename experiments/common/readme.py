"""Fills README and docs/ from results/: ``python -m experiments.common.readme``."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common.tables import error, markdown
from experiments.tickets.report import headlines
from experiments.tickets.standing import overview, standing

ROOT = Path(__file__).parents[2]


def filled(readme: str, results: Path) -> str:
    """``readme`` with each marked part made anew from the files in ``results``."""
    for name, make in PARTS.items():
        marked = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        parts = marked.search(readme)
        if parts:
            made = f"{parts[1]}{make(results)}{parts[2]}"
            readme = f"{readme[: parts.start()]}{made}{readme[parts.end() :]}"
    return readme


def _table(results: Path) -> str:
    parts = (results / "lc_lenet300" / "report.md").read_text().split("\n\n")
    return next(part for part in parts if part.startswith("|")) + "\n"


def _benchmark(results: Path) -> str:
    found = json.loads((results / "benchmarks" / "lenet300.json").read_text())
    rivals = {name: ratio for name, ratio in found["ratio_to_sparsejax"].items() if ratio != 1}
    against = [f"{ratio:.1f} times as long in {name}" for name, ratio in rivals.items()]
    machine, seconds = found["machine"], statistics.median(found["epoch_seconds"]["sparsejax"])
    return (
        f"An L-step epoch (60,000 images) takes {seconds:.2f} s on {machine['cores']} cores of "
        f"{machine['processor']}, and {' and '.join(against) or '(no PyTorch to compare with)'}; "
        f"a C step takes {found['c_step_share_of_l_step']:.2%} of an L step, compilation "
        f"{found['compile_seconds']:.1f} s (`make benchmark`).\n"
    )


def _projection(results: Path) -> str:
    """How long a projection takes at each size, as times of a copy and of the alternatives."""
    found = json.loads((results / "benchmarks" / "projection.json").read_text())
    rivals = ("np.partition", "torch.kthvalue", "jax.lax.top_k", "jnp.sort")
    head = ["weights", "milliseconds", "copies", *rivals]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---:'] * len(head))} |"]
    for row in found["rows"]:
        if row["share"] != 0.02:
            continue
        ours = row["median"]["sparsejax, cold"]
        ratio = {name: f"{value / ours:,.1f}x" for name, value in row["median"].items()}
        cells = [
            f"{row['size']:,}",
            f"{1e3 * ours:,.1f}",
            f"{row['copies']['sparsejax, cold']:.1f}",
        ]
        cells += [ratio.get(name, "(left out)") for name in rivals]
        lines.append(f"| {' | '.join(cells)} |")
    memory = max(row["extra_memory"]["planned"] for row in found["rows"])
    machine, huge = found["machine"], found["huge_pages"]
    ours, theirs = (huge["median"][name] for name in ("sparsejax, cold", "np.partition"))
    tunables = huge["settings"]["GLIBC_TUNABLES"]
    text = (
        f"Medians on {machine['cores']} cores of {machine['processor']}; 2 % of the weights stay. "
        "The third column states the cost in copies, `jit(lambda x: 2 * x)`, of the weights; the "
        "others say how many times as long as ours the alternative takes. Beyond its result a "
        f"projection needs at most {memory:.1%} of the weights' memory. Much of a large copy is "
        f"the system handing out pages: with huge ones (`GLIBC_TUNABLES={tunables}`) "
        f"{huge['size']:,} weights take {1e3 * ours:,.0f} ms, and `np.partition` "
        f"{theirs / ours:.1f} times as long."
    )
    return "\n".join([*lines, "", text, ""])


def _vgg16(results: Path) -> str:
    found = json.loads((results / "vgg16_step" / "report.json").read_text())
    seconds, peak = found["seconds"], found["peak_host_gib"]
    return (
        f"Full-size VGG-16 ({found['parameters']:,} parameters, {found['parameter_gib']:.2f} GiB): "
        f"direct compression to {found['kappa']:,} weights takes "
        f"{seconds['direct_compression']:.1f} s, an optimisation step with its C step "
        f"{seconds['step']:.1f} s at batch "
        f"{found['config']['batch_size']}, at a peak of {peak['step']:.1f} GiB for a state of "
        f"{found['state_copies']:.0f} copies of the parameters "
        "(`python -m experiments.vgg16_step`).\n"
    )


def _constrained(results: Path) -> str:
    """What was asked for, published, and reached."""
    found = json.loads((results / "constrained_l0" / "report.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    head = [
        "row", "published: final / best error", "ours: final", "best epoch",
        "expected density (highest)", "left after purging (most)", "published",
        "ours (first seed)",
    ]  # fmt: skip
    cells = []
    for name, title in _CONSTRAINED.items():
        row = rows[name]
        published = row["published"]
        saved = published.get("saved_runs", {})
        final = published.get("test_error", saved.get("test_error"))
        best = published.get("best_test_error")
        units = published.get("architecture")
        cells.append(
            [
                f"{title} [{name}]",
                " / ".join("(none)" if x is None else f"{x:.2f} %" for x in (final, best)),
                error(row["test_error"]),
                f"{row['best_test_error']['mean']:.2f} %",
                f"{max(row['expected_density']):.2%}",
                f"{max(row['density']):.2%}",
                "-".join(map(str, units)) if units else "(none)",
                "-".join(map(str, row["architecture"][0])),
            ]
        )
    control, sought = rows["controllability"], rows["bisection"]
    targets = [f"{by['target']:.0%}" for by in control["by_target"]]
    seeds = len(control["seeds"])
    text = (
        f"Asked for {', '.join(targets)} of the parameters ({seeds} seeds of "
        f"{control['settings']['epochs']} epochs each), the expected "
        f"density ends at most {100 * control['largest_gap']:.2f} points away and "
        f"{'never' if control['highest_excess'] <= 0 else 'sometimes'} above. Bisecting a penalty "
        f"{'took' if sought['found'] else 'did not get there in'} {sought['runs']} runs "
        f"{'to come' if sought['found'] else ', coming'} within "
        f"{100 * sought['sought']['tolerance']:g} point of {sought['sought']['target']:.0%}."
    )
    return "\n".join([*markdown(head, cells), "", text, ""])


_CONSTRAINED = {
    "mlp_33": "MLP, at most 33 % of the parameters",
    "mlp_layerwise_30": "MLP, at most 30 % of each layer",
    "lenet5_10": "LeNet5, at most 10 % of the parameters",
}


def _gated_mlp(results: Path) -> str:
    """How long a gated epoch takes beside the alternatives."""
    found = json.loads((results / "benchmarks" / "gated_mlp.json").read_text())
    ratio, machine = found["ratio_to_sparsejax"], found["machine"]
    seconds = statistics.median(found["epoch_seconds"]["sparsejax"])
    torch = [f"{x:.1f} times as long in {name}" for name, x in ratio.items() if "PyTorch" in name]
    return (
        f"A gated and constrained MLP epoch (60,000 images) takes {seconds:.2f} s on "
        f"{machine['cores']} cores of {machine['processor']}: "
        f"{1 / ratio['sparsejax without gates']:.1f} times as long as without gates; "
        f"{' and '.join(torch) or '(no PyTorch to compare with)'} (`make benchmark`).\n"
    )


def _gated_decay(results: Path) -> str:
    """What was published and reached, and the sparsest networks by accuracy."""
    report = (results / "gated_decay" / "report.md").read_text().split("\n\n")
    table = next(part for part in report if part.startswith("|"))
    frontier = [part for part in report if part.startswith(("The sparsest row", "- mnist"))]
    return "\n\n".join([table, *frontier]) + "\n"


def _tickets(results: Path) -> str:
    """The tickets that count, beside magnitude pruning's, and eight searches at once."""
    rows = json.loads((results / "tickets" / "report.json").read_text())["rows"]
    rows = [row for row in rows if row["preset"] != "smoke"]  # those are trials
    kept = ["\n".join(markdown(*headlines(rows))), "\n".join(overview(rows))]
    found = json.loads((results / "benchmarks" / "tickets.json").read_text())
    row, machine = found["rows"][0], found["machine"]
    speed = (
        f"Eight searches in one program (LeNet300, batch {row['batch_size']}) take "
        f"1/{row['speedup']:.2f} of the time of eight in sequence on {machine['cores']} cores of "
        f"{machine['processor']}, and {row['times_the_matrix_products']:.1f} times that of their "
        "matrix products alone (`make benchmark`)."
    )
    return "\n\n".join([*kept, speed]) + "\n"


def _deploy(results: Path) -> str:
    """How small and how fast finished networks leave."""
    found = json.loads((results / "deploy" / "report.json").read_text())
    rows = found["rows"]
    head = [
        "network", "not zero", "multiply-accumulates", "file, exact (published)",
        "one image: default dispatch", "synchronous dispatch",
        f"{rows[0]['batch_size']} images: default dispatch", "synchronous dispatch",
        "onnxruntime on the shrunk one: one image", "a batch",
    ]  # fmt: skip
    cells = []
    for row in rows:
        forms = {form["form"]: form for form in row["forms"]}
        published = row["published"]["file_bytes"]
        line = [
            f"[{row['name']}]",
            f"{row['nonzeros']:,} of {row['parameters']:,}",
            f"{row['macs']:,} to {row['shrunk_macs']:,}",
            f"{row['file_bytes']:,} ({f'{published:,}' if published else 'none'})",
        ]
        for time, field in (("latency", "latency_speedup"), ("batch", "throughput_speedup")):
            for dispatch, end in (("asynchronous", ""), ("synchronous", "_synchronous")):
                seconds = forms["sparse"][dispatch][f"{time}_seconds"]
                line.append(f"{row[field + end]:.1f}x ({1e6 * seconds:,.0f} µs)")
        for time in ("latency", "batch"):
            other = forms.get("onnxruntime, shrunk")
            ratio = (
                forms["dense"]["synchronous"][f"{time}_seconds"]
                / other["synchronous"][f"{time}_seconds"]
                if other
                else None
            )
            line.append(f"{ratio:.1f}x" if ratio else "(left out)")
        cells.append(line)
    return "\n".join([*markdown(head, cells), "", _shrink(results)])


def _shrink(results: Path) -> str:
    found = json.loads((results / "benchmarks" / "shrink.json").read_text())
    resnet, vgg = found["resnet20"], found["vgg16"]
    share, ratio = resnet["macs_share"], resnet["throughput_speedup"]
    return (
        f"ResNet-20 pruned by channels to {share['where it counts, compile_sparse']:.0%} of its "
        f"multiply-accumulates takes {ratio['where it counts, compile_sparse']:.2f} times the "
        "images a second if channels are taken where XLA's convolutions feel it, and "
        f"{ratio['evenly, compile_sparse']:.2f} times if they are taken evenly. Shrinking VGG-16 "
        f"({vgg['parameters']:,} parameters, half of its channels pruned) takes "
        f"{vgg['seconds']:.0f} s and at most {vgg['peak_memory_over_weights']:.1f} times the "
        "memory of the weights (`make benchmark`).\n"
    )


def _summary(results: Path) -> str:
    """One row for each published system: what was published, what we reached, and the report."""
    header = ["published system", "network and task", "published", "ours", "report"]
    cells = [
        [*summarize(_row(results, name, row)), f"[{name}](results/{name}/report.md)"]
        for name, row, summarize in _SYSTEMS
    ]
    return "\n".join(markdown(header, cells)) + "\n"


def _row(results: Path, experiment: str, name: str) -> Mapping[str, Any]:
    rows = json.loads((results / experiment / "report.json").read_text())["rows"]
    return next(row for row in rows if row["name"] == name)


def _learning_compression(row: Mapping[str, Any]) -> list[str]:
    published = row["published"]
    return [
        "Learning-compression (Idelbayev and Carreira-Perpiñán, 2022)",
        "LeNet300, MNIST, l0 + l2",
        f"{published['test_error']:.2f} % error with {published['density']:.1%} of the weights",
        f"{error(row['test_error'])} with {max(row['density']):.1%}",
    ]


def _constrained_l0(row: Mapping[str, Any]) -> list[str]:
    saved = row["published"]["saved_runs"]
    return [
        "Constrained L0 (Gallego-Posada, Ramirez and Erraqabi, 2021)",
        f"LeNet5, MNIST, expected density at most {row['settings']['target']:.0%}",
        f"{saved['test_error']:.2f} % error at {saved['expected_density']:.1%}",
        f"{error(row['test_error'])} at {max(row['expected_density']):.1%}",
    ]


def _continuous_sparsification(row: Mapping[str, Any]) -> list[str]:
    counts = standing(row)
    assert counts is not None
    assert counts.clear is not None  # the row of this name has a rival
    clear = f"; significantly at {counts.clear[0]}, worse at {counts.clear[1]}"
    return [
        "Continuous sparsification (Savarese, Silva and Maire, 2020)",
        "LeNet300, MNIST, tickets beyond 95 % sparsity",
        "better tickets than iterative magnitude pruning in fewer rounds (on CIFAR-10)",
        f"lower error than iterative magnitude pruning at {counts.all} tickets"
        + (clear if counts.clear else ""),
    ]


def _gated_weight_decay(row: Mapping[str, Any]) -> list[str]:
    published = row["published"]
    return [
        "Gated weight decay (Bonetta and Cancelliere, 2022)",
        "LeNet5, MNIST",
        f"{published['test_error']:.2f} % error with {published['density']:.2%} of the parameters",
        f"{error(row['test_error'])} with {max(row['density']):.2%}",
    ]


_SYSTEMS: Sequence[tuple[str, str, Callable[[Mapping[str, Any]], list[str]]]] = (
    ("lc_lenet300", "l0_l2", _learning_compression),
    ("constrained_l0", "lenet5_10", _constrained_l0),
    ("tickets", "lenet300_mnist_cs", _continuous_sparsification),
    ("gated_decay", "mnist", _gated_weight_decay),
)


PARTS: Mapping[str, Callable[[Path], str]] = {
    "summary": _summary,
    "lc_lenet300": _table,
    "benchmark": _benchmark,
    "projection": _projection,
    "vgg16_step": _vgg16,
    "constrained_l0": _constrained,
    "gated_mlp": _gated_mlp,
    "gated_decay": _gated_decay,
    "tickets": _tickets,
    "deploy": _deploy,
}


def documents(root: Path = ROOT) -> list[Path]:
    """The files with marked parts: the README and the pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


if __name__ == "__main__":
    for path in documents():
        path.write_text(filled(path.read_text(), ROOT / "results"))
