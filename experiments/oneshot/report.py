"""The tables: perplexities of the language model, and errors of the image networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common.report import (
    Columns,
    FigureFile,
    MadeBy,
    Part,
    Parts,
    Row,
    Table,
    aggregate,
    describe,
    deviation,
    error,
    seeds_of,
    summary,
    titled,
)
from experiments.common.runner import Picture
from experiments.oneshot import figures as pictures
from experiments.oneshot import images
from experiments.oneshot.config import (
    CANDIDATES,
    FILES,
    ONE_SHOT,
    ROWS,
    TRAINED,
    Config,
    dense_rows,
    teacher,
)
from experiments.oneshot.trained import trained_rows

_WAYS = {
    "dense": "dense",
    "magnitude_50": "magnitude, 50 %",
    "wanda_50": "Wanda, 50 %",
    "sparsegpt_50": "SparseGPT, 50 %",
    "admm_50": "ADMM, 50 %",
    "sparsegpt_50_at_once": "SparseGPT, 50 %, all layers at once",
    "admm_50_at_once": "ADMM, 50 %, all layers at once",
    "swaps_50": "swaps, 50 %",
    "global_50": "ADMM, 50 %",
    "wanda_2_4": "Wanda, 2:4",
    "sparsegpt_2_4": "SparseGPT, 2:4",
    "admm_2_4": "ADMM, 2:4",
    "wanda_structured": "Wanda, without a quarter of the hidden units and a third of the heads",
    "sparsegpt_structured": "SparseGPT, without the same share of both",
    "structured_tuned": "the network of the row before, then trained for as long as the next one",
    "dense_tuned": "dense, trained",
    "dense_tuned_twice": "dense_tuned, trained once more",
    "dense_tuned_thrice": "dense_tuned_twice, trained once more",
    "dense_tuned_longer": "dense, trained three times as long",
    "lc_50": "dense_tuned, pruned as global_50, then learning-compression towards it, 50 %",
    "lc_70": "lc_50, pruned as global_50, then learning-compression towards dense_tuned, 70 %",
    "admm_50_file": "ADMM, 50 %, as read from its file",
    "lc_50_file": "learning-compression, 50 %, as read from its file",
}
_NOT_FINAL = (
    " Rows without a test perplexity were not evaluated on the test texts, and are not in a figure "
    "of rows that were."
)
_FIELDS = ("nonzeros", "density", "seconds")
_LANGUAGE_FIELDS = ("calibration_seconds", "layer_error", "layer_errors", "sample", "file_bytes")
_PERPLEXITIES = ("perplexity", "validation_perplexity")
PER_SEED = (*_FIELDS, *_LANGUAGE_FIELDS)


def rows(config: Config, ended: Mapping[str, Sequence[Any]], command: str) -> list[Row]:
    """The rows of report.json."""
    del command
    found = [_tuning(config, row, ended) for row in CANDIDATES if f"{row}_tuning" in ended]
    for name in (name for name in ROWS if name in ended):
        results = [run.result() for run in ended[name]]
        row = describe(config, name, results, method=results[0]["settings"].get("method", name))
        look = ONE_SHOT[name].first_look if name in ONE_SHOT else None
        row |= {"published": {}, "first_look": {"perplexity_ratio": look} if look else {}}
        for field in _PERPLEXITIES:
            if all(field in result for result in results):
                row[field] = summary([result[field] for result in results])
        fields = [*_FIELDS, *(f for f in _LANGUAGE_FIELDS if f in results[0])]
        found.append(row | aggregate(results, fields, ()))
    for image_row, runs in ended.items():
        if not isinstance(runs[0], images.ImageRun):
            continue
        results = [run.result() for run in runs]
        settings = results[0]["settings"]
        about = {"method": settings["method"], "sparsity": settings["sparsity"]}
        errors = [e for e in ("test_error", "validation_error") if e in results[0]]
        row = describe(config, image_row, results, **about)
        found.append(row | aggregate(results, ("nonzeros", "seconds"), errors))
    return [*found, *trained_rows(config.trained, networks(found), config.final)]


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows with perplexities as ratios to the dense network's.

    Rows that train are compared with the best dense network, by validation, of those that were
    trained for as long or less.
    """
    by_name = {row["name"]: row for row in rows}
    found = []
    for row in rows:
        of = FILES.get(row["name"], row["name"])
        dense = by_name.get("dense")
        if of in TRAINED:
            there = [by_name[name] for name in dense_rows(of) if name in by_name]
            dense = min(there, key=lambda row: row["validation_perplexity"]["mean"], default=None)
        row = {name: value for name, value in row.items() if not name.endswith("_ratio")}
        for field in _PERPLEXITIES:
            if dense is not None and field in row and field in dense:
                (one,) = dense[field]["values"]
                row[f"{field}_ratio"] = summary([value / one for value in row[field]["values"]])
                row["compared_with"] = dense["name"]
        found.append(row)
    return found


