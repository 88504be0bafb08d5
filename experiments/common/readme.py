"""Fills README and docs/ from results/: ``python -m experiments.common.readme``."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common.report import (
    Columns,
    Row,
    Table,
    difference,
    error,
    seeds_of,
    title_of,
    titled,
)
from experiments.compare.choices import (
    CHOICES,
    all_rows,
    choices,
    compared,
    complete,
    errors_table,
    fewer_seeds,
    one_seed,
)
from experiments.compare.config import TASKS
from experiments.compare.costs import costs_of
from experiments.tickets.points import comparison
from experiments.tickets.report import HEADLINES, overview

ROOT = Path(__file__).parents[2]


def filled(text: str, results: Path) -> str:
    """``text`` with each marked part made anew from the files in ``results``."""
    for name, make in PARTS.items():
        marked = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        parts = marked.search(text)
        if parts:
            made = f"{parts[1]}{make(results)}\n{parts[2]}"
            text = f"{text[: parts.start()]}{made}{text[parts.end() :]}"
    return text


def documents(root: Path = ROOT) -> list[Path]:
    """The files with marked parts: the README and the pages of docs/, without what Sphinx makes."""
    made = {root / "docs" / name for name in ("project", "reference", "results", "site")}
    pages = (root / "docs").rglob("*.md")
    return [root / "README.md", *sorted(page for page in pages if not made & {*page.parents})]


def _json(results: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / name).read_text())
    return found


def _rows(results: Path, experiment: str) -> dict[str, Row]:
    return {row["name"]: row for row in _json(results, f"{experiment}/report.json")["rows"]}


def _from_report(experiment: str, *beginnings: str) -> Callable[[Path], str]:
    """The first table of a report, and the paragraphs that begin as given."""

    def part(results: Path) -> str:
        paragraphs = (results / experiment / "report.md").read_text().split("\n\n")
        table = next(part for part in paragraphs if part.startswith("|"))
        more = [part for part in paragraphs if beginnings and part.startswith(beginnings)]
        return "\n\n".join([table, *more])

    return part


def _summary(results: Path, root: str = "") -> str:
    """Return one row for each published system: the published result, ours, and the report."""
    columns: Columns = (
        ("published system", lambda line: line[1]),
        ("network and task", lambda line: line[2]),
        ("published", lambda line: line[3]),
        ("ours", lambda line: line[4]),
        ("report", lambda line: f"[{line[0]}]({root}results/{line[0]}/report.md)"),
    )
    row = _rows(results, "lc_lenet300")["l0_l2"]
    published = row["published"]
    lines = [
        (
            "lc_lenet300",
            "Learning-compression (Idelbayev and Carreira-Perpiñán, 2022)",
            "LeNet300, MNIST, l0 + l2",
            f"{published['test_error']:.2f} % error with {published['density']:.1%} of the weights",
            f"{error(row['test_error'])} with {max(row['density']):.1%}",
        )
    ]
    row = _rows(results, "constrained_l0")["lenet5_10"]
    published = row["published"]["saved_runs"]
    lines.append(
        (
            "constrained_l0",
            "Constrained L0 (Gallego-Posada, Ramirez and Erraqabi, 2021)",
            f"LeNet5, MNIST, expected density at most {row['settings']['target']:.0%}",
            f"{published['test_error']:.2f} % error at {published['expected_density']:.1%}",
            f"{error(row['test_error'])} at {max(row['expected_density']):.1%}",
        )
    )
    counts = comparison(_rows(results, "tickets")["lenet300_mnist_cs"])
    assert counts is not None
    assert counts.significant is not None
    lines.append(
        (
            "tickets",
            "Continuous sparsification (Savarese, Silva and Maire, 2020)",
            "LeNet300, MNIST, tickets beyond 95 % sparsity",
            "better tickets than iterative magnitude pruning in fewer rounds (on CIFAR-10)",
            f"lower error at {counts.all} tickets; significantly "
            f"at {counts.significant[0]}, worse at {counts.significant[1]}",
        )
    )
    row = _rows(results, "gated_decay")["mnist"]
    published = row["published"]
    lines.append(
        (
            "gated_decay",
            "Gated weight decay (Bonetta and Cancelliere, 2022)",
            "LeNet5, MNIST",
            f"{published['test_error']:.2f} % error with {published['density']:.2%} of the "
            "parameters",
            f"{error(row['test_error'])} with {max(row['density']):.2%}",
        )
    )
    return Table(columns, lines).markdown()


def _of_readme(pattern: str) -> str:
    """The first part of the README that a pattern describes."""
    found = re.search(pattern, (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found[0]


def _rooms(results: Path) -> str:
    """The README's list of rooms as a table, with the other rooms that each one imports."""

    def needs(room: str) -> str:
        files = (ROOT / "sparsejax" / room).rglob("*.py")
        text = "\n".join(path.read_text() for path in files)
        imported = {*re.findall(r"^from sparsejax\.(\w+)", text, re.MULTILINE)}
        found = sorted(imported & names - {room})
        return ", ".join(f"`{name}`" for name in found)

    lines = _of_readme(r"- `sparsejax\.\w+`.*?\n(?=\n)").splitlines()
    cells = [line.removeprefix("- ").split(": ", 1) for line in lines]
    rows = [(re.findall(r"`sparsejax\.(\w+)`", rooms), question) for rooms, question in cells]
    names = {room for rooms, _ in rows for room in rooms}
    columns: Columns = (
        ("room", lambda row: ", ".join(f"`{room}`" for room in row[0])),
        ("question", lambda row: row[1]),
        ("needs", lambda row: ", ".join(filter(None, map(needs, row[0])))),
    )
    return Table(columns, rows).markdown()


