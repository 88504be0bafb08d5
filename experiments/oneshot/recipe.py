"""Prune a pretrained network by every method; then train some of the results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from experiments.common.mixed_precision import mixed_precision
from experiments.common.runner import Recipe
from experiments.oneshot import files, images, report, structured
from experiments.oneshot.config import (
    CANDIDATES,
    FILES,
    ONE_SHOT,
    STRUCTURED,
    TRAINED,
    TUNING_DRAW,
    Config,
    sources,
    teacher,
)
from experiments.oneshot.language import Calibrations, Language, in_layers, load
from experiments.oneshot.unsaved import UnsavedRun
from sparsejax import compression, inspection, oneshot
from sparsejax.deploy import Shrunk, expand, load_sparse
from sparsejax.training import Batches, init_state, make_step
from sparsejax.transforms import kept_weights

_L_STEPS = 10
_CHECKPOINT_STEPS = 50
_NEXT_ORDER = 1000


class LanguageRun(UnsavedRun):
    """A row with one draw of calibration windows.

    Its network is not saved, except where it was trained: pruning it again takes minutes.
    """

    final_field = "perplexity"

    def __init__(
        self,
        row: str,
        folder: Path,
        settings: Mapping[str, Any],
        draw: int,
        config: Config,
        language: Language,
        calibrations: Calibrations,
    ):
        final = config.final and draw != TUNING_DRAW
        super().__init__(row, folder, settings, draw, config.resume, final=final)
        self.language, self.calibrations = language, calibrations

    def headline(self, result: Mapping[str, Any]) -> str:
        """The validation perplexity alone, so that no choice is made by the test texts."""
        return f"validation perplexity {result['validation_perplexity']:.2f}"

    def evaluated(self, params: Any, seconds: Mapping[str, float]) -> dict[str, Any]:
        """The fields of a result about a network."""
        chosen = inspection.report(params, in_layers)
        language = self.language
        result = {
            "model": "smollm2_135m",
            "dataset": "brown",
            "name": self.row,
            "nonzeros": chosen.nonzeros,
            "density": chosen.density,
            "validation_perplexity": language.perplexity(params, "validation"),
            "sample": language.sample(params),
            **seconds,
        }
        if self.final:
            result["perplexity"] = language.perplexity(params, "test")
        return result


class PrunedRun(LanguageRun):
    """The dense network, or what a one-shot method makes of it."""

    def train(self) -> tuple[dict[str, Any], None]:
        """Calibrate, prune and evaluate; nothing is trained."""
        params, errors, seconds = self.pruned()
        result = self.evaluated(params, seconds)
        if errors:
            result["layer_error"] = float(np.mean(list(errors.values())))
            result["layer_errors"] = errors
        return result, None

    def pruned(self, params: Any = None) -> tuple[Any, dict[str, float], dict[str, float]]:
        """The pruned network, the error of each kernel's outputs, and the seconds it took.

        Args:
          params: what is pruned in place of the pretrained parameters.
        """
        language, settings, calibrations = self.language, dict(self.settings), self.calibrations
        if params is not None:
            language = replace(language, params=params)
            calibrations = Calibrations(language)
        if self.row == "dense":
            return language.params, {}, {"seconds": 0.0, "calibration_seconds": 0.0}
        make = getattr(oneshot, settings["method"])
        method = make(**settings["options"])
        arguments = (settings["sparsity"], method, settings["pattern"])
        start = time.perf_counter()
        if settings["pattern"] == STRUCTURED:
            calibration = jax.block_until_ready(calibrations(self.seed))
            calibrated = time.perf_counter()
            params, taken = structured.pruned(language, calibration, method)
            return params, {}, {"seconds": taken, "calibration_seconds": calibrated - start}
        if settings["sequential"]:
            params = oneshot.prune_sequentially(
                language.function,
                language.params,
                list(language.batches(self.seed)),
                *arguments,
                where=in_layers,
            )
            calibrated = start
        else:
            calibration = jax.block_until_ready(calibrations(self.seed))
            squares = None
            if settings["comparison"] == "loss":
                squares = language.squared_gradients(self.seed, settings["gradient_windows"])
            calibrated = time.perf_counter()
            params = oneshot.prune(
                language.params,
                calibration,
                *arguments,
                where=in_layers,
                comparison=settings["comparison"],
                squared_gradients=squares,
            )
        jax.block_until_ready(params)
        seconds = {
            "seconds": time.perf_counter() - calibrated,
            "calibration_seconds": calibrated - start,
        }
        calibration = calibrations(self.seed)
        return params, oneshot.layer_errors(language.params, params, calibration), seconds


class TrainedRun(LanguageRun):
    """Learning-compression from a one-shot start, or as much training of the dense network."""

    start: PrunedRun | None = None
    source: TrainedRun | None = None
    teacher: TrainedRun | None = None

    def train(self) -> tuple[dict[str, Any], Any]:
        """Prune, train and evaluate."""
        settings, language = self.settings, self.language
        source = None if self.source is None else self.source.trained()
        params = language.params if source is None else source
        learnt = None if self.teacher is None else self.teacher.trained()
        cuts = self.start is not None and self.start.settings["pattern"] == STRUCTURED
        # Training that goes on from a checkpoint needs what was pruned for its sizes alone.
        if self.start is not None and (cuts or not self.begun()):
            params = self.start.pruned(source)[0]
        small: Shrunk | None = None
        if cuts:
            small = structured.smaller(language, params)
            language, params = replace(language, function=small.function), small.params
            small = small.with_params(None)
        if settings["mixed_precision"]:
            language = replace(language, function=mixed_precision(language.function))
        optimizer = self.optimizer()
        loss: Any = language.loss if learnt is None else language.distillation_loss
        state = init_state(params, optimizer, jax.random.key(self.seed), statistics=learnt)
        del params, source, learnt  # the state has copies, and there is no memory for both

        # What has been trained before sees the texts in another order.
        order = self.seed + _NEXT_ORDER * self.trainings_before
        state = self.fit(
            make_step(loss, optimizer),
            state,
            Batches({"tokens": language.training()}, settings["batch_size"], order),
            steps=settings["steps"],
            report_every=self.steps_per_l_step,
            checkpoint_every=_CHECKPOINT_STEPS,
        )
        found = state.params
        if settings["sparsity"]:
            found = sparsejax.compressed_params(state.opt_state, found)
        if small is not None:
            found = expand(small.with_params(found)).params
        return self.evaluated(found, {"seconds": self.metrics()[-1]["seconds"]}), found

    def trained(self) -> Any:
        """The parameters that it ended with, as those of the dense network are held."""
        like = self.language.params
        return jax.tree.map(
            jnp.asarray, load_sparse(self.folder / "network.safetensors", like=like)
        )

    @property
    def trainings_before(self) -> int:
        """How many trainings came before it."""
        return 0 if self.source is None else 1 + self.source.trainings_before

    @property
    def steps_per_l_step(self) -> int:
        """Steps of an L step."""
        return max(1, int(self.settings["steps"]) // _L_STEPS)

    def optimizer(self) -> optax.GradientTransformation:
        """Adam, and learning-compression before it where the row is sparse."""
        settings = self.settings
        rate = optax.cosine_decay_schedule(settings["rate"], settings["steps"])
        if settings["sparsity"] == 0:
            return optax.adam(rate)
        chosen = inspection.report(self.language.params, in_layers).size
        kappa = kept_weights(chosen, settings["sparsity"])

        def mu(l_step: Any) -> Any:
            return settings["mu"] * settings["mu_growth"] ** jnp.asarray(l_step)

        return optax.chain(
            sparsejax.learning_compression(
                compression.l0_ball(kappa), mu, self.steps_per_l_step, where=in_layers
            ),
            optax.adam(rate),
        )


class FileRun(LanguageRun):
    """The network of another run, quantised and written to a file; what is read is evaluated."""

    start: PrunedRun | TrainedRun

    def train(self) -> tuple[dict[str, Any], None]:
        """Quantise, write, read and evaluate; nothing is trained."""
        start = time.perf_counter()
        if isinstance(self.start, PrunedRun):
            params = self.start.pruned()[0]
        else:
            params = self.start.trained()
        settings = self.settings["file"]
        size, found = files.written(self.folder / "network.safetensors", params, settings)
        result = self.evaluated(found, {"seconds": time.perf_counter() - start})
        return result | {"file_bytes": size}, None


def plan(config: Config) -> Iterator[Any]:
    """Yield the candidates of each row, then the draws of the rows, then the image networks."""
    of_images = list(images.plan(config))
    config.check_planned(run.planned for run in of_images)
    if config.row:
        yield from _language(config)
    yield from of_images


def _language(config: Config) -> Iterator[LanguageRun]:
    language = load(config)
    calibrations = Calibrations(language)

    def pruned(row: str, draw: int, candidate: Mapping[str, Any], folder: Path) -> PrunedRun:
        settings = one_shot_settings(config, row, candidate)
        return PrunedRun(row, folder, settings, draw, config, language, calibrations)

    def trained(row: str, draw: int, candidate: Mapping[str, Any], folder: Path) -> TrainedRun:
        settings = trained_settings(config, row, candidate, tuning=draw == TUNING_DRAW)
        run = TrainedRun(row, folder, settings, draw, config, language, calibrations)
        if (start := TRAINED[row].start) is not None:
            run.start = pruned(start, draw, ONE_SHOT[start].candidates[0], folder / "start")
            run.start.settings["sparsity"] = settings["sparsity"]
        before = sources(row)
        made = {
            name: trained(name, draw, chosen[name], config.folder / name / f"seed_{draw}")
            for name in before
        }
        run.source = made[before[0]] if before else None
        run.teacher = made.get(teacher(row) or "")
        return run

    rows = config.rows()
    single = {row: found[0] for row, found in CANDIDATES.items() if len(found) == 1}
    chosen: dict[str, Mapping[str, Any]] = {"dense": {}, **chosen_before(config), **single}

    def settled() -> list[LanguageRun]:
        """Return the runs of the rows whose settings are chosen, as those of their sources are."""
        runs: list[LanguageRun] = []
        ready = [
            row for row in rows
            if {FILES.get(row, row), *sources(row)} <= set(chosen)
        ]  # fmt: skip
        if "dense" in ready:
            runs.append(pruned("dense", 0, chosen["dense"], config.folder / "dense" / "seed_0"))
        for draw in config.seeds:
            for row in [row for row in ready if row in ONE_SHOT]:
                runs.append(pruned(row, draw, chosen[row], config.folder / row / f"seed_{draw}"))
        if not config.seeds:
            return runs  # settings are chosen, and nothing is made with them
        draw = config.seeds[0]
        ended = {}
        for row in [row for row in ready if row in TRAINED]:
            ended[row] = trained(row, draw, chosen[row], config.folder / row / f"seed_{draw}")
        runs += ended.values()
        for row in [row for row in ready if row in FILES]:
            of = FILES[row]
            folder = config.folder / row / f"seed_{draw}"
            start = ended.get(of) or pruned(of, draw, chosen[of], folder / "start")
            settings = {**start.settings, "row": row, "file": dict(files.SETTINGS)}
            to_file = FileRun(row, folder, settings, draw, config, language, calibrations)
            to_file.start = start
            runs.append(to_file)
        return runs

    config.check_planned(run.planned for run in settled())
    for row in [row for row in rows if row in CANDIDATES and row not in chosen]:
        found = CANDIDATES[row]
        make = trained if row in TRAINED else pruned
        tried = [
            make(row, TUNING_DRAW, one, config.folder / row / "tuning" / f"candidate_{number}")
            for number, one in enumerate(found)
        ]
        for run in tried:
            run.row = f"{row}_tuning"
            yield run
        if all(run.done() for run in tried):
            errors = [run.result()["validation_perplexity"] for run in tried]
            chosen[row] = found[int(np.argmin(errors))]
        elif config.partial:
            chosen[row] = found[0]  # what has ended before any other was tried
    runs = settled()
    config.check_planned(run.planned for run in runs)
    yield from runs


def chosen_before(config: Config) -> dict[str, Mapping[str, Any]]:
    """The settings that were chosen for the report that ``--add`` adds to, by row."""
    rows = config.earlier_rows()
    tried = {row["name"]: row["tried"] for row in rows if "tried" in row}
    found = {}
    for row, candidates in CANDIDATES.items():
        every = tried.get(f"{row}_tuning", [])
        if len(every) == len(candidates):
            found[row] = min(every, key=lambda one: one["validation_perplexity"])["settings"]
    return found


def trained_settings(
    config: Config, row: str, candidate: Mapping[str, Any], tuning: bool
) -> dict[str, Any]:
    """Return the settings that define a run with training, as JSON values."""
    sizes = config.sizes()
    if tuning:
        sizes["steps"] = sizes["tuning_steps"]
    else:
        sizes["steps"] *= TRAINED[row].times
    del sizes["tuning_steps"], sizes["gradient_windows"]
    return {
        "row": row, "preset": config.preset, **sizes, "mixed_precision": config.mixed_precision,
        "sparsity": TRAINED[row].sparsity, "start": TRAINED[row].start,
        **({"source": source} if (source := TRAINED[row].source) else {}), **candidate,
    }  # fmt: skip


def one_shot_settings(config: Config, row: str, candidate: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that define a run without training, as JSON values."""
    sizes = config.sizes()
    names = ("context", "windows", "validation_windows", "test_windows")
    settings = {"row": row, "preset": config.preset} | {name: sizes[name] for name in names}
    if row == "dense":
        return settings
    options = dict(candidate)
    if options.get("comparison") == "loss":
        settings["gradient_windows"] = sizes["gradient_windows"]
    return settings | {
        "method": ONE_SHOT[row].method,
        "sparsity": ONE_SHOT[row].sparsity,
        "pattern": options.pop("pattern"),
        "comparison": options.pop("comparison", "balanced"),
        "sequential": options.pop("sequential", False),
        "options": options,
    }


RECIPE = Recipe(
    Config,
    plan,
    report.rows,
    report.parts,
    report.figures,
    per_seed=report.PER_SEED,
    relate=report.with_ratios,
)