def _tuning(config: Config, row: str, ended: Mapping[str, Sequence[Any]]) -> Row:
    results = [run.result() for run in ended[f"{row}_tuning"]]
    method = ONE_SHOT[row].method if row in ONE_SHOT else row
    found = describe(config, f"{row}_tuning", results, method=method)
    tried = [
        {"settings": dict(one), "validation_perplexity": result["validation_perplexity"]}
        for one, result in zip(CANDIDATES[row], results, strict=False)
    ]
    del found["settings"]
    return found | {"tried": tried}


def _way(row: Row) -> str:
    """Say what a row is, with the settings that were chosen for it."""
    way, settings = _WAYS[row["name"]], row["settings"]
    if settings.get("pattern") == "global":
        way += ", one exact budget for all layers"
    return way + (", layer by layer" if settings.get("sequential") else "")


def _ratio(row: Row, field: str) -> str:
    return f"{row[field]['mean']:.2f}{deviation(row[field])}x" if field in row else ""


def _perplexity(row: Row, field: str) -> str:
    return f"{row[field]['mean']:.1f}{deviation(row[field])}" if field in row else "(not looked at)"


def _mean(row: Row, field: str, form: str) -> str:
    if field not in row:
        return ""
    return form.format(sum(row[field]) / len(row[field]))


_LANGUAGE: Columns = (
    ("row", lambda row: f"{_way(row)} [{row['name']}]"),
    (
        "first look",
        lambda row: f"{row['first_look']['perplexity_ratio']:g}x" if row["first_look"] else "",
    ),
    ("test perplexity, as a ratio", lambda row: _ratio(row, "perplexity_ratio")),
    ("validation, as a ratio", lambda row: _ratio(row, "validation_perplexity_ratio")),
    ("test perplexity", lambda row: _perplexity(row, "perplexity")),
    ("validation perplexity", lambda row: _perplexity(row, "validation_perplexity")),
    ("error of a layer's outputs", lambda row: _mean(row, "layer_error", "{:.4f}")),
    ("weights kept", lambda row: f"{row['nonzeros'][0]:,}"),
    ("bytes of the file", lambda row: _mean(row, "file_bytes", "{:,.0f}")),
    ("seconds", lambda row: _mean(row, "seconds", "{:.0f}")),
    ("seconds of calibration", lambda row: _mean(row, "calibration_seconds", "{:.0f}")),
)
_TRIED: Columns = (
    ("row", lambda line: line["name"]),
    ("settings", lambda line: ", ".join(f"{k} {v}" for k, v in line["settings"].items())),
    ("validation perplexity", lambda line: f"{line['validation_perplexity']:.2f}"),
)


def _language(rows: Sequence[Row]) -> list[Row]:
    """The rows of the language model, as the table has them; added ones come last in a report."""
    by_name = {row["name"]: row for row in rows}
    return [by_name[name] for name in _WAYS if name in by_name]