def _example_output(results: Path) -> str:
    """The output of the README's example."""
    printed = "\n".join(_rows(results, "guide_figures")["getting_started"]["printed"])
    return f"```text\n{printed}\n```"


def _against(ratios: Mapping[str, float], name: str) -> str:
    """Return the time that PyTorch takes, where it was measured."""
    found = [f"{ratio:.1f} times as long in {n}" for n, ratio in ratios.items() if name in n]
    return " and ".join(found) or "(no PyTorch to compare with)"


def _on(found: Mapping[str, Any]) -> str:
    return f"{found['machine']['cores']} cores of {found['machine']['processor']}"


def _benchmark(results: Path) -> str:
    found = _json(results, "benchmarks/lenet300.json")
    seconds = statistics.median(found["epoch_seconds"]["sparsejax"])
    return (
        f"An L-step epoch (60,000 images) takes {seconds:.2f} s on {_on(found)}, and "
        f"{_against(found['ratio_to_sparsejax'], 'PyTorch')}; a C step takes "
        f"{found['c_step_share_of_l_step']:.2%} of an L step, compilation "
        f"{found['compile_seconds']:.1f} s (`make benchmark`)."
    )


def _repeat(results: Path) -> str:
    """The errors of the first table beside those of its blind repeat, and what differs."""
    first, again = _rows(results, "lc_lenet300"), _rows(results, "lc_lenet300/repeat")

    def shift(name: str) -> str:
        gap, spread = difference(again[name], first[name])
        return f"{gap:+.2f} ± {spread:.2f}"

    columns: Columns = (
        ("row", lambda name: f"[{name}]"),
        ("test error, settings seen", lambda name: error(first[name]["test_error"])),
        ("blind repeat", lambda name: error(again[name]["test_error"])),
        ("difference and its standard error", shift),
    )
    return Table(columns, [name for name in first if name in again]).markdown()


def _c_steps(results: Path) -> str:
    """Return the cost of C steps, in copies of the weights, and of L steps with them."""
    found = _json(results, "benchmarks/c_steps.json")
    largest = max(row["size"] for row in found["rows"])
    copies = {row["c_step"]: row["copies"] for row in found["rows"] if row["size"] == largest}
    ratios = _json(results, "benchmarks/l_steps.json")["ratio_to_plain_training"]
    slowest = max(ratios, key=lambda name: ratios[name])
    warm = copies["quantize(2)"]["sparsejax, warm, Lloyd"]
    return (
        f"A warm C step of {largest:,} weights costs {warm:.0f} copies of them for two values, "
        f"{copies['ternary(scaled=True)']['sparsejax']:.0f} for scaled ternary ones. An L step of "
        f"LeNet300 with its C step takes at most {ratios[slowest]:.2f} times as long as plain "
        f"training (`{slowest}`; `python -m benchmarks.l_steps`)."
    )


