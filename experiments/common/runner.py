"""The runner of every experiment: flags, run folders, resuming, seeds, reports and figures.

An experiment is a `Recipe`: it plans `Run`s and turns what they ended with into rows, a report and
figures. The rest is here, once.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import tyro
from matplotlib.figure import Figure

from experiments.common.memory import release_memory
from experiments.common.merge import Planned, check_planned, merge, rows_with_sources
from experiments.common.report import (
    Parts,
    Row,
    Table,
    made_by,
    origin,
    read_report,
    write_markdown,
    write_report,
)
from experiments.data import DataError
from sparsejax.compression import decode
from sparsejax.deploy import load_sparse, save_sparse
from sparsejax.training import (
    Callback,
    CheckpointError,
    Checkpoints,
    MetricLog,
    ProgressBar,
    TrainingDivergedError,
    TrainState,
    Writer,
    fit,
    init_run_dir,
    read_metrics,
    report,
    write_json,
)

_State = TypeVar("_State", bound=TrainState)

Picture = Figure | Callable[[Path], Any]
"""A figure, or a function that writes one to a path."""


def flag_of(name: str) -> str:
    """The flag of a field of `Config`, as it is typed."""
    return f"--{name.replace('_', '-')}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The flags of every experiment."""

    experiment: ClassVar[str]

    output: Path | None = None
    """Folder of the runs (configuration, metrics, checkpoints, results, networks); default
    runs/EXPERIMENT."""
    results: Path | None = None
    """Folder of the report and the figures; default OUTPUT/results."""
    data_dir: Path | None = None
    """Folder of the datasets; default $SPARSEJAX_DATA_DIR, else the user's cache folder."""
    resume: bool = False
    """Continue what is already in OUTPUT; runs that ended are not run again."""
    partial: bool = False
    """Train nothing; report what has ended in OUTPUT."""

    @property
    def folder(self) -> Path:
        """Folder of the runs."""
        return self.output or Path("runs") / self.experiment

    @property
    def report_folder(self) -> Path:
        """Folder of the report and the figures."""
        return self.results or self.folder / "results"

    def check(self) -> None:
        """Raise ValueError where a flag is out of its range; the library checks the others."""

    def require(self, allowed: str, holds: Callable[[Any], bool], *names: str) -> None:
        """Raise ValueError where a flag of ``names`` is given for which ``holds`` is false."""
        for name in names:
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and not holds(value):
                    raise ValueError(f"{flag_of(name)} must be {allowed}; got {value}")

    def require_some(self, name: str, one: str) -> None:
        """Raise ValueError where the flag ``name`` has no value; ``one`` says what one would be."""
        if getattr(self, name) == ():
            raise ValueError(f"{flag_of(name)} must name at least one {one}; got none")

    def require_distinct(self, *names: str) -> None:
        """Raise ValueError where a flag of ``names`` is given the same value twice."""
        for name in names:
            given = getattr(self, name) or ()
            twice = [value for value in dict.fromkeys(given) if given.count(value) > 1]
            if twice:
                raise ValueError(
                    f"{flag_of(name)} must not name a value twice; got {twice[0]} again"
                )

    def check_seeds(self) -> None:
        """Raise ValueError where the experiment has seeds and one is out of range or named twice.

        The results of a seed that is named twice would count as two.
        """
        if hasattr(self, "seeds"):
            self.require("in [0, 2**32)", lambda seed: 0 <= seed < 2**32, "seeds")
            self.require_distinct("seeds")

    def overridden(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """``defaults`` with the values of the flags of the same names that are given."""
        given = {name: getattr(self, name, None) for name in defaults}
        return dict(defaults) | {name: x for name, x in given.items() if x is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddingConfig(Config):
    """The flags of an experiment whose report can be made in pieces."""

    add: bool = False
    """Add to the report in RESULTS: its other rows and seeds stay, and settings that were chosen
    for it are not chosen again."""

    def earlier_rows(self) -> Sequence[Row]:
        """The rows of the report that is added to, read once; none without ``--add``.

        Raises:
          ValueError: the report is of another experiment.
        """
        return self._earlier_rows

    @functools.cached_property
    def _earlier_rows(self) -> tuple[Row, ...]:
        content = read_report(self.report_folder) if self.add else {"rows": []}
        other = content.get("experiment", self.experiment)
        if other != self.experiment:
            raise ValueError(
                f"--add: --results must hold a report of {self.experiment}; {self.report_folder} "
                f"has one of {other}"
            )
        return tuple(rows_with_sources(content))

    def check_planned(self, planned: Iterable[Planned]) -> None:
        """Refuse, before they are made, runs that the report which is added to has no place for.

        A plan calls it with all runs of a row, as soon as their settings are known.

        Raises:
          ValueError: the report has a row of theirs with other settings, and with seeds that are
            not made again.
        """
        if self.add and not self.partial:  # that reports what has ended of what is planned
            check_planned(self.earlier_rows(), planned)


class Run:
    """A network trained with one list of settings and one seed, in its own folder.

    A run that has ended holds ``result.json`` and ``network.safetensors`` (see `save_sparse`). They
    are written last, in one move each, so that a run may be killed at any moment.

    Args:
      row: the row of the report that it belongs to.
      folder: its own.
      settings: what defines it, as JSON values; the seed is added.
      seed: the seed of parameters and of the order of the examples.
      resume: whether to continue what is in the folder.
    """

    def __init__(
        self, row: str, folder: Path, settings: Mapping[str, Any], seed: int, resume: bool
    ):
        self.row, self.folder, self.seed, self.resume = row, folder, seed, resume
        self.settings = {**settings, "seed": seed}

    @property
    def title(self) -> str:
        """A name for the screen."""
        return f"{self.row} seed {self.seed}"

    @property
    def planned(self) -> Planned:
        """What of it is known before it is made."""
        return Planned(self.row, self.settings, self.seed)

    def train(self) -> tuple[dict[str, Any], Any]:
        """Train to the end; return the result (JSON values) and the parameters or their forms."""
        raise NotImplementedError

    def headline(self, result: Mapping[str, Any]) -> str:
        """A line for the screen about ``result``."""
        return f"test error {result['test_error']:.2f} %"

    def done(self) -> bool:
        """Whether it has ended with these settings."""
        files = (self.folder / name for name in ("result.json", "network.safetensors"))
        return all(file.exists() for file in files) and self.result()["settings"] == self.settings

    def reportable(self) -> bool:
        """Whether there is a result to report, perhaps of the first part of the run."""
        return self.done()

    def result(self) -> dict[str, Any]:
        """The result that it ended with."""
        result: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return result

    def network(self) -> Any:
        """The parameters that it ended with: a pytree of NumPy arrays in nested dicts."""
        return decode(load_sparse(self.folder / "network.safetensors"))

    def metrics(self, phase: str = "") -> list[dict[str, float]]:
        """The rows of ``metrics.jsonl`` of the run or of a phase."""
        return read_metrics(self.folder / phase)

    def ensure(self) -> str:
        """Train unless it has ended and may be resumed; return a line for the screen."""
        if self.resume and self.done():
            return f"{self.title}: {self.headline(self.result())} (already there)"
        self.announce()
        result, network = self.train()
        result = {
            "settings": self.settings,
            "seed": self.seed,
            **result,
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        end(self.folder, result, network)
        del network
        release_memory()  # runs without `fit` would keep what the next one may need
        return f"{self.title}: {self.headline(result)} ({result['seconds']:.0f} s)"

    def begun(self) -> bool:
        """Whether `fit` will go on from a checkpoint, so that the state it is given has no say.

        Where all checkpoints turn out to be damaged, `fit` raises.
        """
        folder = self.folder / "checkpoints"
        if not (self.resume and folder.exists()):
            return False
        checkpoints = Checkpoints(folder)
        found = checkpoints.steps()
        checkpoints.close()
        return bool(found)

    def announce(self) -> None:
        """Say that the run begins, unless a terminal shows a progress bar."""
        if not sys.stderr.isatty():
            print(f"{self.title} begins", flush=True)

    def fit(
        self,
        step: Any,
        state: _State,
        batches: Any,
        *,
        steps: int,
        phase: str | None = "",
        config: Mapping[str, Any] | None = None,
        evaluate: Callable[[Any], Mapping[str, float]] | None = None,
        report_every: int | None = None,
        checkpoint_every: int | None = None,
        callbacks: Sequence[Callback] = (),
        **options: Any,
    ) -> _State:
        """`sparsejax.training.fit`, reported and saved in the folder of the run or of a phase.

        The first arguments and ``options`` are those of `fit`; the arrays of ``state`` are donated,
        and so deleted. ``phase`` is the name of a part of the run, or None where nothing is to be
        written; ``config`` is what the phase depends on, by default the settings. ``evaluate`` adds
        numbers to the reports, which are written every ``report_every`` steps, by default an epoch;
        ``callbacks`` come before them.
        """
        name = f"{self.title}, {phase}" if phase else self.title
        writers: list[Writer] = [ProgressBar(steps, name)]
        if phase is not None:
            folder = init_run_dir(self.folder / phase, config or self.settings, self.resume)
            writers.append(MetricLog(folder))
            options["checkpoints"] = Checkpoints(folder / "checkpoints", every=checkpoint_every)
        reports = report(*writers, evaluate=evaluate, every=report_every)
        release_memory()
        final = fit(
            step, state, batches, steps=steps, callbacks=[*callbacks, reports],
            donate_state=True, **options,
        )  # fmt: skip
        release_memory()
        return final


def end(folder: Path, result: Mapping[str, Any], network: Any) -> None:
    """Write the files of a run that has ended; without a network, the result alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if network is not None:
        save_sparse(folder / "network.safetensors", network)
    write_json(folder / "result.json", result)


C = TypeVar("C", bound=Config)


@dataclasses.dataclass(frozen=True)
class Recipe(Generic[C]):
    """An experiment."""

    config: type[C]
    plan: Callable[[C], Iterator[Any]]
    """``config -> runs``, in the order in which they are made; a generator may wait for the result
    of one run before it plans the next."""
    rows: Callable[[C, Mapping[str, Sequence[Any]], str], list[Row]]
    """``(config, ended runs by row, command) -> rows`` of report.json."""
    report: Callable[[Sequence[Row]], Parts]
    """``rows -> parts`` of report.md; the tables are printed, too."""
    figures: Callable[[Sequence[Row], Mapping[str, Sequence[Any]]], Mapping[str, Picture]]
    """``(rows, ended runs by row) -> figures`` by file name: those that can be drawn from these."""
    per_seed: Collection[str] = ()
    """With `AddingConfig`, the fields of a row that are lists with a value for each seed."""
    relate: Callable[[Sequence[Row]], list[Row]] = list
    """``rows -> rows``, with the fields that relate a row to others of the report."""


def main(recipe: Recipe[C], config: C, command: str) -> None:
    """Make the runs that are asked for, then the report and the figures."""
    config = dataclasses.replace(config)  # a copy has not read the report that is added to
    config.check()
    config.check_seeds()
    there = config.earlier_rows() if isinstance(config, AddingConfig) else []
    ended: dict[str, list[Any]] = {}
    for run in recipe.plan(config):
        if not config.partial:
            print(run.ensure(), flush=True)
        elif not run.reportable():
            continue
        ended.setdefault(run.row, []).append(run)
    rows = recipe.rows(config, ended, command) if ended else []
    if not rows:
        raise ValueError(
            f"--partial: nothing of these rows has ended in {config.folder}"
            if config.partial
            else "there is nothing to report, since these flags ask for no run"
        )
    folder = config.report_folder
    if isinstance(config, AddingConfig) and config.add:
        source = made_by({"command": command, **origin()})
        rows = merge(there, rows, recipe.per_seed, source)
    rows = recipe.relate(rows)
    folder.mkdir(parents=True, exist_ok=True)
    content = write_report(folder, config.experiment, command, rows)
    parts = recipe.report(rows)
    for part in parts:
        if isinstance(part, Table) and part.on_screen:
            print(f"\n{part.screen()}")
    pictures = draw(folder, recipe.figures(rows, ended))
    write_markdown(folder, content, parts)
    _announce(folder, pictures)


def rewrite(folder: Path) -> None:
    """Write report.md, and the figures that need no runs, anew from ``folder/report.json``."""
    content = json.loads((folder / "report.json").read_text())
    recipe = importlib.import_module(f"experiments.{content['experiment']}.recipe").RECIPE
    pictures = draw(folder, recipe.figures(content["rows"], {}))
    write_markdown(folder, content, recipe.report(content["rows"]))
    _announce(folder, pictures)


def draw(folder: Path, figures: Mapping[str, Picture]) -> list[Path]:
    """Write the figures; return their paths."""
    for name, figure in figures.items():
        if isinstance(figure, Figure):
            figure.savefig(folder / name, dpi=130, metadata={"Software": None})
        else:
            figure(folder / name)
    return [folder / name for name in figures]


def cli(recipe: Recipe[Any]) -> None:
    """Run an experiment from the command line."""
    module = f"experiments.{recipe.config.experiment}"
    command_line(recipe.config, module, functools.partial(main, recipe))


def command_line(config_type: type[Any], module: str, run: Callable[[Any, str], Any]) -> None:
    """Read the flags and call ``run(config, command)``; an error is one line."""
    warnings.filterwarnings("default", category=RuntimeWarning, module="sparsejax")
    program = f"python -m {module}"
    try:
        config = tyro.cli(config_type, prog=program)
        run(config, " ".join([program, *sys.argv[1:]]))
    except (ValueError, OSError, DataError, CheckpointError, TrainingDivergedError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command with --resume goes on from the last checkpoint")


def _announce(folder: Path, pictures: Sequence[Path]) -> None:
    print()
    for path in (folder / "report.md", folder / "report.json", *pictures):
        print(f"wrote {path}")