def parts(rows: Sequence[Row]) -> Parts:
    """The report."""
    language = _language(rows)
    found: list[Part] = ["# Pruning pretrained networks"]
    if language:
        sizes = language[0]["settings"]
        found += [
            "## SmolLM2-135M-Instruct",
            Table(_LANGUAGE, language),
            f"{sizes['windows']} windows of {sizes['context']} tokens of the Brown corpus "
            "calibrate; the perplexity is that on windows of other texts of it "
            f"({sizes['test_windows'] * sizes['context']:,} tokens for the test), and its ratio is "
            "to that of the dense network; of rows that train, to that of the best dense network, "
            "by validation, of those that were trained for as long or less. Mean ± sample "
            "standard deviation over the draws of calibration "
            f"windows {', '.join(map(str, seeds_of(language)))}; rows that train, and files, have "
            "one draw. The kernels of the layers are pruned; the embedding, which also makes the "
            "logits, stays dense. The error of a layer's outputs is the mean over kernels of "
            "|X(W - W')|^2 / |XW|^2. The first look was plain NumPy with 10 calibration windows "
            "and 4,096 test tokens. "
            + "".join(_files(language))
            + "Settings are chosen by the validation texts; without `--final` no test perplexity "
            "is computed. What was tried by hand, and which test perplexities had been seen by "
            "then, stands in tuning.md beside the published report."
            + ("" if all("perplexity" in row for row in language) else _NOT_FINAL),
            *_trained(language),
        ]
        samples = [f"- {row['name']}: {row['sample'][0]!r}" for row in language if "sample" in row]
        if samples:
            found += ["What the networks write, always the likeliest token:", "\n".join(samples)]
    tuned = {row["name"]: row["tried"] for row in rows if "tried" in row}
    tried = [
        {"name": f"{name}_tuning", **one}
        for name in CANDIDATES
        for one in tuned.get(f"{name}_tuning", ())
    ]
    if tried:
        found += [
            "Settings that were tried, with a draw of their own:",
            Table(_TRIED, tried, False),
        ]
    for network in networks(rows):
        found += [f"## {titled(*network)}", _images_table(rows, network)]
        found += _trained_images(rows, network)
    if networks(rows):
        found.append(
            "Errors in per cent, mean ± sample standard deviation over the dense networks. Nothing "
            "is trained after one-shot pruning."
        )
    return [*found, MadeBy(), *(FigureFile("Errors", name) for name in figures(rows, {}))]


def _files(language: Sequence[Row]) -> list[str]:
    """Return a sentence for each kind of file that rows have written."""
    names: dict[tuple[int, int, int], list[str]] = {}
    for row in language:
        if file := row["settings"].get("file"):
            bits = [(file[key] - 1).bit_length() for key in ("values", "embedding_values")]
            names.setdefault((*bits, file["group_size"]), []).append(row["name"])
    return [
        f"In {'a file' if len(names) == 1 else ' and '.join(rows)} the weights that are kept have "
        f"{bits}-bit codes relative to the scale of their group of {group} inputs, the embedding "
        f"has {embedding_bits}-bit codes, and what is read back is evaluated; the dense file that "
        "the network comes from has 98.4 MB. "
        for (bits, embedding_bits, group), rows in names.items()
    ]


def _trained(language: Sequence[Row]) -> list[str]:
    """Return a paragraph on the rows that train, if there are any."""
    settings = {row["name"]: row["settings"] for row in language if row["name"] in TRAINED}
    if not settings:
        return []
    (windows,) = {one["batch_size"] for one in settings.values()}
    steps: dict[int, list[str]] = {}
    for name, one in settings.items():
        steps.setdefault(one["steps"], []).append(name)
    lengths = "; ".join(f"{', '.join(names)}: {count} steps" for count, names in steps.items())
    text = (
        f"Rows that train ({lengths}) take {windows} windows a step, of all texts that the "
        "calibration windows are drawn from, with Adam, whose rate falls to 0 along a cosine. "
        "Networks without units are trained at the size that `shrink` leaves."
    )
    mixed = [name for name, one in settings.items() if one.get("mixed_precision")]
    if mixed:
        text += (
            f" Of {', '.join(mixed)} the operands of products with matrices are rounded to "
            "bfloat16 while they train; sums, parameters and all else are float32."
        )
    for name, one in settings.items():
        if of := teacher(name):
            text += (
                f" {name} starts from the network of {one['source']}, pruned, and learns the "
                f"distributions of the next token that {of} gives in place of the tokens (the mean "
                "Kullback-Leibler divergence); each of these trainings sees the texts in an order "
                "of its own."
            )
    compared: dict[str, list[str]] = {}
    for row in language:
        if row["name"] in TRAINED and "compared_with" in row:
            compared.setdefault(row["compared_with"], []).append(row["name"])
    for dense, names in compared.items():
        text += f" {', '.join(names)}: compared with {dense}."
    return [text]