def _projection(results: Path) -> str:
    """The time of a projection at each size, as times of a copy and of the alternatives."""
    found = _json(results, "benchmarks/projection.json")

    def ratio(row: Row, name: str) -> str:
        seconds = row["median"]
        return f"{seconds[name] / seconds[ours]:,.1f}x" if name in seconds else "(left out)"

    ours, rivals = (
        "sparsejax, cold",
        ("np.partition", "torch.kthvalue", "jax.lax.top_k", "jnp.sort"),
    )
    columns: Columns = (
        ("weights", lambda row: f"{row['size']:,}"),
        ("milliseconds", lambda row: f"{1e3 * row['median'][ours]:,.1f}"),
        ("copies", lambda row: f"{row['copies'][ours]:.1f}"),
        *((name, lambda row, n=name: ratio(row, n)) for name in rivals),
    )
    table = Table(columns, [row for row in found["rows"] if row["share"] == 0.02]).markdown()
    memory = max(row["extra_memory"]["planned"] for row in found["rows"])
    huge = found["huge_pages"]
    seconds, theirs = (huge["median"][name] for name in (ours, "np.partition"))
    return (
        f"{table}\n\nMedians on {_on(found)}; 2 % of the weights stay. The third column states the "
        "cost in copies, `jit(lambda x: 2 * x)`, of the weights; the others say how many times as "
        "long as ours the alternative takes. Beyond its result a projection needs at most "
        f"{memory:.1%} of the weights' memory. Much of a large copy is the system handing out "
        f"pages: with huge ones (`GLIBC_TUNABLES={huge['settings']['GLIBC_TUNABLES']}`) "
        f"{huge['size']:,} weights take {1e3 * seconds:,.0f} ms, and `np.partition` "
        f"{theirs / seconds:.1f} times as long."
    )


def _collectives(results: Path) -> str:
    """Return what each method exchanges between devices in an update."""
    found = _json(results, "benchmarks/collectives.json")
    numbers = [str(number) for number in found["config"]["devices"]]
    columns: Columns = (
        ("second update of", lambda line: f"`{line[0]}`"),
        ("collectives", lambda line: str(line[1][numbers[-1]]["number"])),
        *(
            (f"bytes on {number} devices", lambda line, n=number: f"{line[1][n]['bytes']:,}")
            for number in numbers
        ),
    )
    config = found["config"]
    return (
        f"{Table(columns, list(found['methods'].items())).markdown()}\n\n"
        f"Bytes that each device receives, without those of the gradients: {config['layers']} "
        f"kernels of {config['rows']:,} by {config['columns']:,} weights in float32, sharded over "
        f"their rows, of which {config['kept']:.0%} stay; simulated devices, `python -m "
        "benchmarks.collectives`."
    )


def _vgg16(results: Path) -> str:
    found = _json(results, "vgg16_step/report.json")
    seconds, peak = found["seconds"], found["peak_host_gib"]
    return (
        f"Full-size VGG-16 ({found['parameters']:,} parameters, {found['parameter_gib']:.2f} GiB): "
        f"direct compression to {found['kappa']:,} weights takes "
        f"{seconds['direct_compression']:.1f} s, an optimisation step with its C step "
        f"{seconds['step']:.1f} s at batch {found['config']['batch_size']}, at a peak of "
        f"{peak['step']:.1f} GiB for a state of {found['state_copies']:.0f} copies of the "
        "parameters (`python -m experiments.vgg16_step`)."
    )


