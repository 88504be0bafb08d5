"""A population of searches: rounds, tickets, and what the tickets reach when they are trained."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh

from experiments.common.runs import errors
from experiments.data import Dataset
from experiments.tickets import networks, options
from sparsejax import tickets
from sparsejax.tickets import Method, Ticket
from sparsejax.training import (
    Batches,
    Checkpoints,
    MetricLog,
    ProgressBar,
    StepFunction,
    TrainState,
    Writer,
    fit,
    init_run_dir,
    report,
    write_json,
)

_OWN_ROUNDS_SHOW = ("imp", "imp_continued")
"""Methods whose next round trains the ticket of the one before."""

_EARLY = "early.json"


class Population:
    """All members of a method, in one program; in its folder a folder for each round."""

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        settings: dict[str, Any],
        resume: bool = False,
        devices: int | None = None,
        vmap_size: int | None = None,
    ):
        self.folder, self.settings, self._resumes = folder, settings, resume
        self._dataset = dataset
        network = networks.network(settings["model"], dataset, settings["width"], settings["dtype"])
        self._members = settings["members"]
        by_seed = {seed: network.init(seed) for seed in {int(m["seed"]) for m in self._members}}
        starts = [by_seed[int(member["seed"])] for member in self._members]
        self._initial, self._statistics = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
        seeds = jnp.asarray([member["seed"] for member in self._members])
        self._keys = jax.vmap(jax.random.key)(seeds)
        self._steps_per_epoch = len(dataset.train.labels) // settings["batch_size"]
        self._steps = settings["epochs"] * self._steps_per_epoch
        self._optimizer = _optimizer(settings, self._steps)
        self._loss = network.loss
        self._mistakes = jax.jit(network.mistakes)
        self._mesh = _mesh(len(self._members), devices)
        on_cpu = jax.default_backend() == "cpu"
        step_by_step = network.has_convolutions_of_xla and on_cpu
        self._scan = tickets.population_scan(self._mesh, vmap_size, unroll=step_by_step)
        # An accelerator gets whole epochs: one program, and few calls.
        self._steps_per_call = 1 if step_by_step else None if on_cpu else self._steps_per_epoch

    @property
    def title(self) -> str:
        """For the screen."""
        s = self.settings
        return f"{s['model']} {s['dataset']} {s['method']}, {len(s['members'])} members"

    def ensure(self) -> list[dict[str, Any]]:
        """The rows of all rounds and members, searched for unless they are there."""
        file = self.folder / "result.json"
        if self._resumes and file.exists():
            result = json.loads(file.read_text())
            if options.identity(result["settings"]) == options.identity(self.settings):
                return result["rows"]
        rows = self._search()
        write_json(file, {"settings": self.settings, "rows": rows})
        return rows

    def ended(self) -> list[dict[str, Any]]:
        """The rows of the rounds that have ended so far."""
        file = self.folder / _EARLY
        if not file.exists():
            return []
        init_run_dir(self.folder / "round_0", _comparable(self.settings), resume=True)
        return json.loads(file.read_text())["rows"]

    def masks(self, number: int) -> dict[str, np.ndarray]:
        """The masks after a round, by path: [members, ...]."""
        with np.load(self.folder / f"masks_{number}.npz") as file:
            return {name: file[name] for name in file.files if name != "scale"}

    def scales(self, number: int) -> np.ndarray:
        """Of the tickets after a round, as they were trained: [members].

        A file that does not say is from a time when scales were folded into the weights.
        """
        with np.load(self.folder / f"masks_{number}.npz") as file:
            return file["scale"] if "scale" in file.files else np.ones(len(self._members))

    def pace(self) -> float:
        """Seconds that an epoch of all members takes, once it is compiled."""
        state, step = self._start(), self._step()
        for epochs in (1, 2):
            start = time.perf_counter()
            state = jax.block_until_ready(
                self._fit(None, step, state, 0, epochs * self._steps_per_epoch)
            )
        return time.perf_counter() - start

    def _start(self) -> TrainState:
        """Before the first round."""
        hyper = {
            name: jnp.asarray([member[name] for member in self._members], jnp.float32)
            for name in self._members[0]
            if name != "seed"
        }
        return self._dealt_out(
            tickets.init_population(
                self._method, self._initial, self._optimizer, self._keys, hyper, self._statistics
            )
        )

    def _step(self) -> StepFunction[TrainState]:
        rewind = self.settings["rewind_epochs"] * self._steps_per_epoch
        return tickets.search_step(self._method, self._loss, self._optimizer, rewind)

    def _search(self) -> list[dict[str, Any]]:
        state, step = self._start(), self._step()
        renew = self.settings.get("search_optimizer") != "continued"
        turn = jax.jit(
            lambda state: tickets.next_population(self._method, state, self._optimizer, renew)
        )
        found = jax.jit(self._tickets)
        rows: list[dict[str, Any]] = []
        rounds = self.settings["rounds"]
        itself = self.settings["method"] in _OWN_ROUNDS_SHOW
        for number in range(rounds + itself):
            state = turn(state) if number else state
            state = self._fit(f"round_{number}", step, state, number)
            if itself:  # the round before found the mask of this one
                rows += self._rows(number, state)
            else:
                ticket = found(state)
                self._save_masks(number + 1, ticket)
                rows += self._rows(number + 1, self._trained(number, ticket))
            write_json(self.folder / _EARLY, {"settings": self.settings, "rows": rows})
            if itself and number < rounds:
                self._save_masks(number + 1, found(state))
        return rows

    def _method(self, hyper: Any) -> Method:
        name = self.settings["method"]
        if name == "cs":
            chosen = self.settings
            return tickets.continuous_sparsification(
                self._steps,
                **hyper,
                rewind=chosen["search_weights"] == "rewound",
                penalty_on=chosen["penalty_on"],
                steps_per_stair=self._steps_per_epoch if chosen["beta"] == "staircase" else None,
                restart_beta=1.0 if chosen["search_gates"] == "reopened" else None,
            )
        if name == "l0":
            return tickets.stochastic_l0(**hyper)
        if name == "random":
            return tickets.random_pruning(**hyper)
        return tickets.magnitude_pruning(**hyper, rewind=name != "imp_continued")

    def _tickets(self, state: TrainState) -> Ticket:
        """Of all members, as they are to be trained."""
        found = tickets.population_tickets(self._method, state)
        if self.settings.get("ticket_scale") == "folded":
            found = jax.vmap(tickets.fold_scale)(found)
        return found

    def _trained(self, number: int, ticket: Ticket) -> TrainState:
        """The tickets of a round, trained from where they are rewound to."""
        rewound = self.settings.get("ticket_statistics") == "rewound"
        statistics = ticket.statistics if rewound else self._statistics
        state = self._dealt_out(
            tickets.init_population(
                _training,
                ticket.params,
                self._optimizer,
                self._keys,
                {"mask": ticket.mask, "scale": ticket.scale},
                statistics,
            )
        )
        step = tickets.search_step(_training, self._loss, self._optimizer)
        return self._fit(f"ticket_{number}", step, state, number)

    def _dealt_out(self, state: TrainState) -> TrainState:
        """The members on their devices."""
        return state if self._mesh is None else tickets.shard_population(state, self._mesh)

    def _fit(
        self,
        phase: str | None,
        step: StepFunction[TrainState],
        state: TrainState,
        number: int,
        steps: int | None = None,
    ) -> TrainState:
        """Train to the end of a round, or to ``steps``; kept in the folder of the phase, if any."""
        train, steps = self._dataset.train, steps or self._steps
        images = {"image": train.images, "label": train.labels}
        writers: list[Writer] = [ProgressBar(steps, f"{self.title}, {phase}")]
        checkpoints = None
        if phase:
            folder = init_run_dir(self.folder / phase, _comparable(self.settings), self._resumes)
            writers.append(MetricLog(folder))
            checkpoints = Checkpoints(folder / "checkpoints")
        return fit(
            step,
            state,
            Batches(images, self.settings["batch_size"], number),
            steps=steps,
            callbacks=[report(*writers)],
            checkpoints=checkpoints,
            loop=self._scan,
            steps_per_call=self._steps_per_call,
            batch_axes=(),
        )

    def _rows(self, number: int, state: TrainState) -> list[dict[str, Any]]:
        """What every member reached under the mask of ``number`` rounds."""
        mask = state.search.mask
        scale = state.search.hyper.get("scale", jnp.ones(len(self._members)))
        weights = state.params["weights"]
        seen = jax.vmap(tickets.effective_params)(Ticket(mask, None, scale), weights)
        params = jax.device_get((seen, state.statistics))
        left = np.asarray(jax.vmap(tickets.num_nonzero)(mask))
        size = sum(m[0].size for m in jax.tree.leaves(mask))
        found = {
            name: errors(self._mistakes_of_each, params, getattr(self._dataset, name))
            for name in ("validation", "test")
        }
        return [
            member
            | {
                "round": number,
                "search_epochs": number * self.settings["epochs"],
                "nonzeros": int(left[place]),
                "density": float(left[place] / size),
                "validation_error": float(found["validation"][place]),
                "test_error": float(found["test"][place]),
            }
            for place, member in enumerate(self._members)
        ]

    def _mistakes_of_each(self, params: Any, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """One by one: computed together, their convolutions would be grouped, which is slow."""
        members = range(len(self._members))
        each = (jax.tree.map(lambda leaf, n=n: leaf[n], params) for n in members)
        return np.asarray([self._mistakes(one, images, labels) for one in each])

    def _save_masks(self, number: int, ticket: Ticket) -> None:
        """Write them, and warn of members with a layer that is cut through."""
        for place in range(len(self._members)):
            one: Ticket = jax.tree.map(lambda leaf, at=place: leaf[at], ticket)
            tickets.check_ticket(one, one.params)
        flat, _ = jax.tree_util.tree_flatten_with_path(ticket.mask)
        named: Any = {f"mask_{place}": np.asarray(leaf) for place, (_, leaf) in enumerate(flat)}
        scale = np.asarray(ticket.scale)
        np.savez_compressed(self.folder / f"masks_{number}.npz", **named, scale=scale)


def _training(hyper: Any) -> Method:
    """How the tickets are trained, from their masks and scales."""
    return tickets.fixed_mask(hyper["mask"], hyper["scale"])


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """No round depends on how many are to follow: more can be asked for later."""
    return {name: value for name, value in options.identity(settings).items() if name != "rounds"}


def _mesh(members: int, devices: int | None) -> Mesh | None:
    """The devices that members are dealt out over: as many as divide their number."""
    there = len(jax.devices()) if devices is None else devices
    if there > len(jax.devices()) or (devices is not None and members % devices):
        raise ValueError(
            f"--devices must divide {members} members and be at most {len(jax.devices())}, the "
            f"devices there are; got {devices}"
        )
    count = max(n for n in range(1, there + 1) if members % n == 0)
    if count == 1:
        return None
    axes, chosen = (AxisType.Auto,), jax.devices()[:count]
    return jax.make_mesh((count,), ("members",), axis_types=axes, devices=chosen)


def _optimizer(settings: dict[str, Any], steps: int) -> optax.GradientTransformation:
    """SGD as published; only weights decay, gates do not."""
    of_round = optax.piecewise_constant_schedule(
        settings["learning_rate"], {steps * 2 // 3: 0.1, steps * 5 // 6: 0.1}
    )

    def rate(count):
        return of_round(count % steps)  # the count goes on where the optimizer does

    def weights_alone(trained):
        return {
            name: jax.tree.map(lambda _, n=name: n == "weights", tree)
            for name, tree in trained.items()
        }

    return optax.chain(
        optax.add_decayed_weights(settings["weight_decay"], mask=weights_alone),
        optax.sgd(rate, momentum=0.9, nesterov=True),
    )
