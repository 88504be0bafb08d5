"""``python -m experiments.guide_figures``: the figures of Getting started and the method pages."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common.report import made_by, write_report
from experiments.common.runner import command_line
from experiments.data import load
from experiments.guide_figures.figures import figures
from experiments.guide_figures.published import published_figures
from experiments.guide_figures.sweeps import TARGET, TOLERANCE, Sweeps

_README = Path(__file__).parents[2] / "README.md"


ROWS = (
    "getting_started",
    "learning_compression",
    "constrained_l0",
    "gated_weight_decay",
    "tickets",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """One hyperparameter of each method varied in short runs, and the README's example drawn."""

    rows: tuple[str, ...] = ROWS
    """Rows to make; the others stay as they are in the report. None: draw the figures anew."""
    epochs: int = 10
    """Epochs a run."""
    data_dir: Path | None = None
    """Folder of the datasets; default as for all experiments."""
    results: Path = Path("results/guide_figures")
    """Folder of the report and the figures; beside it lie the reports of other experiments, whose
    published results are drawn."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"--epochs must be positive; got {self.epochs}")
        if unknown := set(self.rows) - {*ROWS}:
            raise ValueError(f"--rows must be of {', '.join(ROWS)}; got {', '.join(unknown)}")


def readme_example() -> str:
    """The first Python example of the README."""
    found = re.search(r"```python\n(.*?)```", _README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def getting_started() -> dict[str, Any]:
    """Run the README's example, and the same training without compression."""
    printed: list[str] = []
    names: dict[str, Any] = {"print": lambda what: printed.append(str(what))}
    exec(readme_example(), names)
    kernel = names["sparsejax"].compressed_params(names["opt_state"], names["params"])["kernel"]
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = optimizer.update(jax.grad(names["loss"])(params), state, params)
        return optax.apply_updates(params, updates), state

    params = {"kernel": jnp.zeros_like(kernel)}
    state = optimizer.init(params)
    for _ in range(400):
        params, state = step(params, state)
    return {
        "name": "getting_started",
        "printed": printed,
        "dense": np.asarray(params["kernel"])[:, 0].tolist(),
        "compressed": np.asarray(kernel)[:, 0].tolist(),
    }


def sweep_rows(config: Config) -> Iterator[dict[str, Any]]:
    """The rows of the sweeps that are asked for."""
    sweeps = Sweeps(load("mnist", config.data_dir), config.epochs)
    about = {"model": "lenet300", "dataset": "mnist", "epochs": config.epochs, "seeds": [0]}
    about |= {"dense_error": sweeps.dense_error(), "weights": sweeps.weights()}
    for name, run, more in (
        ("learning_compression", sweeps.learning_compression, {}),
        ("constrained_l0", sweeps.constrained_l0, {"target": TARGET}),
        ("gated_weight_decay", sweeps.gated_weight_decay, {"tolerance": TOLERANCE}),
        ("tickets", sweeps.tickets, {}),
    ):
        if name in config.rows:
            runs = []
            for found in run():
                print(name, found, flush=True)
                runs.append(found)
            yield {"name": name, **about, **more, "runs": runs}


def main(config: Config, command: str) -> None:
    """Make the rows, and write the report and the figures."""
    config.results.mkdir(parents=True, exist_ok=True)
    file = config.results / "report.json"
    before = json.loads(file.read_text()) if file.exists() else {"rows": []}
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in before["rows"]}
    if "getting_started" in config.rows:
        rows["getting_started"] = getting_started()
    if {*config.rows} - {"getting_started"}:
        rows |= {row["name"]: row for row in sweep_rows(config)}
    report = before
    if config.rows:
        ordered = [rows[name] for name in ROWS if name in rows]
        everything = command.partition(" --rows")[0]  # the command that makes all rows
        report = write_report(config.results, "guide_figures", everything, ordered)
    drawn = figures(rows) | published_figures(config.results.parent)
    for name, figure in drawn.items():
        figure.savefig(config.results / name, dpi=150)
    pictures = "\n\n".join(f"![{name.removesuffix('.png')}]({name})" for name in drawn)
    text = (
        "# Figures of the guides\n\nThe example of Getting started, and one hyperparameter of each "
        f"method: LeNet300 on MNIST, {config.epochs} epochs a run, one seed, "
        f"validation images only. Published results beside ours are those of the reports of "
        f"the experiments.\n\n{pictures}\n\n{made_by(report)}\n"
    )
    (config.results / "report.md").write_text(text)


if __name__ == "__main__":
    command_line(Config, "experiments.guide_figures", main)