def _constrained(results: Path) -> str:
    """The main table, and in a sentence controllability and the search for a penalty."""
    rows = _rows(results, "constrained_l0")
    control, sought = rows["controllability"], rows["bisection"]
    targets = ", ".join(f"{by['target']:.0%}" for by in control["by_target"])
    return (
        f"{_from_report('constrained_l0')(results)}\n\nFor targets of {targets} of the parameters "
        f"({len(control['seeds'])} seeds of {control['settings']['epochs']} epochs each), the "
        f"expected density ends at most {100 * control['largest_gap']:.2f} points away and "
        f"{'never' if control['highest_excess'] <= 0 else 'sometimes'} above. Bisecting a penalty "
        f"{'took' if sought['found'] else 'did not suffice in'} {sought['runs']} runs to come "
        f"within {100 * sought['sought']['tolerance']:g} point of {sought['sought']['target']:.0%}."
    )


def _gated_mlp(results: Path) -> str:
    found = _json(results, "benchmarks/gated_mlp.json")
    ratio, seconds = found["ratio_to_sparsejax"], found["epoch_seconds"]["sparsejax"]
    return (
        f"A gated and constrained MLP epoch (60,000 images) takes {statistics.median(seconds):.2f} "
        f"s on {_on(found)}: {1 / ratio['sparsejax without gates']:.1f} times as long as without "
        f"gates; {_against(ratio, 'PyTorch')} (`make benchmark`)."
    )


def _tickets(results: Path) -> str:
    """The best tickets, the comparison with magnitude pruning, and the speed of a population."""
    rows = [row for row in _rows(results, "tickets").values() if row["preset"] != "smoke"]
    how, table = overview(rows)
    found = _json(results, "benchmarks/tickets.json")
    row = found["rows"][0]
    speed = (
        f"Eight searches in one program (LeNet300, batch {row['batch_size']}) take "
        f"1/{row['speedup']:.2f} of the time of eight in sequence on {_on(found)}, and "
        f"{row['times_the_matrix_products']:.1f} times that of their matrix products alone "
        "(`make benchmark`)."
    )
    return "\n\n".join([Table(HEADLINES, rows).markdown(), how, table.markdown(), speed])


def _deploy(results: Path) -> str:
    """Sizes and speeds of deployed networks, and of shrunk convolutional networks."""
    rows = list(_rows(results, "deploy").values())

    def seconds(row: Row, form: str, dispatch: str, time: str) -> float:
        found = next(f for f in row["forms"] if f["form"] == form)
        return float(found[dispatch][f"{time}_seconds"])

    def sparse(time: str, dispatch: str) -> Callable[[Row], str]:
        def cell(row: Row) -> str:
            ours = seconds(row, "sparse", dispatch, time)
            return f"{seconds(row, 'dense', dispatch, time) / ours:.1f}x ({1e6 * ours:,.0f} µs)"

        return cell

    def onnx(time: str) -> Callable[[Row], str]:
        def cell(row: Row) -> str:
            if all(form["form"] != "onnxruntime, shrunk" for form in row["forms"]):
                return "(left out)"
            theirs = seconds(row, "onnxruntime, shrunk", "synchronous", time)
            return f"{seconds(row, 'dense', 'synchronous', time) / theirs:.1f}x"

        return cell

    def file(row: Row) -> str:
        published = row["published"]["file_bytes"]
        return f"{row['file_bytes']:,} ({f'{published:,}' if published else 'none'})"

    batch = f"{rows[0]['batch_size']} images"
    columns: Columns = (
        ("network", lambda row: f"[{row['name']}]"),
        ("non-zero", lambda row: f"{row['nonzeros']:,} of {row['parameters']:,}"),
        ("multiply-accumulates", lambda row: f"{row['macs']:,} to {row['shrunk_macs']:,}"),
        ("file, exact (published)", file),
        ("one image: default dispatch", sparse("latency", "asynchronous")),
        ("synchronous dispatch", sparse("latency", "synchronous")),
        (f"{batch}: default dispatch", sparse("batch", "asynchronous")),
        ("synchronous dispatch", sparse("batch", "synchronous")),
        ("onnxruntime on the shrunk one: one image", onnx("latency")),
        ("a batch", onnx("batch")),
    )
    found = _json(results, "benchmarks/shrink.json")
    resnet, vgg = found["resnet20"], found["vgg16"]
    share, ratio = resnet["macs_share"], resnet["throughput_speedup"]
    return (
        f"{Table(columns, rows).markdown()}\n\nResNet-20 pruned by channels to "
        f"{share['where it counts, compile_sparse']:.0%} of its multiply-accumulates takes "
        f"{ratio['where it counts, compile_sparse']:.2f} times the images a second if channels are "
        f"taken where XLA's convolutions feel it, and {ratio['evenly, compile_sparse']:.2f} times "
        f"if they are taken evenly. Shrinking VGG-16 ({vgg['parameters']:,} parameters, half of "
        f"its channels pruned) takes {vgg['seconds']:.0f} s and at most "
        f"{vgg['peak_memory_over_weights']:.1f} times the memory of the weights (`make benchmark`)."
    )