def networks(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The image networks: models with their datasets."""
    return list(dict.fromkeys((row["model"], row["dataset"]) for row in rows if "sparsity" in row))


def _of(rows: Sequence[Row], network: tuple[str, str]) -> list[Row]:
    return [r for r in rows if "sparsity" in r and (r["model"], r["dataset"]) == network]


def trained(rows: Sequence[Row], network: tuple[str, str]) -> list[Row]:
    """The rows of an image network that come from methods which train."""
    return [row for row in _of(rows, network) if "trained" in row]


def by_method(rows: Sequence[Row], network: tuple[str, str]) -> dict[str, dict[float, Row]]:
    """The rows of an image network by method and sparsity."""
    found: dict[str, dict[float, Row]] = {}
    order = ["dense", *images.METHODS]
    its = [row for row in _of(rows, network) if "trained" not in row]
    for row in sorted(its, key=lambda row: order.index(row["method"])):
        found.setdefault(row["method"], {})[row["sparsity"]] = row
    return found


def _images_table(rows: Sequence[Row], network: tuple[str, str]) -> Table:
    methods = by_method(rows, network)
    lines = [
        {"sparsity": sparsity, **{method: own.get(sparsity) for method, own in methods.items()}}
        for sparsity in (0.0, *images.SPARSITIES)
    ]

    columns: Columns = (
        ("weights removed", lambda line: f"{100 * line['sparsity']:.0f} %"),
        *((method, _cell(method)) for method in methods),
    )
    return Table(columns, lines)


def _cell(key: Any) -> Any:
    def text(line: Mapping[Any, Any]) -> str:
        row = line.get(key)
        if row is None:
            return ""
        test = "test_error" in row
        shown = (
            error(row["test_error"]) if test else f"{error(row['validation_error'])} (validation)"
        )
        if diverged := row.get("diverged_seeds"):
            shown += f" ({len(diverged)} diverged)"
        return shown

    return text


def _trained_images(rows: Sequence[Row], network: tuple[str, str]) -> Parts:
    """The methods that train, with networks of their own, at the sparsities that they have."""
    its = trained(rows, network)
    sparsities = sorted({row["sparsity"] for row in its if row["method"] != "dense"})
    lines: dict[str, dict[Any, Any]] = {}
    for row in its:
        lines.setdefault(row["method"], {"method": row["method"]})[row["sparsity"]] = row
    text = "Methods that train, from the report of `experiments.compare`"
    if dense := lines.pop("dense", None):
        text += f", with dense networks of their own of {_cell(0.0)(dense)}"
    if not lines:
        return []
    columns: Columns = (
        ("method that trains", lambda line: line["method"]),
        *((f"{100 * sparsity:g} % removed", _cell(sparsity)) for sparsity in sparsities),
    )
    return [f"{text}:", Table(columns, list(lines.values()))]


def figures(rows: Sequence[Row], ended: Mapping[str, Sequence[Any]]) -> dict[str, Picture]:
    """The perplexities, where the sparsity went, and the errors of the image networks."""
    del ended
    found: dict[str, Picture] = {}
    language = [row for row in _language(rows) if row["name"] != "dense"]
    if language:
        found["perplexity.png"] = pictures.perplexities(language)
    for network in networks(rows):
        methods = by_method(rows, network)
        found[f"{'_'.join(network)}.png"] = pictures.errors(methods, trained(rows, network))
    return found