def _compared(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Row]]]:
    """The rows of each network that was compared, by budget and method."""
    networks = dict.fromkeys(row["network"] for row in rows)
    found = {network: compared(rows, network) for network in networks}
    return {network: by_budget for network, by_budget in found.items() if complete(by_budget)}


def _title(network: str) -> str:
    task = TASKS[network]
    return titled(task.name, task.dataset)


def _compare_errors(results: Path) -> str:
    """The errors of all methods on each network."""
    rows = _json(results, "compare/report.json")["rows"]
    return "\n\n".join(
        f"{_title(network)}:\n\n{errors_table(found, costs_of(rows, network)).markdown()}"
        for network, found in _compared(rows).items()
    )


def _compare(results: Path) -> str:
    """Return the table of what to use when, of all networks that were compared."""
    rows = _json(results, "compare/report.json")["rows"]
    lines, notes = [], []
    about: dict[str, list[str]] = {}
    for network, by_budget in _compared(rows).items():
        (dense,) = by_budget["100"].values()
        name = title_of(TASKS[network].name)
        found = choices(by_budget, costs_of(rows, network))
        lines += [line | {"budget": f"{name}, {line['budget']}"} for line in found]
        seeds = ", ".join(map(str, seeds_of(all_rows(by_budget))))
        about.setdefault(f"over seeds {seeds}", []).append(
            f"{_title(network)} after {dense['settings']['epochs']} epochs (dense: "
            f"{error(dense['test_error'])})"
        )
        notes.append(one_seed(by_budget) or fewer_seeds(by_budget))
    networks = "; ".join(f"{seeds}: {', '.join(names)}" for seeds, names in about.items())
    note = " ".join(dict.fromkeys(filter(None, notes)))
    return (
        f"{Table(CHOICES, lines).markdown()}\n\nTest errors, mean ± sample standard deviation "
        f"{networks}. As good: within a standard error of the difference. {note}".rstrip()
    )


PARTS: Mapping[str, Callable[[Path], str]] = {
    "summary": _summary,
    "site_summary": lambda results: _summary(results, "../"),
    "tagline": lambda results: _of_readme(r"(?<=# sparsejax\n\n).*?(?=\n\n)"),
    "rooms": _rooms,
    "example": lambda results: _of_readme(r"```python\n.*?```"),
    "example_output": _example_output,
    "compare": _compare,
    "compare_errors": _compare_errors,
    "lc_lenet300": _from_report("lc_lenet300"),
    "lc_lenet300_repeat": _repeat,
    "lc_toolkit": _from_report("lc_toolkit"),
    "c_steps": _c_steps,
    "benchmark": _benchmark,
    "projection": _projection,
    "vgg16_step": _vgg16,
    "collectives": _collectives,
    "constrained_l0": _constrained,
    "gated_mlp": _gated_mlp,
    "gated_decay": _from_report("gated_decay", "The sparsest row", "- mnist"),
    "tickets": _tickets,
    "deploy": _deploy,
}


if __name__ == "__main__":
    for path in documents():
        path.write_text(filled(path.read_text(), ROOT / "results"))
